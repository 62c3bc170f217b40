"""Strict reading of CSV, JSONL and JSON tables: every cell is exactly the text in the file, or the file is refused.

The standard library's `csv` reads the cells, because `datasets` and pandas turn a cell "None" into a null and
silently move the cells of a ragged row into other columns. Messages name rows, lines and columns, never contents.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medsum_core.data.disclosure import describe_columns, runs_in_spreadsheet, show_column
from medsum_core.errors import InputError, raise_all

MAX_PROBLEMS_SHOWN = 20
SUFFIXES = (".csv", ".jsonl", ".json")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row: `number` counts from 1 without the column names, `line` is where it starts in the file (0: unknown).

    `not_text`: column -> type of a JSON value that was no string; `cells` holds those as JSON text (null: "").
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
    """A whole file: `source` is the name for messages, `columns` the names as the file spells them, in its order."""

    source: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]

    def find_column(self, name: str) -> str | None:
        """The file's own spelling of a column, found without regard to case; None when it has no such column."""
        return next((column for column in self.columns if column.casefold() == name.casefold()), None)

    def describe_columns(self) -> str:
        """A clause that counts the columns and names those with a known name: see `disclosure.describe_columns`."""
        return describe_columns(self.columns)


def read_table(path: str | Path) -> list[dict[str, str]]:
    """The rows of a .csv, .jsonl or .json file (an array of objects) as text by column, keys as in the file.

    Raises InputError as `load_table` does. Cells are exact: no stripping, no nulls, no numbers.
    """
    return [row.cells for row in load_table(path).rows]


def load_table(path: str | Path) -> Table:
    """`read_table` with each row's number and line, for messages.

    Raises InputError that lists every problem of the file (at most 20 of them): absent or unreadable file, unknown
    suffix, not UTF-8, no content, no rows, bad quotes, rows with another number of fields, duplicate column names.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(f"{path}: cannot tell the format from the name; use a file that ends in {', '.join(SUFFIXES)}")
    text = _read_text(path)
    problems: list[str] = []
    if suffix == ".csv":
        columns, rows = _parse_csv(text, problems)
    else:
        objects = _parse_jsonl(text, problems) if suffix == ".jsonl" else _parse_json(text, problems)
        columns, rows = _rows_of_objects(objects, problems)
    if not rows and not problems:
        problems.append("has column names but no rows" if columns else "holds no rows")
    raise_problems(str(path), problems)
    return Table(source=str(path), columns=columns, rows=tuple(rows))


def table_from_objects(source: str, objects: Iterable[Any]) -> Table:
    """A table of dicts, under the same rules as a JSON file's; `source` is its name in messages."""
    problems: list[str] = []
    numbered = ((number, 0, entry) for number, entry in enumerate(objects, start=1))
    columns, rows = _rows_of_objects(numbered, problems)
    if not rows and not problems:
        problems.append("holds no rows")
    raise_problems(source, problems)
    return Table(source=source, columns=columns, rows=tuple(rows))


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


def _read_text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise InputError(f"{path}: line {line}: not UTF-8 (byte {error.start}); save the file as UTF-8") from None
    if not text.strip():
        raise InputError(f"{path}: the file is empty")
    return text


def _parse_csv(text: str, problems: list[str]) -> tuple[tuple[str, ...], list[Row]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    columns: tuple[str, ...] = ()
    rows: list[Row] = []
    line, number = 1, 0
    try:
        for fields in reader:
            start, line = line, reader.line_num + 1
            if not fields:  # a blank line holds nothing, except in a file of one column, where it is an empty cell
                if len(columns) != 1:
                    continue
                fields = [""]
            if not columns:
                columns = tuple(name.strip() for name in fields)
                problems.extend(_duplicate_names(columns))
                continue
            number += 1
            row = Row(number=number, line=start, cells=dict(zip(columns, fields, strict=False)), not_text={})
            if len(fields) != len(columns):
                problems.append(f"{row.place}: {len(fields)} fields where there are {len(columns)} columns")
            else:
                rows.append(row)
    except csv.Error as error:
        problems.append(
            f"row {number + 1} (starts on line {line}): bad CSV, {error}; look for a quote that is not closed or not "
            "doubled. Rows after it were not checked"
        )
    return columns, rows


def _duplicate_names(columns: Sequence[str]) -> list[str]:
    folded = [column.casefold() for column in columns]
    places = [str(index + 1) for index, name in enumerate(folded) if name in folded[:index]]
    return [f"columns {', '.join(places)} have the name of an earlier one (case does not count)"] if places else []


def _parse_jsonl(text: str, problems: list[str]) -> Iterator[tuple[int, int, Any]]:
    lines = [(line, content) for line, content in enumerate(text.split("\n"), start=1) if content.strip()]
    for number, (line, content) in enumerate(lines, start=1):
        try:
            yield number, line, json.loads(content, object_pairs_hook=_unique_keys)
        except (ValueError, RecursionError) as error:
            problems.append(f"row {number} (line {line}): not a JSON object ({_why(error)})")


def _parse_json(text: str, problems: list[str]) -> Iterator[tuple[int, int, Any]]:
    try:
        content = json.loads(text, object_pairs_hook=_unique_keys)
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", None)
        problems.append(f"{f'line {line}: ' if line else ''}not JSON ({_why(error)})")
        return
    if not isinstance(content, list):
        problems.append("not an array of objects")
        return
    yield from ((number, 0, entry) for number, entry in enumerate(content, start=1))


class _DuplicateKeyError(ValueError):
    pass


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key.casefold() for key, _ in pairs}) < len(pairs):
        raise _DuplicateKeyError
    return dict(pairs)


def _why(error: Exception) -> str:
    """The decoder's own words where they quote nothing of the file."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg}, column {error.colno}"
    return "a key occurs twice in one object" if isinstance(error, _DuplicateKeyError) else "nested too deeply"


def _rows_of_objects(objects: Iterator[tuple[int, int, Any]], problems: list[str]) -> tuple[tuple[str, ...], list[Row]]:
    columns: tuple[str, ...] = ()
    rows: list[Row] = []
    for number, line, entry in objects:
        place = f"row {number} (line {line})" if line else f"row {number}"
        if not isinstance(entry, dict) or not entry:
            problems.append(f"{place}: not a JSON object with columns")
            continue
        columns = columns or tuple(entry)
        if set(entry) != set(columns):
            problems.append(f"{place}: {len(entry)} keys that are not the {len(columns)} keys of the first row")
            continue
        broken = [
            show_column(name, number)
            for number, (name, value) in enumerate(entry.items(), start=1)
            if not (_encodable(name) and _encodable(value))
        ]
        if broken:
            problems.append(f"{place}: column {', '.join(broken)} holds half a character (a lone surrogate)")
            continue
        not_text = {name: type(value).__name__ for name, value in entry.items() if not isinstance(value, str)}
        cells = {name: _as_text(value) for name, value in entry.items()}
        rows.append(Row(number=number, line=line, cells=cells, not_text=not_text))
    return columns, rows


def _as_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value, ensure_ascii=False)


def _encodable(value: Any) -> bool:
    try:
        _as_text(value).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
