"""Rows of a file as typed records: the parts of a task's prompt by name, and the answer to be learnt.

Newlines, byte-order marks and speaker tags are normalised, so that a CRLF and an LF copy of a file give the same
records (MTS-Dialog's training file has CRLF inside its dialogues, the other three have LF). One message names
every fault of a file by row and column; it never quotes contents.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from medsum_core.data.artefacts import describe_artefacts
from medsum_core.data.columns import DEFAULT_COLUMNS, Columns, resolve_columns
from medsum_core.data.rows import (
    ABSENT,
    Row,
    Table,
    formula_problems,
    name_rows,
    not_text_problem,
    raise_problems,
    repeated_id_problems,
)
from medsum_core.data.tables import load_table
from medsum_core.data.turns import TurnError, join_turns
from medsum_core.tasks.divisions import DIVISIONS, join_divisions, split_divisions
from medsum_core.tasks.task import IMAGES, Task

NOT_DISCUSSED = "Not discussed."  # the note of an absent division, so that the model learns not to invent one

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
    """One row of a task: the parts of its prompt and, for training and scoring, its answer.

    For the task `section`, `parts` holds `section_header` and `dialogue`. `note` is "" where there is none; `choice` is
    the first line of the answer, where a task has one. `source`: the part that the note is written from. `fault`: why
    the row is set aside, such as an image that can't be read; "" for most.
    """

    id: str
    parts: Mapping[str, str]
    note: str = ""
    choice: str = ""
    source: str = "dialogue"
    fault: str = ""

    @property
    def source_text(self) -> str:
        """The text that the note is written from: a dialogue, in most tasks."""
        return self.parts.get(self.source, "")

    @property
    def answer(self) -> str:
        """The text that is trained on: the choice on the first line, then the note."""
        return "\n".join(text for text in (self.choice, self.note) if text)

    @property
    def section_header(self) -> str:
        """The section that the row is about; "" where its task has none."""
        return self.parts.get("section_header", "")


@dataclass(frozen=True, kw_only=True)
class SourceRows:
    """The records of one file or data set, in its order; `notices`: how it was read and suspicious cells, no text.

    `image_paths`: the file of each image of the records, by its key (`images/rows.py`).
    """

    name: str
    records: list[Record]
    notices: tuple[str, ...]
    image_paths: Mapping[str, Path] = field(default_factory=dict)


def read_records(path: str | Path, *, columns: Columns = DEFAULT_COLUMNS, require_note: bool = True) -> list[Record]:
    """The records of a table's file, in its order. If any row is faulty, the whole file is refused.

    With `require_note=False` (inference) the note's column or cells may be absent or empty. "None" in a cell is text.
    Raises InputError that names all problems of the file by row and column: see `load_table`, and absent columns,
    empty cells, values that are not text, duplicate ids, ids and headers that a spreadsheet would run.
    """
    return read_source(path, columns=columns, require_note=require_note).records


def read_source(path: str | Path, *, columns: Columns = DEFAULT_COLUMNS, require_note: bool = True) -> SourceRows:
    """`read_records` with notices for the user about the file."""
    return source_from_table(load_table(path), columns=columns, require_note=require_note)


def source_from_table(table: Table, *, columns: Columns = DEFAULT_COLUMNS, require_note: bool = True) -> SourceRows:
    """`read_source` for a table in memory. Raises InputError with all problems of its rows."""
    table, names = resolve_columns(table, columns, require_note=require_note)
    problems: list[str] = []
    records = []
    for row in table.rows:
        record, wrong = _to_record(row, names, columns)
        problems += wrong or _row_problems(row, record, names, columns, require_note=require_note)
        records.append(record)
    if columns.number_rows:
        records = number_doubled_ids(records)
    problems += repeated_id_problems(table.rows, [record.id for record in records], names.get("id"))
    raise_problems(table.source, problems)
    texts = {part: name for part, name in names.items() if part not in ("id", "choice", IMAGES)}
    notices = [*table.notices, *describe_artefacts(table.rows, texts)]
    if require_note:
        notices += _without_text(table.rows, records, columns.task)
    records = divide_records(records) if columns.task.divide else records
    return SourceRows(name=table.source, records=records, notices=tuple(f"{table.source}: {line}" for line in notices))


def _without_text(rows: Sequence[Row], records: Sequence[Record], task: Task) -> list[str]:
    """A line that counts the rows whose answer is a choice alone, in a task whose answer goes on with a text."""
    bare = [row for row, record in zip(rows, records, strict=True) if not record.note]
    if not bare or not task.answer.columns:
        return []
    wanted = " or ".join(map(repr, task.answer.columns))
    return [f"{len(bare)} of {len(rows)} rows have no {wanted}, so their answer is the choice alone: {name_rows(bare)}"]


def number_doubled(ids: Sequence[str]) -> list[str]:
    """The ids, with a number appended to each that occurs several times: V7, V7 -> V7#1, V7#2. Empty ones stay."""
    counts = Counter(ids)
    given: Counter[str] = Counter()
    numbered = []
    for name in ids:
        given[name] += 1
        numbered.append(name + f"#{given[name]}" if name and counts[name] > 1 else name)
    return numbered


