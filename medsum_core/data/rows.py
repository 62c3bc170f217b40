"""A table as it was read: rows of unchanged cells with their places in the file, and messages about them.

Messages name rows, lines and columns, never contents.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from medsum_core.data.disclosure import describe_columns, fold_column, runs_in_spreadsheet
from medsum_core.errors import raise_all

MAX_PROBLEMS_SHOWN = 20
MAX_ROWS_NAMED = 5
ABSENT = "absent"  # in `Row.not_text`: the object of this row has no such key


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row: `number` counts from 1 without the column names, `line` is where it starts in the file (0: unknown).

    `not_text`: column -> type of a JSON value that was no string, or `ABSENT`; `cells` holds those as JSON text (null
    and absent: "").
    """

    number: int
    line: int
    cells: dict[str, str]
    not_text: dict[str, str]

    @property
    def place(self) -> str:
        return f"row {self.number} (line {self.line})" if self.line else f"row {self.number}"


@dataclass(frozen=True, kw_only=True)
class Table:
    """A whole file: `source` is its name in messages, `columns` the names in its spelling and order.

    `notices`: lines for the user on how it was read, e.g. that semicolons separate its columns.
    """

    source: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    notices: tuple[str, ...] = ()

    def find_column(self, name: str) -> str | None:
        """The column of this name as the file spells it (case, spaces, underscores ignored); None if absent."""
        for spelling in (str, str.casefold, fold_column):
            found = [column for column in self.columns if column and spelling(column) == spelling(name)]
            if found:
                return found[0]
        return None

    def describe_columns(self) -> str:
        """A clause that counts the columns and names those with a known name: see `disclosure.describe_columns`."""
        return describe_columns(self.columns)


def name_rows(rows: Sequence[Row]) -> str:
    """Rows for a message, by number and line: the first five, and how many more there are."""
    more = f" and {len(rows) - MAX_ROWS_NAMED} more" if len(rows) > MAX_ROWS_NAMED else ""
    return ", ".join(row.place for row in rows[:MAX_ROWS_NAMED]) + more


def raise_problems(source: str, problems: Sequence[str]) -> None:
    """Raise one InputError with every problem of one file, the list capped; return when there is none."""
    shown = [f"{source}: {problem}" for problem in problems[:MAX_PROBLEMS_SHOWN]]
    if len(problems) > MAX_PROBLEMS_SHOWN:
        shown.append(f"{source}: and {len(problems) - MAX_PROBLEMS_SHOWN} more problems")
    raise_all(shown)


def formula_problems(rows: Iterable[Row], columns: Iterable[str | None]) -> list[str]:
    """A message for each cell of these columns (None: absent) that `runs_in_spreadsheet`, naming row and column."""
    names = [name for name in columns if name is not None]
    return [
        f"{row.place}, column {name!r}: begins like a formula (=, +, -, @ or a tab), which a spreadsheet would run; "
        "change it"
        for row in rows
        for name in names
        if runs_in_spreadsheet(row.cells[name])
    ]


def repeated_id_problems(rows: Iterable[Row], ids: Iterable[str], column: str | None) -> list[str]:
    """A message for each row whose id, of the file's column `column`, an earlier row has; empty ids are no repeats."""
    first: dict[str, int] = {}
    return [
        f"{row.place}, column {column!r}: the same id as row {first[name]} (--number_rows tells them apart)"
        for row, name in zip(rows, ids, strict=True)
        if name and first.setdefault(name, row.number) != row.number
    ]


def not_text_problem(row: Row, column: str, *, null_is_empty: bool = False) -> str | None:
    """A message where the JSON value of this cell is no text; None for text and, with `null_is_empty`, for null."""
    kind = row.not_text.get(column)
    if kind is None or (null_is_empty and kind == "NoneType"):
        return None
    if kind == ABSENT:
        return f"{row.place}: no key {column!r}, which other rows have"
    return f"{row.place}, column {column!r}: {kind}, not text"
