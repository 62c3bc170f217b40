"""One process writes an output file at a time, and leaves nothing else behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from notes_command import write

from medsum_core.errors import InputError, StoppedBySignal
from medsum_core.files import drafts_of

ROOT = Path(__file__).parents[2]


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


HOLD_UNTIL_END_OF_INPUT = """
import sys
from pathlib import Path
from medsum_core.generation.output_file import locked_output
with locked_output(Path(sys.argv[1])):
    print("holds it", flush=True)
    sys.stdin.read()
"""


def test_another_process_is_refused_while_a_file_is_written(run: Path, dialogues: Path, tmp_path: Path) -> None:
    out = tmp_path / "notes.csv"
    command = [sys.executable, "-c", HOLD_UNTIL_END_OF_INPUT, str(out)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
    with subprocess.Popen(command, **pipes) as other:
        assert other.stdout is not None and other.stdout.readline() == "holds it\n"
        with pytest.raises(InputError, match="another process is writing it"):
            write(run, dialogues, out)
        write(run, dialogues, tmp_path / "other.csv")  # each file has its own lock
        other.communicate()
    assert not [name for name in names(tmp_path) if name.endswith(".lock")]
    assert len(write(run, dialogues, out)) == 4


def test_the_lock_and_drafts_of_a_killed_process_are_removed(run: Path, dialogues: Path, tmp_path: Path) -> None:
    stale = [".notes.csv.lock", ".notes.csv.0a1b2c3d.part", ".notes.csv.part.jsonl.00000000.part"]
    stale.append(".notes.csv.made_from.json.ffffffff.part")
    others = [".notes.csv.mine.part", ".other.csv.0a1b2c3d.part", ".notes.csv.backup.csv.0a1b2c3d.part"]
    for name in [*stale, *others]:
        (tmp_path / name).write_text("")
    write(run, dialogues, tmp_path / "notes.csv")
    assert names(tmp_path) == {"dialogues.csv", "notes.csv", "notes.csv.made_from.json", *others}


def test_drafts_are_found_by_the_whole_name(tmp_path: Path) -> None:
    (tmp_path / ".a[1].csv.0a1b2c3d.part").write_text("")
    assert [path.name for path in drafts_of(tmp_path / "a[1].csv")] == [".a[1].csv.0a1b2c3d.part"]
    assert drafts_of(tmp_path / "a1.csv") == []


@pytest.mark.parametrize("flags", [[], ["--resume"]], ids=["fresh", "resumed"])
def test_a_signal_before_the_first_note_gives_no_traceback(
    run: Path, dialogues: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("medsum_core.generation.writer.fit", interrupt)
    with pytest.raises(StoppedBySignal, match="go on with --resume"):
        write(run, dialogues, tmp_path / "notes.csv", *flags)
    assert names(tmp_path) == {"dialogues.csv"}


def test_a_file_that_another_process_has_finished_is_not_overwritten(
    run: Path, dialogues: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other process ends between this call's start and its lock."""
    out, acquire = tmp_path / "notes.csv", FileLock.acquire

    def acquire_later(self: FileLock, **how: Any) -> Any:
        out.write_text("theirs")
        return acquire(self, **how)

    monkeypatch.setattr(FileLock, "acquire", acquire_later)
    with pytest.raises(InputError, match="exists already"):
        write(run, dialogues, out)
    assert out.read_text() == "theirs"
