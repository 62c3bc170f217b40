"""Residual sums, also of layers that norm what attention and MLP give (Gemma 2 and 3)."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from medsum_core.buffers import empty_like, kept_like
from medsum_core.lean_norms import RMSNorm
from medsum_core.recipe import Recipe


def plain_sum(x: Tensor, y: Tensor) -> Tensor:
    """x + y, in memory that is kept for the way back."""
    total: Tensor = _Sum.apply(x, y)
    return total


def normed_sum(x: Tensor, norm: Any, y: Tensor, *, is_kept: bool) -> tuple[Tensor, Recipe]:
    """x + norm(y) of a lean norm, and how it comes about from x and y, which is kept for the way back.

    `is_kept`: whether whoever takes the sum keeps it all the same.
    """
    norm = norm.forward.norm()
    total, inverse = _NormedSum.apply(x, y, norm, is_kept)
    return total, Recipe(tensors=(x, y, inverse), compute=partial(_again, norm))


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        return torch.add(x, y, out=kept_like(x))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        return gradients[0], gradients[0]


class _NormedSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, norm: RMSNorm, is_kept: bool) -> tuple[Tensor, Tensor]:
        inverse = norm.inverse(y)
        ctx.save_for_backward(y, inverse)
        ctx.norm = norm
        ctx.mark_non_differentiable(inverse)
        return norm.added(x, y, inverse, out=kept_like(x) if is_kept else empty_like(x)), inverse

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return gradients[0], ctx.norm.backward(gradients[0], *ctx.saved_tensors), None, None


def _again(norm: RMSNorm, x: Tensor, y: Tensor, inverse: Tensor) -> Tensor:
    return norm.added(x, y, inverse, out=empty_like(x))
