"""Copies of the adapter in the dtype of products, made once a window instead of at each use.

A layer uses A and B twice in each pass: four conversions of each, small, but each of them a launch on a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from medsum_core.kernels.layers.lora_linear import Copies, FusedLinear


class AdapterCopies:
    """16-bit copies of every fused layer's A and B. Only the fp32 tensors are trained."""

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        """`dtype`: of the products. If it is the adapter's own dtype, nothing is copied."""
        layers = [module.forward for module in model.modules() if isinstance(module.forward, FusedLinear)]
        self._layers = [layer for layer in layers if layer.adapter[0].dtype != dtype]
        groups = dict.fromkeys(layer.shared_input for layer in self._layers)
        self._stacks = {shared: shared.stack(dtype) for shared in groups if shared is not None}
        self._weights = [weight.detach() for layer in self._layers for weight in layer.adapter]
        self._copies = [copy for layer in self._layers for copy in self._room(layer, dtype)]

    def _room(self, layer: FusedLinear, dtype: torch.dtype) -> Copies:
        a_rK, b_Nr = (torch.empty_like(weight, dtype=dtype) for weight in layer.adapter)
        shared = layer.shared_input
        return (a_rK if shared is None else self._stacks[shared][shared.layers.index(layer)]), b_Nr

    @contextmanager
    def current(self) -> Iterator[None]:
        """While the block runs, the layers use copies of the weights as they were at its start."""
        if self._weights:
            torch._foreach_copy_(self._copies, self._weights)
        for layer, a_rK, b_Nr in zip(self._layers, self._copies[::2], self._copies[1::2], strict=True):
            layer.copies = (a_rK, b_Nr)
        for shared, stack_nrK in self._stacks.items():
            shared.copies_nrK = stack_nrK
        try:
            yield
        finally:
            for layer in self._layers:
                layer.copies = None
            for shared in self._stacks:
                shared.copies_nrK = None
