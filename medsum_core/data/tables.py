"""Strict reading of CSV, JSONL and JSON tables: every cell is exactly the file's text, or the file is refused.

Columns may be separated by commas, semicolons or tabs, files compressed by gzip. Messages name rows, lines and columns,
never contents.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from medsum_core.data.csv_tables import ParsedRows, parse_csv
from medsum_core.data.json_tables import parse_json, rows_of_objects
from medsum_core.data.rows import Row, Table, raise_problems
from medsum_core.data.text_files import read_text_file

MAX_CELL_CHARACTERS = 1 << 24  # a longer cell is an unclosed quote, or no text


def read_table(path: str | Path) -> list[dict[str, str]]:
    """The rows of a table's file as text by column, keys as in the file: see `load_table`.

    Raises InputError as `load_table` does. Cells are exact: no stripping, no nulls, no numbers.
    """
    return [row.cells for row in load_table(path).rows]


def load_table(path: str | Path) -> Table:
    """The rows of a .csv, .tsv, .jsonl, .ndjson or .json file, also compressed (.gz), with their numbers and lines.

    Raises InputError that lists every problem of the file (at most 20 of them): absent or unreadable file, unknown
    suffix, not UTF-8, no content, no rows, bad quotes, rows with another number of fields, duplicate column names,
    cells of more than 16 Mi characters.
    """
    path = Path(path)
    file = read_text_file(path)
    if file.format == "csv" and file.text.lstrip().startswith(('{"', "[{")):
        parsed = ParsedRows(problems=["holds JSON, not CSV: let its name end in .jsonl (a line a row) or .json"])
    else:
        parsed = parse_csv(file.text) if file.format == "csv" else parse_json(file.text, format=file.format)
    return table_of(str(path), parsed)


def table_from_objects(source: str, objects: Iterable[Any]) -> Table:
    """A table of dicts, under the same rules as a JSON file's; `source` is its name in messages."""
    return table_of(source, rows_of_objects((number, 0, entry) for number, entry in enumerate(objects, start=1)))


def table_of(source: str, parsed: ParsedRows) -> Table:
    """The table of what a parser found. Raises InputError with all problems, and where there are no rows."""
    problems = [*parsed.problems, *(problem for row in parsed.rows for problem in _size_problems(row, parsed.columns))]
    if not parsed.rows and not problems:
        problems.append("has column names but no rows" if parsed.columns else "holds no rows")
    raise_problems(source, problems)
    return Table(source=source, columns=parsed.columns, rows=tuple(parsed.rows), notices=tuple(parsed.notices))


def _size_problems(row: Row, columns: tuple[str, ...]) -> list[str]:
    return [
        f"{row.place}, column {number}: a cell of {len(row.cells[name]):,} characters, where at most "
        f"{MAX_CELL_CHARACTERS:,} are read: is a quote before it not closed?"
        for number, name in enumerate(columns, start=1)
        if len(row.cells[name]) > MAX_CELL_CHARACTERS
    ]
