"""A time limit for Python code that comes with a model, such as a chat template: it may loop without end."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeoutError inside the block once it has taken that long, on any thread.

    Looked at before each line of Python that runs, as a debugger does it (one that is attached pauses meanwhile): a
    single operation of the C library is not interrupted.
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
