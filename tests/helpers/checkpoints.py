"""Checkpoints of a few bytes, and a small NF4 model with an adapter, for the tests of saving and resuming."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from medsum_core.checkpoint.checkpoint import FILES, STATE, Progress, save_checkpoint
from medsum_core.files import MANIFEST, read_sealed, write_sealed
from medsum_core.model.base import keep_4bit_differentiable

ALL_FILES = (*FILES, MANIFEST)


def save(
    folder: Path, step: int, *, keep_last: int = 2, best_step: int | None = None, window: int = 0, **kw: Any
) -> Path:
    generator = torch.Generator().manual_seed(step)
    parts: dict[str, Any] = {
        "adapter_tensors": {"layer.lora_A.weight": torch.randn(4, 3, generator=generator).t()},
        "adapter_config": {"r": 4},
        "optimizer_tensors": {"layer.state1": torch.randint(0, 255, (12,), dtype=torch.uint8, generator=generator)},
        "optimizer_scalars": {"optimizer": "adamw_torch", "steps": {"layer": step}},
        "rng": [{"torch": "00"}],
        "scaler": {"scale": 65536.0},
        "fingerprints": {"base": "b"},
        "resolved": {"precision": "fp32"},
        "deletable": names(folder) if folder.is_dir() else (),
    }
    progress = Progress(step=step, epoch=0, window=window or step, best_metric=0.1 + 0.2, best_step=best_step)
    return save_checkpoint(folder, progress=progress, keep_last=keep_last, **{**parts, **kw})


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fail_to_read(monkeypatch: pytest.MonkeyPatch, name: str | Path, *, times: int) -> list[float]:
    """The first `times` attempts to open a file in a folder called `name`, or the file of that path, fail with EIO.

    Returns the pauses that are asked for.
    """
    real, left, pauses = {os: os.open, io: io.open}, [times], []

    def refusing(module: Any) -> Callable[..., Any]:
        def call(path: Any, how: Any = "r", *arguments: Any, **keywords: Any) -> Any:
            reads = how[0] == "r" if isinstance(how, str) else not how & os.O_CREAT
            if not isinstance(path, int) and name in (Path(path), Path(path).parent.name) and reads and left[0] > 0:
                left[0] -= 1
                raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
            return real[module](path, how, *arguments, **keywords)

        return call

    for module in real if isinstance(name, Path) else (os,):
        monkeypatch.setattr(module, "open", refusing(module))
    monkeypatch.setattr(time, "sleep", pauses.append)
    return pauses


def rewrite_state(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the state of a checkpoint and seal it anew, as somebody else could."""
    found = read_sealed(path, FILES)
    state = json.loads(found[STATE])
    change(state)
    shutil.rmtree(path)
    write_sealed(path, {**found, STATE: json.dumps(state).encode()})


def nf4_model(base_folder: Path) -> PeftModel:
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )
    base = AutoModelForCausalLM.from_pretrained(base_folder, quantization_config=quantization, dtype=torch.float32)
    keep_4bit_differentiable(base)
    torch.manual_seed(7)
    targets = ["q_proj", "v_proj", "up_proj", "down_proj"]
    return get_peft_model(
        base, LoraConfig(r=16, lora_dropout=0.1, target_modules=targets, task_type="CAUSAL_LM")
    ).train()
