"""The first signal asks a run to stop after saving; a second one ends it at once."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from medsum_core.process import handled_signals, restore_default_handlers


class StopFlag:
    """Set by the first signal; read by the loop between windows and by the report before each token."""

    def __init__(self) -> None:
        self.requested = False
        self.signal_name: str | None = None
        self.seconds: float = 0.0  # time.monotonic() at the first signal


@contextmanager
def stop_on_signals(*, echo_seconds: float = 0.0) -> Iterator[StopFlag]:
    """While the block runs, the first of `STOP_SIGNALS` sets the yielded flag and prints a line on stderr.

    The second one ends the process as if it were not handled (status 143 or 130 in a shell); the run can be resumed
    from its last checkpoint. A launcher forwards signals that the terminal or scheduler has already sent to every
    process: `echo_seconds` is the time after the first signal in which another one counts as this copy. A signal that
    is ignored stays ignored: `nohup` ignores SIGHUP. The former handlers are restored at the end. Raises ValueError
    outside the main thread, as Python does.
    """
    flag = StopFlag()

    def handle(number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if not flag.requested:
            flag.requested, flag.signal_name, flag.seconds = True, signal.Signals(number).name, now
            # os.write, as print is not reentrant and a signal may interrupt it. The terminal may be closed.
            with suppress(OSError):
                os.write(2, f"\n{flag.signal_name}: stopping as soon as all is saved; again to stop at once\n".encode())
            if echo_seconds == 0.0:
                restore_default_handlers()
        elif now - flag.seconds > echo_seconds:
            restore_default_handlers()
            os.kill(os.getpid(), number)

    with handled_signals(handle):
        yield flag
