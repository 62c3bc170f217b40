"""The gated MLP of Gemma and Llama, without saving its two widest tensors for the backward pass.

    y = down(act(gate) * up)

Autograd would save gate, act(gate), up and their product. Here only gate and up are saved; the backward pass recomputes
the rest in one more element-wise pass. Values are rounded where transformers rounds them. Modules, names and weights
stay those of transformers and PEFT; only the forward of the MLP is replaced.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from medsum_core.kernels.cpu.arena import converted, empty_like
from medsum_core.kernels.cpu.elementwise import Array, array_of, gated, gated_backward, on_cpu
from medsum_core.kernels.layers.lora_linear import FusedLinear, LoraProduct
from medsum_core.kernels.layers.triton_choice import triton_for


@dataclass(frozen=True, kw_only=True, eq=False)
class Activation:
    """g sigmoid(z) with z = slope (g + cube g^3): its constants, and torch's functions for devices without kernels."""

    slope: float
    cube: float
    forward: Callable[[Tensor], Tensor]
    backward: Callable[[Tensor, Tensor], Tensor]  # (gradient of the result, g) -> gradient of g


_GELU = Activation(  # 0.5 g (1 + tanh(z / 2))
    slope=2 * math.sqrt(2 / math.pi),
    cube=0.044715,
    forward=partial(torch.ops.aten.gelu, approximate="tanh"),
    backward=partial(torch.ops.aten.gelu_backward, approximate="tanh"),
)
_SILU = Activation(slope=1.0, cube=0.0, forward=torch.ops.aten.silu, backward=torch.ops.aten.silu_backward)
ACTIVATION_FUNCTIONS = {
    "GELUTanh": _GELU,
    "SiLUActivation": _SILU,
    "SiLU": _SILU,
}  # by the class of transformers' module


def use_gated_mlps(model: nn.Module) -> int:
    """Replace the forward of each gated MLP whose down projection is a fused LoRA layer; returns how many."""
    mlps: list[Any] = [module for module in model.modules() if _is_known(module)]
    for mlp in mlps:
        mlp.forward = partial(_forward, mlp)
    return len(mlps)


def gated_down(mlp: Any, gate: Tensor, up: Tensor) -> Tensor:
    """The output of such an MLP from the outputs of its gate and up projections."""
    down, activation = mlp.down_proj.forward, ACTIVATION_FUNCTIONS.get(type(mlp.act_fn).__name__)
    # PEFT may have removed the LoRA layer (`merge_and_unload`), merged it, or disabled its adapter.
    if activation is None or not isinstance(down, FusedLinear) or not down.is_active:
        return mlp.down_proj(mlp.act_fn(gate) * up)  # type: ignore[no-any-return]
    y: Tensor = _GatedDown.apply(gate, up, *down.adapter, down.draw(), activation)
    return y


def _is_known(module: Any) -> bool:
    if not all(hasattr(module, name) for name in ("gate_proj", "up_proj", "down_proj", "act_fn")):
        return False
    return isinstance(module.down_proj.forward, FusedLinear) and type(module.act_fn).__name__ in ACTIVATION_FUNCTIONS


def _forward(mlp: Any, x: Tensor) -> Tensor:
    return gated_down(mlp, mlp.gate_proj(x), mlp.up_proj(x))


class _GatedDown(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, gate: Tensor, up: Tensor, lora_A: Tensor, lora_B: Tensor, lora: LoraProduct, activation: Activation
    ) -> Tensor:
        y, low_Tr = lora.forward(_product(gate, up, activation), lora_A, lora_B)
        ctx.save_for_backward(gate, up, low_Tr, lora_A, lora_B)
        ctx.lora, ctx.activation = lora, activation
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        gate, up, *weights = ctx.saved_tensors
        dproduct_TK, dA, dB = ctx.lora.backward(gradients[0], _product(gate, up, ctx.activation), *weights)
        dproduct = converted(dproduct_TK, gate.dtype).view(gate.shape)
        return *_product_backward(gate, up, dproduct, ctx.activation), dA, dB, None, None


def _product(gate: Tensor, up: Tensor, activation: Activation) -> Tensor:
    """act(gate) * up."""
    if (fused := triton_for(gate.device)) is not None:
        return fused.gated(gate, up, activation.slope, activation.cube)
    if not on_cpu(gate):
        return activation.forward(gate).mul_(up)
    product = empty_like(gate)
    gated(_flat(gate), _flat(up), activation.slope, activation.cube, _flat(product))
    return product


def _product_backward(gate: Tensor, up: Tensor, dproduct: Tensor, activation: Activation) -> tuple[Tensor, Tensor]:
    """The gradients of gate and up."""
    if (fused := triton_for(gate.device)) is not None:
        return fused.gated_backward(gate, up, dproduct, activation.slope, activation.cube)
    if not on_cpu(gate):
        return activation.backward(dproduct * up, gate), activation.forward(gate).mul_(dproduct)
    dgate, dup = empty_like(gate), empty_like(up)
    arrays = (_flat(gate), _flat(up), _flat(dproduct))
    gated_backward(*arrays, activation.slope, activation.cube, _flat(dgate), _flat(dup))
    return dgate, dup


def _flat(x: Tensor) -> Array:
    return array_of(x.contiguous().view(-1))
