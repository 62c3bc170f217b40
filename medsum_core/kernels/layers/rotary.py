"""Rotary position embedding of queries and keys, which models that norm each head's come to by way of that norm.

Letters: B rows, T tokens of a row, N heads, D head size.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from medsum_core.kernels.cpu.arena import empty_like, kept_like
from medsum_core.kernels.cpu.elementwise import Array, array_of, rms_rotated, rms_rotated_backward, rows_of
from medsum_core.kernels.layers.rms_norm import RMSNorm
from medsum_core.kernels.recompute import Recipe


def rotated(x_BTND: Tensor, cos_BT1D: Tensor, sin_BT1D: Tensor, norm: Any | None) -> tuple[Tensor, Recipe]:
    """x cos + rotate_half(x) sin of x or its lean norm, rounded where transformers rounds it, and how it comes about.

    Behind a norm the norm's input is what is kept for the way back, and the result computed again; else the result.
    """
    if norm is None:
        y_BTND = _Rotation.apply(x_BTND, cos_BT1D, sin_BT1D)
        return y_BTND, Recipe.of(y_BTND)
    norm = norm.forward.norm()
    y_BTND, inverse_BTN = _NormedRotation.apply(x_BTND, cos_BT1D, sin_BT1D, norm)
    tensors = (x_BTND, inverse_BTN, cos_BT1D, sin_BT1D)
    return y_BTND, Recipe(tensors=tensors, compute=partial(_normed_and_rotated, norm))


class _Rotation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BTND: Tensor, cos_BT1D: Tensor, sin_BT1D: Tensor) -> Tensor:
        ctx.save_for_backward(cos_BT1D, sin_BT1D)
        return _rotate(x_BTND, cos_BT1D, sin_BT1D, like=kept_like)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return _rotate_back(gradients[0], *ctx.saved_tensors), None, None


class _NormedRotation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BTND: Tensor, cos_BT1D: Tensor, sin_BT1D: Tensor, norm: RMSNorm) -> tuple[Tensor, Tensor]:
        inverse_BTN = norm.inverse(x_BTND)
        ctx.save_for_backward(x_BTND, inverse_BTN, cos_BT1D, sin_BT1D)
        ctx.norm = norm
        ctx.mark_non_differentiable(inverse_BTN)
        return _normed_and_rotated(norm, x_BTND, inverse_BTN, cos_BT1D, sin_BT1D), inverse_BTN

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x_BTND, inverse_BTN, *angles = ctx.saved_tensors
        norm = ctx.norm
        if not norm.has_joint_kernels(x_BTND):
            return norm.backward(_rotate_back(gradients[0], *angles), x_BTND, inverse_BTN), None, None, None
        dx_BTND = empty_like(x_BTND)
        arrays = (_heads(gradients[0]), *_with_norm(norm, x_BTND, inverse_BTN, *angles), _heads(dx_BTND))
        rms_rotated_backward(*arrays)
        return dx_BTND, None, None, None


def _normed_and_rotated(
    norm: RMSNorm, x_BTND: Tensor, inverse_BTN: Tensor, cos_BT1D: Tensor, sin_BT1D: Tensor
) -> Tensor:
    if not norm.has_joint_kernels(x_BTND):
        return _rotate(norm.again(x_BTND, inverse_BTN), cos_BT1D, sin_BT1D)
    y_BTND = empty_like(x_BTND)
    rms_rotated(*_with_norm(norm, x_BTND, inverse_BTN, cos_BT1D, sin_BT1D), _heads(y_BTND))
    return y_BTND


def _with_norm(
    norm: RMSNorm, x_BTND: Tensor, inverse_BTN: Tensor, cos_BT1D: Tensor, sin_BT1D: Tensor
) -> tuple[Array, ...]:
    """What both kernels take: x, inverse, scale, cos, sin."""
    angles = (rows_of(angle.expand(*x_BTND.shape[:2], 1, -1)) for angle in (cos_BT1D, sin_BT1D))
    return _heads(x_BTND), rows_of(inverse_BTN), array_of(norm.scale_H), *angles


def _heads(x_BTND: Tensor) -> Array:
    """(B x T, N, D)."""
    return array_of(x_BTND.contiguous().flatten(0, 1))


def _rotate_back(gradient_BTND: Tensor, cos_BT1D: Tensor, sin_BT1D: Tensor) -> Tensor:
    """The rotation by the opposite angle."""
    opposite_BT1D = torch.cat(sin_BT1D.chunk(2, -1)[::-1], -1).neg_()
    return _rotate(gradient_BTND, cos_BT1D, opposite_BT1D)


def _rotate(
    x_BTND: Tensor, cos_BT1D: Tensor, sin_BT1D: Tensor, *, like: Callable[[Tensor], Tensor] = empty_like
) -> Tensor:
    """x cos + (-second half, first half) sin, in memory from `like`."""
    out_BTND = like(x_BTND)
    (first, second), (out_first, out_second) = x_BTND.chunk(2, -1), out_BTND.chunk(2, -1)
    (cos_first, cos_second), (sin_first, sin_second) = cos_BT1D.chunk(2, -1), sin_BT1D.chunk(2, -1)
    torch.mul(first, cos_first, out=out_first).sub_(torch.mul(second, sin_first, out=empty_like(first)))
    torch.mul(second, cos_second, out=out_second).add_(torch.mul(first, sin_second, out=empty_like(first)))
    return out_BTND
