"""Signals ask a run to stop after the window at hand; a second one ends it at once.

SIGTERM and SIGINT come from people and schedulers, SIGHUP from a terminal that is closed, SIGUSR1 from clusters that
warn before they take a machine back.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)


class StopFlag:
    """Set once by the first signal; read by the loop between windows."""

    def __init__(self) -> None:
        self.requested = False
        self.signal_name: str | None = None
        self.seconds: float = 0.0  # clock of the first signal


@contextmanager
def stop_on_signals(*, echo_seconds: float = 0.0) -> Iterator[StopFlag]:
    """While the block runs, the first of these signals sets the flag that is yielded, and says so on stderr.

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
            # os.write: printing is not safe when the signal has interrupted printing.
            os.write(2, f"\n{flag.signal_name}: stopping after this window; again to stop at once\n".encode())
            if echo_seconds == 0.0:
                _restore_defaults()
        elif now - flag.seconds > echo_seconds:
            _restore_defaults()
            os.kill(os.getpid(), number)

    handled = [number for number in STOP_SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    former = {number: signal.signal(number, handle) for number in handled}
    try:
        yield flag
    finally:
        for number, handler in former.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


def _restore_defaults() -> None:
    """The system's own action needs no Python to run: it works inside a long operation too."""
    for number in STOP_SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
