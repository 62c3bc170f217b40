"""Rows of dialogue and note as typed records, from MTS-Dialog's files or any table with such columns.

Newlines, byte-order marks and speaker tags are normalised, so that a CRLF and an LF copy of a file give the same
records (MTS-Dialog's training file has CRLF inside its dialogues, the other three have LF). One message names
every fault of a file by row and column; it never quotes contents.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medsum_core.data.columns import DEFAULT_COLUMNS, Columns, resolve_columns
from medsum_core.data.dirt import describe_dirt
from medsum_core.data.rows import ABSENT, Row, Table, formula_problems, not_text_problem, raise_problems
from medsum_core.data.tables import load_table
from medsum_core.data.turns import TurnError, join_turns

SECTION_NAMES: dict[str, str] = {
    "ALLERGY": "Allergies",
    "ASSESSMENT": "Assessment",
    "CC": "Chief complaint",
    "DIAGNOSIS": "Diagnosis",
    "DISPOSITION": "Disposition",
    "EDCOURSE": "Emergency department course",
    "EXAM": "Physical examination",
    "FAM/SOCHX": "Family and social history",
    "GENHX": "History of present illness",
    "GYNHX": "Gynecologic history",
    "IMAGING": "Imaging",
    "IMMUNIZATIONS": "Immunizations",
    "LABS": "Laboratory results",
    "MEDICATIONS": "Medications",
    "OTHER_HISTORY": "Other history",
    "PASTMEDICALHX": "Past medical history",
    "PASTSURGICAL": "Past surgical history",
    "PLAN": "Plan",
    "PROCEDURES": "Procedures",
    "ROS": "Review of systems",
}

# The tags of MTS-Dialog and the misspellings that its files hold.
TAG_SPELLINGS = {
    "Doctor": "Doctor",
    "Docotr": "Doctor",
    "Patient": "Patient",
    "Guest_family": "Guest_family",
    "Gest_family": "Guest_family",
    "Guest_clinician": "Guest_clinician",
    "Guest_clinican": "Guest_clinician",
}
TAG = re.compile(rf"({'|'.join(TAG_SPELLINGS)})(?:_?(\d+))?\s*:\s*")


@dataclass(frozen=True, kw_only=True)
class Record:
    """One dialogue and, for training and scoring, the note section written from it ("" when there is none)."""

    id: str
    section_header: str
    dialogue: str
    note: str


@dataclass(frozen=True, kw_only=True)
class SourceRows:
    """The records of one file or data set, in its order; `notices`: how it was read and what looks wrong, no text."""

    name: str
    records: list[Record]
    notices: tuple[str, ...]


def read_records(path: str | Path, *, columns: Columns = DEFAULT_COLUMNS, require_note: bool = True) -> list[Record]:
    """The records of a table's file, in its order; every row is a record or the file is refused.

    With `require_note=False` (inference) the note's column or cells may be absent or empty. "None" in a cell is text.
    Raises InputError that names all problems of the file by row and column: see `load_table`, and absent columns,
    empty cells, values that are not text, duplicate ids, ids and headers that a spreadsheet would run.
    """
    return read_source(path, columns=columns, require_note=require_note).records


def read_source(path: str | Path, *, columns: Columns = DEFAULT_COLUMNS, require_note: bool = True) -> SourceRows:
    """`read_records` with what a person should know of the file."""
    return source_from_table(load_table(path), columns=columns, require_note=require_note)


def source_from_table(table: Table, *, columns: Columns = DEFAULT_COLUMNS, require_note: bool = True) -> SourceRows:
    """`read_source` for a table that is read already. Raises InputError with all problems of its rows."""
    table, names = resolve_columns(table, columns, require_note=require_note)
    problems: list[str] = []
    records = []
    for row in table.rows:
        record, wrong = _to_record(row, names, section=columns.section)
        problems += wrong or _row_problems(row, record, names, require_note=require_note)
        records.append(record)
    if columns.number_rows:
        records = number_doubled_ids(records)
    seen: dict[str, int] = {}
    for row, record in zip(table.rows, records, strict=True):
        first = seen.setdefault(record.id, row.number)
        if first != row.number and record.id:
            problems.append(
                f"{row.place}, column {names['id']!r}: the same id as row {first} (--number_rows tells them apart)"
            )
    raise_problems(table.source, problems)
    notices = (*table.notices, *describe_dirt(table.rows, names))
    return SourceRows(name=table.source, records=records, notices=tuple(f"{table.source}: {line}" for line in notices))


def number_doubled(ids: Sequence[str]) -> list[str]:
    """The ids with a number behind each that occurs several times: V7, V7 -> V7#1, V7#2. Empty ones stay."""
    counts = Counter(ids)
    given: Counter[str] = Counter()
    numbered = []
    for name in ids:
        given[name] += 1
        numbered.append(name + f"#{given[name]}" if name and counts[name] > 1 else name)
    return numbered


