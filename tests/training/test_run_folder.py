"""A run folder has a name of its own and one writer at a time."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tiny_run import contents, exit_code, flags

import train_loop
from medsum_core.config.run_folder import LOCK_NAME, FolderLock, make_run_folder
from medsum_core.errors import InputError
from medsum_core.training import plan as planning
from medsum_core.training import setup
from medsum_core.training.run import Run

ROOT = Path(__file__).parents[2]
HOLD_UNTIL_END_OF_INPUT = """
import sys
from pathlib import Path
from medsum_core.config.run_folder import FolderLock
with FolderLock() as lock:
    lock.take(Path(sys.argv[1]))
    print("held", flush=True)
    sys.stdin.read()
"""


def test_runs_that_start_in_the_same_second_get_different_folders(tmp_path: Path) -> None:
    folder, barrier = tmp_path / "runs" / "demo-20200101-000000", threading.Barrier(8)

    def make(_: int) -> Path:
        barrier.wait()
        return make_run_folder(folder, chosen=False)

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(make, range(8)))
    assert {path.name for path in made} == {folder.name, *(f"{folder.name}-{number}" for number in range(2, 9))}
    assert all(path.stat().st_mode & 0o777 == 0o700 for path in made)
    assert make_run_folder(folder, chosen=True) == folder


def test_two_scripts_in_the_same_second_do_not_share_the_default_folder(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(planning, "default_folder", lambda preset: f"runs/{preset}-20200101-000000")
    argv = flags(inputs, tmp_path, "--max_steps", "1", "--eval_strategy", "no", "--save_strategy", "no")
    position = argv.index("--output_dir")
    del argv[position : position + 2]
    assert exit_code(argv) == 0 and exit_code(argv) == 0
    runs = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert [name.removeprefix("gemma-2b") for name in runs] == ["-20200101-000000", "-20200101-000000-2"]
    said = capsys.readouterr().err
    assert all(f"report in runs/{name}\n" in said for name in runs)
    assert contents(tmp_path / "runs" / runs[0]).keys() == contents(tmp_path / "runs" / runs[1]).keys()


def test_a_second_process_on_the_same_folder_is_refused_until_the_first_has_ended(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD_UNTIL_END_OF_INPUT]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment}
    with subprocess.Popen([*command, str(tmp_path)], **pipes) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(InputError, match="another process") as caught:
            FolderLock().take(tmp_path)
        assert caught.value.exit_code == 2
        other.kill()  # a dead process holds no lock
        other.wait()
        with FolderLock() as lock:
            lock.take(tmp_path)
            assert lock.held and (tmp_path / LOCK_NAME).stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [] and not lock.held


def test_the_folder_is_locked_through_the_whole_run(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A second run is tried at each moment of a first one, with and without --resume_from_checkpoint."""
    folder, window, write_results = tmp_path / "run", Run.window, train_loop.write_results
    codes: list[tuple[str, int]] = []

    def try_another(place: str) -> None:
        before = contents(folder)
        codes.append((place, exit_code(flags(inputs, folder, "--resume_from_checkpoint", "auto"))))
        codes.append((place, exit_code(flags(inputs, folder))))
        assert contents(folder) == before

    def watched(run: Run, progress: Any) -> Any:
        if progress.step == 1:
            try_another("window")
        return window(run, progress)

    def watched_report(*arguments: Any, **more: Any) -> None:
        try_another("report")
        write_results(*arguments, **more)
        try_another("end")

    monkeypatch.setattr(Run, "window", watched)
    monkeypatch.setattr(train_loop, "write_results", watched_report)
    more = ("--max_steps", "2", "--eval_strategy", "no", "--save_strategy", "steps", "--save_steps", "1")
    assert exit_code(flags(inputs, folder, *more)) == 0
    assert codes == [(place, 2) for place in ("window", "report", "end") for _ in range(2)]
    assert capsys.readouterr().err.count("another process is writing it") == 3
    assert LOCK_NAME not in contents(folder)


def test_a_folder_that_another_run_began_after_the_checks_is_refused(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, fingerprints = tmp_path / "run", setup._fingerprints

    def begun_meanwhile(*arguments: Any) -> Any:
        folder.mkdir()
        (folder / "config.json").write_text("theirs")
        return fingerprints(*arguments)

    monkeypatch.setattr(setup, "_fingerprints", begun_meanwhile)
    assert exit_code(flags(inputs, folder, "--resume_from_checkpoint", "auto")) == 2
    assert "meanwhile" in capsys.readouterr().err
    assert contents(folder) == {"config.json": b"theirs"}


def test_a_refused_run_releases_the_folders_lock(inputs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    argv = flags(inputs, folder, "--resume_from_checkpoint", "auto", "--lora_target_modules", "no_proj")
    assert exit_code(argv) == 2
    assert list(folder.iterdir()) == []


def test_another_runs_results_are_not_replaced_by_a_resumed_run(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved, unsaved, model = (tmp_path / name for name in ("saved", "unsaved", "model"))
    assert exit_code(flags(inputs, saved, "--max_steps", "1")) == 0
    assert exit_code(flags(inputs, unsaved, "--max_steps", "1", "--save_strategy", "no")) == 0
    model.mkdir()
    (model / "config.json").write_text("{}")
    before = contents(tmp_path)
    elsewhere = str(saved / "checkpoints" / "step-000001")
    refused = [(unsaved, "auto", "holds report.md and no checkpoint"), (unsaved, elsewhere, "not empty")]
    for folder, checkpoint, reason in [*refused, (model, "auto", "is " + str(model) + " a run folder?")]:
        capsys.readouterr()
        assert exit_code(flags(inputs, folder, "--resume_from_checkpoint", checkpoint)) == 2
        assert reason in capsys.readouterr().err
    assert contents(tmp_path) == before
