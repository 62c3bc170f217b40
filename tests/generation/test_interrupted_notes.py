"""An interrupted `infer.py` keeps each finished note, and `--resume` ends in the same file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from notes_command import write

from medsum_core.errors import InputError, StoppedBySignal
from medsum_core.generation.part_file import PartFile

ROOT = Path(__file__).parents[2]


def test_interrupted_call_loses_no_note_and_resumes(
    run: Path, dialogues: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
        file.write('{"id": "1", "no')  # killed while writing
    with pytest.raises(InputError, match="--resume"):
        write(run, dialogues, out)
    with pytest.raises(InputError, match="other settings"):
        write(run, dialogues, out, "--resume", "--max_new_tokens", "5")
    kept = [json.loads(line)["note"] for line in part.read_text().splitlines()[1:3]]
    assert write(run, dialogues, out, "--resume") == whole
    assert set(kept) <= {row["note"] for row in whole}
    assert not part.exists()
    with pytest.raises(InputError, match="exists already"):
        write(run, dialogues, out)
    assert write(run, dialogues, out, "--resume") == whole


def test_a_killed_process_exits_with_75(run: Path, dialogues: Path, tmp_path: Path) -> None:
    """Enough notes that the signal comes in between; what was finished is in the part file."""
    rows = "".join(f'{i},CC,"Doctor: Hello.\nPatient: My knee hurts, number {i}."\n' for i in range(300))
    dialogues.write_text("ID,section_header,dialogue\n" + rows)
    out = tmp_path / "notes.csv"
    command = [sys.executable, "infer.py", "--run", str(run), "--input_file", str(dialogues), "--output_file", str(out)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*command, "--offline"], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    part, deadline = tmp_path / "notes.csv.part.jsonl", time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        if part.exists() and part.read_bytes().count(b"\n") > 3:
            process.send_signal(signal.SIGTERM)
            break
        time.sleep(0.05)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 75, errors[-500:]
    assert "Traceback" not in errors and "--resume" in errors
    assert part.read_bytes().endswith(b"\n") and not out.exists()
