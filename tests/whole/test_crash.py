"""A real run, killed and resumed, ends in the same bytes; resuming anywhere repeats no row and skips none."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import train_loop
from benchmarks.crash import NUM_EPOCHS, WINDOW_ROWS, arguments, outcome
from benchmarks.forked_runs import NUM_TRAIN_ROWS, make_inputs
from medsum_core import files
from medsum_core.checkpoint.checkpoint import Progress
from medsum_core.data.masking import Example
from medsum_core.errors import InputError
from medsum_core.process import run_as_script
from medsum_core.training import resume
from medsum_core.training.metrics import MetricsLog
from medsum_core.training.run import Run

ROOT = Path(__file__).parents[2]
NUM_WINDOWS = NUM_EPOCHS * -(-NUM_TRAIN_ROWS // WINDOW_ROWS)


def test_killed_and_resumed_runs_end_in_the_same_bytes() -> None:
    """A sample; the full check is `python benchmarks/crash.py --kills 50`."""
    command = [sys.executable, str(ROOT / "benchmarks" / "crash.py"), "--kills", "4", "--seed", "1"]
    command += ["--kernels", "fast", "reference"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    for kernels in ("fast", "reference"):
        assert re.search(rf"{kernels} kernels(.|\n)*?\n4 kills in .* all ended equal to the byte", done.stdout)
    assert done.stdout.count("all ended equal to the byte") == 2


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("crash")
    make_inputs(folder)
    return folder


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A finished run and the rows of its windows, by epoch."""

    folder: Path
    outcome: dict[str, Any]
    windows: list[tuple[int, tuple[str, ...]]]


def train(inputs: Path, folder: Path, *flags: str, **parts: Any) -> Trained:
    """Train or resume in `folder`, in this process, and watch which rows are used. `parts` go to `train_loop.main`."""
    windows: list[tuple[int, tuple[str, ...]]] = []
    window_of = Run.window

    def watched(run: Run, progress: Progress) -> list[Example]:
        window = window_of(run, progress)
        windows.append((progress.epoch, tuple(example.id for example in window)))
        return window

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "window", watched)
        argv = [*arguments(inputs, folder), "--save_total_limit", "99", "--eval_generate", "0", *flags]
        train_loop.main(argv, **parts)
    return Trained(folder=folder, outcome=outcome(folder), windows=windows)


