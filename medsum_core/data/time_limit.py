"""A time limit for code that comes with a model, such as a chat template, which may contain an endless loop."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeoutError inside the block after `seconds`; works on any thread.

    Checked by a trace function before each line of Python, so an attached debugger is disabled meanwhile and a single
    operation in C is not interrupted.
    """
    end = time.monotonic() + seconds

    def check(_frame: FrameType, _event: str, _argument: Any) -> Any:
        if time.monotonic() > end:
            raise TimeoutError(f"took more than {seconds:g} s")
        return check

    former = sys.gettrace()
    sys.settrace(check)
    try:
        yield
    finally:
        sys.settrace(former)
