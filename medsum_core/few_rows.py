"""Products of a few rows with a weight: the shape of decoding, where a CPU is far from its speed for many rows.

Letters: M rows, K input features, N output features.

Measured with 2 threads of a Zen 3 (MKL, fp32, K = 640): W x^T instead of x W^T takes 0.4 of the time for 2 to 4 rows
and 0.6 for 16 to 32; with one thread it only pays up to 8 rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from medsum_core.products import product

MAX_ROWS = 64
MAX_ROWS_ONE_THREAD = 8


def few_rows_product(x_MK: Tensor, weight_NK: Tensor) -> Tensor:
    """x W^T, (M, N), whichever way round is faster."""
    if _pays_transposed(x_MK, weight_NK):
        return (weight_NK @ x_MK.t()).t().contiguous()
    return product(x_MK, weight_NK)


def _pays_transposed(x_MK: Tensor, weight_NK: Tensor) -> bool:
    limit = MAX_ROWS if torch.get_num_threads() > 1 else MAX_ROWS_ONE_THREAD
    both_fp32 = x_MK.dtype == weight_NK.dtype == torch.float32
    return x_MK.device.type == "cpu" and both_fp32 and 1 < len(x_MK) <= limit


@contextmanager
def few_rows_linears(model: nn.Module) -> Iterator[None]:
    """Within the block, plain linear layers of `model` take few rows the faster way; afterwards they are as before."""
    layers = [m for m in model.modules() if type(m) is nn.Linear and m.bias is None and "forward" not in vars(m)]
    for layer in layers:
        layer.forward = _forward_of(layer)  # type: ignore[method-assign,arg-type]
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _forward_of(layer: nn.Linear) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        x_MK = x.reshape(-1, x.shape[-1])
        if not _pays_transposed(x_MK, layer.weight):
            return linear(x, layer.weight)
        return (layer.weight @ x_MK.t()).t().reshape(*x.shape[:-1], -1)

    return forward
