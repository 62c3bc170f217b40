"""The training script from end to end on a tiny model: the files it writes, and the variants it trains."""

from __future__ import annotations

import json
import socket
import stat
from pathlib import Path
from typing import Any, NoReturn

import pytest
from peft import PeftModel
from tiny_run import CANARY, flags, metrics
from transformers import AutoModelForCausalLM

import train_loop


@pytest.fixture(scope="module")
def trained(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with everything on that writes text where it was asked for; no socket may connect meanwhile."""

    def refuse(*_: object) -> NoReturn:
        raise AssertionError("a run opened a connection")

    folder = tmp_path_factory.mktemp("run") / "run"
    extra = ("--report_rows", "2", "--eval_generate", "1", "--examples_file", str(folder.parent / "sheet.csv"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        train_loop.main(flags(inputs, folder, *extra))
    return folder


def test_the_run_folder_holds_exactly_what_the_readme_says(trained: Path) -> None:
    found = {str(path.relative_to(trained)) for path in trained.rglob("*") if path.is_file()}
    checkpoint = "checkpoints/step-000003"
    assert found == {
        "adapter/README.md",
        "adapter.sha256.json",
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        f"{checkpoint}/adapter_config.json",
        f"{checkpoint}/adapter_model.safetensors",
        f"{checkpoint}/manifest.json",
        f"{checkpoint}/optimizer.safetensors",
        f"{checkpoint}/state.json",
        "config.json",
        "loss_curve.png",
        "metrics.jsonl",
        "report.md",
        "target_audit.jsonl",
    }


def test_metrics_have_the_names_that_transformers_logs_and_start_with_an_evaluation(trained: Path) -> None:
    lines = metrics(trained)
    assert lines[0]["step"] == 0 and "eval_loss" in lines[0] and "eval_rouge1" in lines[0]
    updates = [line for line in lines if "loss" in line]
    assert [line["step"] for line in updates] == [1, 2, 3]
    assert set(updates[0]) == {"step", "epoch", "loss", "grad_norm", "learning_rate", "tokens_per_second"}
    assert updates[-1]["epoch"] == 1.0 and "eval_loss" in lines[-1]
    assert [line["learning_rate"] for line in updates] == pytest.approx([2e-4, 2e-4 * 2 / 3, 2e-4 / 3])


def test_the_adapter_loads_with_peft_on_the_plain_base(trained: Path, inputs: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(inputs / "model")
    model = PeftModel.from_pretrained(base, trained / "adapter")
    moved = [tensor for name, tensor in model.named_parameters() if "lora_B" in name and tensor.abs().sum() > 0]
    assert len(moved) == 14


def test_patient_text_is_only_in_the_requested_file(
    trained: Path, inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train_loop.main(flags(inputs, tmp_path / "run"))
    shown = capsys.readouterr()
    assert CANARY not in shown.out + shown.err
    holding = [
        path.name for path in trained.parent.rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()
    ]
    assert holding == ["sheet.csv"]


def test_the_files_of_a_run_are_private(trained: Path) -> None:
    open_to_others = [path for path in trained.rglob("*") if stat.S_IMODE(path.stat().st_mode) & 0o077]
    assert open_to_others == []


def test_a_dry_run_shows_the_plan_and_writes_nothing(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train_loop.main(flags(inputs, tmp_path / "run", "--dry_run", "true"))
    shown = "".join(capsys.readouterr())
    assert "3 updates of 4 rows, 3 an epoch" in shown and "10 of 10 rows used" in shown
    for part in (
        "trainable parameters",
        "weights",
        "adapter",
        "gradients",
        "optimizer",
        "activations",
        "logits",
        "peak",
    ):
        assert part in shown
    assert list(tmp_path.iterdir()) == []


VARIANTS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {  # flags, and what the adapter's configuration says then
    "rslora": (
        ("--optim", "adamw_torch", "--use_rslora", "true", "--lr_scheduler_type", "cosine", "--lora_dropout", "0.25"),
        {"use_rslora": True, "lora_dropout": 0.25},
    ),
    "dora": (("--use_dora", "true", "--gradient_checkpointing", "on"), {"use_dora": True, "use_rslora": False}),
    "not packed": (
        ("--pack_tokens", "0", "--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "2"),
        {"r": 16, "lora_alpha": 32, "lora_dropout": 0.05},
    ),
    "masked": (
        ("--ungrounded", "mask", "--load_in_4bit", "false", "--init_lora_weights", "gaussian"),
        {"init_lora_weights": "gaussian"},
    ),
    "best": (("--load_best_model_at_end", "true", "--early_stopping_patience", "1", "--save_strategy", "epoch"), {}),
}


@pytest.mark.parametrize("more,adapter", VARIANTS.values(), ids=list(VARIANTS))
def test_variants_train_to_the_end(
    inputs: Path, tmp_path: Path, more: tuple[str, ...], adapter: dict[str, Any]
) -> None:
    train_loop.main(flags(inputs, tmp_path / "run", *more))
    assert [line["step"] for line in metrics(tmp_path / "run") if "loss" in line] == [1, 2, 3]
    assert json.loads((tmp_path / "run" / "adapter" / "adapter_config.json").read_text()).items() >= adapter.items()
