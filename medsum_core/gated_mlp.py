"""The gated MLP of Gemma and Llama without its two widest tensors kept for the way back.

    y = down(act(gate) * up)

Autograd would keep gate, act(gate), up and the product; here act(gate) and the product are computed again from gate
and up: two elementwise passes more on the way back. The sums are those of the modules, to the bit.
Modules, names and weights stay those of transformers and PEFT; only the forward of the MLP is replaced.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from medsum_core.activation_table import gelu_tanh, gelu_tanh_backward
from medsum_core.buffers import empty_like
from medsum_core.lora_linear import FusedLinear, LoraProduct


@dataclass(frozen=True, kw_only=True, eq=False)
class Activation:
    """A function, and its gradient from that of its result and from its argument."""

    forward: Callable[..., Tensor]  # with `out`, where the result goes
    backward: Callable[[Tensor, Tensor], Tensor]


_SILU = Activation(forward=torch.ops.aten.silu.out, backward=torch.ops.aten.silu_backward)
ACTIVATIONS = {  # by the class of transformers' module
    "GELUTanh": Activation(forward=gelu_tanh, backward=gelu_tanh_backward),
    "SiLUActivation": _SILU,
    "SiLU": _SILU,
}


def use_gated_mlps(model: nn.Module) -> int:
    """Replace the forward of each gated MLP whose way down is a fused LoRA layer; returns how many were replaced."""
    mlps: list[Any] = [module for module in model.modules() if _is_known(module)]
    for mlp in mlps:
        mlp.forward = partial(_forward, mlp, ACTIVATIONS[type(mlp.act_fn).__name__])
    return len(mlps)


def _is_known(module: Any) -> bool:
    if not all(hasattr(module, name) for name in ("gate_proj", "up_proj", "down_proj", "act_fn")):
        return False
    return isinstance(module.down_proj.forward, FusedLinear) and type(module.act_fn).__name__ in ACTIVATIONS


def _forward(mlp: Any, activation: Activation, x: Tensor) -> Tensor:
    down = mlp.down_proj.forward
    gate, up = mlp.gate_proj(x), mlp.up_proj(x)
    # PEFT may have taken the layer off again (`merge_and_unload`), merged it, or switched its adapter off.
    if not isinstance(down, FusedLinear) or down.layer.disable_adapters or down.layer.merged:
        return mlp.down_proj(mlp.act_fn(gate) * up)
    y: Tensor = _GatedDown.apply(gate, up, *down.adapter, down.draw(), activation)
    return y


class _GatedDown(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, gate: Tensor, up: Tensor, lora_A: Tensor, lora_B: Tensor, lora: LoraProduct, activation: Activation
    ) -> Tensor:
        y, low_Tr = lora.forward(activation.forward(gate, out=empty_like(gate)).mul_(up), lora_A, lora_B)
        ctx.save_for_backward(gate, up, low_Tr, lora_A, lora_B)
        ctx.lora, ctx.activation = lora, activation
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        gate, up, low_Tr, lora_A, lora_B = ctx.saved_tensors
        activated = ctx.activation.forward(gate, out=empty_like(gate))
        product = torch.mul(activated, up, out=empty_like(up))
        dproduct, dA, dB = ctx.lora.backward(gradients[0], product, low_Tr, lora_A, lora_B, needs_dx=True)
        dup = activated.mul_(dproduct)
        return ctx.activation.backward(dproduct.mul_(up), gate), dup, dA, dB, None, None
