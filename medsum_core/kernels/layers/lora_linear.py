"""One projection with its LoRA branch as a single differentiable function: fewer copies, casts and random numbers.

Letters: T tokens, K input features, N output features, r rank.

    y = x W^T + s (m * x) A^T B^T        m: dropout mask over 1 - p, s: LoRA's scaling

The adapter's modules, names and files stay PEFT's; only the forward of its layers is replaced. The mask is not kept
for the backward pass but drawn again from its seed (`dropout.py`). DoRA and layers that are not linear keep PEFT's own
forward.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

from medsum_core.device import arithmetic_dtype
from medsum_core.kernels.cpu.arena import ACTIVATIONS, Slab, converted, empty, kept, lasting_copy, mm
from medsum_core.kernels.layers.dropout import DroppedElements, layer_seed


class FrozenWeight:
    """The (N, K) weight of a frozen projection. NF4 is dequantised at each use, or at the first if `keep_dense`.

    Dequantising gives the same bits each time, so both ways train alike. Keeping costs 2 or 4 bytes a weight; the layer
    then holds the dense weight in the place of its blocks, a plain linear layer from there on.
    """

    def __init__(self, layer: nn.Linear, *, keep_dense: bool) -> None:
        self._layer = layer
        self._keep_dense = keep_dense

    def dense(self, dtype: torch.dtype) -> Tensor:
        """The weight as a dense (N, K) matrix of `dtype`, without a gradient."""
        weight: Any = self._layer.weight
        quant_state = getattr(weight, "quant_state", None)
        if quant_state is None:
            return converted(weight.detach(), dtype)
        from bitsandbytes.functional import dequantize_4bit

        weight_NK: Tensor = dequantize_4bit(weight.data, quant_state)
        if self._keep_dense:
            weight_NK = weight_NK.to(torch.promote_types(weight_NK.dtype, dtype))  # loses no bit for another dtype
            weight_NK = lasting_copy(weight_NK)
            self._layer.weight = nn.Parameter(weight_NK, requires_grad=False)
            self._layer.__class__ = nn.Linear
        return converted(weight_NK, dtype)


def fuse_lora_layers(model: nn.Module, *, keep_dense: bool) -> int:
    """Replace the forward of every plain LoRA linear layer of a PEFT model; returns how many were replaced."""
    layers = [module for module in model.modules() if isinstance(module, LoraLayer) and _is_plain(module)]
    for number, layer in enumerate(layers):
        linear_layer: Any = layer.get_base_layer()
        layer.forward = FusedLinear(layer, FrozenWeight(linear_layer, keep_dense=keep_dense), number=number)
    return len(layers)


class FusedLinear:
    """The forward that takes the place of a LoRA layer's own.

    `output_is_kept`: whether whoever takes its output keeps it for the way back (`buffers.kept`). `gradient_slab`:
    where the gradients of A and B lie until the whole way back has ended.
    """

    def __init__(self, layer: Any, weight: FrozenWeight, *, number: int) -> None:
        self.layer, self.weight, self._number = layer, weight, number
        self.output_is_kept = False
        self.gradient_slab = ACTIVATIONS
        (self._name,) = layer.lora_A.keys()

    @property
    def adapter(self) -> tuple[Tensor, Tensor]:
        """The weights (r, K) and (N, r) that train."""
        return self.layer.lora_A[self._name].weight, self.layer.lora_B[self._name].weight

    def draw(self) -> LoraProduct:
        """The layer's product, with a dropout mask of its own while it trains."""
        rate = float(getattr(self.layer.lora_dropout[self._name], "p", 0.0)) if self.layer.training else 0.0
        return LoraProduct(
            weight=self.weight,
            bias_N=self.layer.get_base_layer().bias,
            scaling=self.layer.scaling[self._name],
            rate=rate,
            seed=layer_seed(self._number) if rate > 0 else 0,
            output_is_kept=self.output_is_kept,
            gradient_slab=self.gradient_slab,
        )

    @property
    def adds(self) -> bool:
        """Whether the adapter adds to the layer's output now."""
        return not (self.layer.merged or self.layer.disable_adapters)

    def __call__(self, x: Tensor) -> Tensor:
        """(..., K) to (..., N). Raises RuntimeError if the adapter is merged into its base."""
        if self.layer.merged:
            raise RuntimeError("the adapter is merged into its base already: it would be added twice")
        if self.layer.disable_adapters:
            wide = x.to(arithmetic_dtype(x.device, x.dtype))
            return _base_output(wide, self.weight, self.layer.get_base_layer().bias).to(x.dtype)
        y: Tensor = _LoraLinear.apply(x, *self.adapter, self.draw())
        return y


