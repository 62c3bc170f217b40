"""The files of notes: finished rows are appended to `OUT.part.jsonl`; OUT is written atomically at the end.

Columns of OUT: `id, section_header, note, num_tokens, hit_limit, unsupported` (and `evidence` where asked for), in the
order of the input; or the MEDIQA challenge's submission, `TestID, SystemOutput1, SystemOutput2`.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from medsum_core.data.records import Record, records_fingerprint
from medsum_core.data.tables import read_table
from medsum_core.errors import InputError
from medsum_core.files import PRIVATE_MODE, write_text_atomic
from medsum_core.grounding.check import unsupported_spans
from medsum_core.grounding.evidence import evidence


@dataclass(frozen=True, kw_only=True)
class GeneratedNote:
    """A note that a model wrote. The text is left out of `repr`, and so out of logs and tracebacks."""

    id: str
    note: str = field(repr=False)
    num_tokens: int  # without the stop token
    hit_limit: bool  # True: it did not stop by itself


class PartFile:
    """`OUT.part.jsonl`: a line with the settings, then a line for each finished note, written at once."""

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        """Continue an existing file or start one. Raises InputError if it was made with other settings or rows."""
        self.path = path
        self.done: dict[str, GeneratedNote] = {}
        known = path.exists()
        if known:
            self._read(dict(settings))
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, PRIVATE_MODE)
        if not known:
            self._append({"settings": dict(settings)})

    def add(self, note: GeneratedNote) -> None:
        """Append a finished note."""
        self.done[note.id] = note
        self._append(asdict(note))

    def close(self) -> None:
        """Close the file and leave it for a later `--resume`."""
        os.close(self._descriptor)

    def remove(self) -> None:
        """Delete the file, once OUT is written."""
        self.close()
        self.path.unlink()

    def _append(self, values: Mapping[str, Any]) -> None:
        os.write(self._descriptor, (json.dumps(values) + "\n").encode())

    def _read(self, settings: dict[str, Any]) -> None:
        whole = self.path.read_bytes().rpartition(b"\n")[0]  # drops a last line that an interruption cut short
        try:
            lines = [json.loads(line) for line in whole.splitlines()]
            same = lines[0]["settings"] == settings
        except (ValueError, LookupError, TypeError) as error:
            raise InputError(f"{self.path}: not what an interrupted call leaves; delete it to start anew") from error
        if not same:
            raise InputError(
                f"{self.path}: made with other settings or rows; give the former ones back, or delete it to start anew"
            )
        self.done = {line["id"]: GeneratedNote(**line) for line in lines[1:]}
        os.truncate(self.path, len(whole) + 1)


def part_path(path: Path) -> Path:
    """The file that holds OUT's finished notes until all are done."""
    return path.with_name(path.name + ".part.jsonl")


def part_settings(records: Sequence[Record], **settings: Any) -> dict[str, Any]:
    """All that determines the notes: the rows and the settings of decoding."""
    return {"rows": records_fingerprint(records), **settings}


def read_finished(path: Path) -> dict[str, GeneratedNote]:
    """The notes of a complete OUT (csv format), by id. Raises InputError for any other file."""
    rows = read_table(path)
    try:
        return {
            row["id"]: GeneratedNote(
                id=row["id"], note=row["note"], num_tokens=int(row["num_tokens"]), hit_limit=row["hit_limit"] == "true"
            )
            for row in rows
        }
    except (KeyError, ValueError) as error:
        raise InputError(f"{path}: not a file of notes that infer.py wrote; name another --output_file") from error


def write_notes(
    path: Path,
    records: Sequence[Record],
    notes: Mapping[str, GeneratedNote],
    *,
    output_format: str,
    with_evidence: bool,
) -> None:
    """Write OUT atomically, readable by its owner only, in the order of the records."""
    rows = [_row(record, notes[record.id], output_format, with_evidence=with_evidence) for record in records]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text_atomic(path, text.getvalue(), mode=PRIVATE_MODE)


def _row(record: Record, note: GeneratedNote, output_format: str, *, with_evidence: bool) -> dict[str, Any]:
    if output_format == "mediqa":
        return {"TestID": record.id, "SystemOutput1": record.section_header, "SystemOutput2": note.note}
    row: dict[str, Any] = {
        "id": record.id,
        "section_header": record.section_header,
        "note": note.note,
        "num_tokens": note.num_tokens,
        "hit_limit": "true" if note.hit_limit else "false",
        "unsupported": json.dumps(unsupported_spans(note.note, record.dialogue)),
    }
    if with_evidence:
        row["evidence"] = json.dumps([asdict(support) for support in evidence(note.note, record.dialogue)])
    return row
