"""All kernels that an update calls are compiled before the first update."""

from __future__ import annotations

import pytest
import torch
from support import tiny_model
from windows import make_run, make_window, tuned

from medsum_core.device import arithmetic_dtype
from medsum_core.kernels.cpu import elementwise, elementwise_dropout
from medsum_core.kernels.cpu.warm_up import compile_kernels
from medsum_core.model.lora import LoraSettings
from train_loop import train_step

KERNELS = {
    name: kernel
    for module in (elementwise, elementwise_dropout)
    for name, kernel in vars(module).items()
    if hasattr(kernel, "signatures") and not name.startswith("_")
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["gemma", "gemma3_text", "llama"])
def test_an_update_compiles_nothing(kind: str, dtype: torch.dtype) -> None:
    assert len(KERNELS) == 9
    compile_kernels(dtype, arithmetic_dtype(torch.device("cpu"), dtype))
    before = {name: list(kernel.signatures) for name, kernel in KERNELS.items()}
    model = tuned(tiny_model(kind).to(dtype), LoraSettings(r=4, dropout=0.1))
    assert not train_step(make_run(model, pack_tokens=96), make_window(4), learning_rate=0.0).skipped
    assert {name: list(kernel.signatures) for name, kernel in KERNELS.items()} == before
