"""`OUT.part.jsonl`: the notes that are finished while the others are still being written.

Its first line is what they are made from, then comes a line for each note with the hash of its row.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from medsum_core.errors import InputError
from medsum_core.files import PRIVATE_MODE, write_text_atomic
from medsum_core.generation.made_from import MadeFrom
from medsum_core.generation.note_files import EarlierNotes, GeneratedNote


class PartFile:
    """The part file of a call, open for appending. `notes`: those that are finished, by the hash of their row."""

    def __init__(self, path: Path, made_from: MadeFrom, notes: Mapping[str, GeneratedNote]) -> None:
        """Start the file with the notes of an earlier call. One that exists is replaced at once and whole."""
        self.path = path
        self.notes = dict(notes)
        lines = [{"made_from": made_from.to_json()}, *(_note_line(row, note) for row, note in notes.items())]
        write_text_atomic(path, "".join(json.dumps(line) + "\n" for line in lines), mode=PRIVATE_MODE)
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)

    def add(self, row: str, note: GeneratedNote) -> None:
        """Append a finished note."""
        os.write(self._descriptor, (json.dumps(_note_line(row, note)) + "\n").encode())
        self.notes[row] = note

    def close(self) -> None:
        """Close the file and leave it for a later `--resume`."""
        os.close(self._descriptor)

    def remove(self) -> None:
        """Delete the file, once OUT is written."""
        self.close()
        self.path.unlink()


def part_path(path: Path) -> Path:
    """The file that holds OUT's finished notes until all are done."""
    return path.with_name(path.name + ".part.jsonl")


def read_part(path: Path) -> EarlierNotes:
    """What an interrupted call left. Raises InputError for a file of an older version, and for any other content."""
    lines = path.read_bytes().rpartition(b"\n")[0].splitlines()  # drops a last line that an interruption cut short
    try:
        header, *rest = [json.loads(line) for line in lines]
        if "settings" in header:
            raise InputError(
                f"{path}: left by an older version, which did not record what each note was made from; delete it, and "
                "its notes are written anew"
            )
        made_from = MadeFrom.from_json(header["made_from"])
        notes = {line.pop("row"): GeneratedNote(**line) for line in rest}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not what an interrupted call leaves; delete it to start anew") from error
    return EarlierNotes(path=path, made_from=made_from, notes=notes)


def _note_line(row: str, note: GeneratedNote) -> dict[str, Any]:
    return {"row": row, **asdict(note)}
