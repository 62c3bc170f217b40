"""What `gpu_day.py` counts: outcomes of tests, and launches and waits in a profile of torch's."""

from __future__ import annotations

import time
from typing import Any

LAUNCHES = ("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch", "cudaMemcpy", "cudaMemset")
WAITS = ("cudaDeviceSynchronize", "cudaStreamSynchronize", "cudaEventSynchronize")
MARK = "window"
COUNTED = ("launches", "waits", "busy_share", "waited_for")


class TestCounts:
    """A pytest plugin: records outcomes by test, and ends the session when its time is over."""

    def __init__(self, *, until: float) -> None:
        self.passed: set[str] = set()
        self.failed: set[str] = set()
        self.skipped: set[str] = set()
        self.uncollected: set[str] = set()
        self.collected = 0
        self._until = until
        self._session: Any = None

    def pytest_collection_finish(self, session: Any) -> None:
        self._session, self.collected = session, len(session.items)

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self.uncollected.add(report.nodeid)

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self.failed.add(report.nodeid)
            self.passed.discard(report.nodeid)  # the test had passed before its clean-up failed
        elif report.skipped:
            self.skipped.add(report.nodeid)
        elif report.when == "call":
            self.passed.add(report.nodeid)
        if time.monotonic() > self._until:
            self._session.shouldstop = "no time left for more tests"


def count_events(events: Any) -> dict[str, Any]:
    """In the marked part: calls that launch, calls that wait, and the share of the time in which the GPU was busy.

    The profiler's own wait comes after the mark. A blocking copy appears as a wait for its stream.
    """
    on_cpu = [event for event in events if not _is_on_gpu(event)]
    (mark,) = [event for event in on_cpu if event.name == MARK]
    start, end = mark.time_range.start, mark.time_range.end
    inside = [event.name for event in on_cpu if start <= event.time_range.start < end]
    work = [event for event in events if _is_on_gpu(event) and not event.is_user_annotation]
    last = max([end, *(event.time_range.end for event in work)])
    waits = [name for name in inside if name in WAITS]
    return {
        "launches": sum(name.startswith(LAUNCHES) for name in inside),
        "waits": len(waits),
        "busy_share": sum(event.time_range.end - event.time_range.start for event in work) / (last - start),
        "waited_for": sorted(set(waits)),
    }


def _is_on_gpu(event: Any) -> bool:
    return str(event.device_type).endswith("CUDA")
