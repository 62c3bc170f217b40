"""Parse CSV text to rows of unchanged cells: separator, blank rows at the end, problems by row and line; write it.

The standard library's `csv` reads the cells, because `datasets` and pandas turn a cell "None" into a null and
silently move the cells of a ragged row into other columns.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice

from medsum_core.data.disclosure import count_known
from medsum_core.data.rows import Row

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
LINES_OF_TITLE = 6  # the number of lines that are searched for column names
SPACED_QUOTE = re.compile(r" +\"")


@dataclass(kw_only=True)
class ParsedRows:
    """The result of a parser: `rows` without the faulty ones, a message for each of these; `notices` as in `Table`."""

    columns: tuple[str, ...] = ()
    rows: list[Row] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)


def parse_csv(text: str) -> ParsedRows:
    """The rows of a text separated by commas, semicolons or tabs (see `find_separator`).

    A blank between a separator and a quote is ignored if the file can then be parsed: some exports write it. Rows
    without any text at the end are left out.
    """
    separator = find_separator(text)
    parsed = _parse(text, separator, skip_blanks=False)
    if _has_spaced_quotes(text, separator):
        spaced = _parse(text, separator, skip_blanks=True)
        if not spaced.problems:
            spaced.notices.append("blanks between separators and quotes were left out, as the quotes are no text")
            parsed = spaced
    if separator != ",":
        parsed.notices.insert(0, f"columns are separated by {SEPARATORS[separator]}")
    return parsed


def csv_text(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """The rows as CSV with commas and LF newlines, which `parse_csv` reads back unchanged.

    A row with a carriage return has all its cells in quotes: Python before 3.13 leaves one that stands alone without
    them, and every reader takes it for the row's end.
    """
    text = io.StringIO(newline="")
    plain = csv.writer(text, lineterminator="\n")
    quoted = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    for row in (columns, *rows):
        (quoted if any("\r" in str(cell) for cell in row) else plain).writerow(row)
    return text.getvalue()


def find_separator(text: str) -> str:
    """The separator that gives the most known column names in a line; if equal, the most fields in the first line.

    The frequency in all lines is not used: cells are text, in which any of the three may be frequent.
    """

    def score(separator: str) -> tuple[int, int]:
        lines = list(islice(_fields(text, separator), LINES_OF_TITLE))
        return max(map(count_known, lines), default=0), len(lines[0]) if lines else 0

    return max(SEPARATORS, key=score)


def _fields(text: str, separator: str) -> Iterator[list[str]]:
    """The fields of each line, up to the first line that is not valid CSV."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=separator)
    with _no_field_limit(len(text)):
        try:
            yield from (fields for fields in reader if fields)
        except csv.Error:
            return


def _parse(text: str, separator: str, *, skip_blanks: bool) -> ParsedRows:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=separator, skipinitialspace=skip_blanks)
    parsed = ParsedRows()
    lines: list[tuple[int, list[str]]] = []
    start = 1
    with _no_field_limit(len(text)):
        try:
            for fields in reader:
                if fields or (lines and len(lines[0][1]) == 1):  # a blank line is an empty cell of a single column
                    lines.append((start, fields or [""]))
                start = reader.line_num + 1
        except csv.Error as error:
            number = max(1, len(lines))  # the first line is the column names
            parsed.problems.append(f"row {number} (starts on line {start}): bad CSV, {_why(error, text)}")
    if not lines:
        return parsed
    names = _names(lines[0][1])
    parsed.columns = tuple(names)
    if title := _title_problem(lines[:LINES_OF_TITLE]):
        return ParsedRows(columns=parsed.columns, problems=[title])
    problems, parsed.problems = parsed.problems, _name_problems(names)
    body = _without_blank_end(lines[1:], parsed)
    for number, (line, fields) in enumerate(body, start=1):
        row = Row(number=number, line=line, cells=dict(zip(names, fields, strict=False)), not_text={})
        if len(fields) != len(names):
            parsed.problems.append(f"{row.place}: {len(fields)} fields where there are {_count_columns(names)}")
        elif len(names) > 1 and _names(fields) == names:
            parsed.problems.append(f"{row.place}: the column names once more, as where files were joined: delete it")
        elif len(names) > 1 and not any(cell.strip() for cell in fields):
            parsed.problems.append(f"{row.place}: no cell has any text; delete the row")
        else:
            parsed.rows.append(row)
    parsed.problems += problems
    return parsed


def _names(fields: Sequence[str]) -> list[str]:
    """Column names without white space at their ends, and without byte-order marks: joined files have several."""
    return [field.replace("\ufeff", "").strip() for field in fields]


def _without_blank_end(body: Sequence[tuple[int, list[str]]], parsed: ParsedRows) -> Sequence[tuple[int, list[str]]]:
    end = len(body)
    while end and not any(cell.strip() for cell in body[end - 1][1]):
        end -= 1
    if end < len(body):
        parsed.notices.append(f"{len(body) - end} blank rows at its end (from line {body[end][0]}) were left out")
    return body[:end]


def _count_columns(names: Sequence[str]) -> str:
    if len(names) > 1:
        return f"{len(names)} columns"
    return "1 columns (the first line has no comma, semicolon or tab)"


def _title_problem(lines: Sequence[tuple[int, list[str]]]) -> str | None:
    """A message if a later line than the first seems to hold the column names; else None."""
    (first, names), *others = lines
    better = [line for line, fields in others if count_known(fields) > 1]
    if count_known(names) or not better:
        return None
    return f"line {first} does not look like column names, line {better[0]} does: delete the title above it"


def _name_problems(names: Sequence[str]) -> list[str]:
    """Messages for names that occur twice. Columns without a name, as pandas writes for its index, are never read."""
    folded = [name.casefold() for name in names]
    places = [str(index + 1) for index, name in enumerate(folded) if name and name in folded[:index]]
    problems = [f"columns {', '.join(places)} have the name of an earlier one (case does not count)"] if places else []
    if len(names) == 1 and names[0].count("|") > 1:
        problems.append("columns seem to be separated by |; use commas, semicolons or tabs")
    return problems


def _has_spaced_quotes(text: str, separator: str) -> bool:
    """Whether a field begins with a blank and then a quote, outside of quoted cells."""
    if re.search(rf"{re.escape(separator)} +\"", text) is None:
        return False
    end = rf"{re.escape(separator)}\r\n"
    field_end = re.compile(rf'(?:"[^"]*(?:""[^"]*)*"|(?P<plain>[^{end}]*))[^{end}]*(?:[{end}]|\Z)')
    position = 0
    while position < len(text) and (match := field_end.match(text, position)):
        if match["plain"] is not None and SPACED_QUOTE.match(match["plain"]):
            return True
        position = match.end()
    return False


def _why(error: csv.Error, text: str) -> str:
    if "NUL" in str(error):  # Python 3.10
        return "a NUL character; delete it. Rows after it were not checked"
    if '\\"' in text:
        return f'{error}; quotes inside of a cell seem to be written \\", which is not CSV: double them ("") instead'
    return f"{error}; look for a quote that is not closed or not doubled. Rows after it were not checked"


@contextmanager
def _no_field_limit(characters: int) -> Iterator[None]:
    """Lift csv's process-wide limit of 131,072 characters a cell; `tables.MAX_CELL_CHARACTERS` is checked instead."""
    before = csv.field_size_limit(max(characters, 1))
    try:
        yield
    finally:
        csv.field_size_limit(before)
