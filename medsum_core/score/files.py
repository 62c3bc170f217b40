"""The files that scoring reads: references and predictions in any of three formats, matched by id."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medsum_core.data.disclosure import show_ids
from medsum_core.data.records import Record, normalise_dialogue, normalise_text
from medsum_core.data.tables import Row, Table, formula_problems, load_table, raise_problems
from medsum_core.errors import InputError

ID_COLUMNS = ("id", "TestID")
NOTE_COLUMNS = ("section_text", "note", "SystemOutput2")
HEADER_COLUMNS = ("section_header", "SystemOutput1")


def read_notes(path: Path, *, allow_empty: bool) -> list[Record]:
    """Notes to score, as records: id and note as written; header and dialogue where the file has them, else "".

    Raises InputError as `load_table` does, and for absent or ambiguous columns, cells that are not text, repeated
    or empty ids, ids and headers that a spreadsheet would run, and empty notes unless `allow_empty` (a system may
    predict an empty note).
    """
    table = load_table(path)
    names = {
        "id": _one_column(table, ID_COLUMNS, required=True),
        "note": _one_column(table, NOTE_COLUMNS, required=True),
        "section_header": _one_column(table, HEADER_COLUMNS, required=False),
        "dialogue": _one_column(table, ("dialogue",), required=False),
    }
    problems: list[str] = []
    seen: dict[str, int] = {}
    notes = []
    for row in table.rows:
        note = _to_note(row, names)
        first = seen.setdefault(note.id, row.number)
        if first != row.number:
            problems.append(f"{row.place}, column {names['id']!r}: the same id as row {first}")
        empty = [part for part, text in (("id", note.id), ("note", note.note)) if not text.strip()]
        not_text = row.not_text.get(names["note"] or "")
        if not_text:
            problems.append(f"{row.place}, column {names['note']!r}: {not_text}, not text")
        elif "id" in empty or ("note" in empty and not allow_empty):
            problems.append(f"{row.place}, column {names[empty[0]]!r}: empty")
        problems.extend(formula_problems([row], (names["id"], names["section_header"])))
        notes.append(note)
    raise_problems(table.source, problems)
    return notes


def align(references: Sequence[Record], predictions: Sequence[Record], *, source: str) -> list[str]:
    """The predicted notes in the order of the references. Raises InputError when the ids are not the same set."""
    by_id = {prediction.id: prediction.note for prediction in predictions}
    wanted = {reference.id for reference in references}
    problems = []
    for ids, what in (
        ([reference.id for reference in references if reference.id not in by_id], "references have no prediction"),
        ([prediction.id for prediction in predictions if prediction.id not in wanted], "predictions have no reference"),
    ):
        if ids:
            problems.append(f"{len(ids)} {what} (ids {show_ids(ids)}); rows are matched by id")
    raise_problems(source, problems)
    return [by_id[reference.id] for reference in references]


def _one_column(table: Table, candidates: Sequence[str], *, required: bool) -> str | None:
    found = [column for column in map(table.find_column, candidates) if column]
    if len(found) > 1:
        raise InputError(f"{table.source}: columns {', '.join(found)} could all be meant; keep one of them")
    if required and not found:
        raise InputError(f"{table.source}: no column {' or '.join(map(repr, candidates))}; {table.describe_columns()}")
    return found[0] if found else None


def _to_note(row: Row, names: dict[str, str | None]) -> Record:
    cells = {part: row.cells[name] if name else "" for part, name in names.items()}
    return Record(
        id=normalise_text(cells["id"]),
        note=cells["note"],
        section_header=normalise_text(cells["section_header"]),
        dialogue=normalise_dialogue(cells["dialogue"]),
    )