def number_doubled_ids(records: Sequence[Record]) -> list[Record]:
    """The records with their ids as `number_doubled` has them."""
    ids = number_doubled([record.id for record in records])
    return [replace(record, id=new) for record, new in zip(records, ids, strict=True)]


def normalise_text(text: str) -> str:
    """The text with LF newlines, without byte-order marks and without white space at either end."""
    return text.replace("\ufeff", "").replace("\r\n", "\n").replace("\r", "\n").strip()


def normalise_dialogue(text: str) -> str:
    """`normalise_text`, with lines stripped, empty lines removed and MTS-Dialog's misspelt tags corrected.

    "Guest_clinican : Hi " becomes "Guest_clinician: Hi"; tags that are not MTS-Dialog's stay as they are.
    """
    lines = (line.strip() for line in normalise_text(text).split("\n"))
    return "\n".join(TAG.sub(_spell_tag, line, count=1) if TAG.match(line) else line for line in lines if line)


def dialogue_of(row: Row, column: str | None) -> tuple[str, list[str]]:
    """The dialogue of a row, normalised, a list of turns as lines; and what is wrong with such a list."""
    if column is None:
        return "", []
    text = row.cells[column]
    if row.not_text.get(column) == "list":
        try:
            text = join_turns(text)
        except TurnError as error:
            return "", [f"{row.place}, column {column!r}: {error}"]
    return normalise_dialogue(text), []


def section_name(header: str) -> str:
    """The full name of a section: from an MTS-Dialog code or a full name in any case; another header verbatim."""
    header = header.strip()
    if header.upper() in SECTION_NAMES:
        return SECTION_NAMES[header.upper()]
    return next((name for name in SECTION_NAMES.values() if name.casefold() == header.casefold()), header)


def records_fingerprint(records: Sequence[Record]) -> str:
    """A sha256 (hex) of ids, headers, dialogues and notes in their order, after normalisation."""
    digest = hashlib.sha256()
    for record in records:
        fields = [record.id, record.section_header, record.dialogue, record.note]
        digest.update(json.dumps(fields).encode("ascii") + b"\n")
    return digest.hexdigest()


def find_repeats(records: Sequence[Record]) -> list[str]:
    """Ids of the records whose dialogue an earlier one has too, compared without regard to newlines and spaces."""
    seen: set[str] = set()
    repeats = []
    for record in records:
        key = dialogue_key(record.dialogue)
        if key in seen:
            repeats.append(record.id)
        seen.add(key)
    return repeats


def find_shared(train: Sequence[Record], valid: Sequence[Record]) -> list[str]:
    """Ids of the records of `valid` whose dialogue `train` has too, compared without regard to newlines and spaces."""
    known = {dialogue_key(record.dialogue) for record in train}
    return [record.id for record in valid if dialogue_key(record.dialogue) in known]


def dialogue_key(dialogue: str) -> str:
    """What two copies of a dialogue have in common: its normalised text with white space collapsed to single spaces."""
    return " ".join(normalise_dialogue(dialogue).split())


def _spell_tag(match: re.Match[str]) -> str:
    number = f"_{match[2]}" if match[2] else ""
    return f"{TAG_SPELLINGS[match[1]]}{number}: "


def _to_record(row: Row, names: dict[str, str], *, section: str | None) -> tuple[Record, list[str]]:
    """The record of a row, and what is wrong with a dialogue that is a list of turns."""

    def cell(part: str) -> str:
        return row.cells[names[part]] if part in names else ""

    dialogue, problems = dialogue_of(row, names["dialogue"])
    record = Record(
        id=normalise_text(cell("id")) if "id" in names else str(row.number),
        section_header=normalise_text(cell("section_header") if section is None else section),
        dialogue=dialogue,
        note=normalise_text(cell("note")),
    )
    return record, problems


def _row_problems(row: Row, record: Record, names: dict[str, str], *, require_note: bool) -> list[str]:
    required = {"id": record.id, "dialogue": record.dialogue, "section_header": record.section_header}
    if require_note:
        required["note"] = record.note
    problems = []
    for part, name in names.items():
        kind = row.not_text.get(name)
        is_fit = (part, kind) in (("id", "int"), ("dialogue", "list")) or (part not in required and kind == ABSENT)
        problem = None if is_fit else not_text_problem(row, name, null_is_empty=True)
        if problem is not None:
            problems.append(problem)
        elif part in required and not required[part]:
            problems.append(f"{row.place}, column {name!r}: empty")
    return problems + formula_problems([row], (names.get("id"), names.get("section_header")))
