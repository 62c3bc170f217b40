"""Artefacts of exports in cells (HTML tags, mojibake, "nan"): counted and named by row, never changed.

Nothing is repaired: only the file's owner knows whether `<br>` is a line break or text, and results of a run must not
change because this list has grown. Messages name the kind of artefact, never the cell's text.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence

from medsum_core.data.rows import Row, name_rows

# A letter beyond ASCII that was read as Windows-1252 begins with one of these.
MOJIBAKE = re.compile("[\u00c2-\u00f4][\u0080-\u00bf\u0152-\u02dc\u2013-\u2122]{1,3}")
# What pandas and spreadsheets write for an empty cell. "N/A" is not among them: doctors write it.
EMPTY_WORDS = frozenset({"nan", "NaN", "None", "NULL", "null", "<NA>", "NaT", "#N/A"})
LIST_AS_TEXT = re.compile(r"\s*\[\s*['\"{].*\]\s*", re.DOTALL)


def _holds(pattern: str) -> Callable[[str], bool]:
    search = re.compile(pattern).search
    return lambda text: search(text) is not None


def _is_mojibake(text: str) -> bool:
    """Whether a piece of the text, encoded as Windows-1252, is valid UTF-8: it was decoded with the wrong encoding."""
    for piece in MOJIBAKE.findall(text):
        for length in (2, 3, 4):
            try:
                piece[:length].encode("cp1252").decode("utf-8")
            except UnicodeError:
                continue
            return True
    return False


KINDS: tuple[tuple[str, Callable[[str], bool]], ...] = (
    ("`_x000D_`, a line break as Excel writes it into XML", _holds("_x000[dDaA]_")),
    (r"`\n` as two characters, where a line break may be meant", _holds(r"\\n")),
    ("`<br>`, where a line break may be meant", _holds(r"<[bB][rR]\s*/?>")),
    ("line breaks other than newlines (U+2028, U+2029, U+0085, vertical tab, form feed), which end no turn here",
     _holds("[\u2028\u2029\u0085\v\f]")),
    ("control characters, NUL or others", _holds("[\0-\b\x0e-\x1f\x7f]")),
    ("characters that an earlier conversion lost (U+FFFD)", _holds("\ufffd")),
    ("letters of UTF-8 read as Windows-1252 (mojibake)", _is_mojibake),
    ("accents as characters of their own (not NFC)", lambda text: not unicodedata.is_normalized("NFC", text)),
)  # fmt: skip
WHOLE_CELL: tuple[tuple[str, Callable[[str], bool]], ...] = (
    ("nothing but nan, None or null, as pandas writes an empty cell", lambda text: text.strip() in EMPTY_WORDS),
    ("a list in brackets and quotes, as pandas writes one", lambda text: LIST_AS_TEXT.fullmatch(text) is not None),
)


def describe_artefacts(rows: Sequence[Row], columns: Mapping[str, str]) -> list[str]:
    """A line for each kind of artefact in these columns, which are given by the part of a record that they hold.

    A line says how many rows have it, which (the first five) and in which part.
    """
    kinds = [(f"hold {what}", test) for what, test in KINDS] + [(f"are {what}", test) for what, test in WHOLE_CELL]
    lines = []
    for what, test in kinds:
        found = {part: _rows_with(test, rows, column) for part, column in columns.items()}
        lines += [
            f"{part} cells of {len(affected)} rows {what}: {name_rows(affected)}; left as they are"
            for part, affected in found.items()
            if affected
        ]
    return lines


def _rows_with(test: Callable[[str], bool], rows: Iterable[Row], column: str) -> list[Row]:
    return [row for row in rows if column not in row.not_text and test(row.cells[column])]
