"""Compile the Triton kernels for GPUs that are not here, through the calls that a run makes; prints JSON.

    python tests/helpers/compile_triton.py

A list of [capability, dtype, kernel, bytes of machine code, whether bf16 is rounded to nearest]. In a process of its
own, since what was compiled stays with Triton's driver, and where TRITON_INTERPRET is not set.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from medsum_core.kernels.gpu import elementwise

CASES = ((75, torch.float16), (75, torch.float32), (80, torch.bfloat16), (90, torch.bfloat16))


class PretendedCard:
    """What Triton asks its driver before it compiles."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_device(self) -> int:
        return self.capability  # Triton caches what it compiled by this number

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)


def call_all(dtype: torch.dtype) -> None:
    """Every function, with Gemma 2B's head and one key-value head. Nothing computes: the tensors stay on the CPU."""
    x, angle, scale_H = torch.ones(1, 2, 1, 256, dtype=dtype), torch.ones(1, 2, 1, 256, dtype=dtype), torch.ones(256)
    _, inverse_rms = elementwise.rms_norm(x, scale_H, 1e-6, False)
    elementwise.rms_norm_backward(x, x, inverse_rms, scale_H)
    elementwise.gated(x, x, 1.6, 0.04)
    elementwise.gated_backward(x, x, x, 1.6, 0.04)
    elementwise.rotated(x, angle, angle, -1)
    seed = torch.tensor(2**61)
    elementwise.without_dropped(x, 0.05, seed)
    elementwise.add_kept(x, x, 0.05, seed)


def compiled() -> Iterator[tuple[int, str, str, int, bool]]:
    launch = JITFunction.run
    found: list[Any] = []

    def compile_only(self: Any, *args: Any, warmup: bool, **settings: Any) -> None:
        found.append((self.__name__, launch(self, *args, warmup=True, **settings).asm))

    JITFunction.run = compile_only
    for capability, dtype in CASES:
        driver.set_active(PretendedCard(capability))
        found.clear()
        call_all(dtype)
        for name, code in found:
            yield capability, str(dtype), name, len(code["cubin"]), "cvt.rn.bf16" in code["ptx"]


if __name__ == "__main__":
    print(json.dumps(list(compiled())))
