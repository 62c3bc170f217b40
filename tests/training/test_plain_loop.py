"""A run's whole recipe, every setting other than its default, against a plain loop of torch, PEFT and transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file
from tiny_run import flags, metrics
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, get_cosine_schedule_with_warmup
from windows import relative

import train_loop
from medsum_core.data.masking import Example
from medsum_core.model.adapter_files import adapter_tensors
from medsum_core.training.run import Run

# fmt: off
RECIPE = ["--num_train_epochs", "2", "--learning_rate", "1e-2", "--lr_scheduler_type", "cosine", "--warmup_steps", "1",
          "--weight_decay", "0.3", "--adam_beta1", "0.7", "--adam_beta2", "0.9", "--adam_epsilon", "1e-2",
          "--max_grad_norm", "0.5", "--lora_r", "3", "--lora_alpha", "5", "--lora_dropout", "0",
          "--lora_target_modules", "q_proj", "down_proj", "--load_in_4bit", "false", "--logging_steps", "2",
          "--eval_strategy", "no", "--save_strategy", "no"]
# fmt: on
WINDOWS = 3  # of an epoch
NUM_UPDATES = 2 * WINDOWS


def plain_loop(
    model_folder: Path, start: dict[str, Tensor], windows: Sequence[Sequence[Example]]
) -> tuple[dict[str, Tensor], list[dict[str, float]]]:
    """The adapter after an update for each window, and every second update's line of metrics."""
    base = AutoModelForCausalLM.from_pretrained(model_folder, attn_implementation="eager")
    model = get_peft_model(base, LoraConfig(r=3, lora_alpha=5, target_modules=["q_proj", "down_proj"]))
    set_peft_model_state_dict(model, start)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2, betas=(0.7, 0.9), eps=1e-2, weight_decay=0.3)
    schedule = get_cosine_schedule_with_warmup(optimizer, 1, NUM_UPDATES)
    nlls, counts, lines = [], [], []
    for window in windows:
        counts.append(sum(row.num_tokens - row.num_prompt_tokens for row in window))
        nlls.append(0.0)
        for row in window:
            ids = torch.tensor(row.input_ids)
            logits = model(input_ids=ids[None]).logits[0, row.num_prompt_tokens - 1 : -1]
            nll = cross_entropy(logits, ids[row.num_prompt_tokens :], reduction="sum")
            (nll / counts[-1]).backward()
            nlls[-1] += float(nll.detach())
        norm = float(torch.nn.utils.clip_grad_norm_(trained, 0.5))
        rate = schedule.get_last_lr()[0]
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if len(counts) % 2 == 0:
            loss = sum(nlls[-2:]) / sum(counts[-2:])
            epoch = len(counts) / WINDOWS
            lines.append({"step": len(counts), "epoch": epoch, "loss": loss, "grad_norm": norm, "learning_rate": rate})
    return get_peft_model_state_dict(model), lines


@pytest.mark.parametrize("optim", ["adamw_torch", "paged_adamw_8bit"])  # tensors so small have fp32 moments in both
def test_a_run_equals_a_plain_loop(optim: str, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start: dict[str, Tensor] = {}
    windows: list[list[Example]] = []
    window_of = Run.window

    def watched(*arguments: Any) -> list[Example]:
        windows.append(window_of(*arguments))
        return windows[-1]

    def keep_start(model: Any) -> None:
        start.update({name: tensor.clone() for name, tensor in adapter_tensors(model).items()})

    monkeypatch.setattr(Run, "window", watched)
    argv = flags(inputs, tmp_path / "run", *RECIPE, "--optim", optim)
    train_loop.main(argv, prepare_model=keep_start)
    assert len(windows) == NUM_UPDATES
    expected, lines = plain_loop(inputs / "model", start, windows)
    found = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    assert found.keys() == expected.keys() and len(found) == 8  # two layers, two modules, A and B
    for name in found:
        assert relative(found[name], start[name]) > 1e-2
        assert relative(found[name], expected[name]) <= 1e-4, name
    logged = metrics(tmp_path / "run")
    assert lines[0]["grad_norm"] > 0.5  # so that it is clipped
    for line, wanted in zip(logged, lines, strict=True):
        assert {name: line[name] for name in wanted} == pytest.approx(wanted, rel=1e-4)
