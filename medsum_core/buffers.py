"""Uninitialised tensors whose memory serves again for tensors of the same size.

PyTorch asks the C library for aligned memory. Before glibc 2.38 a freed piece is too small for the very request that it
came from, so equal tensors, of which a micro-batch has many, leave holes that nothing fills
(https://sourceware.org/bugzilla/show_bug.cgi?id=14581). numpy asks for plain memory, which has no such flaw.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
import torch
from torch import Tensor

ALIGNMENT = 64  # bytes; PyTorch's own on a CPU


def empty(shape: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A contiguous tensor with undefined values; on a CPU it starts at a multiple of 64 bytes, as PyTorch's own do."""
    num_bytes = prod(shape) * dtype.itemsize
    if device.type != "cpu" or num_bytes == 0:
        return torch.empty(shape, dtype=dtype, device=device)
    block = np.empty(num_bytes + ALIGNMENT, np.uint8)
    start = -block.__array_interface__["data"][0] % ALIGNMENT
    return torch.from_numpy(block[start : start + num_bytes]).view(dtype).view(*shape)


def empty_like(x: Tensor, *, dtype: torch.dtype | None = None) -> Tensor:
    """One of x's shape, and of its dtype if no other is given."""
    return empty(x.shape, dtype=dtype or x.dtype, device=x.device)


def converted(x: Tensor, dtype: torch.dtype) -> Tensor:
    """`x` in another dtype, or `x` itself where it has that one."""
    return x if x.dtype == dtype else empty_like(x, dtype=dtype).copy_(x)
