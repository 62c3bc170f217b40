"""Which checkpoints are kept, and what a crash or a failed write leaves behind."""

from __future__ import annotations

import errno
import os
import re
import shutil
from pathlib import Path
from typing import Any, NoReturn

import pytest
from checkpoints import ALL_FILES, fail_to_read, names, save

from medsum_core.checkpoint import retention
from medsum_core.checkpoint.checkpoint import (
    checkpoint_of_step,
    course_of,
    find_checkpoint,
    later_checkpoints,
    load_checkpoint,
)
from medsum_core.errors import InputError
from medsum_core.files import ReadFailedError, SaveError


def test_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    for step in range(1, 8):
        save(tmp_path, step, keep_last=3, best_step=min(step, 2))
    assert names(tmp_path) == ["step-000002", "step-000005", "step-000006", "step-000007"]


def test_a_limit_below_two_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="save_total_limit"):
        save(tmp_path, 1, keep_last=1)
    assert not names(tmp_path)


def test_an_incomplete_checkpoint_is_not_counted_among_those_kept(tmp_path: Path) -> None:
    for step in (1, 2):
        save(tmp_path, step)
    (tmp_path / "step-000002" / "state.json").write_bytes(b"")
    save(tmp_path, 3)
    assert names(tmp_path) == ["step-000001", "step-000003"]


def test_checkpoints_of_an_abandoned_course_are_removed_once_a_new_one_is_written(tmp_path: Path) -> None:
    for step in (2, 4):
        save(tmp_path, step)
    save(tmp_path, 3)  # resumed from 2
    assert names(tmp_path) == ["step-000002", "step-000003"]


def test_checkpoints_that_the_run_did_not_write_are_not_deleted(tmp_path: Path) -> None:
    for step in (1, 2, 3, 9):
        save(tmp_path, step, deletable=())
    save(tmp_path, 5, deletable=["step-000002", "step-000003"])
    assert names(tmp_path) == ["step-000001", "step-000003", "step-000005", "step-000009"]


def test_an_old_checkpoint_that_cannot_be_read_is_neither_counted_nor_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (1, 2):
        save(tmp_path, step)
    fail_to_read(monkeypatch, "step-000002", times=99)
    save(tmp_path, 3)
    assert names(tmp_path) == ["step-000001", "step-000002", "step-000003"]
    assert "kept the old checkpoint step-000002" in capsys.readouterr().err


def test_the_course_of_a_checkpoint_is_the_earlier_checkpoints_of_the_same_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine: dict[str, Any] = {"fingerprints": {"base": "b", "num_steps": 9}, "deletable": ()}
    for step in (2, 4, 6):
        save(tmp_path, step, **mine)
    save(tmp_path, 1, deletable=(), fingerprints={"base": "b", "num_steps": 5})  # before the run was extended
    save(tmp_path, 3, deletable=(), fingerprints={"base": "another run's", "num_steps": 9})
    (tmp_path / "step-000002" / "state.json").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    found = load_checkpoint("step-000004")
    assert course_of(found, tmp_path) == course_of(found, ".") == {"step-000001", "step-000004"}
    assert later_checkpoints(found, tmp_path) == ["step-000006"]
    assert course_of(found, tmp_path / "elsewhere") == set()
    fail_to_read(monkeypatch, "step-000001", times=99)
    assert course_of(found, tmp_path) == {"step-000004"}


def test_a_folder_that_cannot_be_listed_fails_a_second_save_of_a_step_and_keeps_all_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: Path) -> NoReturn:
        raise ReadFailedError("Input/output error")

    for step in (1, 2):
        save(tmp_path, step)
    monkeypatch.setattr(retention, "list_checkpoints", fail)
    save(tmp_path, 3)
    assert "kept all old checkpoints: Input/output error" in capsys.readouterr().err
    with pytest.raises(SaveError, match="Input/output error"):
        save(tmp_path, 3)
    assert names(tmp_path) == ["step-000001", "step-000002", "step-000003"]


def test_a_second_checkpoint_of_a_step_replaces_the_former_only_when_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 5, window=5)
    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", raise_full)
        with pytest.raises(SaveError):
            save(tmp_path, 5, window=6)
    assert load_checkpoint(tmp_path / "step-000005").progress.window == 5
    path = save(tmp_path, 5, window=6, best_step=5)  # a window was skipped in between
    assert names(tmp_path) == [path.name]
    assert find_checkpoint(tmp_path, "auto") == path
    assert load_checkpoint(path).progress.window == 6
    assert checkpoint_of_step(tmp_path, 5) == path and checkpoint_of_step(tmp_path, 4) is None
    assert save(tmp_path, 5, window=7).name == "step-000005"


