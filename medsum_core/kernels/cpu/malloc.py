"""One heap of plain pages for all threads: what one frees, another can use. It imports nothing that starts a thread."""

from __future__ import annotations

import ctypes
import os

M_ARENA_MAX, M_MMAP_THRESHOLD = -8, -3  # glibc's malloc.h
OWN_PAGES_BYTES = 4 * 2**20  # from this size on, memory comes from the system and goes back to it


def use_one_heap() -> None:
    """Have glibc serve all threads from one heap instead of one each; other C libraries go on as they are.

    Call it before there is a second thread: numpy and torch start some when they are imported. With heaps of their own
    two lanes of micro-batches left holes of some 400 MiB that only the thread which made them could fill. glibc would
    raise its bound for memory of its own to 32 MiB as weights are loaded, and these left holes of 16 to 370 MiB. numpy
    would make huge pages of its large arrays; a heap that is trimmed pays for these twice.
    """
    if set_option := getattr(ctypes.CDLL(None), "mallopt", None):
        set_option(M_ARENA_MAX, 1)
        set_option(M_MMAP_THRESHOLD, OWN_PAGES_BYTES)
    os.environ.setdefault("NUMPY_MADVISE_HUGEPAGE", "0")


def limit_onednn_caches() -> None:
    """Have oneDNN keep the compiled code of 128 shapes of products, unless the environment has its own number.

    Call it before the first product, where the numbers are read.
    A micro-batch needs fewer, but its length and those of its documents are new each time: by the fifth window the
    1,024 shapes that oneDNN keeps by itself took 0.3 GiB. PyTorch keeps the last 1,024 of each thread a second time, so
    that oneDNN's could not be let go (`LRU_CACHE_CAPACITY`, pytorch/pytorch#98688): 60 MiB a window with two lanes. Its
    last 32 are a layer's: with them it need not ask oneDNN for each product.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")
    os.environ.setdefault("LRU_CACHE_CAPACITY", "32")


def trim_malloc() -> None:
    """Give the heap's free pages back to the system, where the C library can (glibc).

    Loading and each update leave holes that the next tensors fit badly. Before each window this costs next to nothing.
    """
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
