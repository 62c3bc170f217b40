"""The files that scoring reads: references and predictions in any of three formats, matched by id."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from medsum_core.data.columns import DEFAULT_COLUMNS, Columns
from medsum_core.data.dirt import describe_dirt
from medsum_core.data.disclosure import show_ids
from medsum_core.data.records import Record, SourceRows, dialogue_of, normalise_text, number_doubled_ids
from medsum_core.data.rows import Row, Table, formula_problems, not_text_problem, raise_problems
from medsum_core.data.tables import load_table
from medsum_core.errors import InputError

CANDIDATES: dict[str, Sequence[str]] = {  # the usual names, by part of a record
    "id": ("id", "TestID"),
    "note": ("section_text", "note", "SystemOutput2"),
    "section_header": ("section_header", "SystemOutput1"),
    "dialogue": ("dialogue",),
}


def read_references(path: Path, *, columns: Columns = DEFAULT_COLUMNS) -> SourceRows:
    """Reference notes as records: id and note as written; header and dialogue where the file has them, else "".

    A column that `columns` names otherwise than by default is that one and no other. Raises InputError as `load_table`
    does, and for absent or ambiguous columns, cells that are not text, repeated or empty ids, ids and headers that a
    spreadsheet would run, and empty notes.
    """
    named = {part: (name,) for part, name in _own_names(columns).items()}
    return _read_notes(path, candidates=CANDIDATES | named, columns=columns, allow_empty=False)


def read_predictions(path: Path, *, columns: Columns = DEFAULT_COLUMNS) -> SourceRows:
    """A system's notes as records, as `read_references`; notes may be empty, as a system may predict.

    `columns` only counts where the file has none of the usual names: those of the references are rarely a system's.
    """
    table = load_table(path)
    candidates = dict(CANDIDATES)
    for part, name in _own_names(columns).items():
        if not any(map(table.find_column, CANDIDATES[part])):
            candidates[part] = (name,)
    return _read_notes(path, candidates=candidates, columns=columns, allow_empty=True)


def _own_names(columns: Columns) -> dict[str, str]:
    """The columns that are named otherwise than by default, by part of a record."""
    named = {part: getattr(columns, part) for part in CANDIDATES}
    return {part: name for part, name in named.items() if name is not None}


def _read_notes(
    path: Path, *, candidates: Mapping[str, Sequence[str]], columns: Columns, allow_empty: bool
) -> SourceRows:
    table = load_table(path)
    names = {part: _one_column(table, candidates[part], required=part in ("id", "note")) for part in CANDIDATES}
    problems: list[str] = []
    notes = []
    for row in table.rows:
        note, wrong = _to_note(row, names, columns)
        problems += wrong
        empty = [part for part, text in (("id", note.id), ("note", note.note)) if not text.strip()]
        not_text = not_text_problem(row, str(names["note"]))
        if not_text:
            problems.append(not_text)
        elif "id" in empty or ("note" in empty and not allow_empty):
            problems.append(f"{row.place}, column {names[empty[0]]!r}: empty")
        problems.extend(formula_problems([row], (names["id"], names["section_header"])))
        notes.append(note)
    if columns.number_rows:
        notes = number_doubled_ids(notes)
    seen: dict[str, int] = {}
    for row, note in zip(table.rows, notes, strict=True):
        first = seen.setdefault(note.id, row.number)
        if first != row.number:
            problems.append(
                f"{row.place}, column {names['id']!r}: the same id as row {first} (--number_rows tells them apart)"
            )
    raise_problems(table.source, problems)
    dirt = describe_dirt(table.rows, {part: name for part, name in names.items() if name})
    notices = tuple(f"{table.source}: {line}" for line in (*table.notices, *dirt))
    return SourceRows(name=table.source, records=notes, notices=notices)


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


def _to_note(row: Row, names: Mapping[str, str | None], columns: Columns) -> tuple[Record, list[str]]:
    """A row as a record, and what is wrong with its dialogue."""
    cells = {part: row.cells[name] if name else "" for part, name in names.items()}
    dialogue, problems = dialogue_of(row, names["dialogue"])
    note = Record(
        id=normalise_text(cells["id"]),
        note=cells["note"],
        parts={
            "section_header": normalise_text(cells["section_header"] if columns.section is None else columns.section),
            "dialogue": dialogue,
        },
    )
    return note, problems
