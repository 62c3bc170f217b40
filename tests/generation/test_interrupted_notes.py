"""An interrupted `infer.py` keeps each finished note, and `--resume` ends in the same file."""

from __future__ import annotations

import errno
import json
import os
import signal
import stat
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from checkpoints import fail_to_read
from notes_command import write

import infer
from medsum_core.config.infer_arguments import parse_options
from medsum_core.data.records import read_records
from medsum_core.errors import InputError, StoppedBySignal
from medsum_core.generation import part_file
from medsum_core.generation.made_from import MadeFrom
from medsum_core.generation.note_files import GeneratedNote
from medsum_core.generation.part_file import PartFile, part_path
from medsum_core.generation.writer import Writer, write_file
from medsum_core.process import run_as_script

NUM_WRITES = 1 + 4 + 2  # the part file's start, its four notes, OUT and what it was made from
ROOT = Path(__file__).parents[2]


def test_an_interrupted_call_loses_no_note_and_resumes(
    run: Path,
    dialogues: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole = write(run, dialogues, tmp_path / "whole.csv")
    out, part = tmp_path / "notes.csv", tmp_path / "notes.csv.part.jsonl"
    add = PartFile.add

    def add_two(self: PartFile, row: str, note: Any) -> None:
        add(self, row, note)
        if len(self.notes) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(PartFile, "add", add_two)
    with pytest.raises(StoppedBySignal, match="2 notes"):
        write(run, dialogues, out, "--batch_size", "1")
    monkeypatch.undo()
    assert not out.exists() and len(part.read_text().splitlines()) == 3
    with part.open("a") as file:
        file.write('{"id": "1", "no')  # as of a process that was killed while writing
    with pytest.raises(InputError, match="--resume"):
        write(run, dialogues, out)
    with pytest.raises(InputError, match="other settings"):
        write(run, dialogues, out, "--resume", "--max_new_tokens", "5")
    kept = [json.loads(line)["note"] for line in part.read_text().splitlines()[1:3]]
    capsys.readouterr()
    assert write(run, dialogues, out, "--resume") == whole
    assert "its last line was cut off while it was written and is dropped" in capsys.readouterr().err
    assert set(kept) <= {row["note"] for row in whole}
    assert not part.exists()
    with pytest.raises(InputError, match="exists already"):
        write(run, dialogues, out)
    assert write(run, dialogues, out, "--resume") == whole


def test_a_killed_process_exits_with_75(run: Path, dialogues: Path, tmp_path: Path) -> None:
    """With enough notes that the signal comes between them."""
    rows = "".join(f'{i},CC,"Doctor: Hello.\nPatient: My knee hurts, number {i}."\n' for i in range(300))
    dialogues.write_text("ID,section_header,dialogue\n" + rows)
    out = tmp_path / "notes.csv"
    command = [sys.executable, "infer.py", "--run", str(run), "--input_file", str(dialogues), "--output_file", str(out)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*command, "--offline"], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    part, deadline = tmp_path / "notes.csv.part.jsonl", time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        if part.exists() and part.read_bytes().count(b"\n") > 3:
            with pytest.raises(InputError, match="another process is writing it"):
                write(run, dialogues, out, "--resume")
            process.send_signal(signal.SIGTERM)
            break
        time.sleep(0.05)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 75, errors[-500:]
    assert "Traceback" not in errors and "--resume" in errors
    assert part.read_bytes().endswith(b"\n") and not out.exists()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


class Faults:
    """`os.write` and `os.fsync` of which the k-th call fails."""

    def __init__(self, kind: str, at: int) -> None:
        self.kind, self.at, self.num_calls = kind, at, 0
        self.write, self.fsync = os.write, os.fsync

    def is_due(self) -> bool:
        self.num_calls += 1
        return self.num_calls == self.at

    def faulty_write(self, descriptor: int, data: Any) -> int:
        if self.kind == "fsync" or not self.is_due():
            return self.write(descriptor, data)
        written = self.write(descriptor, bytes(data)[: len(data) // 2])
        if self.kind == "short write":
            return written
        raise KeyboardInterrupt if self.kind == "signal" else OSError(errno.ENOSPC, "No space left on device")

    def faulty_fsync(self, descriptor: int) -> None:
        if self.kind == "fsync" and not stat.S_ISDIR(os.fstat(descriptor).st_mode) and self.is_due():
            raise OSError(errno.EDQUOT, "Disk quota exceeded")
        self.fsync(descriptor)


HOW = {"output_format": "csv", "with_evidence": False}


def with_its_model(writer: Writer) -> Writer:
    """The model is loaded once for many calls."""
    model = writer.load_model([])
    return replace(writer, load_model=lambda _: model)


@pytest.mark.parametrize(
    ("kind", "code"), [("short write", 0), ("full disk", 4), ("fsync", 4), ("signal", 75)], ids=lambda value: str(value)
)
def test_a_fault_at_any_write_loses_no_finished_note(
    run: Path,
    dialogues: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    code: int,
) -> None:
    expected, out = tmp_path / "expected.csv", tmp_path / "notes.csv"
    write(run, dialogues, expected)
    flags = ["--run", str(run), "--input_file", str(dialogues), "--output_file", str(out), "--resume"]
    args = parse_options(flags)
    writer, records = with_its_model(infer.prepare_writer(args)), read_records(dialogues, require_note=False)
    in_part = range(2, 6) if kind == "signal" else range(1, NUM_WRITES + 1)  # the range in which signals are handled
    for at in in_part:
        faults = Faults(kind, at)
        with monkeypatch.context() as disk:
            disk.setattr(os, "write", faults.faulty_write)
            disk.setattr(os, "fsync", faults.faulty_fsync)
            ended = run_as_script(lambda: write_file(records, out, prepare=lambda: writer, **HOW))
        assert ended == code and faults.num_calls >= at
        assert ("--resume" in capsys.readouterr().err) == (code != 0)
        if code != 0:
            part = part_path(out)
            lines = part.read_bytes().splitlines(keepends=True) if part.exists() else []
            finished = max(0, min(at, 6) - 2)  # before the fault
            assert len(lines) == (1 + finished if finished else 0)  # what they are made from and each note; none torn
            assert all(line.endswith(b"\n") and json.loads(line) for line in lines)
        write_file(records, out, prepare=lambda: writer, **HOW)
        assert out.read_bytes() == expected.read_bytes()
        assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith((".", "notes"))) == [
            "notes.csv",
            "notes.csv.made_from.json",
        ]
        out.unlink()


def test_a_call_that_finished_no_note_leaves_no_file(
    run: Path, dialogues: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise InputError("no weights")

    monkeypatch.setattr(infer, "_load_model", fail)
    with pytest.raises(InputError, match="no weights"):
        write(run, dialogues, tmp_path / "notes.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["dialogues.csv"]


def test_a_file_that_may_not_be_written_is_bad_input(
    run: Path, dialogues: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(part_file, "write_bytes_atomic", refuse)
    with pytest.raises(InputError, match=r"Permission denied.*another --output_file"):
        write(run, dialogues, tmp_path / "notes.csv")


NO_NOTE = json.dumps({"made_from": MadeFrom(settings={"num_beams": 9}, rows=("x",)).to_json()}).encode() + b"\n"


@pytest.mark.parametrize("flags", [[], ["--resume"]], ids=["fresh", "resumed"])
def test_a_part_file_without_notes_does_not_bind_a_later_call(
    run: Path, dialogues: Path, tmp_path: Path, flags: list[str]
) -> None:
    """A call that was killed while it loaded the model."""
    part_path(tmp_path / "notes.csv").write_bytes(NO_NOTE)
    assert len(write(run, dialogues, tmp_path / "notes.csv", *flags)) == 4
    assert not part_path(tmp_path / "notes.csv").exists()


@pytest.mark.parametrize("content", [b"", b'{"made_from": {"for'], ids=["empty", "torn"])
def test_a_part_file_without_a_whole_line_starts_anew(
    run: Path, dialogues: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    out = tmp_path / "notes.csv"
    part_path(out).write_bytes(content)
    whole = write(run, dialogues, tmp_path / "whole.csv")
    assert write(run, dialogues, out, *(["--resume"] if content else [])) == whole
    assert ("cut off" in capsys.readouterr().err) == bool(content)


def test_short_writes_leave_no_incomplete_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_all = os.write
    former = os.umask(0)
    try:
        part = PartFile(tmp_path / "part.jsonl", MadeFrom(settings={}, rows=("a", "b")), {})
    finally:
        os.umask(former)
    assert stat.S_IMODE(part.path.stat().st_mode) == 0o600
    notes = {row: GeneratedNote(id=row, note=f"Note {row}.", num_tokens=2, hit_limit=False) for row in ("a", "b")}
    monkeypatch.setattr(os, "write", lambda descriptor, data: write_all(descriptor, bytes(data)[:7]))
    for row, note in notes.items():
        part.add(row, note)
    part.close()
    PartFile(part.path, MadeFrom(settings={}, rows=("a", "b")), notes).close()  # a second call, stopped at once
    earlier = part_file.read_part(part.path)
    assert earlier is not None and earlier.notes == notes


@pytest.mark.parametrize("resume", [True, False])
def test_a_part_file_that_cannot_be_read_is_not_changed(
    run: Path, dialogues: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resume: bool
) -> None:
    part = part_path(tmp_path / "notes.csv")
    part.write_text("kept")
    with monkeypatch.context() as disk, pytest.raises(InputError, match="Input/output error"):
        fail_to_read(disk, part, times=99)
        write(run, dialogues, tmp_path / "notes.csv", *(["--resume"] if resume else []))
    assert part.read_text() == "kept"


@pytest.mark.parametrize("content", [b"[" * 100_000 + b"\n{}\n", NO_NOTE + b"3\n"], ids=["nested", "no note"])
def test_a_part_file_of_other_values_is_not_what_a_call_leaves(tmp_path: Path, content: bytes) -> None:
    part = tmp_path / "notes.csv.part.jsonl"
    part.write_bytes(content)
    with pytest.raises(InputError, match="not what an interrupted call leaves"):
        part_file.read_part(part)
