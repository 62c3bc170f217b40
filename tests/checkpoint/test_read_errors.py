"""A checkpoint that the system fails to read is not damaged: reading is retried, then reported, and nothing is deleted."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from checkpoints import fail_to_read, names, save
from tiny_run import contents, exit_code, flags

from medsum_core.checkpoint.checkpoint import find_checkpoint, load_checkpoint
from medsum_core.errors import InputError


def test_a_read_that_fails_twice_is_retried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path, 1)
    pauses = fail_to_read(monkeypatch, path.name, times=2)
    assert find_checkpoint(tmp_path, "auto") == path
    assert len(pauses) == 2 and sum(pauses) < 5


@pytest.mark.parametrize("choice", ["auto", "step-000002"])
def test_a_lasting_failure_names_the_file_and_no_older_checkpoint_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, choice: str
) -> None:
    for step in (1, 2):
        save(tmp_path, step)
    fail_to_read(monkeypatch, "step-000002", times=99)
    with pytest.raises(InputError, match=r"step-000002/manifest.json cannot be read: Input/output error") as caught:
        find_checkpoint(tmp_path, choice if choice == "auto" else tmp_path / choice)
    assert caught.value.exit_code == 2 and "try again" in str(caught.value)


def refuse(real: Callable[..., Any], name: str) -> Callable[..., Any]:
    def refusing(path: Any, *arguments: Any, **keywords: Any) -> Any:
        if Path(path).name == name:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return real(path, *arguments, **keywords)

    return refusing


def test_a_failed_lstat_is_a_failed_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 1)
    monkeypatch.setattr("time.sleep", lambda _: None)
    monkeypatch.setattr(os, "lstat", refuse(os.lstat, "state.json"))
    with pytest.raises(InputError, match=r"state\.json cannot be read"):
        find_checkpoint(tmp_path, "auto")


def test_a_folder_that_cannot_be_listed_is_not_taken_for_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "checkpoints", 1)
    monkeypatch.setattr("time.sleep", lambda _: None)
    monkeypatch.setattr(Path, "iterdir", refuse(Path.iterdir, "checkpoints"))
    with pytest.raises(InputError, match="checkpoints cannot be read"):
        find_checkpoint(tmp_path / "checkpoints", "auto")


EVERY_STEP = ("--save_strategy", "steps", "--save_steps", "1", "--save_total_limit", "9", "--eval_strategy", "no")


@pytest.fixture(scope="module")
def trained(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of updates 1, 2 and 3."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert exit_code(flags(inputs, folder, *EVERY_STEP)) == 0
    return folder


@pytest.mark.parametrize("damage", ["unreadable", "damaged"])
def test_auto_neither_starts_anew_nor_deletes_if_no_checkpoint_can_be_used(
    inputs: Path,
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    damage: str,
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    for path in (folder / "checkpoints").iterdir():
        if damage == "damaged":
            (path / "state.json").write_bytes(b"")
    before = contents(folder)
    if damage == "unreadable":
        fail_to_read(monkeypatch, "step-000003", times=99)
    assert exit_code(flags(inputs, folder, *EVERY_STEP, "--resume_from_checkpoint", "auto")) == 2
    error = capsys.readouterr().err
    assert "starting fresh" not in error
    assert ("step-000003" if damage == "unreadable" else "3 damaged and no valid") in error
    assert contents(folder) == before


@pytest.mark.parametrize("overwrite", [False, True])
def test_later_checkpoints_are_kept_unless_overwriting_is_asked_for(
    inputs: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], overwrite: bool
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    first = folder / "checkpoints" / "step-000001"
    more = ["--resume_from_checkpoint", str(first), "--overwrite_later_checkpoints", str(overwrite).lower()]
    assert exit_code(flags(inputs, folder, *EVERY_STEP, *more)) == 0
    found = names(folder / "checkpoints")
    is_reported = "later checkpoints stay" in capsys.readouterr().err
    if overwrite:
        assert found == ["step-000001", "step-000002-2", "step-000003"]
        assert not is_reported
    else:
        later = ["step-000002", "step-000003"]
        assert found == ["step-000001", *sorted([*later, *(f"{name}-2" for name in later)])] and is_reported
        for name in later:
            assert contents(folder / "checkpoints" / name) == contents(trained / "checkpoints" / name)
    assert load_checkpoint(folder / "checkpoints" / found[-1]).progress.step == 3


def test_a_resumed_run_deletes_what_it_wrote_before_and_since(inputs: Path, trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    shutil.rmtree(folder / "checkpoints" / "step-000003")
    more = ("--resume_from_checkpoint", "auto", "--save_total_limit", "2", "--num_train_epochs", "2")
    assert exit_code(flags(inputs, folder, *EVERY_STEP, *more)) == 0
    assert names(folder / "checkpoints") == ["step-000005", "step-000006"]
