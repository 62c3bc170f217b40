"""CPU memory for the kernels' tensors, reused as soon as no tensor refers to it.

In glibc's heap, tensors saved for the backward pass alternate with temporaries, and all have new lengths in each
micro-batch: it fills with gaps that no later tensor fits, and returning them to the system costs a page fault for
every 4 KiB used again. Therefore a temporary gets its own block, whose size is rounded up to a power of two. Tensors
that the forward pass saves for the backward pass are allocated one after another in arenas, blocks of 16 MiB: the
backward pass frees them in reverse order, and the next micro-batch, or a concurrent one, reuses them. With recomputed
activations, gradients of weights have their own arena, because they outlive the activations of their layer.

A block is free when nothing but this module refers to it, by Python's reference count: memory is never overwritten
while a tensor uses it. Small tensors are allocated by the C library, those larger than LARGEST_BLOCK by the system, on
huge pages that are returned when freed. Other devices use their own allocator.
"""

from __future__ import annotations

import mmap
import sys
from collections.abc import Sequence
from contextlib import suppress
from math import prod
from threading import Lock, local

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

ALIGNMENT = 64  # bytes; PyTorch's own on a CPU
SMALLEST_BLOCK, LARGEST_BLOCK = 2**16, 2**22  # bytes; larger tensors would leave too much of an arena unused
ARENA_BYTES = 4 * LARGEST_BLOCK
STAGGER = 17 * ALIGNMENT  # blocks at the same offset of a page would compete for the same cache lines

Block = npt.NDArray[np.uint8]


class Arena(local):
    """The block that a thread fills with tensors of the same lifetime, and how many of its bytes are used."""

    def __init__(self, num_bytes: int) -> None:
        self.num_bytes, self.used = num_bytes, 0
        self.block: Block | None = None


ACTIVATIONS, GRADIENTS = Arena(ARENA_BYTES), Arena(LARGEST_BLOCK)
_blocks: dict[int, list[Block]] = {}  # by size in bytes
_lock = Lock()


def empty(shape: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Uninitialised contiguous tensor for a temporary; on a CPU aligned to 64 bytes, as PyTorch's own are."""
    num_bytes = prod(shape) * dtype.itemsize
    if device.type != "cpu" or num_bytes <= SMALLEST_BLOCK:
        return torch.empty(shape, dtype=dtype, device=device)
    if num_bytes > LARGEST_BLOCK:
        return torch.from_numpy(_pages(num_bytes, huge=True)).view(dtype).view(*shape)
    block, start = _free_block(1 << (num_bytes - 1).bit_length())
    return torch.from_numpy(block[start : start + num_bytes]).view(dtype).view(*shape)


def empty_like(x: Tensor, *, dtype: torch.dtype | None = None) -> Tensor:
    """`empty` with the shape and device of `x`, and its dtype unless another is given."""
    return empty(x.shape, dtype=dtype or x.dtype, device=x.device)


def converted(x: Tensor, dtype: torch.dtype) -> Tensor:
    """`x` in another dtype, or `x` itself where it has that one."""
    return x if x.dtype == dtype else empty_like(x, dtype=dtype).copy_(x)


def mm(a_MK: Tensor, b_KN: Tensor) -> Tensor:
    """The matrix product (M, N); no gradient is recorded."""
    out_MN = empty((a_MK.shape[0], b_KN.shape[1]), dtype=a_MK.dtype, device=a_MK.device)
    return torch.mm(a_MK.detach(), b_KN.detach(), out=out_MN)


def empty_for_backward(
    shape: Sequence[int], *, dtype: torch.dtype, device: torch.device, arena: Arena = ACTIVATIONS
) -> Tensor:
    """Uninitialised tensor for save_for_backward; on a CPU from this thread's arena, elsewhere torch.empty."""
    num_bytes = prod(shape) * dtype.itemsize
    if device.type != "cpu" or not 0 < num_bytes <= LARGEST_BLOCK:
        return empty(shape, dtype=dtype, device=device)
    room = num_bytes + -num_bytes % ALIGNMENT
    if arena.block is None or arena.used + room > arena.num_bytes:
        arena.block = None
        (arena.block, _), arena.used = _free_block(arena.num_bytes), 0
    memory = arena.block[arena.used : arena.used + num_bytes]
    arena.used += room
    return torch.from_numpy(memory).view(dtype).view(*shape)


def lasting_copy(x: Tensor) -> Tensor:
    """A copy for the whole run; on a CPU outside of the heap, where it would separate free gaps."""
    if x.device.type != "cpu" or x.nbytes < mmap.PAGESIZE:
        return x.clone()
    return torch.from_numpy(_pages(x.nbytes)).view(x.dtype).view(x.shape).copy_(x)


def return_free_blocks() -> None:
    """Return the memory of all unused blocks to the system."""
    with _lock:
        for blocks in _blocks.values():
            blocks[:] = [block for block, count in zip(blocks, _references(blocks), strict=True) if count > UNUSED]


def _pages(num_bytes: int, *, huge: bool = False) -> Block:
    """Memory from the system. Huge pages are rounded up to 2 MiB and take a tenth of the time to allocate."""
    memory = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if huge and hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a Linux kernel built without huge pages refuses; plain pages are used then
            memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, np.uint8)


def _free_block(num_bytes: int) -> tuple[Block, int]:
    """An unused block and the offset to start at. The caller's reference marks it as taken."""
    with _lock:
        blocks = _blocks.setdefault(num_bytes, [])
        place = next((place for place, count in enumerate(_references(blocks)) if count <= UNUSED), len(blocks))
        if place == len(blocks):
            blocks.append(_pages(num_bytes + mmap.PAGESIZE))
        return blocks[place], place * STAGGER % mmap.PAGESIZE


def _references(blocks: list[Block]) -> list[int]:
    """Each block's references: that of the list, those of this function, and those of the tensors that use it."""
    return [sys.getrefcount(block) for block in blocks]


UNUSED = _references([np.empty(0, np.uint8)])[0]  # measured: the number differs between versions of Python
