"""Norms of a frozen base that keep nothing but their input, and a number a token, for the way back.

Letters: H features.

transformers writes a norm as a chain of elementwise operations in fp32, and autograd keeps what each of them needs:
fp32 copies of every activation. Here it is one differentiable function, with the same arithmetic in the forward pass.
Its output can be computed again from what it keeps, so that nobody else needs to keep it (`normed_projections.py`).
Modules, names and weights stay those of transformers; only `forward` is replaced. The weights must be frozen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from medsum_core.kernels.cpu.arena import empty_like, kept
from medsum_core.kernels.cpu.elementwise import (
    array_of,
    on_cpu,
    rms_backward,
    rms_inverse,
    rms_scaled,
    rows_of,
)

GEMMA_NORMS = ("GemmaRMSNorm", "Gemma2RMSNorm", "Gemma3RMSNorm")  # scale by 1 + weight, in fp32
LLAMA_NORMS = ("LlamaRMSNorm",)  # round to the input's dtype, then scale by the weight


def use_fast_norms(model: nn.Module) -> int:
    """Replace the forward of every RMS norm of a known class in `model`; returns how many were replaced.

    Raises ValueError for a norm that trains: the gradient of its weight is not computed here.
    """
    modules: list[Any] = [m for m in model.modules() if type(m).__name__ in GEMMA_NORMS + LLAMA_NORMS]
    for module in modules:
        if module.weight.requires_grad:
            raise ValueError("the norms must be frozen: the gradient of their weights is not computed here")
        module.forward = FastNorm(module)
    return len(modules)


class FastNorm:
    """The forward that takes the place of a norm's own."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def norm(self) -> RMSNorm:
        """The norm's arithmetic, with its weight as it is now."""
        rounds_first = type(self._module).__name__ in LLAMA_NORMS
        eps = self._module.variance_epsilon if rounds_first else self._module.eps
        scale_H = self._module.weight if rounds_first else 1.0 + self._module.weight.float()
        return RMSNorm(scale_H=scale_H, eps=eps, rounds_first=rounds_first)

    def __call__(self, x: Tensor) -> Tensor:
        """(..., H) to (..., H)."""
        y: Tensor = _Normed.apply(x, self.norm())
        return y


@dataclass(frozen=True, kw_only=True, eq=False)
class RMSNorm:
    """y = x / sqrt(mean(x^2) + eps) * scale, in fp32 whatever the 16-bit dtype of x, as in transformers."""

    scale_H: Tensor
    eps: float
    rounds_first: bool  # to the dtype of x, before it is scaled

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """y, and 1 / root mean square (...), which is kept for the way back."""
        inverse = self.inverse(x)
        return self.again(x, inverse), inverse

    def inverse(self, x: Tensor) -> Tensor:
        """1 / root mean square of each row."""
        inverse = kept(x.shape[:-1], dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)
        if on_cpu(x):
            rms_inverse(rows_of(x), self.eps, array_of(inverse).reshape(-1))
        else:
            inverse.copy_(x.to(inverse.dtype).square().mean(-1)).add_(self.eps).rsqrt_()
        return inverse

    def again(self, x: Tensor, inverse: Tensor) -> Tensor:
        """y once more, the same bits."""
        if on_cpu(x):
            y = empty_like(x, dtype=torch.promote_types(x.dtype, self.scale_H.dtype) if self.rounds_first else x.dtype)
            scale_H = array_of(self.scale_H)
            rms_scaled(rows_of(x), array_of(inverse).reshape(-1), scale_H, self.rounds_first, rows_of(y))
            return y
        normed = x.to(inverse.dtype) * inverse.unsqueeze(-1)
        return normed.to(x.dtype) * self.scale_H if self.rounds_first else (normed * self.scale_H).to(x.dtype)

    def backward(self, dy: Tensor, x: Tensor, inverse: Tensor) -> Tensor:
        """The gradient of x."""
        if on_cpu(x):
            dx = empty_like(x)
            scale_H = array_of(self.scale_H)
            rms_backward(rows_of(dy), rows_of(x), array_of(inverse).reshape(-1), scale_H, rows_of(dx))
            return dx
        dnormed = dy.to(inverse.dtype) * self.scale_H.to(inverse.dtype)
        normed = x.to(inverse.dtype) * inverse.unsqueeze(-1)
        along = (dnormed * normed).mean(-1, keepdim=True)
        return dnormed.addcmul_(normed, along, value=-1).mul_(inverse.unsqueeze(-1)).to(x.dtype)


class _Normed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, norm: RMSNorm) -> Tensor:
        y, inverse = norm.forward(x)
        ctx.save_for_backward(x, inverse)
        ctx.norm = norm
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.norm.backward(gradients[0], *ctx.saved_tensors), None
