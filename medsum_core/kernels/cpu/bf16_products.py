"""Matrix products with a frozen weight, in the dtype that this CPU multiplies fastest.

Letters: T tokens, K input features, N output features.

A CPU without bf16 units (no AVX512-BF16, no AMX) multiplies bf16 matrices 10 to 200 times slower than fp32 ones
(measured: 20 against 140 GFLOP/s forward, 0.5 against 110 backward). There the bf16 values are multiplied in fp32 and
the result is rounded to bf16, as bf16 units do: products and sums in fp32, one rounding at the end.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear

from medsum_core.device import arithmetic_dtype
from medsum_core.kernels.cpu.arena import converted, mm


def product(x_TK: Tensor, weight_NK: Tensor, *, out: Tensor | None = None) -> Tensor:
    """x W^T, (T, N) in the dtype of x. The weight may be in the dtype of the arithmetic already.

    With `out`, the result is written there and no gradient is recorded.
    """
    compute = arithmetic_dtype(x_TK.device, x_TK.dtype)
    if out is not None and compute == out.dtype == weight_NK.dtype:
        return torch.mm(x_TK, weight_NK.t(), out=out)
    y_TN = linear(x_TK.to(compute), weight_NK.to(compute))
    return y_TN.to(x_TK.dtype) if out is None else out.copy_(y_TN)


def product_transposed(y_TN: Tensor, weight_NK: Tensor) -> Tensor:
    """y W, (T, K) in the dtype of y: the gradient of x in `product`."""
    compute = arithmetic_dtype(y_TN.device, y_TN.dtype)
    return converted(mm(converted(y_TN, compute), converted(weight_NK, compute)), y_TN.dtype)