@pytest.fixture(scope="module")
def straight(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The uninterrupted run."""
    return train(inputs, tmp_path_factory.mktemp("straight") / "run")


def check_equal(found: Trained, expected: Trained) -> None:
    assert [name for name in expected.outcome if expected.outcome[name] != found.outcome[name]] == []


def test_every_epoch_uses_every_row_once_in_its_own_order(straight: Trained) -> None:
    assert [len(ids) for _, ids in straight.windows] == [4, 4, 2] * NUM_EPOCHS
    orders = [[row for place, ids in straight.windows if place == epoch for row in ids] for epoch in range(NUM_EPOCHS)]
    assert all(sorted(order) == sorted(f"r{number}" for number in range(NUM_TRAIN_ROWS)) for order in orders)
    assert orders[0] != orders[1]


@pytest.mark.parametrize("step", range(1, NUM_WINDOWS + 1))
def test_resuming_at_every_window_repeats_no_row_and_skips_none(
    straight: Trained, inputs: Path, tmp_path: Path, step: int
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(straight.folder, folder)
    shutil.rmtree(folder / "adapter")
    for later in range(step + 1, NUM_WINDOWS + 1):
        shutil.rmtree(folder / "checkpoints" / f"step-{later:06d}")
    resumed = train(inputs, folder)
    assert resumed.windows == straight.windows[step:]
    check_equal(resumed, straight)


def sgd(
    named_parameters: Sequence[tuple[str, nn.Parameter]], *, learning_rate: float, **_settings: Any
) -> torch.optim.Optimizer:
    return torch.optim.SGD(named_parameters, lr=learning_rate, momentum=0.9)


def test_a_run_with_a_users_optimiser_resumes_to_the_byte_and_refuses_another(inputs: Path, tmp_path: Path) -> None:
    flags = ["--kernels", "reference"]
    expected = train(inputs, tmp_path / "run", *flags, build_optimizer=sgd)
    shutil.copytree(tmp_path / "run", tmp_path / "halted")
    shutil.rmtree(tmp_path / "halted" / "adapter")
    for later in range(3, NUM_WINDOWS + 1):
        shutil.rmtree(tmp_path / "halted" / "checkpoints" / f"step-{later:06d}")
    shutil.copytree(tmp_path / "halted", tmp_path / "other")
    check_equal(train(inputs, tmp_path / "halted", *flags, build_optimizer=sgd), expected)
    with pytest.raises(InputError, match=r"build_optimizer was test_crash\.sgd, is not given"):
        train(inputs, tmp_path / "other", *flags)
    with pytest.raises(InputError, match=r"torch\.optim\.sgd\.SGD, this run's is paged_adamw_8bit"):
        train(inputs, tmp_path / "other", *flags, "--allow_inexact_resume", "true")


def test_an_early_stopped_run_does_not_train_further_when_resumed(inputs: Path, tmp_path: Path) -> None:
    flags = ["--eval_steps", "1", "--early_stopping_patience", "1"]
    flags += ["--learning_rate", "0"]  # so that no evaluation is better than the one before
    stopped = train(inputs, tmp_path / "run", *flags)
    assert len(stopped.windows) == 1
    shutil.rmtree(tmp_path / "run" / "adapter")  # as if killed before the end
    resumed = train(inputs, tmp_path / "run", *flags)
    assert resumed.windows == []
    check_equal(resumed, stopped)


def test_after_a_kill_before_the_first_checkpoint_the_metrics_are_written_anew(
    straight: Trained, inputs: Path, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    for name in ("config.json", "metrics.jsonl", "target_audit.jsonl"):  # what a run writes before its first checkpoint
        shutil.copy(straight.folder / name, tmp_path / "run" / name)
    check_equal(train(inputs, tmp_path / "run"), straight)


def test_the_metrics_are_flushed_before_each_checkpoint(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a power cut could leave a checkpoint without the lines before it, which are not written again."""
    sync, save, calls = MetricsLog.sync, resume.save_checkpoint, []
    monkeypatch.setattr(MetricsLog, "sync", lambda log: calls.append("sync") or sync(log))
    monkeypatch.setattr(resume, "save_checkpoint", lambda *at, **parts: calls.append("save") or save(*at, **parts))
    train(inputs, tmp_path / "run")
    assert calls == ["sync", "save"] * NUM_WINDOWS


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """A function that makes the writes of one step's checkpoint fail."""
    write_file = files._write_file

    def fill(step: str) -> None:
        def refuse(path: Path, data: bytes, *, mode: int) -> None:
            if step in path.parent.name:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            write_file(path, data, mode=mode)

        monkeypatch.setattr(files, "_write_file", refuse)

    return fill


def test_a_full_disk_during_a_save_does_not_end_the_run(
    straight: Trained,
    inputs: Path,
    tmp_path: Path,
    full_disk: Callable[[str], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    full_disk("step-000003")
    check_equal(train(inputs, tmp_path / "run"), straight)
    said = capsys.readouterr().err
    assert "no checkpoint at step 3" in said and "not saved: step 3: " in said  # at once, and at the end again


def test_a_failed_last_save_is_exit_code_4(
    inputs: Path, tmp_path: Path, full_disk: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    full_disk(f"step-{NUM_WINDOWS:06d}")
    argv = [*arguments(inputs, tmp_path / "run"), "--eval_generate", "0"]
    assert run_as_script(lambda: train_loop.main(argv)) == 4
    assert "No space left on device; once that is mended, --resume_from_checkpoint auto" in capsys.readouterr().err
    saved = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert saved[-1] == f"step-{NUM_WINDOWS - 1:06d}"