def number_doubled_ids(records: Sequence[Record]) -> list[Record]:
    """The records with their ids changed by `number_doubled`."""
    ids = number_doubled([record.id for record in records])
    return [replace(record, id=new) for record, new in zip(records, ids, strict=True)]


def divide_records(records: Sequence[Record]) -> list[Record]:
    """Each visit as four records, one for each division of its note; an absent division's note is `NOT_DISCUSSED`."""
    return [
        replace(
            record,
            id=record.id + "/" + division,
            parts={**record.parts, "division": division.replace("_", " ")},
            note=(text.strip() or NOT_DISCUSSED) if record.note else "",
        )
        for record in records
        for division, text in split_divisions(record.note).items()
    ]


def by_visit(rows: Sequence[Any]) -> list[Sequence[Any]]:
    """A sequence in the order of `divide_records`, grouped by visit."""
    return [rows[start : start + len(DIVISIONS)] for start in range(0, len(rows), len(DIVISIONS))]


def records_of_notes(records: Sequence[Record], count: int, task: Task) -> Sequence[Record]:
    """The records of the first `count` whole notes: those of `divide_records`, for a task that divides visits."""
    return records[: count * (len(DIVISIONS) if task.divide else 1)]


def join_records(records: Sequence[Record], notes: Sequence[str]) -> tuple[list[Record], list[str]]:
    """Join divided records to visits with whole notes, and the notes generated for them in the same way.

    The inverse of `divide_records` up to empty lines. Raises ValueError unless each visit's divisions are complete and
    in order.
    """
    visits, joined = [], []
    for rows, texts in zip(by_visit(records), by_visit(notes), strict=True):
        visit = rows[0].id.removesuffix("/" + DIVISIONS[0])
        if [row.id for row in rows] != [visit + "/" + division for division in DIVISIONS]:
            raise ValueError("the divisions of a visit are not complete, or not in their order")
        parts = {name: text for name, text in rows[0].parts.items() if name != "division"}
        visits.append(replace(rows[0], id=visit, parts=parts, note=_joined([row.note for row in rows])))
        joined.append(_joined(texts))
    return visits, joined


def whole_records(records: Sequence[Record], task: Task) -> list[Record]:
    """The records as in the file: the divisions of each visit joined."""
    return join_records(records, [record.note for record in records])[0] if task.divide else list(records)


def _joined(texts: Sequence[str]) -> str:
    written = ("" if text.strip() == NOT_DISCUSSED else text for text in texts)
    return join_divisions(dict(zip(DIVISIONS, written, strict=True)))


def normalise_text(text: str) -> str:
    """The text with LF newlines, without byte-order marks and without white space at either end."""
    return text.replace("\ufeff", "").replace("\r\n", "\n").replace("\r", "\n").strip()


def is_visible(char: str) -> bool:
    """Whether a character shows: a cell of zero-width spaces, as web pages leave them, is empty."""
    return char.isprintable() and not char.isspace()


def normalise_dialogue(text: str) -> str:
    """`normalise_text`, with lines stripped, empty lines removed and MTS-Dialog's misspelt tags corrected.

    "Guest_clinican : Hi " becomes "Guest_clinician: Hi"; tags that are not MTS-Dialog's stay as they are.
    """
    lines = (line.strip() for line in normalise_text(text).split("\n"))
    return "\n".join(TAG.sub(_spell_tag, line, count=1) if TAG.match(line) else line for line in lines if line)


