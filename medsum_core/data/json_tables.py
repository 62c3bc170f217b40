"""Parse JSON text to rows of unchanged cells: an array, `{"data": [...]}`, an object of rows by id, or JSON lines."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from medsum_core.data.csv_tables import ParsedRows
from medsum_core.data.disclosure import show_column
from medsum_core.data.rows import ABSENT, Row

Numbered = tuple[int, int, Any]  # number of the row, its line (0: unknown), its value
SPACES = re.compile(r"\s*")
ID_COLUMN = "id"  # of an object of rows by id
SEVERAL_VALUES = "Extra data"  # the decoder's message for a second value after the first


def parse_json(text: str, *, format: str) -> ParsedRows:
    """The rows of JSON (`format` json) or JSON lines (jsonl). A file in the other format is read too, with a notice.

    Keys that a row lacks and others have are `ABSENT` in it; the row is refused only where that column is needed.
    """
    problems: list[str] = []
    notices: list[str] = []
    whole, error = _load(text)
    if error is None and not (format == "jsonl" and isinstance(whole, dict) and "data" not in whole):
        objects = _rows_of_whole(whole, problems)
        if format == "jsonl":
            notices.append("read as one JSON value, although its name says JSON lines")
    elif format == "json" and error is not None and SEVERAL_VALUES not in str(error):
        line = getattr(error, "lineno", None)
        problems.append(f"{f'line {line}: ' if line else ''}not JSON ({_why(error)})")
        objects = []
    else:
        objects = _rows_of_lines(text, problems, notices)
        if format == "json":
            notices.append("read as JSON lines, although its name says JSON")
    parsed = rows_of_objects(objects)
    parsed.problems[:0] = problems
    parsed.notices += notices
    return parsed


def rows_of_objects(objects: Iterable[Numbered]) -> ParsedRows:
    """Rows from dicts: text unchanged, other values as JSON text. Columns are all keys, case ignored."""
    parsed = ParsedRows()
    spelling: dict[str, str] = {}
    entries: list[tuple[Row, dict[str, Any]]] = []
    for number, line, entry in objects:
        row = Row(number=number, line=line, cells={}, not_text={})
        if not isinstance(entry, dict) or not entry:
            parsed.problems.append(f"{row.place}: not a JSON object with columns")
            continue
        if len({name.casefold() for name in entry}) < len(entry):
            parsed.problems.append(f"{row.place}: a key occurs twice in one object (case does not count)")
            continue
        entries.append((row, {spelling.setdefault(name.casefold(), name): value for name, value in entry.items()}))
    parsed.columns = tuple(spelling.values())
    for row, entry in entries:
        try:
            cells = {name: _as_text(entry.get(name)) for name in parsed.columns}
        except RecursionError:
            parsed.problems.append(f"{row.place}: not a JSON object with columns (nested too deeply)")
            continue
        broken = [
            show_column(name, number)
            for number, (name, text) in enumerate(cells.items(), start=1)
            if not (_encodable(name) and _encodable(text))
        ]
        if broken:
            parsed.problems.append(f"{row.place}: column {', '.join(broken)} holds half a character (a lone surrogate)")
            continue
        not_text = {name: type(value).__name__ for name, value in entry.items() if not isinstance(value, str)}
        not_text |= {name: ABSENT for name in parsed.columns if name not in entry}
        parsed.rows.append(Row(number=row.number, line=row.line, cells=cells, not_text=not_text))
    return parsed


def _load(text: str) -> tuple[Any, Exception | None]:
    try:
        return json.loads(text, object_pairs_hook=_unique_keys), None
    except (ValueError, RecursionError) as error:
        return None, error


def _rows_of_whole(whole: Any, problems: list[str]) -> list[Numbered]:
    """The rows of one JSON value: an array, the array under `data`, an object of rows by id, or one row alone."""
    data = whole.get("data") if isinstance(whole, dict) else whole
    if isinstance(data, list):
        return [(number, 0, entry) for number, entry in enumerate(data, start=1)]
    if not isinstance(whole, dict):
        problems.append("not an array of objects")
    elif whole and all(isinstance(value, dict) for value in whole.values()):
        return _rows_by_id(whole, problems)
    else:
        return [(1, 0, whole)]
    return []


def _rows_by_id(whole: dict[str, dict[str, Any]], problems: list[str]) -> list[Numbered]:
    """The rows of an object by id, as PubMedQA's official file is one: the key becomes the column `id`."""
    if all(key.isdecimal() for row in whole.values() for key in row):
        problems.append(
            'one object of columns, as pandas writes a table: write an array of rows, with to_json(orient="records")'
        )
        return []
    rows: list[Numbered] = []
    for number, (key, row) in enumerate(whole.items(), start=1):
        if any(name.casefold() == ID_COLUMN for name in row):
            problems.append(f"row {number}: has a key {ID_COLUMN!r} of its own beside the one that it stands under")
        else:
            rows.append((number, 0, {ID_COLUMN: key, **row}))
    return rows


def _rows_of_lines(text: str, problems: list[str], notices: list[str]) -> list[Numbered]:
    """An object a line, or objects over several lines each, one after another."""
    lines = [(line, content) for line, content in enumerate(text.split("\n"), start=1) if content.strip()]
    rows: list[Numbered] = []
    errors: list[str] = []
    for number, (line, content) in enumerate(lines, start=1):
        value, error = _load(content)
        if error is None:
            rows.append((number, line, value))
        else:
            errors.append(f"row {number} (line {line}): not a JSON object ({_why(error)})")
    if len(errors) > 1:
        try:
            rows, errors = list(_values_in_turn(text)), []
            notices.append("its objects go over several lines each")
        except (ValueError, RecursionError):
            pass
    problems += errors
    return rows


def _values_in_turn(text: str) -> Iterator[Numbered]:
    decoder = json.JSONDecoder(object_pairs_hook=_unique_keys)
    position, line, number = 0, 1, 0
    while (start := _after_spaces(text, position)) < len(text):
        line += text.count("\n", position, start)
        value, position = decoder.raw_decode(text, start)
        number += 1
        yield number, line, value
        line += text.count("\n", start, position)


def _after_spaces(text: str, position: int) -> int:
    match = SPACES.match(text, position)
    return match.end() if match else position


class _DuplicateKeyError(ValueError):
    pass


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key.casefold() for key, _ in pairs}) < len(pairs):
        raise _DuplicateKeyError
    return dict(pairs)


def _why(error: Exception) -> str:
    """The cause of a decoding error, without quoting the file."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg}, column {error.colno}"
    if isinstance(error, _DuplicateKeyError):
        return "a key occurs twice in one object"
    return "nested too deeply" if isinstance(error, RecursionError) else "a number of too many digits"


def _as_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value, ensure_ascii=False, default=_of_arrow)


def _of_arrow(value: object) -> str | None:
    """Types of hub tables that JSON lacks, such as dates and decimals, as text; None for bytes, such as an image's."""
    return None if isinstance(value, bytes) else str(value)


def _encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
