"""RMS norms of a frozen base that save only their input and one number a token for the backward pass.

Letters: H features.

transformers implements a norm as a chain of element-wise operations in fp32, for which autograd saves fp32 copies of
every activation. Here it is one differentiable function with the same arithmetic in the forward pass. Its output can be
recomputed from what it saves, so the projections after it need not save their input (`norm_linear.py`). Modules,
names and weights stay those of transformers; only `forward` is replaced. The weights must be frozen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from medsum_core.kernels.cpu.arena import empty_for_backward, empty_like
from medsum_core.kernels.cpu.elementwise import array_of, on_cpu, rms_backward, rms_inverse, rms_scaled, rows_of
from medsum_core.kernels.layers.triton_choice import triton_for

GEMMA_NORMS = ("GemmaRMSNorm", "Gemma2RMSNorm", "Gemma3RMSNorm")  # scale by 1 + weight, in fp32
LLAMA_NORMS = ("LlamaRMSNorm",)  # round to the input's dtype, then scale by weight


def use_fast_norms(model: nn.Module) -> int:
    """Replace the forward of every RMS norm of a known class in `model`; returns how many were replaced.

    Weights are read here, once: call it when they have their values, dtype and device.
    Raises ValueError for a norm that trains: its weight would get no gradient.
    """
    modules: list[Any] = [m for m in model.modules() if type(m).__name__ in GEMMA_NORMS + LLAMA_NORMS]
    for module in modules:
        if module.weight.requires_grad:
            raise ValueError(
                "the norms must be frozen: the fast kernels give them no gradient, use --kernels reference"
            )
        module.forward = _arithmetic(module)
    return len(modules)


def frozen_rms_norm(module: Any) -> RMSNorm:
    """The arithmetic of a norm module whose forward `use_fast_norms` has replaced."""
    norm: RMSNorm = module.forward
    return norm


def _arithmetic(module: Any) -> RMSNorm:
    rounds_first = type(module).__name__ in LLAMA_NORMS
    return RMSNorm(
        scale_H=module.weight if rounds_first else 1.0 + module.weight.float(),
        eps=module.variance_epsilon if rounds_first else module.eps,
        rounds_first=rounds_first,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class RMSNorm:
    """y = x / sqrt(mean(x^2) + eps) * scale, in fp32 whatever the 16-bit dtype of x, as in transformers."""

    scale_H: Tensor
    eps: float
    rounds_first: bool  # to the dtype of x before scaling

    def __call__(self, x: Tensor) -> Tensor:
        """y (..., H) of x (..., H), differentiable in x."""
        y: Tensor = _RMSNorm.apply(x, self)
        return y

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """y (..., H) of x (..., H), and 1 / root mean square (...), to save for the backward pass."""
        if (fused := triton_for(x.device)) is not None:
            return fused.rms_norm(x, self.scale_H, self.eps, self.rounds_first)
        if not on_cpu(x):
            return self._fused(x)
        inverse_rms = empty_for_backward(
            x.shape[:-1], dtype=torch.promote_types(x.dtype, torch.float32), device=x.device
        )
        rms_inverse(rows_of(x), self.eps, array_of(inverse_rms).reshape(-1))
        return self.output(x, inverse_rms), inverse_rms

    def output(self, x: Tensor, inverse_rms: Tensor) -> Tensor:
        """y again, bit-identical, from x and `inverse_rms`."""
        if triton_for(x.device) is not None:
            return self.forward(x)[0]
        if on_cpu(x):
            y = empty_like(x, dtype=torch.promote_types(x.dtype, self.scale_H.dtype) if self.rounds_first else x.dtype)
            scale_H = array_of(self.scale_H)
            rms_scaled(rows_of(x), array_of(inverse_rms).reshape(-1), scale_H, self.rounds_first, rows_of(y))
            return y
        return self._fused(x)[0]

    def backward(self, dy: Tensor, x: Tensor, inverse_rms: Tensor) -> Tensor:
        """The gradient of x from that of y."""
        if (fused := triton_for(x.device)) is not None:
            return fused.rms_norm_backward(dy, x, inverse_rms, self.scale_H)
        if on_cpu(x):
            dx = empty_like(x)
            scale_H = array_of(self.scale_H)
            rms_backward(rows_of(dy), rows_of(x), array_of(inverse_rms).reshape(-1), scale_H, rows_of(dx))
            return dx
        wide = inverse_rms.dtype
        values = (dy.to(wide), x.to(wide), x.shape[-1:], inverse_rms.unsqueeze(-1), self.scale_H.to(wide))
        dx, _ = torch.ops.aten._fused_rms_norm_backward(*values, [True, False])
        return dx.to(x.dtype)

    def _fused(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`forward` by torch's fused kernel, with three launches instead of ten."""
        wide = torch.promote_types(x.dtype, torch.float32)
        scale_H = None if self.rounds_first else self.scale_H.to(wide)
        y, inverse_rms = torch.ops.aten._fused_rms_norm(x.to(wide), x.shape[-1:], scale_H, self.eps)
        y = y.to(x.dtype)
        return y * self.scale_H if self.rounds_first else y, inverse_rms.squeeze(-1)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, norm: RMSNorm) -> Tensor:
        y, inverse_rms = norm.forward(x)
        ctx.save_for_backward(x, inverse_rms)
        ctx.norm = norm
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.norm.backward(gradients[0], *ctx.saved_tensors), None
