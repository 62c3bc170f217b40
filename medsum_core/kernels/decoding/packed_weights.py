"""Frozen weights in the layout that a device reads fastest, for decoding: oneDNN's on a CPU, a plain matrix on a GPU.

Letters: T tokens, K input features, N output features, r rank.

The time of a product with few rows is that of reading its weight. oneDNN reorders a plain weight in each call;
reordered once, the same product takes half the time or less up to 16 rows, with the same values. The operators are part
of torch (its compiler uses them on frozen models), but not a public interface.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn.functional import linear

from medsum_core.device import arithmetic_dtype, find_device
from medsum_core.kernels.cpu.bf16_products import product
from medsum_core.kernels.layers.lora_linear import FrozenWeight

Product = Callable[[Tensor], Tensor]


def can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether `device` has fast products of `dtype` with packed weights."""
    if device.type != "cpu":
        return True
    is_fast = dtype in (torch.float32, torch.bfloat16) and arithmetic_dtype(device, dtype) == dtype
    return is_fast and torch.backends.mkldnn.is_available()


def fits(num_bytes: int, device: torch.device) -> bool:
    """Whether a copy of `num_bytes` leaves a reserve of the device's free memory."""
    return num_bytes <= find_device(device.index or 0).usable_bytes


def packed_product(
    weight_NK: Tensor, bias_N: Tensor | None = None, *, activation: str = "none", algorithm: str = ""
) -> Product:
    """x -> activation(x W^T + b) for x (T, K) of the weight's dtype; on a CPU the weight is copied.

    Only on a CPU can an activation be part of the product.
    """
    if weight_NK.device.type != "cpu":
        assert activation == "none"
        return lambda x_TK: linear(x_TK, weight_NK, bias_N)
    packed = _pack(weight_NK)
    return lambda x_TK: torch.ops.mkldnn._linear_pointwise(x_TK, packed, bias_N, activation, [], algorithm)


def packed_product_times(weight_NK: Tensor, bias_N: Tensor | None = None) -> Callable[[Tensor, Tensor], Tensor]:
    """(x, y) -> (x W^T + b) * y."""
    packed = _pack(weight_NK)
    return lambda x_TK, y_TN: torch.ops.mkldnn._linear_pointwise.binary(x_TK, y_TN, packed, bias_N, "mul")


def block_products(weight_NK: Tensor, block: int) -> list[Product]:
    """Products with consecutive blocks of `block` rows of a weight; packed where that is possible and fits."""
    compute = arithmetic_dtype(weight_NK.device, weight_NK.dtype)
    blocks = weight_NK.detach().split(block)
    if can_pack(weight_NK.device, compute) and fits(weight_NK.numel() * compute.itemsize, weight_NK.device):
        return [packed_product(part.to(compute)) for part in blocks]
    return [lambda x, part=part: product(x, part) for part in blocks]  # type: ignore[misc]


class Projection:
    """x (T, K) -> the concatenated outputs of linear layers, (T, N + N + ...), each with its adapter, if active.

    Packed in `packed_dtype`; if that is None, or a layer is of an unknown kind, the layers themselves are called.
    """

    def __init__(self, layers: Sequence[Any], packed_dtype: torch.dtype | None) -> None:
        self._layers, self._base = layers, None
        if packed_dtype is None or not all(is_known(layer) for layer in layers):
            return
        weights, biases = zip(*(dense_weight(layer, packed_dtype) for layer in layers), strict=True)
        bias = None if biases[0] is None else torch.cat(biases)
        self._base = packed_product(torch.cat(weights), bias)
        ends = list(accumulate(map(len, weights)))
        spans = [slice(end - len(weight_NK), end) for end, weight_NK in zip(ends, weights, strict=True)]
        tuned = [(span, layer) for span, layer in zip(spans, layers, strict=True) if has_adapter(layer)]
        adapters = [(span, *_adapter(layer, packed_dtype)) for span, layer in tuned]
        self._outputs = [(span, lora_B_rN, scaling) for span, _, lora_B_rN, scaling in adapters]
        self._lora_A_sK = torch.cat([lora_A_rK for _, lora_A_rK, *_ in adapters]) if adapters else None  # s: all ranks

    def __call__(self, x_TK: Tensor) -> Tensor:
        """The outputs, in the dtype of x."""
        if self._base is None:
            outputs = [call_layer(layer, x_TK) for layer in self._layers]
            return outputs[0] if len(outputs) == 1 else torch.cat(outputs, -1)
        y_TN = self._base(x_TK)
        if self._lora_A_sK is not None:
            lows = linear(x_TK, self._lora_A_sK).split([len(lora_B_rN) for _, lora_B_rN, _ in self._outputs], 1)
            for low_Tr, (span, lora_B_rN, scaling) in zip(lows, self._outputs, strict=True):
                y_TN[:, span].addmm_(low_Tr, lora_B_rN, alpha=scaling)
        return y_TN


def call_layer(layer: Any, x_TK: Tensor) -> Tensor:
    """The layer's own forward, in the dtype of its weight."""
    weight = linear_of(layer).weight
    own_dtype = weight.dtype if weight.dtype.is_floating_point else x_TK.dtype
    return layer(x_TK.to(own_dtype)).to(x_TK.dtype)


def is_known(layer: Any) -> bool:
    """Whether it is a plain or 4-bit linear layer, bare or in a LoRA layer with the forward of `lora_linear.py`."""
    if isinstance(layer, LoraLayer) and ("forward" not in vars(layer) or layer.merged):
        return False
    linear_layer = linear_of(layer)
    return type(linear_layer) is nn.Linear or getattr(linear_layer.weight, "quant_state", None) is not None


def has_adapter(layer: Any) -> bool:
    """Whether the layer has an adapter that is not disabled."""
    return isinstance(layer, LoraLayer) and not layer.disable_adapters


def linear_of(layer: Any) -> nn.Linear:
    """The linear layer itself, without its adapter."""
    found: Any = layer.get_base_layer() if isinstance(layer, LoraLayer) else layer
    linear_layer: nn.Linear = found
    return linear_layer


def dense_weight(layer: Any, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """The frozen weight (N, K) and bias (N,), NF4 dequantised to the same bits as in training."""
    linear_layer = linear_of(layer)
    bias = linear_layer.bias
    weight_NK = FrozenWeight(linear_layer, keep_dense=False).dense(dtype)
    return weight_NK, None if bias is None else bias.detach().to(dtype)


def _adapter(layer: Any, dtype: torch.dtype) -> tuple[Tensor, Tensor, float]:
    (name,) = layer.lora_A.keys()
    lora_A_rK, lora_B_Nr = (part[name].weight.detach().to(dtype) for part in (layer.lora_A, layer.lora_B))
    return lora_A_rK, lora_B_Nr.t(), layer.scaling[name]


def _pack(weight_NK: Tensor) -> Tensor:
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight_NK.contiguous(), None)
    return packed
