"""Whether Triton's functions are used on a device; decided in this module only.

On a CPU numba's functions are used (`cpu/elementwise.py`), on other devices torch's own, or with `--kernels triton`
those of `gpu/elementwise.py` on CUDA. All three have the same arithmetic. The choice is a global of the process, as the
backward pass runs on autograd's own threads, which do not see context variables.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

DEVICE_KINDS = ("cuda",)
_functions: TritonFunctions | None = None


class TritonFunctions(Protocol):
    """The functions of `gpu/elementwise.py`; shapes and rounding are documented there."""

    def rms_norm(self, x: Tensor, scale_H: Tensor, eps: float, rounds_first: bool) -> tuple[Tensor, Tensor]: ...
    def rms_norm_backward(self, dy: Tensor, x: Tensor, inverse_rms: Tensor, scale_H: Tensor) -> Tensor: ...
    def gated(self, gate: Tensor, up: Tensor, slope: float, cube: float) -> Tensor: ...
    def gated_backward(
        self, gate: Tensor, up: Tensor, dproduct: Tensor, slope: float, cube: float
    ) -> tuple[Tensor, Tensor]: ...
    def rotated(self, x_BTND: Tensor, cos_BT1D: Tensor, sin_BT1D: Tensor, sign: int) -> Tensor: ...
    def without_dropped(self, x: Tensor, rate: float, seed: Tensor, out: Tensor | None = None) -> Tensor: ...
    def add_kept(self, total: Tensor, x: Tensor, rate: float, seed: Tensor) -> None: ...


def use_triton(wanted: bool) -> None:
    """Choose Triton's functions for this process or not. Triton is imported only if it is used."""
    global _functions
    if wanted:
        from medsum_core.kernels.gpu import elementwise

        _functions = elementwise
    else:
        _functions = None


def triton_for(device: torch.device) -> TritonFunctions | None:
    """Triton's functions if they are used on that device; None: numba's or torch's are used."""
    return _functions if device.type in DEVICE_KINDS else None
