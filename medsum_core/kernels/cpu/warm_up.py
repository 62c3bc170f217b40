"""Compile the CPU kernels, or load them from numba's cache, before the first update."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from medsum_core.kernels.cpu import elementwise
from medsum_core.kernels.cpu.elementwise import array_of, rows_of
from medsum_core.kernels.cpu.elementwise_dropout import zero_some


def compile_kernels(dtype: torch.dtype, arithmetic: torch.dtype) -> None:
    """Call each kernel once with tensors of the model's `dtype` and of `arithmetic`, the dtype of its products.

    Takes a few seconds the first time on a machine, a tenth of a second later.
    """
    wide = torch.promote_types(dtype, torch.float32)

    def ones(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
        return torch.ones(shape, dtype=dtype)

    row, scale, inverse = ones(1, 2), ones(2, dtype=torch.float32), ones(1, dtype=wide)
    for scale_H in (scale, ones(2)):  # Gemma's norms scale in fp32, Llama's in the model's dtype
        norm = (rows_of(row), array_of(inverse), array_of(scale_H))
        elementwise.rms_scaled(*norm, scale_H.dtype == dtype, rows_of(row))
        elementwise.rms_backward(rows_of(row), *norm, rows_of(row))
    elementwise.rms_inverse(rows_of(row), 1e-6, array_of(inverse))
    flat = array_of(ones(2))
    elementwise.gated(flat, flat, 1.0, 0.0, flat)
    elementwise.gated_backward(flat, flat, flat, 1.0, 0.0, flat, flat)
    weights, scores = array_of(ones(1, 2, dtype=arithmetic)), array_of(ones(1, 2, dtype=wide))
    elementwise.causal_softmax(scores, 1.0, 1, 1, 2, weights)
    elementwise.softmax_backward(weights, weights, 1.0, weights)
    totals = [array_of(ones(1, dtype=wide)) for _ in range(4)]
    elementwise.running_softmax(rows_of(row), np.zeros(1, np.int64), *totals)
    zero_some(array_of(ones(1, dtype=arithmetic)), np.uint64(0), np.float32(-1))
