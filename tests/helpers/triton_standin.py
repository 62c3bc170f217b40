"""The functions of `kernels/gpu/elementwise.py` by torch's own operators, which a CPU runs and a dispatch mode records.

With other dropout masks than Philox's: a hash of the seed and an element's index.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from medsum_core.kernels.layers import triton_choice

MULTIPLIERS = (6364136223846793005, 3935559000370003845)  # odd; int64 products wrap around


@contextmanager
def standin(device_kind: str = "cpu") -> Iterator[None]:
    """While the block runs, these functions are used on that kind of device, whatever `use_triton` is told."""
    functions = sys.modules[__name__]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(triton_choice, "DEVICE_KINDS", (device_kind,))
        patch.setattr(triton_choice, "_functions", functions)
        patch.setattr("medsum_core.kernels.layers.use_triton", lambda wanted: None)
        yield


def rms_norm(x: Tensor, scale_H: Tensor, eps: float, rounds_first: bool) -> tuple[Tensor, Tensor]:
    wide = x.float()
    inverse = (wide.square().mean(-1) + eps).rsqrt()
    normed = wide * inverse[..., None]
    if rounds_first:
        normed = normed.to(x.dtype)
    return (normed * scale_H).to(torch.promote_types(x.dtype, scale_H.dtype) if rounds_first else x.dtype), inverse


def rms_norm_backward(dy: Tensor, x: Tensor, inverse_rms: Tensor, scale_H: Tensor) -> Tensor:
    dnormed, inverse = dy.float() * scale_H, inverse_rms[..., None]
    along = (dnormed * x).sum(-1, keepdim=True) * inverse * inverse / x.shape[-1]
    return ((dnormed - x * along) * inverse).to(x.dtype)


def gated(gate: Tensor, up: Tensor, slope: float, cube: float) -> Tensor:
    g = gate.float()
    return (g * torch.sigmoid(slope * (g + cube * g**3))).to(gate.dtype) * up


def gated_backward(gate: Tensor, up: Tensor, dproduct: Tensor, slope: float, cube: float) -> tuple[Tensor, Tensor]:
    g, sigmoid = gate.float(), torch.sigmoid(slope * (gate.float() + cube * gate.float() ** 3))
    derivative = sigmoid + g * sigmoid * (1 - sigmoid) * slope * (1 + 3 * cube * g * g)
    return (dproduct.float() * up * derivative).to(gate.dtype), ((g * sigmoid).to(up.dtype) * dproduct).to(up.dtype)


def rotated(x_BTND: Tensor, cos_BT1D: Tensor, sin_BT1D: Tensor, sign: int) -> Tensor:
    first, second = x_BTND.chunk(2, -1)
    return x_BTND * cos_BT1D + torch.cat((-second, first), -1) * sin_BT1D * sign


def without_dropped(x: Tensor, rate: float, seed: Tensor, out: Tensor | None = None) -> Tensor:
    kept = x * is_kept(x.shape, rate, seed)
    return kept if out is None else out.copy_(kept)


def add_kept(total: Tensor, x: Tensor, rate: float, seed: Tensor) -> None:
    total += x * is_kept(x.shape, rate, seed)


def is_kept(shape: torch.Size, rate: float, seed: Tensor) -> Tensor:
    """Determined by the seed, the rate and an element's index, as in the kernels."""
    assert seed.shape == () and seed.dtype == torch.int64
    index = torch.arange(shape.numel(), device=seed.device)
    words = (index * MULTIPLIERS[0] + seed) * MULTIPLIERS[1]
    words = (words ^ (words >> 29)) * MULTIPLIERS[0]
    return ((words >> 40 & 0xFFFFFF) >= rate * 2**24).view(shape)
