"""A command on a terminal of its own, which can be closed: the system then sends it SIGHUP and refuses its output."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import subprocess
import termios
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import torch

ROOT = Path(__file__).parents[2]


class Terminal:
    """Starts the command; ends it, if it still runs, with the block. `shown`: what was read of its output so far."""

    def __init__(self, command: list[str]) -> None:
        self.shown = ""
        self._master: int | None
        self._master, slave = pty.openpty()
        # As many threads as this process has: a resumed run must have them, whatever the environment says by now.
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(torch.get_num_threads())}
        self.process = subprocess.Popen(
            command,
            env=environment,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(slave)

    def read_until(self, condition: Callable[[], bool], *, seconds: float = 120.0) -> None:
        """Read what it prints until the condition holds. Raises AssertionError where it ends before, or takes longer."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert self._master is not None
            if select.select([self._master], [], [], 0.01)[0]:
                self.shown += os.read(self._master, 65536).decode(errors="replace")
            assert self.process.poll() is None and time.monotonic() < deadline, self.shown[-800:]

    def close(self) -> None:
        """Close the terminal, as a window is closed or a connection breaks."""
        if self._master is not None:
            os.close(self._master)
            self._master = None

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        self.close()
