"""Signals ask a run to stop once what is at hand is saved; a second one ends it at once."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from medsum_core.process import handled_signals, restore_default_handlers


class StopFlag:
    """Set once by the first signal; read by the loop between windows, by the report before each token."""

    def __init__(self) -> None:
        self.requested = False
        self.signal_name: str | None = None
        self.seconds: float = 0.0  # clock of the first signal


@contextmanager
def stop_on_signals(*, echo_seconds: float = 0.0) -> Iterator[StopFlag]:
    """While the block runs, the first of `STOP_SIGNALS` sets the flag that is yielded, and says so on stderr.

    The second one ends the process as if nothing handled it (status 143 or 130 in a shell): the last checkpoint
    continues the run. A launcher passes on a signal that the terminal or scheduler has sent to every process already:
    under one, `echo_seconds` is the time after the first signal in which another counts as the same request.
    A signal that is ignored stays so: `nohup` ignores SIGHUP. The handlers found are put back at the end. Raises
    ValueError outside the main thread, as Python does.
    """
    flag = StopFlag()

    def handle(number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if not flag.requested:
            flag.requested, flag.signal_name, flag.seconds = True, signal.Signals(number).name, now
            # os.write: printing is not safe when the signal has interrupted printing. The terminal may be closed.
            with suppress(OSError):
                os.write(2, f"\n{flag.signal_name}: stopping as soon as all is saved; again to stop at once\n".encode())
            if echo_seconds == 0.0:
                restore_default_handlers()
        elif now - flag.seconds > echo_seconds:
            restore_default_handlers()
            os.kill(os.getpid(), number)

    with handled_signals(handle):
        yield flag
