"""Which columns of a file hold the parts of a record, and the check that the file has them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from medsum_core.data.disclosure import runs_in_spreadsheet
from medsum_core.data.rows import Table
from medsum_core.data.turns import with_our_columns
from medsum_core.errors import InputError
from medsum_core.tasks.built_in.section import TASK as SECTION
from medsum_core.tasks.find import find_task
from medsum_core.tasks.task import Task


class ColumnSettings(Protocol):
    """The settings of a run that say how its files are read (`DataArguments` has them)."""

    @property
    def task(self) -> str: ...
    @property
    def id_column(self) -> str | None: ...
    @property
    def dialogue_column(self) -> str | None: ...
    @property
    def note_column(self) -> str | None: ...
    @property
    def section_column(self) -> str | None: ...
    @property
    def section(self) -> str | None: ...
    @property
    def number_rows(self) -> bool: ...
    @property
    def image_column(self) -> str | None: ...


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The column of each part of a record; None: the task's default. Case, and spaces for underscores, are ignored.

    `dialogue` is the column of the source text, whatever the task calls it. Rows of a file without an id column are
    numbered from 1. `section`: one section for all rows instead of a column. `number_rows`: rows that share an id get
    `ID#1, ID#2, ...`; others keep theirs. Raises InputError for a `section` that is empty or that a spreadsheet would
    run as a formula, and where the task has no sections or images.
    """

    task: Task = SECTION
    id: str | None = None
    dialogue: str | None = None
    note: str | None = None
    section_header: str | None = None
    section: str | None = None
    number_rows: bool = False
    image: str | None = None

    def __post_init__(self) -> None:
        if self.section is not None and (not self.section.strip() or runs_in_spreadsheet(self.section)):
            raise InputError("--section: empty, or begins like a formula (=, +, -, @), which a spreadsheet would run")
        if self.task.section_part is None and (self.section or self.section_header):
            raise InputError(f"--section, --section_column: the task {self.task.name} knows no sections; leave it out")
        if self.task.images_part is None and self.image is not None:
            raise InputError(f"--image_column: the task {self.task.name} shows no images; take vqa-rad or findings")

    def candidates(self) -> dict[str, tuple[str, ...]]:
        """The possible columns of each part of a record (`id`, the task's parts, `choice`, `note`), by priority.

        The section is left out where `section` is given, as are parts that the task makes itself.
        """
        task, found = self.task, {"id": _own(self.id, self.task.id_columns)}
        found[task.source] = ()  # fixes the order in which absent columns are named: what every task has comes first
        if task.answer.columns:
            found["note"] = _own(self.note, task.answer.columns)
        named = {task.source: self.dialogue}
        named |= {task.section_part.name: self.section_header} if task.section_part else {}
        named |= {task.images_part.name: self.image} if task.images_part else {}
        for part in task.parts:
            if part.columns and not (part.is_section and self.section is not None):
                found[part.name] = _own(named.get(part.name), part.columns)
        if task.answer.choice is not None:
            found["choice"] = task.answer.choice.columns
        return found


DEFAULT_COLUMNS = Columns()


def columns_of(settings: ColumnSettings) -> Columns:
    """The columns that a run's settings name."""
    return Columns(
        task=find_task(settings.task),
        id=settings.id_column,
        dialogue=settings.dialogue_column,
        note=settings.note_column,
        section_header=settings.section_column,
        section=settings.section,
        number_rows=settings.number_rows,
        image=settings.image_column,
    )


def find_first(table: Table, candidates: Sequence[str]) -> str | None:
    """The first of these columns that the table has, as the table spells it; None if it has none."""
    return next((column for column in map(table.find_column, candidates) if column), None)


def resolve_columns(table: Table, columns: Columns, *, require_note: bool) -> tuple[Table, dict[str, str]]:
    """The table, and the column of each part of a record (see `Columns.candidates`) as the table spells it.

    Chat-format rows are converted first: see `with_our_columns`. Raises InputError for absent columns.
    """
    task, wanted, as_given = columns.task, columns.candidates(), table.describe_columns()
    if columns.dialogue is None and columns.note is None and task.answer.choice is None:
        table = with_our_columns(table, dialogue=wanted[task.source][0], note=wanted["note"][0])
    found = {part: find_first(table, names) for part, names in wanted.items()}
    optional = {"id"} if columns.id is None else set()
    if not require_note:
        optional |= {"note", "choice"}
    elif task.answer.choice is not None:
        optional.add("note")
    absent = [part for part, name in found.items() if name is None and part not in optional]
    if absent:
        raise InputError(
            f"{table.source}: no column {', '.join(' or '.join(map(repr, wanted[part])) for part in absent)}; "
            f"{as_given}. {_remedy(task, absent)}"
        )
    answers = {found.get("note"), found.get("choice")} if require_note else set()
    if given := [part.name for part in task.parts if (name := found.get(part.name)) and name in answers]:
        raise InputError(
            f"{table.source}: the answer's column is also that of the prompt's {', '.join(given)}, so that the answer "
            "would be given: name another column"
        )
    return table, {part: name for part, name in found.items() if name is not None}


def _own(named: str | None, names: tuple[str, ...]) -> tuple[str, ...]:
    return names if named is None else (named,)


def _remedy(task: Task, absent: Sequence[str]) -> str:
    """What to do about absent columns: the flags that name others, or a task file where there is no flag."""
    flags = {"id": "--id_column NAME", "note": "--note_column NAME", task.source: "--dialogue_column NAME"}
    if task.images_part is not None:
        flags[task.images_part.name] = "--image_column NAME"
    if task.section_part is not None:
        flags[task.section_part.name] = "--section_column NAME (or one section for all rows: --section NAME)"
    known = [flags[part] for part in absent if part in flags]
    if not known:
        return f"Rename the columns, or describe yours in a task file (--task FILE.yaml), as {task.name} needs them"
    return f"Rename the columns or say which ones to read: {', '.join(known)}"
