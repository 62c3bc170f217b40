"""The files that scoring reads: notes in the columns of several sources, matched by id, or by order without ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medsum_core.data.artefacts import describe_artefacts
from medsum_core.data.columns import DEFAULT_COLUMNS, Columns, find_first
from medsum_core.data.disclosure import show_ids
from medsum_core.data.records import Record, dialogue_of, normalise_text, number_doubled_ids
from medsum_core.data.rows import Row, Table, formula_problems, not_text_problem, raise_problems, repeated_id_problems
from medsum_core.data.tables import load_table
from medsum_core.errors import InputError
from medsum_core.tasks.task import Task

ID_COLUMNS = ("id", "TestID", "encounter_id", "pubid")
CANDIDATES: dict[str, tuple[str, ...]] = {  # the usual names, by part of a record, in addition to those of the task
    "id": ID_COLUMNS,
    "note": ("section_text", "note", "SystemOutput", "SystemOutput2"),
    "section_header": ("section_header", "SystemOutput1"),
    "dialogue": ("dialogue",),
}
BY_ORDER = "neither file has ids, so its rows were matched by their order with those of"


@dataclass(frozen=True, kw_only=True)
class ScoredRows:
    """The notes of one file, in its order. Without an id column (`has_ids`) its rows are numbered from 1.

    `has_headers`: whether a column (or the settings) gives the section. `notices`: how it was read, no text.
    """

    name: str
    records: list[Record]
    notices: tuple[str, ...]
    has_ids: bool
    has_headers: bool


def read_references(path: Path, *, columns: Columns = DEFAULT_COLUMNS) -> ScoredRows:
    """Reference notes as records: id and note as written; header and dialogue where the file has them, else "".

    If `columns` differs from the default name of a column, only that name is accepted; else the task's own columns
    count before the usual ones, the first that is found. Raises InputError as `load_table` does, and for absent or
    ambiguous columns, cells that are not text, repeated or empty ids, ids and headers that a spreadsheet would run, and
    empty notes.
    """
    table = load_table(path)
    found = {part: find_first(table, names) for part, names in _task_names(columns.task).items()}
    chosen: dict[str, tuple[str, ...]]
    chosen = {part: (name,) for part, name in (found | _own_names(columns)).items() if name is not None}
    return _read_notes(table, candidates=_usual_names(columns.task) | chosen, columns=columns, allow_empty=False)


def read_predictions(path: Path, *, columns: Columns = DEFAULT_COLUMNS) -> ScoredRows:
    """A system's notes as records, as `read_references`; a note may be empty.

    `columns` is used only if the file has none of the usual names, as the references' names are rarely a system's.
    """
    table = load_table(path)
    candidates = _usual_names(columns.task)
    for part, name in _own_names(columns).items():
        if not any(map(table.find_column, candidates[part])):
            candidates[part] = (name,)
    return _read_notes(table, candidates=candidates, columns=columns, allow_empty=True)


def _usual_names(task: Task) -> dict[str, tuple[str, ...]]:
    of_task = _task_names(task)
    return {part: tuple(dict.fromkeys(names + of_task[part])) for part, names in CANDIDATES.items()}


def _task_names(task: Task) -> dict[str, tuple[str, ...]]:
    source = next(part.columns for part in task.parts if part.name == task.source)
    header = task.section_part.columns if task.section_part else ()
    return {"id": task.id_columns, "note": task.answer.columns, "section_header": header, "dialogue": source}


def _own_names(columns: Columns) -> dict[str, str]:
    """The columns whose names differ from the default, by part of a record."""
    named = {part: getattr(columns, part) for part in CANDIDATES}
    return {part: name for part, name in named.items() if name is not None}


def _read_notes(
    table: Table, *, candidates: Mapping[str, Sequence[str]], columns: Columns, allow_empty: bool
) -> ScoredRows:
    required = {"note"} if columns.id is None else {"note", "id"}
    names = {part: one_column(table, candidates[part], required=part in required) for part in CANDIDATES}
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
    problems += repeated_id_problems(table.rows, [note.id for note in notes], names["id"])
    raise_problems(table.source, problems)
    texts = {columns.task.source: names["dialogue"], "note": names["note"]}
    artefacts = describe_artefacts(table.rows, {part: name for part, name in texts.items() if name})
    notices = tuple(f"{table.source}: {line}" for line in (*table.notices, *artefacts))
    return ScoredRows(
        name=table.source,
        records=notes,
        notices=notices,
        has_ids=names["id"] is not None,
        has_headers=names["section_header"] is not None or columns.section is not None,
    )


def align(references: ScoredRows, predictions: ScoredRows) -> tuple[list[Record], list[str]]:
    """The predictions in the order of the references, and a notice where they were matched by order.

    By order only where neither file has ids and both have as many rows. Raises InputError where one file alone has
    ids, where the numbers of rows differ, and when the ids are not the same set.
    """
    order = match_rows(
        [reference.id for reference in references.records] if references.has_ids else len(references.records),
        [prediction.id for prediction in predictions.records] if predictions.has_ids else len(predictions.records),
        names=(references.name, predictions.name),
    )
    notices = [] if references.has_ids else [f"{predictions.name}: {BY_ORDER} {references.name}"]
    return [predictions.records[index] for index in order], notices


def check_headers(references: ScoredRows, *predictions: ScoredRows) -> None:
    """Raise InputError where a task that predicts section headers finds none: in a file, or in a reference."""
    for rows in (references, *predictions):
        if not rows.has_headers:
            wanted = " or ".join(map(repr, CANDIDATES["section_header"]))
            raise InputError(f"{rows.name}: no column {wanted}, which holds the section headers")
    if empty := [record.id for record in references.records if not record.section_header]:
        raise InputError(f"{references.name}: {len(empty)} rows have no section header (ids {show_ids(empty)})")


def match_rows(
    references: Sequence[str] | int, predictions: Sequence[str] | int, *, names: tuple[str, str]
) -> list[int]:
    """For each reference the index of its prediction. A side is its ids, or the number of its rows if it has none.

    `names` of both files are for messages. Raises InputError as `align`.
    """
    if isinstance(references, int) or isinstance(predictions, int):
        return _match_by_order(references, predictions, names=names)
    place = {name: index for index, name in enumerate(predictions)}
    wanted = set(references)
    problems = []
    for ids, what in (
        ([name for name in references if name not in place], "references have no prediction"),
        ([name for name in predictions if name not in wanted], "predictions have no reference"),
    ):
        if ids:
            problems.append(f"{len(ids)} {what} (ids {show_ids(ids)}); rows are matched by id")
    raise_problems(names[1], problems)
    return [place[name] for name in references]


def _match_by_order(
    references: Sequence[str] | int, predictions: Sequence[str] | int, *, names: tuple[str, str]
) -> list[int]:
    if not isinstance(references, int) or not isinstance(predictions, int):
        without = names[0] if isinstance(references, int) else names[1]
        raise InputError(
            f"{without}: no column {' or '.join(map(repr, ID_COLUMNS))}, and the other file has ids: rows are "
            "matched by id (by order only where neither file has any)"
        )
    if references != predictions:
        raise InputError(
            f"{names[1]}: {predictions} rows, {names[0]} has {references}; without ids in both files rows can only be "
            "matched by order"
        )
    return list(range(references))


def one_column(table: Table, candidates: Sequence[str], *, required: bool) -> str | None:
    """The file's own spelling of one of these columns. Raises InputError where several or, `required`, none exist."""
    found = list(dict.fromkeys(column for column in map(table.find_column, candidates) if column))
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
        id=normalise_text(cells["id"]) if names["id"] else str(row.number),
        note=cells["note"],
        parts={
            "section_header": normalise_text(cells["section_header"] if columns.section is None else columns.section),
            "dialogue": dialogue,
        },
    )
    return note, problems
