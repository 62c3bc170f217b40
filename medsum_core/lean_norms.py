"""Norms of a frozen base that keep nothing but their input, and a number a token, for the way back.

Letters: H features.

transformers writes a norm as a chain of elementwise operations in fp32, and autograd keeps what each of them needs:
fp32 copies of every activation. Here it is one differentiable function, with the same arithmetic in the forward pass.
Its output tells how it came about, so that whoever needs it on the way back can compute it again instead of keeping it.
Modules, names and weights stay those of transformers; only `forward` is replaced. The weights must be frozen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from medsum_core.buffers import converted, empty_like, kept

GEMMA_NORMS = ("GemmaRMSNorm", "Gemma2RMSNorm", "Gemma3RMSNorm")  # scale by 1 + weight, in fp32
LLAMA_NORMS = ("LlamaRMSNorm",)  # round to the input's dtype, then scale by the weight
ORIGIN = "medsum_norm_origin"  # attribute of a norm's output


@dataclass(frozen=True, kw_only=True, eq=False)
class NormOrigin:
    """What a norm's output is computed from: its input, 1 / root mean square of each token, and the scale."""

    tensors: tuple[Tensor, Tensor, Tensor]
    rounds_first: bool


def origin_of(y: Tensor) -> NormOrigin | None:
    """How `y` came about if it is a lean norm's output, None for any other tensor."""
    return getattr(y, ORIGIN, None)


def scaled(x: Tensor, inverse: Tensor, scale_H: Tensor, *, rounds_first: bool) -> Tensor:
    """A norm's output from the tensors of its origin, the same bits each time."""
    return _scale(_wide(x), x.dtype, inverse, scale_H, rounds_first)


def use_lean_norms(model: nn.Module) -> int:
    """Replace the forward of every RMS norm of a known class in `model`; returns how many were replaced.

    Raises ValueError for a norm that trains: the gradient of its weight is not computed here.
    """
    norms: list[Any] = [m for m in model.modules() if type(m).__name__ in GEMMA_NORMS + LLAMA_NORMS]
    for norm in norms:
        if norm.weight.requires_grad:
            raise ValueError("the norms must be frozen: the gradient of their weights is not computed here")
        norm.forward = _norm_forward(norm)
    return len(norms)


def _norm_forward(norm: Any) -> Callable[[Tensor], Tensor]:
    rounds_first = type(norm).__name__ in LLAMA_NORMS
    eps = norm.variance_epsilon if rounds_first else norm.eps

    def forward(x: Tensor) -> Tensor:
        scale_H = norm.weight if rounds_first else 1.0 + norm.weight.float()
        y, inverse = _RMSNorm.apply(x, scale_H, eps, rounds_first)
        setattr(y, ORIGIN, NormOrigin(tensors=(x, inverse, scale_H), rounds_first=rounds_first))
        return y

    return forward


class _RMSNorm(torch.autograd.Function):
    """y = x / sqrt(mean(x^2) + eps) * scale, in fp32 whatever the 16-bit dtype of x, as in transformers."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale_H: Tensor, eps: float, rounds_first: bool) -> tuple[Tensor, Tensor]:
        wide = _wide(x)
        inverse = kept(x.shape[:-1], dtype=wide.dtype, device=x.device)
        inverse.copy_(_mean_of_products(wide, wide)).add_(eps).rsqrt_()
        inverse = inverse.unsqueeze(-1)
        ctx.save_for_backward(x, inverse, scale_H)
        ctx.mark_non_differentiable(inverse)
        return _scale(wide, x.dtype, inverse, scale_H, rounds_first), inverse

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, inverse, scale_H = ctx.saved_tensors
        dnormed = _wide(gradients[0]).mul_(scale_H.float())
        normed = _wide(x).mul_(inverse)
        along = _mean_of_products(dnormed, normed).unsqueeze(-1)
        dx = dnormed.addcmul_(normed, along, value=-1).mul_(inverse)
        return converted(dx, x.dtype), None, None, None


def _mean_of_products(x: Tensor, y: Tensor) -> Tensor:
    """(...) of (..., H)."""
    return torch.mul(x, y, out=empty_like(x)).sum(-1).div_(x.shape[-1])


def _scale(wide: Tensor, dtype: torch.dtype, inverse: Tensor, scale_H: Tensor, rounds_first: bool) -> Tensor:
    """From the input in fp32, which is overwritten."""
    normed = wide.mul_(inverse)
    return converted(normed, dtype) * scale_H if rounds_first else converted(normed.mul_(scale_H), dtype)


def _wide(x: Tensor) -> Tensor:
    """A copy in fp32, or fp64 where x has that."""
    return empty_like(x, dtype=torch.promote_types(x.dtype, torch.float32)).copy_(x)
