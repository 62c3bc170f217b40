"""Memory for tensors of our own: blocks that serve again as soon as nothing refers to them.

A heap in which kept and passing tensors of ever new lengths alternate ends full of holes that no later tensor fits, and
to give these back to the system costs a page fault for every 4 KiB that is used again. Here neither happens. What
passes lies in a block of its own, of the next power of two in size. What the forward pass keeps for the way back lies
end to end in slabs, blocks of 16 MiB; the way back lets go of it in the reverse order, a slab after another, and the
next micro-batch, or the lane beside it, takes them over. Where activations are computed again, what outlives those of a
layer has slabs of its own: the layer's output and its weights' gradients would hold on to a slab for each layer.

A block is free once no tensor lies in it, which Python's count of references tells: nothing is ever overwritten while
somebody holds it. Small tensors are left to the C library. One that is larger than a block has pages of its own, huge
ones, and gives them back. Other devices have their own allocator.
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
SMALLEST_BLOCK, LARGEST_BLOCK = 2**16, 2**22  # bytes; a larger tensor would leave too much of a slab unused, too
SLAB_BYTES = 4 * LARGEST_BLOCK
STAGGER = 17 * ALIGNMENT  # blocks do not all start at the same place of a page: such places share a line of the cache

Block = npt.NDArray[np.uint8]


class Slab(local):
    """The slab that a thread fills with what lives equally long, and how much of it is taken."""

    def __init__(self, num_bytes: int) -> None:
        self.num_bytes, self.used = num_bytes, 0
        self.block: Block | None = None


ACTIVATIONS, GRADIENTS = Slab(SLAB_BYTES), Slab(LARGEST_BLOCK)
_blocks: dict[int, list[Block]] = {}  # by their bytes
_lock = Lock()


def empty(shape: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A contiguous tensor with undefined values; on a CPU it starts at a multiple of 64 bytes, as PyTorch's own do."""
    num_bytes = prod(shape) * dtype.itemsize
    if device.type != "cpu" or num_bytes <= SMALLEST_BLOCK:
        return torch.empty(shape, dtype=dtype, device=device)
    if num_bytes > LARGEST_BLOCK:
        return torch.from_numpy(_pages(num_bytes, huge=True)).view(dtype).view(*shape)
    block, start = _free_block(1 << (num_bytes - 1).bit_length())
    return torch.from_numpy(block[start : start + num_bytes]).view(dtype).view(*shape)


def empty_like(x: Tensor, *, dtype: torch.dtype | None = None) -> Tensor:
    """One of x's shape, and of its dtype if no other is given."""
    return empty(x.shape, dtype=dtype or x.dtype, device=x.device)


def converted(x: Tensor, dtype: torch.dtype) -> Tensor:
    """`x` in another dtype, or `x` itself where it has that one."""
    return x if x.dtype == dtype else empty_like(x, dtype=dtype).copy_(x)


def mm(a_MK: Tensor, b_KN: Tensor) -> Tensor:
    """Their matrix product; no gradient is recorded."""
    out_MN = empty((a_MK.shape[0], b_KN.shape[1]), dtype=a_MK.dtype, device=a_MK.device)
    return torch.mm(a_MK.detach(), b_KN.detach(), out=out_MN)


def kept(shape: Sequence[int], *, dtype: torch.dtype, device: torch.device, slab: Slab = ACTIVATIONS) -> Tensor:
    """The same for what lives until the way back: it lies in a slab."""
    num_bytes = prod(shape) * dtype.itemsize
    if device.type != "cpu" or not 0 < num_bytes <= LARGEST_BLOCK:
        return empty(shape, dtype=dtype, device=device)
    room = num_bytes + -num_bytes % ALIGNMENT
    if slab.block is None or slab.used + room > slab.num_bytes:
        slab.block = None
        (slab.block, _), slab.used = _free_block(slab.num_bytes), 0
    memory = slab.block[slab.used : slab.used + num_bytes]
    slab.used += room
    return torch.from_numpy(memory).view(dtype).view(*shape)


def kept_like(x: Tensor, *, dtype: torch.dtype | None = None, slab: Slab = ACTIVATIONS) -> Tensor:
    """One like x that lives until the way back."""
    return kept(x.shape, dtype=dtype or x.dtype, device=x.device, slab=slab)


def lasting_copy(x: Tensor) -> Tensor:
    """A copy of what lives as long as the run, on pages of its own on a CPU: in the heap it would part its holes."""
    if x.device.type != "cpu" or x.nbytes < mmap.PAGESIZE:
        return x.clone()
    return torch.from_numpy(_pages(x.nbytes)).view(x.dtype).view(x.shape).copy_(x)


def return_free_blocks() -> None:
    """Give the memory of all blocks in which no tensor lies back to the system."""
    with _lock:
        for blocks in _blocks.values():
            blocks[:] = [block for block, count in zip(blocks, _references(blocks), strict=True) if count > UNUSED]


def _pages(num_bytes: int, *, huge: bool = False) -> Block:
    """Memory straight from the system. Huge pages are rounded up to 2 MiB and take a tenth of the time to get."""
    memory = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if huge and hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel built without huge pages refuses the advice, and plain pages do
            memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, np.uint8)


def _free_block(num_bytes: int) -> tuple[Block, int]:
    """One that nobody else has, and where in it to start. The caller's reference takes it."""
    with _lock:
        blocks = _blocks.setdefault(num_bytes, [])
        place = next((place for place, count in enumerate(_references(blocks)) if count <= UNUSED), len(blocks))
        if place == len(blocks):
            blocks.append(_pages(num_bytes + mmap.PAGESIZE))
        return blocks[place], place * STAGGER % mmap.PAGESIZE


def _references(blocks: list[Block]) -> list[int]:
    """How many references there are to each block: the list's, this function's own, and what makes it taken."""
    return [sys.getrefcount(block) for block in blocks]


UNUSED = _references([np.empty(0, np.uint8)])[0]  # asked, not written down: it differs between Python's versions
