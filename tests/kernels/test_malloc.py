"""The options of glibc's heap, tested in a process of its own because they hold for a whole process."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from medsum_core.kernels.cpu.malloc import OWN_PAGES_BYTES

PROGRAM = """
import ctypes, sys
from medsum_core.kernels.cpu.malloc import use_one_heap

class Figures(ctypes.Structure):  # malloc.h's mallinfo2
    _fields_ = [(name, ctypes.c_size_t) for name in "arena ordblks smblks hblks hblkhd".split()]
    _fields_ += [(f"more{n}", ctypes.c_size_t) for n in range(5)]

use_one_heap()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
libc.mallinfo2.restype = Figures
libc.free(libc.malloc(30 * 2**20))  # raises glibc's threshold, unless it has been set
before = libc.mallinfo2().hblkhd
libc.malloc(int(sys.argv[1]))
print(libc.mallinfo2().hblkhd - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="needs glibc 2.33 or newer")
@pytest.mark.parametrize(("num_bytes", "is_mapped"), [(OWN_PAGES_BYTES // 2, False), (OWN_PAGES_BYTES, True)])
def test_a_large_allocation_is_mapped_also_after_a_larger_one_was_freed(num_bytes: int, is_mapped: bool) -> None:
    command = [sys.executable, "-c", PROGRAM, str(num_bytes)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (int(done.stdout) >= num_bytes) == is_mapped
