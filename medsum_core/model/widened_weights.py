"""Convert 16-bit weights to fp32 while decoding, on CPUs that multiply bf16 matrices 10 times slower than fp32 ones.

Decoding uses each weight once for every token, so converting them once saves time. The values are the same;
activations keep more digits than in bf16.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from medsum_core.device import arithmetic_dtype, find_device
from medsum_core.model.forward import HALF_DTYPES


@contextmanager
def widened_weights(model: nn.Module, *, widen: bool = False) -> Iterator[None]:
    """While the block runs, the model computes in the dtype that is fastest on its device.

    Nothing is done on devices with 16-bit units, or if the wider copy does not fit the free memory. With `widen` a CPU
    with 16-bit units computes in fp32 too, for comparisons that rounding of activations should not disturb.
    """
    halves = [parameter for parameter in model.parameters() if parameter.dtype in HALF_DTYPES]
    slow = [p for p in halves if arithmetic_dtype(p.device, p.dtype) != p.dtype or (widen and p.device.type == "cpu")]
    quantised = [m for m in model.modules() if slow and getattr(m, "compute_dtype", None) in HALF_DTYPES]
    if not slow or 2 * sum(p.nbytes for p in slow) > find_device().usable_bytes:
        yield
        return
    before = [p.data for p in slow]
    compute = [m.compute_dtype for m in quantised]
    for parameter in slow:
        parameter.data = parameter.data.float()
    for module in quantised:  # bitsandbytes' 4-bit layers name the dtype of their products themselves
        module.compute_dtype = torch.float32  # type: ignore[assignment]
    try:
        yield
    finally:
        for parameter, data in zip(slow, before, strict=True):
            parameter.data = data
        for module, dtype in zip(quantised, compute, strict=True):
            module.compute_dtype = dtype  # type: ignore[assignment]