def dialogue_of(row: Row, column: str | None) -> tuple[str, list[str]]:
    """The normalised dialogue of a row (a JSON list of turns becomes lines), and problems with such a list."""
    if column is None:
        return "", []
    text = row.cells[column]
    if row.not_text.get(column) == "list":
        try:
            text = join_turns(text)
        except TurnError as error:
            return "", [f"{row.place}, column {column!r}: {error}"]
    return normalise_dialogue(text), []


def records_fingerprint(records: Sequence[Record]) -> str:
    """A sha256 (hex) of ids, parts, choices and notes in their order, after normalisation."""
    digest = hashlib.sha256()
    for record in records:
        fields = [record.id, *record.parts.values(), *([record.choice] if record.choice else []), record.note]
        digest.update(json.dumps(fields).encode("ascii") + b"\n")
    return digest.hexdigest()


def find_repeats(records: Sequence[Record]) -> list[str]:
    """Ids of the records whose dialogue an earlier one has too, compared without regard to newlines and spaces."""
    seen: set[tuple[str, str, str]] = set()
    repeats = []
    for record in records:
        key = _content_key(record)
        if key in seen:
            repeats.append(record.id)
        seen.add(key)
    return repeats


def find_shared(train: Sequence[Record], valid: Sequence[Record]) -> list[str]:
    """Ids of the records of `valid` whose dialogue `train` has too, compared without regard to newlines and spaces."""
    known = {_content_key(record) for record in train}
    return [record.id for record in valid if _content_key(record) in known]


def _content_key(record: Record) -> tuple[str, str, str]:
    """Equal for repeated rows. Divisions of one visit, or questions about different images, are no repetition."""
    return dialogue_key(record.source_text), record.parts.get("division", ""), record.parts.get(IMAGES, "")


def dialogue_key(dialogue: str) -> str:
    """The dialogue's normalised text with white space collapsed: equal for copies that differ in white space only."""
    return " ".join(normalise_dialogue(dialogue).split())


def _spell_tag(match: re.Match[str]) -> str:
    number = f"_{match[2]}" if match[2] else ""
    return f"{TAG_SPELLINGS[match[1]]}{number}: "


def _to_record(row: Row, names: dict[str, str], columns: Columns) -> tuple[Record, list[str]]:
    """The record of a row, and problems with dialogues given as lists."""
    task, problems, parts = columns.task, [], {}

    def cell(part: str) -> str:
        return normalise_text(row.cells[names[part]]) if part in names else ""

    for part in task.parts:
        if part.form == "block":
            parts[part.name], wrong = dialogue_of(row, names.get(part.name))
            problems += wrong
        else:
            parts[part.name] = cell(part.name)
    if columns.section is not None and task.section_part is not None:
        parts[task.section_part.name] = normalise_text(columns.section)
    choice = task.answer.choice.option(cell("choice")) if task.answer.choice else None
    record = Record(
        id=cell("id") if "id" in names else str(row.number),
        parts=parts,
        note=cell("note"),
        choice=choice or "",
        source=task.source,
    )
    return record, problems


def _row_problems(
    row: Row, record: Record, names: dict[str, str], columns: Columns, *, require_note: bool
) -> list[str]:
    required = {"id": record.id, **{part: text for part, text in record.parts.items() if part != IMAGES}}
    if require_note:
        required |= {"note": record.note} if columns.task.answer.choice is None else {"choice": record.choice}
    blocks = {part.name for part in columns.task.parts if part.form == "block"}
    problems = []
    for part, name in names.items():
        kind = row.not_text.get(name)
        is_fit = (part == "id" and kind == "int") or (part in blocks and kind == "list")
        is_fit = is_fit or (part not in required and kind == ABSENT)
        problem = None if is_fit else not_text_problem(row, name, null_is_empty=True)
        if problem is not None:
            problems.append(problem)
        elif part in required and not any(map(is_visible, required[part])):
            problems.append(f"{row.place}, column {name!r}: {_emptiness(row.cells[name], part, columns)}")
    section = columns.task.section_part
    return problems + formula_problems([row], (names.get("id"), names.get(section.name) if section else None))


def _emptiness(cell: str, part: str, columns: Columns) -> str:
    choice = columns.task.answer.choice
    if part != "choice" or choice is None or not cell.strip():
        return "empty"
    return f"none of the {len(choice.options)} options, {', '.join(choice.options[:5])}"
