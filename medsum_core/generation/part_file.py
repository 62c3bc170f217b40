"""`OUT.part.jsonl`: the finished notes of a call that is still running or was interrupted; also used for reports.

Its first line is the `made_from` record; then comes a line for each note, with the hash of its row.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from medsum_core.errors import FinalSaveError, InputError
from medsum_core.files import PRIVATE_MODE, read_plain_file, write_bytes_atomic
from medsum_core.generation.made_from import MadeFrom
from medsum_core.generation.note_files import EarlierNotes
from medsum_core.generation.note_rows import GeneratedNote

FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


class NoteSaveError(FinalSaveError):
    """A note could not be saved. Those finished before are in the part file."""


class PartFile:
    """The part file of a call, open for appending. `notes`: the finished ones, by the hash of their row."""

    def __init__(self, path: Path, made_from: MadeFrom, notes: Mapping[str, GeneratedNote]) -> None:
        """Create the file with the notes of an earlier call, replacing an existing one atomically.

        Raises OSError, as does `add`: see `saving_notes`.
        """
        self.path = path
        self.notes = dict(notes)
        lines = [_line({"made_from": made_from.to_json()}), *(_note_line(row, note) for row, note in notes.items())]
        write_bytes_atomic(path, b"".join(lines), mode=PRIVATE_MODE)
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | getattr(os, "O_BINARY", 0))
        self._size = sum(map(len, lines))

    def add(self, row: str, note: GeneratedNote) -> None:
        """Append a finished note and flush it to disk. Raises OSError after removing what was written of it."""
        line = _note_line(row, note)
        try:
            self._append(line)
        except BaseException:  # a signal's KeyboardInterrupt too
            os.ftruncate(self._descriptor, self._size)
            raise
        self._size += len(line)
        self.notes[row] = note

    def close(self) -> None:
        """Close the file; it is kept for a later call if it holds a note, else deleted."""
        os.close(self._descriptor)
        if not self.notes:
            self.path.unlink(missing_ok=True)

    def _append(self, line: bytes) -> None:
        rest = memoryview(line)
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]
        os.fsync(self._descriptor)  # network file systems report a full disk only here


@contextmanager
def saving_notes(path: Path) -> Iterator[None]:
    """Raise NoteSaveError for an OSError of writing `path`, or InputError where writing is not permitted."""
    try:
        yield
    except OSError as error:
        if error.errno in FORBIDDEN:
            raise InputError(f"{path}: can't be written ({error.strerror}); name another --output_file") from error
        raise NoteSaveError(
            f"{path}: can't be written ({error.strerror or error}); every note that was finished before is kept. Make "
            "room, then go on with --resume"
        ) from error


def part_path(path: Path) -> Path:
    """The file that holds OUT's finished notes until all are done."""
    return path.with_name(path.name + ".part.jsonl")


def holds_notes(path: Path) -> bool:
    """Whether there is a part file with a note in it, after the line that says what they are made from.

    Raises InputError for one that can't be read.
    """
    return path.exists() and _content(path).count(b"\n") > 1


def read_part(path: Path) -> EarlierNotes | None:
    """The notes of an interrupted call; None if none was finished. An incomplete last line is dropped with a notice.

    Raises InputError for a file of an older version, for any other content, and if it can't be read.
    """
    whole, _, torn = _content(path).rpartition(b"\n")
    if torn:
        print(f"{path}: its last line was cut off while it was written and is dropped", file=sys.stderr)
    lines = whole.splitlines()
    if not lines:
        return None
    try:
        header, *rest = [json.loads(line) for line in lines]
        if "settings" in header:
            raise InputError(
                f"{path}: left by an older version, which did not record what each note was made from; delete it, and "
                "its notes are written anew"
            )
        made_from = MadeFrom.from_json(header["made_from"])
        notes = {line.pop("row"): GeneratedNote(**line) for line in rest}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path}: not what an interrupted call leaves; delete it to start anew") from error
    return EarlierNotes(path=path, made_from=made_from, notes=notes) if notes else None


def _content(path: Path) -> bytes:
    try:
        return read_plain_file(path)
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror}); its notes are left as they are") from error


def _note_line(row: str, note: GeneratedNote) -> bytes:
    return _line({"row": row, **asdict(note)})


def _line(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values).encode("ascii") + b"\n"
