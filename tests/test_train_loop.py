"""The training script itself, end to end on a tiny model: what it leaves, what it refuses, what it keeps private."""

from __future__ import annotations

import json
import socket
import stat
from pathlib import Path
from typing import NoReturn

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

import train_loop
from benchmarks.crash import make_inputs
from medsum_core.errors import run_as_script
from medsum_core.objective import note_nll

CANARY = "Zebrafinch"
NUM_ROWS, WINDOW = 10, 4


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder, ten training rows and three validation rows; a canary in every dialogue and note."""
    folder = tmp_path_factory.mktemp("inputs")
    make_inputs(folder)
    for name in ("train.csv", "valid.csv"):
        path = folder / name
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace("Patient: No.", f"Patient: No, {CANARY}.").replace("No cough", f"{CANARY} cough"))
    return folder


def flags(inputs: Path, output_dir: Path, *more: str) -> list[str]:
    """A short run: an epoch of three windows, the last one of two rows."""
    line = f"""--model_name_or_path {inputs / "model"} --train_file {inputs / "train.csv"}
        --validation_file {inputs / "valid.csv"} --output_dir {output_dir} --offline true --precision fp32
        --gradient_accumulation_steps {WINDOW} --max_length 240 --max_new_tokens 32 --report_rows 0"""
    return [*line.split(), *more]


def metrics(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


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


def test_no_patient_text_but_in_the_file_that_was_asked_for(
    trained: Path, inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train_loop.main(flags(inputs, tmp_path / "run"))
    shown = capsys.readouterr()
    assert CANARY not in shown.out + shown.err
    holding = [
        path.name for path in trained.parent.rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()
    ]
    assert holding == ["sheet.csv"]


def test_what_a_run_writes_is_for_its_owner_alone(trained: Path) -> None:
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


@pytest.mark.parametrize(
    "more",
    [
        ("--optim", "adamw_torch", "--use_rslora", "true", "--lr_scheduler_type", "cosine"),
        ("--use_dora", "true", "--gradient_checkpointing", "on"),
        ("--pack_tokens", "0", "--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "2"),
        ("--ungrounded", "mask", "--load_in_4bit", "false", "--init_lora_weights", "gaussian"),
        ("--load_best_model_at_end", "true", "--early_stopping_patience", "1", "--save_strategy", "epoch"),
    ],
    ids=["rslora", "dora", "unpacked", "masked", "best"],
)
def test_variants_train_to_the_end(inputs: Path, tmp_path: Path, more: tuple[str, ...]) -> None:
    train_loop.main(flags(inputs, tmp_path / "run", *more))
    assert [line["step"] for line in metrics(tmp_path / "run") if "loss" in line] == [1, 2, 3]


def test_windows_that_stay_non_finite_stop_the_run_and_name_the_rows(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def poisoned(*args: torch.Tensor, **settings: float) -> torch.Tensor:
        return note_nll(*args, **settings) * float("nan")

    argv = flags(inputs, tmp_path / "run", "--eval_strategy", "no")
    assert run_as_script(lambda: train_loop.main(argv, objective=poisoned)) == 3
    message = capsys.readouterr().err
    assert "3 windows in a row" in message and "r" in message and CANARY not in message


def test_another_data_set_is_not_resumed_onto(inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    train_loop.main(flags(inputs, run, "--max_steps", "1"))
    other = tmp_path / "other.csv"
    other.write_text((inputs / "train.csv").read_text().replace("visit 3", "visit three"))
    resume = ("--resume_from_checkpoint", "auto", "--train_file", str(other))
    assert run_as_script(lambda: train_loop.main(flags(inputs, run, "--max_steps", "2", *resume))) == 2
    assert "training data changed" in capsys.readouterr().err


BAD = {
    "missing file": ("--train_file", "nowhere.csv"),
    "unknown flag": ("--no_such_flag", "1"),
    "wrong type": ("--learning_rate", "fast"),
    "no note fits": ("--max_length", "8", "--max_new_tokens", "4"),
    "target matches nothing": ("--lora_target_modules", "no_proj"),
    "unreachable model": ("--model_name_or_path", "nobody/no-such-model"),
    "bad config file": ("--config", "nowhere.yaml"),
    "folder not writable": ("--output_dir", "/proc/medsum"),
}


@pytest.mark.parametrize("more", BAD.values(), ids=list(BAD))
def test_bad_input_is_one_message_and_nothing_written(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...]
) -> None:
    argv = flags(inputs, tmp_path / "run", *more)
    assert run_as_script(lambda: train_loop.main(argv)) == 2
    message = capsys.readouterr().err
    assert "error: " in message and "Traceback" not in message and CANARY not in message
    assert list(tmp_path.iterdir()) == []


def test_a_ragged_file_is_refused_by_row(inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ragged = tmp_path / "ragged.csv"
    ragged.write_text("ID,section_header,dialogue,section_text\n1,CC,Doctor: hi,None.\n2,CC,Doctor: hi\n")
    assert run_as_script(lambda: train_loop.main(flags(inputs, tmp_path / "run", "--train_file", str(ragged)))) == 2
    assert "row 2" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_folder_in_use_is_not_written_over(inputs: Path, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_as_script(lambda: train_loop.main(flags(inputs, trained))) == 2
    assert "--resume_from_checkpoint auto" in capsys.readouterr().err


@pytest.mark.parametrize("variable", ["ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"])
def test_sharded_launches_are_refused(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], variable: str
) -> None:
    monkeypatch.setenv(variable, "true")
    assert run_as_script(lambda: train_loop.main(flags(inputs, tmp_path / "run"))) == 2
    assert "accelerate launch" in capsys.readouterr().err
