"""Compiling what a CPU will run, or loading it from numba's cache, before the first update instead of in it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from medsum_core.kernels.cpu import elementwise as cpu_kernels
from medsum_core.kernels.cpu.elementwise import array_of, rows_of
from medsum_core.kernels.cpu.elementwise_dropout import zero_some


def compile_kernels(dtype: torch.dtype, arithmetic: torch.dtype) -> None:
    """Call each kernel once with tensors of a model's dtype, and of that in which its products are computed.

    A few seconds the first time on a machine, a tenth of one later.
    """
    wide = torch.promote_types(dtype, torch.float32)

    def ones(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
        return torch.ones(shape, dtype=dtype)

    row, scale, inverse = ones(1, 2), ones(2, dtype=torch.float32), ones(1, dtype=wide)
    for scale_H in (scale, ones(2)):  # Gemma's and Llama's
        norm = (rows_of(row), array_of(inverse), array_of(scale_H))
        cpu_kernels.rms_scaled(*norm, scale_H.dtype == dtype, rows_of(row))
        cpu_kernels.rms_backward(rows_of(row), *norm, rows_of(row))
    cpu_kernels.rms_inverse(rows_of(row), 1e-6, array_of(inverse))
    flat = array_of(ones(2))
    cpu_kernels.gated(flat, flat, 1.0, 0.0, flat)
    cpu_kernels.gated_backward(flat, flat, flat, 1.0, 0.0, flat, flat)
    share, scores = array_of(ones(1, 2, dtype=arithmetic)), array_of(ones(1, 2, dtype=wide))
    cpu_kernels.causal_softmax(scores, 1.0, 1, 1, 2, share)
    cpu_kernels.softmax_backward(share, share, 1.0, share)
    totals = [array_of(ones(1, dtype=wide)) for _ in range(4)]
    cpu_kernels.running_softmax(rows_of(row), np.zeros(1, np.int64), *totals)
    zero_some(array_of(ones(1, dtype=arithmetic)), np.uint64(0), np.float32(-1))
