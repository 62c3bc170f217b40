"""The file of notes, OUT, and `OUT.made_from.json`: hashes of OUT, and what it was made from.

Columns of OUT: `id, section_header, note, num_tokens, hit_limit`; `unsupported` (characters of the note), `checked`
(how many of its facts were checked) and `omitted` (characters of the dialogue); on request `evidence`; with grounded
decoding `left_out`; `set_aside`, the reason why a row has no note. Rows are in the order of the input.
Other tasks have other columns, and the MEDIQA challenge's submission its own: see `note_rows.py`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medsum_core.data.csv_tables import csv_text
from medsum_core.data.records import Record
from medsum_core.data.tables import read_table
from medsum_core.errors import InputError
from medsum_core.files import PRIVATE_MODE, file_sha256, read_plain_file, write_text_atomic
from medsum_core.generation.made_from import MadeFrom
from medsum_core.generation.note_rows import GeneratedNote, WrittenRow, can_go_on, note_rows
from medsum_core.tasks.task import Task


@dataclass(frozen=True, kw_only=True)
class EarlierNotes:
    """The notes of an earlier call to the same OUT, by the hash of their row, and what they were made from."""

    path: Path  # the file that holds them: OUT, or its part file
    made_from: MadeFrom
    notes: dict[str, GeneratedNote] = field(repr=False)

    def check_rows(self, rows: Collection[str]) -> None:
        """Raise InputError if the earlier call, or one of its notes, had a row that is not among `rows`."""
        self.made_from.check_rows(rows, path=self.path)
        if not self.notes.keys() <= set(rows):
            raise InputError(f"{self.path}: holds notes of rows that are not in this input; give the former input back")

    def check_settings(self, settings: Mapping[str, Any]) -> None:
        """Raise InputError if the earlier call wrote its notes with other settings."""
        self.made_from.check_settings(settings, path=self.path)


def made_from_path(path: Path) -> Path:
    """The file that records what OUT was made from."""
    return path.with_name(path.name + ".made_from.json")


def read_finished(path: Path) -> EarlierNotes:
    """The notes of a complete OUT (csv format), if infer.py wrote it and its `made_from` record matches.

    Raises InputError for any other file: its notes can't be matched with rows.
    """
    record = made_from_path(path)
    remedy = "so --resume can't tell which rows its notes belong to; write to another --output_file"
    try:
        values = json.loads(read_plain_file(record))
        made_from, is_whole = MadeFrom.from_json(values["made_from"]), file_sha256(path) == values["output_sha256"]
    except FileNotFoundError as error:
        raise InputError(f"{path}: {record.name}, which says what it was made from, is missing, {remedy}") from error
    except OSError as error:
        raise InputError(f"{path} or {record.name}: can't be read ({error.strerror})") from error
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{record}: not what infer.py wrote, {remedy}") from error
    if not values.get("can_go_on", True):
        raise InputError(
            f"{path}: is complete, and rows of its task can't be added to it; write to another --output_file"
        )
    if not is_whole:
        raise InputError(f"{path}: was changed since infer.py wrote it, {remedy}")
    try:
        rows = zip(made_from.rows, read_table(path), strict=True)
        notes = {row: _from_cells(cells) for row, cells in rows if not cells["set_aside"]}
    except (KeyError, ValueError) as error:
        raise InputError(f"{path}: not in the csv format of infer.py; write to another --output_file") from error
    return EarlierNotes(path=path, made_from=made_from, notes=notes)


def _from_cells(cells: Mapping[str, str]) -> GeneratedNote:
    return GeneratedNote(
        id=cells["id"],
        note=cells["note"],
        num_tokens=int(cells["num_tokens"]),
        hit_limit=cells["hit_limit"] == "true",
        left_out=int(cells.get("left_out", 0)),
    )


def write_notes(
    path: Path,
    records: Mapping[str, Record],
    notes: Mapping[str, GeneratedNote],
    made_from: MadeFrom,
    *,
    task: Task,
    set_aside: Mapping[str, str],
    output_format: str,
    with_evidence: bool,
) -> None:
    """Write OUT in the order of the records, and its `made_from` record; both with mode 0600.

    `records`, `notes` and `set_aside` (reasons why rows have no note) are keyed by the hash of their row. Each file is
    written atomically, OUT last: the part file must stay until this returns.
    """
    written = [
        WrittenRow(
            record=record,
            note=notes.get(row) or GeneratedNote(id=record.id, note="", num_tokens=0, hit_limit=False),
            set_aside=set_aside.get(row, ""),
        )
        for row, record in records.items()
    ]
    how: dict[str, Any] = {"output_format": output_format, "with_evidence": with_evidence}
    rows = note_rows(written, task, grounded=bool(made_from.settings.get("grounded")), **how)
    text = csv_text(list(rows[0]), [[row[name] for name in rows[0]] for row in rows])
    output_sha256 = hashlib.sha256(text.encode("utf-8")).hexdigest()
    origin = {"output_sha256": output_sha256, "can_go_on": can_go_on(task), "made_from": made_from.to_json()}
    write_text_atomic(made_from_path(path), json.dumps(origin, indent=1) + "\n", mode=PRIVATE_MODE)
    write_text_atomic(path, text, mode=PRIVATE_MODE)