def test_several_checkpoints_of_a_step_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number in range(11):
        save(tmp_path, 5, window=5 + number, deletable=())
    for _ in range(2):
        save(tmp_path, 4, deletable=())
    assert {"step-000004", "step-000004-2", "step-000005", "step-000005-2", "step-000005-11"} < set(names(tmp_path))
    newest = find_checkpoint(tmp_path, "auto")
    assert newest == checkpoint_of_step(tmp_path, 5) == tmp_path / "step-000005-11"
    assert later_checkpoints(load_checkpoint(tmp_path / "step-000005-9"), tmp_path) == [
        "step-000005-10",
        "step-000005-11",
    ]


def test_a_checkpoint_is_not_deleted_because_one_of_its_name_could_be(tmp_path: Path) -> None:
    """The run saved it before, it was damaged and moved away, and the run was resumed from an earlier one."""
    path = save(tmp_path, 3, deletable=["step-000003"])
    assert load_checkpoint(path).progress.step == 3


def test_drafts_of_crashed_saves_are_ignored_and_removed(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    shutil.copytree(path, tmp_path / ".tmp-step-000002-999")
    assert find_checkpoint(tmp_path, "auto") == path
    save(tmp_path, 3)
    assert names(tmp_path) == ["step-000001", "step-000003"]


def raise_full(*_arguments: Any, **_keywords: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("call", ["mkdir", "open", "write", "fsync", "rename"])
@pytest.mark.parametrize("successes", [0, 1, 3])
def test_a_failed_save_leaves_the_old_checkpoint_and_no_draft(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, successes: int
) -> None:
    old = save(tmp_path, 1)
    real, left = getattr(os, call), [successes]

    def refuse_later(*arguments: Any, **keywords: Any) -> Any:
        if call == "open" and not (len(arguments) > 1 and arguments[1] & os.O_CREAT):
            return real(*arguments, **keywords)  # a full disk still lets files be read
        left[0] -= 1
        return real(*arguments, **keywords) if left[0] >= 0 else raise_full()

    monkeypatch.setattr(os, call, refuse_later)
    failed = False
    try:
        save(tmp_path, 2)
    except SaveError as error:
        failed = True
        assert "No space left" in str(error) and "step-000002" in str(error)
    monkeypatch.undo()
    assert failed or (call in ("mkdir", "rename") and successes > 0)
    if failed:
        assert names(tmp_path) == ["step-000001"]
        assert find_checkpoint(tmp_path, "auto") == old
    assert load_checkpoint(save(tmp_path, 3)).progress.step == 3


def test_an_unwritable_folder_is_a_save_error(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file is in the way")
    with pytest.raises(SaveError, match="could not write"):
        save(tmp_path / "checkpoints", 1)


def test_files_are_flushed_before_the_rename_and_old_checkpoints_deleted_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (1, 2):
        save(tmp_path, step)
    events: list[str] = []
    opened: dict[int, str] = {}
    real = {name: getattr(os, name) for name in ("open", "fsync", "rename")}

    def watch_open(path: Any, *arguments: Any, **keywords: Any) -> int:
        descriptor = real["open"](path, *arguments, **keywords)
        opened[descriptor] = re.sub(r"-\d+$", "", Path(path).name) if Path(path).name[0] == "." else Path(path).name
        return descriptor

    def watch_fsync(descriptor: int) -> None:
        events.append(f"sync {opened[descriptor]}")
        real["fsync"](descriptor)

    def watch_rename(source: Any, target: Any) -> None:
        events.append(f"rename to {Path(target).name}")
        real["rename"](source, target)

    monkeypatch.setattr(os, "open", watch_open)
    monkeypatch.setattr(os, "fsync", watch_fsync)
    monkeypatch.setattr(os, "rename", watch_rename)
    save(tmp_path, 3)
    expected = [f"sync {name}" for name in ALL_FILES]
    expected += ["sync .tmp-step-000003", "rename to step-000003", f"sync {tmp_path.name}"]
    assert events[:-1] == expected
    assert events[-1].startswith("rename to .tmp-removed-step-000001")
