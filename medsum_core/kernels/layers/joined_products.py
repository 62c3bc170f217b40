"""The projections of one input: one after another, or with the products and masks of their adapters batched.

Letters: n projections of the same input, T tokens, K input features, N output features of a projection, r rank.

A has the same shape in query, key and value, and in gate and up, as has the dropout mask. The n products with A can be
one batched product, and the n masks one draw: fewer launches on a GPU. Each projection still has its own mask, as in
PEFT. On a CPU, one projection after another takes less memory and no more time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from medsum_core.kernels.layers.dropout import DroppedElements
from medsum_core.kernels.layers.lora_linear import FusedLinear, LoraProduct, SharedInput, flattened, weight_gradient


class Products(Protocol):
    """One use of the projections of an input. `adapters`: A, B, A, B, ... in their order."""

    def forward(self, x: Tensor, adapters: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Each projection's output, in the dtype of x (..., K), and what is to be saved for the backward pass."""
        ...

    def backward(
        self, dys: Sequence[Tensor], x: Tensor, saved: Sequence[Tensor], adapters: Sequence[Tensor], *, needs_dx: bool
    ) -> tuple[Tensor | None, list[Tensor]]:
        """The gradients of x, (T, K) or None where it is not needed, and of `adapters`, from those of the outputs."""
        ...


def join_projections(projections: Sequence[Any]) -> None:
    """Join the projections of one input, if all are fused layers whose A has the same shape."""
    layers = [one.forward for one in projections if isinstance(one.forward, FusedLinear)]
    shapes = {layer.adapter[0].shape for layer in layers}
    if len(layers) == len(projections) and len(shapes) == 1:
        shared = SharedInput(layers=layers)
        for layer in layers:
            layer.shared_input = shared


def draw_products(layers: Sequence[FusedLinear]) -> Products:
    """One use of these layers, with new dropout masks in training mode.

    Joined products need equal scaling and dropout rate, which are compared at each use, since a user may change them.
    """
    products, shared = [layer.draw() for layer in layers], layers[0].shared_input
    factors = {(product.scaling, product.rate) for product in products}
    if shared is None or shared.layers != layers or len(factors) > 1:
        return ProductsInTurn(products)
    return JoinedProducts(products=products, copies_nrK=shared.copies_nrK)


class ProductsInTurn:
    """One projection after another."""

    def __init__(self, products: Sequence[LoraProduct]) -> None:
        self._products = products

    def forward(self, x: Tensor, adapters: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """See `Products`."""
        pairs = zip(self._products, adapters[::2], adapters[1::2], strict=True)
        both = [product.forward(x, lora_A, lora_B) for product, lora_A, lora_B in pairs]
        return [y for y, _ in both], [low_Tr for _, low_Tr in both]

    def backward(
        self, dys: Sequence[Tensor], x: Tensor, saved: Sequence[Tensor], adapters: Sequence[Tensor], *, needs_dx: bool
    ) -> tuple[Tensor | None, list[Tensor]]:
        """See `Products`. The gradient of x is summed in place."""
        dx_TK, dadapters = None, []
        for product, dy, *weights in zip(self._products, dys, saved, adapters[::2], adapters[1::2], strict=True):
            dx_TK, *both = product.backward(dy, x, *weights, needs_dx=needs_dx, others_TK=dx_TK)
            dadapters += both
        return dx_TK, dadapters


@dataclass(frozen=True, kw_only=True, eq=False)
class JoinedProducts:
    """All projections with batched products of their A. `copies_nrK`: A in the dtype of products, or None."""

    products: Sequence[LoraProduct]
    copies_nrK: Tensor | None

    def forward(self, x: Tensor, adapters: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """See `Products`; saved is s (m * x) A^T, (n, T, r)."""
        x_TK = flattened(x)
        lora_A_nrK, lora_Bs = self._converted(adapters, x_TK.dtype)
        dropped_nTK = self._dropped(x_TK, self._masks(x_TK))
        low_nTr = x_TK.new_empty(len(lora_Bs), len(x_TK), lora_A_nrK.shape[1])
        low_nTr.baddbmm_(dropped_nTK, lora_A_nrK.mT, beta=0, alpha=self._scale)
        del dropped_nTK
        outputs = []
        for product, low_Tr, lora_B_Nr in zip(self.products, low_nTr, lora_Bs, strict=True):
            y_TN = product.base_output(x_TK).addmm_(low_Tr, lora_B_Nr.t())
            outputs.append(y_TN.to(x.dtype).view(*x.shape[:-1], y_TN.shape[1]))
        return outputs, [low_nTr]

    def backward(
        self, dys: Sequence[Tensor], x: Tensor, saved: Sequence[Tensor], adapters: Sequence[Tensor], *, needs_dx: bool
    ) -> tuple[Tensor | None, list[Tensor]]:
        """See `Products`."""
        x_TK, (low_nTr,) = flattened(x), saved
        lora_A_nrK, lora_Bs = self._converted(adapters, x_TK.dtype)
        wanted: Any = {"dtype": adapters[0].dtype, "arena": self.products[0].gradient_arena}
        dys_TN = [dy.reshape(len(x_TK), -1).to(x_TK.dtype) for dy in dys]
        dlow_nTr, dBs = torch.empty_like(low_nTr), []
        for dlow_Tr, low_Tr, dy_TN, lora_B_Nr in zip(dlow_nTr, low_nTr, dys_TN, lora_Bs, strict=True):
            dlow_Tr.addmm_(dy_TN, lora_B_Nr, beta=0, alpha=self._scale)
            dBs.append(weight_gradient(dy_TN.t(), low_Tr, **wanted))
        masks = self._masks(x_TK)
        dA_nrK = weight_gradient(dlow_nTr.mT, self._dropped(x_TK, masks), **wanted)
        dadapters = [gradient for both in zip(dA_nrK, dBs, strict=True) for gradient in both]
        if not needs_dx:
            return None, dadapters
        dx_nTK = torch.bmm(dlow_nTr, lora_A_nrK)
        dx_TK = (dx_nTK if masks is None else masks.zero_(dx_nTK)).sum(0)
        for product, dy_TN in zip(self.products, dys_TN, strict=True):
            dx_TK.addmm_(dy_TN, product.weight.dense(x_TK.dtype))
        return dx_TK, dadapters

    @property
    def _scale(self) -> float:
        return self.products[0].scale

    def _masks(self, x_TK: Tensor) -> DroppedElements | None:
        """A mask for each projection, or None without dropout."""
        first = self.products[0]
        num_elements = len(self.products) * x_TK.numel()
        return first.drawn(num_elements, x_TK.device) if first.rate > 0 else None

    def _dropped(self, x_TK: Tensor, masks: DroppedElements | None) -> Tensor:
        x_nTK = x_TK.expand(len(self.products), -1, -1)
        return x_nTK if masks is None else masks.without(x_nTK)

    def _converted(self, adapters: Sequence[Tensor], dtype: torch.dtype) -> tuple[Tensor, list[Tensor]]:
        """A, (n, r, K), and each B, (N, r), in `dtype`."""
        pairs = zip(self.products, adapters[::2], adapters[1::2], strict=True)
        converted = [product.converted(lora_A, lora_B, dtype) for product, lora_A, lora_B in pairs]
        lora_A_nrK = self.copies_nrK
        if lora_A_nrK is None or lora_A_nrK.dtype != dtype:
            lora_A_nrK = torch.stack([lora_A_rK for lora_A_rK, _ in converted])
        return lora_A_nrK, [lora_B_Nr for _, lora_B_Nr in converted]
