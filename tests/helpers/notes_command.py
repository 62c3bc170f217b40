"""`infer.py` on a run and a file of dialogues, and its notes read back."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import infer


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV."""
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"), newline="")))


def write(run: Path, dialogues: Path, out: Path, *more: str) -> list[dict[str, str]]:
    """Write the notes and read them back."""
    infer.main(["--run", str(run), "--input_file", str(dialogues), "--output_file", str(out), *more])
    return read(out)
