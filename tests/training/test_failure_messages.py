"""A run that stops on non-finite windows names the newest valid checkpoint."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_run import CHECKS, exit_code, flags

from medsum_core.training.failure_messages import memory_remedy
from medsum_core.training.loss import note_nll

EVERY_STEP = ("--save_strategy", "steps", "--save_steps", "1", "--save_total_limit", "9", "--num_train_epochs", "9")
UNPACKED = ("--eval_strategy", "no", "--kernels", "reference", "--pack_tokens", "0")


def diverge(inputs: Path, run: Path, *more: str, good_rows: int) -> int:
    """The exit code of a run whose loss is NaN after so many rows."""
    seen = 0

    def poisoned(*args: torch.Tensor, **settings: float) -> torch.Tensor:
        nonlocal seen
        seen += 1
        return note_nll(*args, **settings) * (1.0 if seen <= good_rows + CHECKS else float("nan"))

    return exit_code(flags(inputs, run, *UNPACKED, *more), objective=poisoned)


def test_the_newest_valid_checkpoint_is_named(inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert diverge(inputs, run, *EVERY_STEP, good_rows=8) == 3  # two windows of four
    good = run / "checkpoints" / "step-000002"
    assert f"Still good is {good}, the adapter as of update 2. Try a new run with" in capsys.readouterr().err
    assert all(tensor.isfinite().all() for tensor in load_file(good / "adapter_model.safetensors").values())
    assert sorted(path.name for path in good.parent.iterdir()) == ["step-000001", "step-000002"]


def test_without_a_valid_checkpoint_the_message_says_so(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert diverge(inputs, tmp_path / "run", "--save_strategy", "no", good_rows=0) == 3
    assert (
        "r" in capsys.readouterr().err.split("Rows of the last one: ")[1].split(". No checkpoint had been written. ")[0]
    )


def test_a_run_in_which_every_window_was_skipped_has_no_results(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one_window = ("--gradient_accumulation_steps", "16")
    assert diverge(inputs, tmp_path / "run", *one_window, good_rows=0) == 3
    assert "No checkpoint had been written" in capsys.readouterr().err
    assert not (tmp_path / "run" / "adapter").exists()


@pytest.mark.parametrize("kernels", ["fast", "triton", "graphs"])
def test_a_run_without_memory_is_told_only_what_its_kernels_take(kernels: str) -> None:
    train = SimpleNamespace(parallel_micro_batches=1, per_device_train_batch_size=1, gradient_checkpointing="off")
    run: Any = SimpleNamespace(
        config=SimpleNamespace(train=train),
        kernels=SimpleNamespace(name=kernels),
        pack_tokens=4096,
        accelerator=SimpleNamespace(is_main_process=False),
    )
    advice = memory_remedy(run).partition(" needs less memory")[0]
    rest = ["in a new run --kernels triton or a lower --max_length"]
    if kernels != "graphs":
        rest = ["--gradient_checkpointing on", "in a new run a lower --max_length"]
    assert advice == "in this order " + ", then ".join(["--pack_tokens below 4096", *rest])
