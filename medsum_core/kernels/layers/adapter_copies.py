"""A window's copies of the adapter in the dtype of products: made once, where each use would make its own.

A layer uses A and B twice in each pass: four conversions of each, small, but each of them a launch on a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from medsum_core.kernels.layers.lora_linear import FusedLinear


class AdapterCopies:
    """16-bit copies of every fused layer's A and B, beside the fp32 tensors, which alone are trained."""

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        """`dtype`: of the products. Where it is the adapter's own, nothing is copied."""
        layers = [module.forward for module in model.modules() if isinstance(module.forward, FusedLinear)]
        self._layers = [layer for layer in layers if layer.adapter[0].dtype != dtype]
        self._weights = [weight.detach() for layer in self._layers for weight in layer.adapter]
        self._copies = [torch.empty_like(weight, dtype=dtype) for weight in self._weights]

    @contextmanager
    def current(self) -> Iterator[None]:
        """Within the block the layers use copies of the weights as they are at its beginning."""
        if self._weights:
            torch._foreach_copy_(self._copies, self._weights)
        for layer, a_rK, b_Nr in zip(self._layers, self._copies[::2], self._copies[1::2], strict=True):
            layer.copies = (a_rK, b_Nr)
        try:
            yield
        finally:
            for layer in self._layers:
                layer.copies = None