@dataclass(frozen=True, kw_only=True, eq=False)
class LoraProduct:
    """One use of a layer: y = x W^T + b + s (m * x) A^T B^T, and its gradients. The mask m is drawn from `seed`."""

    weight: FrozenWeight
    bias_N: Tensor | None
    scaling: float
    rate: float
    seed: int
    output_is_kept: bool
    gradient_slab: Slab

    def forward(self, x: Tensor, lora_A_rK: Tensor, lora_B_Nr: Tensor) -> tuple[Tensor, Tensor]:
        """y (..., N) in the dtype of x (..., K), and (m * x) A^T (T, r), which the way back needs."""
        x_TK = _rows(x)
        dtype = x_TK.dtype
        weight_NK = self.weight.dense(dtype)
        y_TN = (kept if self.output_is_kept else empty)((len(x_TK), len(weight_NK)), dtype=dtype, device=x_TK.device)
        if self.bias_N is None:
            torch.mm(x_TK, weight_NK.t(), out=y_TN)
        else:
            torch.addmm(self.bias_N.to(dtype), x_TK, weight_NK.t(), out=y_TN)
        dropped_TK = x_TK if self.rate == 0 else self._drawn(x_TK).without(x_TK)
        low_Tr = kept((len(x_TK), len(lora_A_rK)), dtype=dtype, device=x_TK.device)
        torch.mm(dropped_TK, lora_A_rK.to(dtype).t(), out=low_Tr)
        y_TN.addmm_(low_Tr, lora_B_Nr.to(dtype).t(), alpha=self._scale)
        return y_TN.to(x.dtype).view(*x.shape[:-1], y_TN.shape[1]), low_Tr

    def backward(
        self,
        dy: Tensor,
        x: Tensor,
        low_Tr: Tensor,
        lora_A_rK: Tensor,
        lora_B_Nr: Tensor,
        *,
        needs_dx: bool = True,
        others_TK: Tensor | None = None,
    ) -> tuple[Tensor | None, Tensor, Tensor]:
        """The gradients of x, A and B from that of y.

        That of x is (T, K) in the dtype that products are computed in, None where it is not needed, and added to
        `others_TK`, what other layers give x, where that is there.
        """
        x_TK = _rows(x)
        dtype = x_TK.dtype
        dy_TN = dy.reshape(-1, dy.shape[-1]).to(dtype)
        dropped = self._drawn(x_TK) if self.rate > 0 else None
        dlow_Tr = (dy_TN @ lora_B_Nr.to(dtype)).mul_(self._scale)
        dB_Nr = (dy_TN.t() @ low_Tr).mul_(self._scale)
        dA_rK = dlow_Tr.t() @ (x_TK if dropped is None else dropped.without(x_TK))
        dx_TK = None
        if needs_dx:
            weight_NK = self.weight.dense(dtype)
            dx_TK = mm(dy_TN, weight_NK) if others_TK is None else others_TK.addmm_(dy_TN, weight_NK)
            if dropped is None:
                dx_TK.addmm_(dlow_Tr, lora_A_rK.to(dtype))
            else:
                dx_TK += dropped.zero_(mm(dlow_Tr, lora_A_rK.to(dtype)))
        return dx_TK, self._kept(dA_rK, lora_A_rK.dtype), self._kept(dB_Nr, lora_B_Nr.dtype)

    @property
    def _scale(self) -> float:
        """LoRA's scaling, and what makes up for the elements that dropout sets to zero."""
        return self.scaling if self.rate == 0 else self.scaling / (1 - self.rate)

    def _kept(self, gradient: Tensor, dtype: torch.dtype) -> Tensor:
        return kept(gradient.shape, dtype=dtype, device=gradient.device, slab=self.gradient_slab).copy_(gradient)

    def _drawn(self, x_TK: Tensor) -> DroppedElements:
        return DroppedElements(x_TK.numel(), rate=self.rate, seed=self.seed, device=x_TK.device)


class _LoraLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, lora_A_rK: Tensor, lora_B_Nr: Tensor, lora: LoraProduct) -> Tensor:
        y, low_Tr = lora.forward(x, lora_A_rK, lora_B_Nr)
        ctx.save_for_backward(x, low_Tr, lora_A_rK, lora_B_Nr)
        ctx.lora = lora
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, *others = ctx.saved_tensors
        dx_TK, dA_rK, dB_Nr = ctx.lora.backward(gradients[0], x, *others, needs_dx=ctx.needs_input_grad[0])
        return None if dx_TK is None else dx_TK.to(x.dtype).view(x.shape), dA_rK, dB_Nr, None


def _is_plain(layer: LoraLayer) -> bool:
    return isinstance(layer.get_base_layer(), nn.Linear) and not layer.lora_variant and len(layer.lora_A) == 1


def _base_output(x: Tensor, weight: FrozenWeight, bias_N: Tensor | None) -> Tensor:
    """x W^T + b in the dtype of x."""
    return linear(x, weight.dense(x.dtype), None if bias_N is None else bias_N.to(x.dtype))


def _rows(x: Tensor) -> Tensor:
    """(T, K) in the dtype that its products are computed in."""
    return x.reshape(-1, x.shape[-1]).to(arithmetic_dtype(x.device, x.dtype))
