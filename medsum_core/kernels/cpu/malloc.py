"""One heap of plain pages for all threads: what one frees, another can use. It imports nothing that starts a thread."""

from __future__ import annotations

import ctypes
import os

M_ARENA_MAX, M_MMAP_THRESHOLD = -8, -3  # glibc's malloc.h
OWN_PAGES_BYTES = 4 * 2**20  # from this size on, memory comes from the system and goes back to it


def keep_one_heap() -> None:
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
