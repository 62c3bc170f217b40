"""A process's memory as Linux reports it, and the peak within a block, of this process or its GPU. Linux only."""

from __future__ import annotations

import ctypes
import gc
import os
import threading
import time
from pathlib import Path

from medsum_core.kernels.cpu.malloc import OWN_PAGES_BYTES

GIB = 1 << 30
SAMPLE_SECONDS = 0.02
# The settings of `medsum_core.kernels.set_up_process` as environment variables, for our processes in benchmarks.
OUR_ENVIRONMENT = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(OWN_PAGES_BYTES),
    "NUMPY_MADVISE_HUGEPAGE": "0",
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128",
    "LRU_CACHE_CAPACITY": "32",
}


def status_bytes(process_id: int, name: str) -> int:
    """A value of /proc/PID/status, e.g. the high-water mark VmHWM; 0 once the process has ended."""
    try:
        lines = Path(f"/proc/{process_id}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith(name)), 0)


class PeakMemory:
    """Peak resident bytes of this process while the block runs, above those in use at its start; sampled.

    Free pages that loading a model left in the heap (0 to 450 MiB) are returned first: a block that reused them would
    seem to need that much less.
    """

    def __enter__(self) -> PeakMemory:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        self._start = self._peak = status_bytes(os.getpid(), "VmRSS")
        self._running = True
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._running = False
        self._thread.join()

    @property
    def above_start(self) -> int:
        """Bytes."""
        return self._peak - self._start

    def _watch(self) -> None:
        while self._running:
            self._peak = max(self._peak, status_bytes(os.getpid(), "VmRSS"))
            time.sleep(SAMPLE_SECONDS)


class PeakGpuMemory:
    """Peak bytes of tensors on the GPU while the block runs, above those at its start: the allocator's own count.

    An optimiser's paged state is not among them; it is in neither side's figure.
    """

    def __enter__(self) -> PeakGpuMemory:
        import torch

        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        self._start = torch.cuda.memory_allocated()
        return self

    def __exit__(self, *_: object) -> None:
        import torch

        torch.cuda.synchronize()
        self.above_start = torch.cuda.max_memory_allocated() - self._start
