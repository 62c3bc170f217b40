"""Residual sums, also of layers that norm what attention and MLP give (Gemma 2 and 3)."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from medsum_core.kernels.cpu.arena import Slab, empty_like, kept_like
from medsum_core.kernels.layers.rms_norm import RMSNorm
from medsum_core.kernels.recompute import Recipe


def plain_sum(x: Tensor, y: Tensor, *, slab: Slab) -> Tensor:
    """x + y, kept for the way back in a slab."""
    total: Tensor = _Sum.apply(x, y, slab)
    return total


def normed_sum(x: Tensor, norm: Any, y: Tensor, *, slab: Slab | None) -> tuple[Tensor, Recipe]:
    """x + norm(y) of a lean norm, and how it comes about from x and y, which is kept for the way back.

    `slab`: where the sum lies if whoever takes it keeps it all the same.
    """
    norm = norm.forward.norm()
    total, inverse = _NormedSum.apply(x, y, norm, slab)
    return total, Recipe(tensors=(x, y, inverse), compute=partial(_again, norm))


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, slab: Slab) -> Tensor:
        return torch.add(x, y, out=kept_like(x, slab=slab))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return gradients[0], gradients[0], None


class _NormedSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, norm: RMSNorm, slab: Slab | None) -> tuple[Tensor, Tensor]:
        inverse = norm.inverse(y)
        ctx.save_for_backward(y, inverse)
        ctx.norm = norm
        ctx.mark_non_differentiable(inverse)
        out = empty_like(x) if slab is None else kept_like(x, slab=slab)
        return norm.added(x, y, inverse, out=out), inverse

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return gradients[0], ctx.norm.backward(gradients[0], *ctx.saved_tensors), None, None


def _again(norm: RMSNorm, x: Tensor, y: Tensor, inverse: Tensor) -> Tensor:
    return norm.added(x, y, inverse, out=empty_like(x))
