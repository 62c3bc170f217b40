"""A norm and the projections after it as one differentiable function, which does not save the norm's output.

Letters: T tokens, K input features, r rank.

The norm's input is saved, or the terms of which it is the sum (`ResidualSum`). The backward pass recomputes the norm's
output, and sums the projections' gradients of it before the norm's backward, which then runs once for all projections.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from medsum_core.kernels.cpu.arena import converted
from medsum_core.kernels.layers.joined_products import Products, draw_products
from medsum_core.kernels.layers.lora_linear import FusedLinear
from medsum_core.kernels.layers.rms_norm import RMSNorm, frozen_rms_norm


@dataclass(frozen=True, kw_only=True, eq=False)
class ResidualSum:
    """x + norm(y), recomputed to the same bits in the backward pass from x and y, which other functions save anyway."""

    x: Tensor
    y: Tensor
    norm: RMSNorm


def normed_projections(
    norm: Any, projections: Sequence[Any], x: Tensor, summed: ResidualSum | None = None
) -> tuple[Tensor, ...]:
    """`projection(norm(x))` of each projection. `norm`: a module whose forward `use_fast_norms` has replaced.

    `summed`: the terms whose sum is x, saved instead of x.
    """
    fused = [projection.forward for projection in projections]
    if not all(isinstance(one, FusedLinear) and one.is_active for one in fused):
        normed = norm(x)
        return tuple(projection(normed) for projection in projections)
    adapters = [weight for one in fused for weight in one.adapter]
    outputs: tuple[Tensor, ...] = _NormedProjections.apply(
        x, summed, frozen_rms_norm(norm), draw_products(fused), *adapters
    )
    return outputs


class _NormedProjections(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, summed: ResidualSum | None, norm: RMSNorm, products: Products, *adapters: Tensor
    ) -> tuple[Tensor, ...]:
        normed, inverse_rms = norm.forward(x)
        outputs, lows = products.forward(normed, adapters)
        inputs = (x,) if summed is None else (summed.x, summed.y)
        ctx.save_for_backward(inverse_rms, *inputs, *lows, *adapters)
        ctx.sum_norm = None if summed is None else summed.norm
        ctx.norm, ctx.products, ctx.num_adapters = norm, products, len(adapters)
        return tuple(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        inverse_rms, *saved = ctx.saved_tensors
        num_inputs = 1 if ctx.sum_norm is None else 2
        inputs, lows, adapters = saved[:num_inputs], saved[num_inputs : -ctx.num_adapters], saved[-ctx.num_adapters :]
        x = inputs[0] if ctx.sum_norm is None else inputs[0] + ctx.sum_norm.forward(inputs[1])[0]
        normed = ctx.norm.output(x, inverse_rms)
        dnormed_TK, dadapters = ctx.products.backward(
            gradients, normed, lows, adapters, needs_dx=ctx.needs_input_grad[0]
        )
        dx = None
        if dnormed_TK is not None:
            dx = ctx.norm.backward(converted(dnormed_TK, normed.dtype).view(x.shape), x, inverse_rms)
        return dx, None, None, None, *dadapters
