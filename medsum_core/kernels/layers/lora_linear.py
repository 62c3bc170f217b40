"""A projection and its LoRA branch as one differentiable function, with fewer copies, casts and random numbers.

Letters: T tokens, K input features, N output features, r rank.

    y = x W^T + s (m * x) A^T B^T        m: dropout mask / (1 - p), s: LoRA's scaling

The adapter's modules, names and files stay PEFT's; only the forward of its layers is replaced. The mask is not saved
for the backward pass but drawn again from its seed (`dropout.py`). DoRA and layers that are not linear keep PEFT's own
forward.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

from medsum_core.device import arithmetic_dtype
from medsum_core.kernels.cpu.arena import ACTIVATIONS, Arena, converted, empty, empty_for_backward, lasting_copy, mm
from medsum_core.kernels.layers.dropout import DroppedElements, Seed, layer_seed

Copies = tuple[Tensor, Tensor]  # of A (r, K) and B (N, r)


class FrozenWeight:
    """The (N, K) weight of a frozen projection. NF4 is dequantised at each use, or once with `keep_dense`.

    Dequantising gives the same bits each time, so the choice changes no result. A dense weight takes 2 or 4 bytes an
    element; it replaces the NF4 blocks, and the layer becomes a plain linear layer.
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
            weight_NK = weight_NK.to(
                torch.promote_types(weight_NK.dtype, dtype)
            )  # exact also for a later use in another dtype
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


def count_fused(model: nn.Module) -> int:
    """How many layers of the model `fuse_lora_layers` has replaced the forward of."""
    return sum(isinstance(module.forward, FusedLinear) for module in model.modules())


@dataclass(kw_only=True, eq=False)
class SharedInput:
    """Projections of one input whose adapters are joined, see `joined_products.py`."""

    layers: Sequence[FusedLinear]
    copies_nrK: Tensor | None = None  # the copies of their A, stacked; set by `adapter_copies.py`

    def stack(self, dtype: torch.dtype) -> Tensor:
        """An uninitialised tensor for their A, (n, r, K)."""
        lora_A_rK, _ = self.layers[0].adapter
        return lora_A_rK.new_empty((len(self.layers), *lora_A_rK.shape), dtype=dtype)


class FusedLinear:
    """The forward that replaces a LoRA layer's own.

    `output_is_saved`: the next function saves the output for the backward pass, so it is allocated in an arena.
    `copies`: A and B in the dtype of products, set by `adapter_copies.py`; None: they are converted at each use.
    `gradient_arena`: memory for the gradients of A and B, which live until the end of the backward pass.
    `shared_input`: the projections that this one is joined with; None: it is computed alone.
    """

    def __init__(self, layer: Any, weight: FrozenWeight, *, number: int) -> None:
        self.layer, self.weight, self._number = layer, weight, number
        self.output_is_saved = False
        self.copies: Copies | None = None
        self.gradient_arena = ACTIVATIONS
        self.shared_input: SharedInput | None = None
        (self._name,) = layer.lora_A.keys()

    @property
    def adapter(self) -> tuple[Tensor, Tensor]:
        """The trainable weights A (r, K) and B (N, r)."""
        return self.layer.lora_A[self._name].weight, self.layer.lora_B[self._name].weight

    @property
    def scaling(self) -> float:
        """LoRA's factor s."""
        return float(self.layer.scaling[self._name])

    @property
    def rate(self) -> float:
        """The dropout rate of its input in training mode."""
        return float(getattr(self.layer.lora_dropout[self._name], "p", 0.0))

    def draw(self) -> LoraProduct:
        """The layer's product for one use, with a new dropout mask in training mode."""
        rate = self.rate if self.layer.training else 0.0
        return LoraProduct(
            weight=self.weight,
            bias_N=self.layer.get_base_layer().bias,
            scaling=self.scaling,
            rate=rate,
            seed=layer_seed(self._number) if rate > 0 else 0,
            copies=self.copies,
            output_is_saved=self.output_is_saved,
            gradient_arena=self.gradient_arena,
        )

    @property
    def is_active(self) -> bool:
        """Whether the adapter is active: neither merged nor disabled."""
        return not (self.layer.merged or self.layer.disable_adapters)

    def __call__(self, x: Tensor) -> Tensor:
        """(..., K) to (..., N). Raises RuntimeError if the adapter is merged into its base."""
        if self.layer.merged:
            raise RuntimeError("the adapter is merged into its base and would be added twice: unmerge it first")
        if self.layer.disable_adapters:
            wide = x.to(arithmetic_dtype(x.device, x.dtype))
            return _base_output(wide, self.weight, self.layer.get_base_layer().bias).to(x.dtype)
        y: Tensor = _LoraLinear.apply(x, *self.adapter, self.draw())
        return y


