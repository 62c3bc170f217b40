"""Flags that decide what a run saves, when it ends and how it is resumed, each through the real script."""

from __future__ import annotations

import csv
import errno
import math
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn
from unittest.mock import ANY, MagicMock

import pytest
import torch
from safetensors.torch import load_file
from tiny_run import HEADER, contents, exit_code, flags, metrics

import train_loop
from benchmarks.crash import outcome
from medsum_core.checkpoint.checkpoint import Progress
from medsum_core.config.arguments import TrainArguments
from medsum_core.config.run_config import parse_run
from medsum_core.report import finish
from medsum_core.tasks.find import find_task
from medsum_core.training import validation
from medsum_core.training.metrics import StepStats
from medsum_core.training.plan import plan_run
from medsum_core.training.run import Run
from medsum_core.training.validation import EvalResult

EVERY_STEP = ("--eval_strategy", "steps", "--eval_steps", "1", "--save_strategy", "steps", "--save_steps", "1")


@pytest.fixture(scope="module")
def straight(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The uninterrupted run."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    train_loop.main(flags(inputs, folder, "--examples_file", str(folder.parent / "sheet.csv"), "--report_rows", "2"))
    return folder


def script_losses(patch: pytest.MonkeyPatch, losses: list[float]) -> None:
    """Make the evaluations find these losses, and ten times as much at the stop token."""
    script: Iterator[float] = iter(losses)

    def scripted(*_: Any, **__: Any) -> EvalResult:
        loss = next(script)
        return EvalResult(loss=loss, stop_loss=10 * loss, num_targets=1)

    patch.setattr(validation, "evaluate_loss", scripted)


def adapters_equal(left: Path, right: Path) -> bool:
    a, b = (load_file(folder / "adapter_model.safetensors") for folder in (left, right))
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_early_stopping_ends_the_run_and_saves_the_best_adapter(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script_losses(monkeypatch, [3.0, 2.0, 2.25, 2.5])
    more = ("--load_best_model_at_end", "true", "--early_stopping_patience", "2", "--num_train_epochs", "2")
    train_loop.main(flags(inputs, tmp_path / "run", *EVERY_STEP, *more, "--logging_steps", "2"))
    assert [line["step"] for line in metrics(tmp_path / "run") if "loss" in line] == [2, 3]
    checkpoints = tmp_path / "run" / "checkpoints"
    assert adapters_equal(tmp_path / "run" / "adapter", checkpoints / "step-000001")
    assert not adapters_equal(tmp_path / "run" / "adapter", checkpoints / "step-000003")
    report = (tmp_path / "run" / "report.md").read_text()
    assert "| 3.000 | 2.000 |" in report
    assert "| 30.000 | 20.000 |" in report  # the stop token's
    assert "3 updates, no window skipped, stopped early by `--early_stopping_patience`." in report
    assert "done: 3 updates of 6, stopped early; adapter" in capsys.readouterr().err


def test_the_best_adapter_is_kept_wherever_checkpoints_are_due(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluated = ("--eval_strategy", "steps", "--eval_steps", "1", "--load_best_model_at_end", "true")
    for name, saved, expected in (("no", ("no",), [2]), ("steps", ("steps", "--save_steps", "3"), [2, 3])):
        script_losses(monkeypatch, [3.0, 3.5, 2.0, 2.5])
        run = tmp_path / name
        train_loop.main(flags(inputs, run, *evaluated, "--save_strategy", *saved))
        assert sorted(path.name for path in (run / "checkpoints").iterdir()) == [f"step-{n:06d}" for n in expected]
        assert adapters_equal(run / "adapter", run / "checkpoints" / "step-000002")


def test_if_no_evaluation_beats_the_base_the_last_adapter_is_saved_with_a_notice(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script_losses(monkeypatch, [0.0, 3.0])  # of which a change is no percentage
    more = ("--load_best_model_at_end", "true", "--max_steps", "1")
    train_loop.main(flags(inputs, tmp_path / "run", *EVERY_STEP, *more))
    assert "no evaluation was better than the untrained base's" in capsys.readouterr().err
    assert adapters_equal(tmp_path / "run" / "adapter", tmp_path / "run" / "checkpoints" / "step-000001")
    assert "| 0.000 | 3.000 |" in (tmp_path / "run" / "report.md").read_text()


def test_a_skipped_window_is_not_judged_as_if_it_were_an_update(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, skips = train_loop.train_step, iter([True, False, True, False])

    def skipping(*arguments: Any, **settings: Any) -> Any:
        if not next(skips):
            return step(*arguments, **settings)
        return StepStats(loss=math.nan, grad_norm=math.nan, num_targets=1, num_tokens=1, seconds=1.0, skipped=True)

    monkeypatch.setattr(train_loop, "train_step", skipping)
    more = ("--early_stopping_patience", "1", "--max_steps", "2")
    train_loop.main(flags(inputs, tmp_path / "run", *EVERY_STEP, *more))
    assert [line["step"] for line in metrics(tmp_path / "run") if "eval_loss" in line] == [0, 1, 2]
    assert {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()} == {"step-000001", "step-000002"}


def test_the_blinded_sheet_has_its_rows_and_its_key(straight: Path) -> None:
    with open(straight.parent / "sheet.csv", newline="", encoding="utf-8") as file:
        sheet = list(csv.DictReader(file))
    with open(straight.parent / "sheet.key.csv", newline="", encoding="utf-8") as file:
        key = list(csv.DictReader(file))
    assert [row["id"] for row in sheet] == [row["id"] for row in key] == ["r100", "r101"]
    assert all({row["note_a"], row["note_b"]} == {"base", "tuned"} for row in key)


class Interrupt:
    """Sends this process a SIGTERM when a method of the run is called for the n-th time."""

    def __init__(self, patch: pytest.MonkeyPatch, method: str, number: int) -> None:
        self.left, self.method = number, getattr(Run, method)
        patch.setattr(Run, method, lambda run, *args, **settings: self(run, *args, **settings))

    def __call__(self, run: Run, *args: Any, **settings: Any) -> Any:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return self.method(run, *args, **settings)


@pytest.mark.parametrize("method,number,step", [("evaluates", 1, 0), ("window", 2, 2)], ids=["at once", "later"])
def test_a_stopped_run_says_how_to_resume_and_ends_in_the_same_bytes(
    inputs: Path,
    straight: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    method: str,
    number: int,
    step: int,
) -> None:
    argv = flags(inputs, tmp_path / "run", "--resume_from_checkpoint", "auto")
    with pytest.MonkeyPatch.context() as patch:
        Interrupt(patch, method, number)
        assert exit_code(argv) == 75
    shown = capsys.readouterr().err
    assert shown.count("no checkpoint to resume from: starting fresh") == 1
    assert f"stopped: after update {step}; resume with --resume_from_checkpoint auto" in shown
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == [f"step-{step:06d}"]
    assert not (tmp_path / "run" / "adapter").exists()
    assert exit_code(argv) == 0
    assert f"resuming after update {step} of 3" in capsys.readouterr().err
    found, expected = outcome(tmp_path / "run"), outcome(straight)
    assert [name for name in expected if found[name] != expected[name]] == []


REFUSED = {
    "data": ("training data changed", ()),
    "rate": ("learning_rate", ("--learning_rate", "1e-5")),
    "rank": ("lora_r", ("--lora_r", "8")),
    "window": ("gradient_accumulation_steps", ("--gradient_accumulation_steps", "2")),
}


@pytest.mark.parametrize("named,more", REFUSED.values(), ids=list(REFUSED))
def test_a_run_with_other_settings_is_not_resumed(
    inputs: Path,
    straight: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    named: str,
    more: tuple[str, ...],
) -> None:
    before = contents(straight)
    if not more:
        shutil.copy(inputs / "train.csv", tmp_path / "other.csv")
        (tmp_path / "other.csv").write_text((tmp_path / "other.csv").read_text().replace("visit 3", "visit three"))
        more = ("--train_file", str(tmp_path / "other.csv"))
    assert exit_code(flags(inputs, straight, "--resume_from_checkpoint", "auto", *more)) == 2
    assert named in capsys.readouterr().err
    assert contents(straight) == before


@pytest.mark.parametrize("choice", ["keep", "drop", "mask"])
def test_unsupported_facts_are_kept_masked_or_dropped_as_asked(inputs: Path, tmp_path: Path, choice: str) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text(f"{HEADER}a,CC,Doctor: Fine?,Takes lisinopril 50 mg.\nb,CC,Doctor: Fine?,Fine.\n")
    argv = flags(inputs, tmp_path / "run", "--train_file", str(rows), "--ungrounded", choice)
    dataset = plan_run(parse_run(argv)).dataset
    assert dataset.audit_rows == [{"id": "a", "unsupported": 2}]  # the drug and its dose
    [line] = [line for line in dataset.notices if f"(--ungrounded {choice})" in line]  # before training, not only after
    assert line == f"training: {dataset.audit.sentence} (--ungrounded {choice})"
    assert [example.id for example in dataset.train] == (["b"] if choice == "drop" else ["a", "b"])
    if choice != "drop":
        ids = [token for token in dataset.train[0].targets if token >= 0]
        all_ids = dataset.train[0].input_ids[dataset.train[0].num_prompt_tokens :]
        assert (len(ids) < len(all_ids)) == (choice == "mask")
    assert dataset.facts.ungrounded_dropped_ids == (("a",) if choice == "drop" else ())


def test_a_report_that_cannot_be_written_is_a_failed_final_save(
    inputs: Path, straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object, **__: object) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    run = tmp_path / "run"
    shutil.copytree(straight, run)  # nothing is left to train
    argv = flags(inputs, run, "--resume_from_checkpoint", "auto")
    monkeypatch.setattr(finish, "write_report", full)
    assert exit_code(argv) == 4
    assert "No space left on device; once that is mended, --resume_from_checkpoint auto" in capsys.readouterr().err
    monkeypatch.setattr(finish, "save_adapter", full)
    assert exit_code(argv) == 4
    assert adapters_equal(run / "checkpoints" / "step-000003", straight / "adapter")


@pytest.mark.parametrize("step", [1, 2])
def test_the_average_of_several_updates_survives_a_resume(inputs: Path, tmp_path: Path, step: int) -> None:
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    options = ("--logging_steps", "3", "--save_strategy", "steps", "--save_steps", "1", "--save_total_limit", "4")
    assert exit_code(flags(inputs, straight, *options)) == 0
    shutil.copytree(straight, resumed)
    shutil.rmtree(resumed / "adapter")
    for later in range(step + 1, 4):
        shutil.rmtree(resumed / "checkpoints" / f"step-{later:06d}")
    assert exit_code(flags(inputs, resumed, *options, "--resume_from_checkpoint", "auto")) == 0
    (expected,) = (line["loss"] for line in metrics(straight) if "loss" in line)
    (found,) = (line["loss"] for line in metrics(resumed) if "loss" in line)
    assert found == expected


def test_the_last_updates_are_logged_if_there_are_fewer_than_logging_steps(
    inputs: Path, tmp_path: Path, straight: Path
) -> None:
    assert exit_code(flags(inputs, tmp_path / "run", "--logging_steps", "2")) == 0
    lines, each = ([line for line in metrics(run) if "loss" in line] for run in (tmp_path / "run", straight))
    assert [line["step"] for line in lines] == [2, 3]
    assert lines[1] == {**each[2], "tokens_per_second": ANY}
    resumed = flags(inputs, tmp_path / "run", "--logging_steps", "2", "--resume_from_checkpoint", "auto")
    assert exit_code(resumed) == 0
    assert [line for line in metrics(tmp_path / "run") if "loss" in line] == lines


def test_checkpoints_are_saved_by_time_as_well_as_by_epoch(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six windows of 7 simulated minutes in two epochs: 14 have passed after the second, and two after the first end."""
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    step = train_loop.train_step

    def slow_step(*arguments: Any, **settings: Any) -> Any:
        clock[0] += 7 * 60
        return step(*arguments, **settings)

    monkeypatch.setattr(train_loop, "train_step", slow_step)
    more = ("--num_train_epochs", "2", "--save_total_limit", "9")
    for minutes, expected in (("10", [2, 3, 5, 6]), ("0", [3, 6])):
        folder = tmp_path / f"run-{minutes}"
        assert exit_code(flags(inputs, folder, "--save_minutes", minutes, *more)) == 0
        assert sorted(int(path.name[5:]) for path in (folder / "checkpoints").iterdir()) == expected


@pytest.mark.parametrize("process", [0, 1])
def test_all_processes_use_the_same_evaluation_score(process: int, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = [{"eval_rouge1": 0.25}, {"eval_rouge1": 0.5}]
    everyone = [{"eval_loss": 2.0, "eval_stop_loss": 20.0, **score} for score in scores]

    def gather(values: dict[str, float], _: Any) -> list[dict[str, float]]:
        assert values == everyone[process]
        return everyone

    def score(_model: Any, _renderer: Any, records: list[str], **decoding: Any) -> dict[str, float]:
        assert records == ["the first"]  # as many as --eval_generate, written as by infer.py
        for name in ("max_length", "max_new_tokens", "no_repeat_ngram_size", "grounded"):
            assert decoding[name] is getattr(run.config.data, name)
        return scores[process]

    script_losses(monkeypatch, [2.0])
    monkeypatch.setattr(validation, "generation_scores", score)
    monkeypatch.setattr(validation, "gather_json", gather)
    run: Any = MagicMock(seconds={"evaluation": 0.0}, collate_settings={}, validation_records=["the first", "another"])
    run.config.train = TrainArguments(eval_generate=1, metric_for_best_model="eval_rouge1")
    run.renderer.task = find_task("section")
    progress, _ = validation.evaluate(run, Progress(step=1, epoch=0, window=1))
    assert progress.best_metric == 0.25
    run.write_metrics.assert_called_once_with(ANY, everyone[0])
