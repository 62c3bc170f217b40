"""Processes of a run that disagree end together with a message, instead of mixing their updates."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from checkpoints import names
from tiny_run import contents, flags, metrics
from two_scripts import run_two

SHORT = ("--save_strategy", "steps", "--save_steps", "1", "--eval_strategy", "no", "--save_total_limit", "9")
HALF = ("--gradient_accumulation_steps", "2")


def test_another_training_file_on_one_process_is_refused(inputs: Path, tmp_path: Path) -> None:
    first = flags(inputs, tmp_path / "run", *SHORT, *HALF)
    second = [str(inputs / "valid.csv") if flag == str(inputs / "train.csv") else flag for flag in first]
    codes, messages = run_two(first, second)
    assert codes == [2, 2]
    assert all("process 1 differs from process 0 in" in message and "training data" in message for message in messages)
    assert not (tmp_path / "run").exists()


def test_bad_input_of_one_process_ends_both(inputs: Path, tmp_path: Path) -> None:
    first = flags(inputs, tmp_path / "run", *SHORT, *HALF)
    bad = tmp_path / "bad.csv"
    bad.write_text("ID,dialogue\n")
    second = [str(bad) if flag == str(inputs / "train.csv") else flag for flag in first]
    codes, messages = run_two(first, second)
    assert codes == [2, 2]
    assert "process 1: " in messages[0] and "bad.csv" in messages[0]
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def trained(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Updates 1 to 3 on two processes."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    codes, _ = run_two(*2 * [flags(inputs, folder, *SHORT, *HALF)])
    assert codes == [0, 0]
    assert names(folder / "checkpoints") == ["step-000001", "step-000002", "step-000003"]
    return folder


@pytest.mark.parametrize("fault,expected", [("unreadable", 2), ("stale_listing", 0)])
def test_both_processes_resume_from_one_checkpoint_or_end(
    inputs: Path, trained: Path, tmp_path: Path, fault: str, expected: int
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    shutil.rmtree(folder / "checkpoints" / "step-000003")
    before = contents(folder)
    codes, messages = run_two(*2 * [flags(inputs, folder, *SHORT, *HALF, "--resume_from_checkpoint", "auto")], fault)
    assert codes == [expected, expected]
    if expected:
        assert all("step-000002" in message and "cannot be read" in message for message in messages)
        assert contents(folder) == before
    else:
        name = "checkpoints/step-000003/adapter_model.safetensors"
        assert contents(folder)[name] == contents(trained)[name]


def test_processes_at_different_updates_save_nothing(inputs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    codes, messages = run_two(*2 * [flags(inputs, folder, *SHORT, *HALF)], "another_step")
    assert codes == [4, 4]
    assert all("not saved: process 1 differs from process 0 in step" in message for message in messages)
    assert not (folder / "checkpoints").exists() and [line["step"] for line in metrics(folder)] == [1]
