"""Which column of a file holds what, and the check that a file has them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from medsum_core.data.disclosure import runs_in_spreadsheet
from medsum_core.data.rows import Table
from medsum_core.data.turns import with_our_columns
from medsum_core.errors import InputError


class ColumnSettings(Protocol):
    """The settings of a run that say how its files are read (`DataArguments` has them)."""

    @property
    def id_column(self) -> str: ...
    @property
    def dialogue_column(self) -> str: ...
    @property
    def note_column(self) -> str: ...
    @property
    def section_column(self) -> str: ...
    @property
    def section(self) -> str | None: ...
    @property
    def number_rows(self) -> bool: ...


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Which column holds what: case, and spaces for underscores, ignored.

    A file without the default id column has its rows numbered from 1. `section`: the section of all rows, in the place
    of a column. `number_rows`: rows that share an id get a number each, `ID#1, ID#2, ...`; others keep theirs. Raises
    InputError for a `section` that is empty or that a spreadsheet would run.
    """

    id: str = "ID"
    dialogue: str = "dialogue"
    note: str = "section_text"
    section_header: str = "section_header"
    section: str | None = None
    number_rows: bool = False

    def __post_init__(self) -> None:
        if self.section is not None and (not self.section.strip() or runs_in_spreadsheet(self.section)):
            raise InputError("--section: empty, or begins like a formula (=, +, -, @), which a spreadsheet would run")


DEFAULT_COLUMNS = Columns()


def columns_of(settings: ColumnSettings) -> Columns:
    """The columns that a run's settings name."""
    return Columns(
        id=settings.id_column,
        dialogue=settings.dialogue_column,
        note=settings.note_column,
        section_header=settings.section_column,
        section=settings.section,
        number_rows=settings.number_rows,
    )


def resolve_columns(table: Table, columns: Columns, *, require_note: bool) -> tuple[Table, dict[str, str]]:
    """The table and, by part of a record (id, dialogue, note, section_header), its spelling of each column it has.

    Rows in a form of chat models get our columns: see `with_our_columns`. Raises InputError for absent columns.
    """
    if (columns.dialogue, columns.note) == (DEFAULT_COLUMNS.dialogue, DEFAULT_COLUMNS.note):
        table = with_our_columns(table, dialogue=columns.dialogue, note=columns.note)
    wanted = {"id": columns.id, "dialogue": columns.dialogue, "note": columns.note}
    if columns.section is None:
        wanted["section_header"] = columns.section_header
    optional = {"id"} if columns.id == DEFAULT_COLUMNS.id else set()
    if not require_note:
        optional.add("note")
    found = {part: table.find_column(name) for part, name in wanted.items()}
    absent = {part: repr(wanted[part]) for part, name in found.items() if name is None and part not in optional}
    if absent:
        remedy = " (or one section for all rows: --section NAME)" if "section_header" in absent else ""
        raise InputError(
            f"{table.source}: no column {', '.join(absent.values())}; {table.describe_columns()}. "
            f"Rename the columns or say which ones to read: {', '.join(map(_flag, absent))}{remedy}"
        )
    return table, {part: name for part, name in found.items() if name is not None}


def _flag(part: str) -> str:
    return f"--{part.removesuffix('_header')}_column NAME"
