"""A real run, killed and resumed, ends in the same bytes; resuming anywhere repeats no row and skips none."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import train_loop
from benchmarks.crash import NUM_EPOCHS, NUM_TRAIN_ROWS, WINDOW_ROWS, arguments, make_inputs, outcome
from medsum_core import sealed_folder
from medsum_core.batching import Example
from medsum_core.checkpoint import Progress
from medsum_core.errors import run_as_script
from medsum_core.run import Run

ROOT = Path(__file__).parent.parent
NUM_WINDOWS = NUM_EPOCHS * -(-NUM_TRAIN_ROWS // WINDOW_ROWS)


def test_killed_runs_end_equal_to_the_byte() -> None:
    """The short version: `python benchmarks/crash.py --kills 50` is the full one."""
    command = [sys.executable, str(ROOT / "benchmarks" / "crash.py"), "--kills", "4", "--seed", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert "4 kills" in done.stdout and "all ended equal to the byte" in done.stdout


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("crash")
    make_inputs(folder)
    return folder


def test_resuming_at_every_window_repeats_no_row_and_skips_none(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, tuple[str, ...]]] = []
    window_of = Run.window

    def watched(run: Run, progress: Progress) -> list[Example]:
        window = window_of(run, progress)
        seen.append((progress.epoch, tuple(example.id for example in window)))
        return window

    monkeypatch.setattr(Run, "window", watched)

    def train(output_dir: Path) -> tuple[dict[str, Any], list[tuple[int, tuple[str, ...]]]]:
        seen.clear()
        train_loop.main([*arguments(inputs, output_dir), "--save_total_limit", "99", "--eval_generate", "0"])
        return outcome(output_dir), list(seen)

    straight, windows = train(tmp_path / "straight")
    assert [len(ids) for _, ids in windows] == [4, 4, 2] * NUM_EPOCHS
    for epoch in range(NUM_EPOCHS):
        counts = Counter(row for place, ids in windows if place == epoch for row in ids)
        assert counts == Counter({f"r{number}": 1 for number in range(NUM_TRAIN_ROWS)})
    assert windows[: len(windows) // 2] != [
        (0, ids) for _, ids in windows[len(windows) // 2 :]
    ]  # each epoch its own order

    for step in range(1, NUM_WINDOWS + 1):
        folder = tmp_path / f"from-{step}"
        shutil.copytree(tmp_path / "straight", folder)
        shutil.rmtree(folder / "adapter")
        for later in range(step + 1, NUM_WINDOWS + 1):
            shutil.rmtree(folder / "checkpoints" / f"step-{later:06d}")
        resumed, rest = train(folder)
        assert rest == windows[step:], f"resumed after window {step}"
        assert [name for name in straight if straight[name] != resumed[name]] == []


def test_a_run_that_stopped_early_does_not_train_on_when_resumed(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    learning_rate = Run.learning_rate
    monkeypatch.setattr(Run, "learning_rate", lambda run, step: steps.append(step) or learning_rate(run, step))
    argv = [*arguments(inputs, tmp_path / "run"), "--eval_generate", "0", "--eval_steps", "1"]
    argv += ["--early_stopping_patience", "1"]
    argv += ["--learning_rate", "1000", "--warmup_steps", "0"]  # the loss rises at once
    train_loop.main(argv)
    assert steps == [0]
    expected = outcome(tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "adapter")  # as if killed before the end
    train_loop.main(argv)
    assert steps == [0]
    assert outcome(tmp_path / "run") == expected


def test_a_fresh_start_after_a_kill_before_the_first_checkpoint_writes_its_metrics_anew(
    inputs: Path, tmp_path: Path
) -> None:
    argv = [*arguments(inputs, tmp_path / "run"), "--eval_generate", "0"]
    train_loop.main(argv)
    expected = outcome(tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    train_loop.main(argv)
    assert outcome(tmp_path / "run") == expected


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Make every file of one step's draft fail to be written."""
    write_file = sealed_folder._write_file

    def fill(step: str) -> None:
        def refuse(path: Path, data: bytes) -> None:
            if step in path.parent.name:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            write_file(path, data)

        monkeypatch.setattr(sealed_folder, "_write_file", refuse)

    return fill


def test_a_full_disk_during_a_save_does_not_end_the_run(
    inputs: Path, tmp_path: Path, full_disk: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    train_loop.main([*arguments(inputs, tmp_path / "roomy"), "--eval_generate", "0"])
    capsys.readouterr()
    full_disk("step-000003")
    train_loop.main([*arguments(inputs, tmp_path / "full"), "--eval_generate", "0"])
    assert "no checkpoint at step 3" in capsys.readouterr().err
    roomy, full = outcome(tmp_path / "roomy"), outcome(tmp_path / "full")
    assert [name for name in roomy if roomy[name] != full[name]] == []


def test_a_failed_last_save_is_its_own_exit_code(
    inputs: Path, tmp_path: Path, full_disk: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    full_disk(f"step-{NUM_WINDOWS:06d}")
    argv = [*arguments(inputs, tmp_path / "run"), "--eval_generate", "0"]
    assert run_as_script(lambda: train_loop.main(argv)) == 4
    assert "No space left" in capsys.readouterr().err
    kept = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert kept[-1] == f"step-{NUM_WINDOWS - 1:06d}"
