"""Whether Triton's functions compute for a device: the one place where that is decided.

On a CPU numba's functions compute (`cpu/elementwise.py`), elsewhere torch's own; with `--kernels triton` those of
`gpu/elementwise.py` on CUDA. All three have the same arithmetic. The choice holds for a whole process: the backward
pass runs on threads of autograd's own, which see no context variable.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

DEVICE_KINDS = ("cuda",)
_functions: TritonFunctions | None = None


class TritonFunctions(Protocol):
    """What `gpu/elementwise.py` has; shapes and rounding are told there."""

    def rms_norm(self, x: Tensor, scale_H: Tensor, eps: float, rounds_first: bool) -> tuple[Tensor, Tensor]: ...
    def rms_norm_backward(self, dy: Tensor, x: Tensor, inverse_rms: Tensor, scale_H: Tensor) -> Tensor: ...
    def gated(self, gate: Tensor, up: Tensor, slope: float, cube: float) -> Tensor: ...
    def gated_backward(
        self, gate: Tensor, up: Tensor, dproduct: Tensor, slope: float, cube: float
    ) -> tuple[Tensor, Tensor]: ...
    def rotated(self, x_BTND: Tensor, cos_BT1D: Tensor, sin_BT1D: Tensor, sign: int) -> Tensor: ...
    def without_dropped(self, x: Tensor, rate: float, seed: int, out: Tensor | None = None) -> Tensor: ...
    def add_kept(self, total: Tensor, x: Tensor, rate: float, seed: int) -> None: ...


def use_triton(wanted: bool) -> None:
    """From here on in this process. Triton is imported only where it is wanted."""
    global _functions
    if wanted:
        from medsum_core.kernels.gpu import elementwise

        _functions = elementwise
    else:
        _functions = None


def triton_for(device: torch.device) -> TritonFunctions | None:
    """Triton's functions where they compute for that device; None: numba's or torch's do."""
    return _functions if device.type in DEVICE_KINDS else None