@dataclass(frozen=True, kw_only=True, eq=False)
class LoraProduct:
    """One use of a layer: y = x W^T + b + s (m * x) A^T B^T and its gradients. The mask m is drawn from `seed`."""

    weight: FrozenWeight
    bias_N: Tensor | None
    scaling: float
    rate: float
    seed: Seed
    copies: Copies | None
    output_is_saved: bool
    gradient_arena: Arena

    def forward(self, x: Tensor, lora_A_rK: Tensor, lora_B_Nr: Tensor) -> tuple[Tensor, Tensor]:
        """y (..., N) in the dtype of x (..., K), and s (m * x) A^T (T, r), to save for the backward pass."""
        x_TK = flattened(x)
        y_TN = self.base_output(x_TK)
        dropped_TK = x_TK if self.rate == 0 else self.drawn(x_TK.numel(), x_TK.device).without(x_TK)
        lora_A_rK, lora_B_Nr = self.converted(lora_A_rK, lora_B_Nr, x_TK.dtype)
        low_Tr = empty_for_backward((len(x_TK), len(lora_A_rK)), dtype=x_TK.dtype, device=x_TK.device)
        low_Tr.addmm_(dropped_TK, lora_A_rK.t(), beta=0, alpha=self.scale)
        y_TN.addmm_(low_Tr, lora_B_Nr.t())
        return y_TN.to(x.dtype).view(*x.shape[:-1], y_TN.shape[1]), low_Tr

    def base_output(self, x_TK: Tensor) -> Tensor:
        """x W^T + b, (T, N), to which the adapter's part can be added in place."""
        weight_NK = self.weight.dense(x_TK.dtype)
        allocate = empty_for_backward if self.output_is_saved else empty
        y_TN = allocate((len(x_TK), len(weight_NK)), dtype=x_TK.dtype, device=x_TK.device)
        if self.bias_N is None:
            return torch.mm(x_TK, weight_NK.t(), out=y_TN)
        return torch.addmm(self.bias_N.to(x_TK.dtype), x_TK, weight_NK.t(), out=y_TN)

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

        That of x is (T, K) in the dtype that products are computed in, or None where it is not needed. `others_TK`:
        the sum of other layers' gradients of x, to which it is added in place.
        """
        x_TK = flattened(x)
        dtype = x_TK.dtype
        dy_TN = dy.reshape(-1, dy.shape[-1]).to(dtype)
        dropped = self.drawn(x_TK.numel(), x_TK.device) if self.rate > 0 else None
        exact = lora_A_rK.dtype
        lora_A_rK, lora_B_Nr = self.converted(lora_A_rK, lora_B_Nr, dtype)
        dlow_Tr = torch.empty_like(low_Tr).addmm_(dy_TN, lora_B_Nr, beta=0, alpha=self.scale)
        dropped_TK = x_TK if dropped is None else dropped.without(x_TK)
        dB_Nr = weight_gradient(dy_TN.t(), low_Tr, dtype=exact, arena=self.gradient_arena)
        dA_rK = weight_gradient(dlow_Tr.t(), dropped_TK, dtype=exact, arena=self.gradient_arena)
        del dropped_TK
        dx_TK = None
        if needs_dx:
            weight_NK = self.weight.dense(dtype)
            dx_TK = mm(dy_TN, weight_NK) if others_TK is None else others_TK.addmm_(dy_TN, weight_NK)
            if dropped is None:
                dx_TK.addmm_(dlow_Tr, lora_A_rK)
            else:
                dropped.add_kept_to(dx_TK, mm(dlow_Tr, lora_A_rK))
        return dx_TK, dA_rK, dB_Nr

    @property
    def scale(self) -> float:
        """LoRA's scaling with dropout's 1 / (1 - rate)."""
        return self.scaling if self.rate == 0 else self.scaling / (1 - self.rate)

    def converted(self, lora_A_rK: Tensor, lora_B_Nr: Tensor, dtype: torch.dtype) -> Copies:
        """A and B in `dtype`."""
        if self.copies is not None and self.copies[0].dtype == dtype:
            return self.copies
        return lora_A_rK.to(dtype), lora_B_Nr.to(dtype)

    def drawn(self, num_elements: int, device: torch.device) -> DroppedElements:
        """The dropout mask for that many elements."""
        return DroppedElements(num_elements, rate=self.rate, seed=self.seed, device=device)


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


def weight_gradient(left: Tensor, right: Tensor, *, dtype: torch.dtype, arena: Arena) -> Tensor:
    """The product of two matrices or of n pairs, a sum over tokens.

    On a GPU the product is returned in `dtype`, the adapter's, without rounding to the dtype of its factors.
    """
    if left.device.type == "cpu":
        shape = (*left.shape[:-1], right.shape[-1])
        return empty_for_backward(shape, dtype=dtype, device=left.device, arena=arena).copy_(left @ right)
    product = torch.bmm if left.ndim == 3 else torch.mm
    return product(left, right) if left.dtype == dtype else product(left, right, out_dtype=dtype)


def _is_plain(layer: LoraLayer) -> bool:
    return isinstance(layer.get_base_layer(), nn.Linear) and not layer.lora_variant and len(layer.lora_A) == 1


def _base_output(x: Tensor, weight: FrozenWeight, bias_N: Tensor | None) -> Tensor:
    """x W^T + b in the dtype of x."""
    return linear(x, weight.dense(x.dtype), None if bias_N is None else bias_N.to(x.dtype))


def flattened(x: Tensor) -> Tensor:
    """(T, K) in the dtype that products are computed in."""
    return x.reshape(-1, x.shape[-1]).to(arithmetic_dtype(x.device, x.dtype))
