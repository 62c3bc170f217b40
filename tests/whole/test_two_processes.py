"""The whole script on two processes against the same script on one: steps, learning rates, losses and files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fake_wandb import calls, install_fake_wandb
from safetensors.torch import load_file
from tiny_run import WINDOW, contents, exit_code, flags, make_canary_inputs, metrics

ROOT = Path(__file__).resolve().parents[2]


def test_the_script_on_two_processes_does_what_one_does(tmp_path: Path) -> None:
    # Without MPI `accelerate launch --cpu --num_processes 2` starts one process only, so torch's launcher is used.
    inputs = make_canary_inputs(tmp_path)
    options = ("--lora_dropout", "0", "--pack_tokens", "0", "--report_rows", "2", "--eval_generate", "1")
    options += ("--save_strategy", "steps", "--save_steps", "1", "--num_train_epochs", "2")
    half = ("--gradient_accumulation_steps", str(WINDOW // 2))  # rows of each process: the global windows are equal
    one, two = tmp_path / "one", tmp_path / "two"
    assert exit_code(flags(inputs, one, *options)) == 0
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    site = install_fake_wandb(tmp_path / "site")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}:{site}", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*command, str(ROOT / "train_loop.py"), *flags(inputs, two, *options, *half, "--report_to", "wandb")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "number of processes" in (two / "config.json").read_text()
    assert len(calls(two, "init")) == len(calls(two, "finish")) == 1 and calls(two, "log") == metrics(two)
    assert {name for name in contents(two) if not name.startswith("wandb/")} == contents(one).keys()
    found, expected = metrics(two), metrics(one)
    for name in ("step", "epoch", "learning_rate"):
        assert [line.get(name) for line in found] == [line.get(name) for line in expected]
    for name in ("loss", "eval_loss"):
        pairs = [(line[name], other[name]) for line, other in zip(found, expected, strict=True) if name in line]
        assert pairs and all(left == pytest.approx(right, rel=1e-4) for left, right in pairs)
    tuned, reference = (load_file(folder / "adapter" / "adapter_model.safetensors") for folder in (two, one))
    assert tuned.keys() == reference.keys()
    assert all(tensor.isfinite().all() for tensor in tuned.values())
