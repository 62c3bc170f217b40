"""One process writes a file at a time; locks and drafts of killed processes are removed."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from medsum_core.config.locks import locked_file, release_lock, take_lock
from medsum_core.errors import InputError
from medsum_core.score.__main__ import main as score

ROWS = 'ID,section_text\n1,"A cough, for three days, no fever."\n'


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def score_into(folder: Path) -> Path:
    (folder / "notes.csv").write_text(ROWS)
    (folder / "references.csv").write_text(ROWS)
    out = folder / "score.json"
    score(f"--references {folder / 'references.csv'} --predictions {folder / 'notes.csv'} --json {out}".split())
    return out


def test_scoring_leaves_no_lock_and_removes_the_lock_and_drafts_of_killed_processes(tmp_path: Path) -> None:
    others = [".score.json.mine.part", ".other.json.0a1b2c3d.part"]
    for name in (".score.json.0a1b2c3d.part", ".score.json.lock", *others):
        (tmp_path / name).write_text("")
    assert json.loads(score_into(tmp_path).read_text())["count"] == 1
    assert names(tmp_path) == sorted(["notes.csv", "references.csv", "score.json", *others])


def test_scores_that_another_process_is_writing_are_refused(tmp_path: Path) -> None:
    with (
        locked_file(tmp_path / "score.json", flag="--json"),
        pytest.raises(InputError, match=r"--json.*another process"),
    ):
        score_into(tmp_path)
    assert names(tmp_path) == ["notes.csv", "references.csv"]


def test_a_lock_that_cannot_be_taken_names_the_flag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(FileLock, "acquire", refuse)
    with pytest.raises(InputError, match="--output_dir X: can't be locked \\(No space left"):
        take_lock(tmp_path / "lock", name="--output_dir X")


def test_deleting_the_lock_file_is_retried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unlink, failures = os.unlink, [OSError(errno.EIO, os.strerror(errno.EIO))]

    def fail_once(*arguments: Any, **keywords: Any) -> None:
        if failures:
            raise failures.pop()
        unlink(*arguments, **keywords)

    lock = take_lock(tmp_path / "lock", name="it")
    monkeypatch.setattr("time.sleep", lambda _: None)
    monkeypatch.setattr(os, "unlink", fail_once)
    release_lock(lock)
    assert names(tmp_path) == [] and not failures
