"""Options of glibc's heap and of oneDNN's caches. Imports nothing that starts a thread."""

from __future__ import annotations

import ctypes
import os

M_ARENA_MAX, M_MMAP_THRESHOLD = -8, -3  # glibc's malloc.h
OWN_PAGES_BYTES = 4 * 2**20  # allocations from this size on are mapped from the system and returned to it when freed


def use_one_heap() -> None:
    """Use one glibc heap for all threads instead of one each; no effect with other C libraries.

    Call it before a second thread exists: numpy and torch start some when they are imported. With heaps of their own,
    two concurrent micro-batches left gaps of about 400 MiB that only the thread that freed them could use again. The
    fixed threshold for mapped memory is needed because glibc raises it to 32 MiB while weights are loaded, which left
    gaps of 16 to 370 MiB. numpy's huge pages are off because a heap that is trimmed has to build them again.
    """
    if set_option := getattr(ctypes.CDLL(None), "mallopt", None):
        set_option(M_ARENA_MAX, 1)
        set_option(M_MMAP_THRESHOLD, OWN_PAGES_BYTES)
    os.environ.setdefault("NUMPY_MADVISE_HUGEPAGE", "0")


def limit_onednn_caches() -> None:
    """Have oneDNN cache compiled code for 128 product shapes instead of 1,024, and PyTorch for 32 per thread.

    Values already in the environment are kept. Call it before the first product, when the variables are read.
    A micro-batch needs fewer, but its length and those of its documents are new each time: by the fifth window oneDNN's
    default of 1,024 shapes took 0.3 GiB. PyTorch caches the last 1,024 of each thread again, so that oneDNN's could not
    be freed (`LRU_CACHE_CAPACITY`, pytorch/pytorch#98688): 60 MiB a window with two concurrent micro-batches. 32 are
    enough for the shapes of one layer.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")
    os.environ.setdefault("LRU_CACHE_CAPACITY", "32")


def trim_malloc() -> None:
    """Return the heap's free pages to the system, if the C library supports it (glibc).

    Loading and each update leave gaps that later tensors do not fit. Once a window this costs almost nothing.
    """
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
