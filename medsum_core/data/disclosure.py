"""What of a file may appear in messages and logs, and which cells may not be copied to other files.

Every message that names rows or columns uses this module: ids may be typed by hand, a wrong column may have been given
as the id, and the first row of a file without column names is patient text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

MAX_IDS = 10
MAX_CHARACTERS = 40
# Column names of this project, MTS-Dialog and the MEDIQA challenges: these can't be patient text.
# fmt: off
KNOWN_COLUMNS = frozenset({
    "id", "testid", "encounter_id", "dialogue", "section_header", "section_text", "note", "num_tokens", "hit_limit",
    "unsupported", "evidence", "dataset", "systemoutput", "systemoutput1", "systemoutput2", "messages", "conversations",
    "prompt", "completion", "instruction", "input", "output", "question", "context", "contexts", "labels",
    "long_answer", "final_decision", "answer", "src", "tgt", "file", "checked", "omitted",
    "image", "indication", "findings",
})
# fmt: on
# What a spreadsheet runs when it opens a CSV; it also accepts full-width forms, and leading white space.
FORMULA = re.compile(r"[\t\r]|\s*(?:[=+@＝＋＠]|[-－](?!\s*$|\d[\d.,]*\s*$))")


def escape(text: str) -> str:
    """The text on one line, control and invisible characters as Python escapes, so that a terminal can't obey them."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def show_id(id: str) -> str:
    """A row's id for a message: escaped; one with spaces or over MAX_CHARACTERS is described, as it may be text.

    An ESC becomes the four characters `\\x1b`; a long id becomes e.g. `<id of 212 characters>`.
    """
    if not id or len(id) > MAX_CHARACTERS or any(char.isspace() for char in id):
        return f"<id of {len(id)} characters>"
    return escape(id)


def show_ids(ids: Iterable[str]) -> str:
    """`show_id` of the first ten, and how many more there are; `none` for none."""
    ids = list(ids)
    more = f" and {len(ids) - MAX_IDS} more" if len(ids) > MAX_IDS else ""
    return ", ".join(map(show_id, ids[:MAX_IDS])) + more if ids else "none"


def fold_column(name: str) -> str:
    """A column's name in lower case, with underscores for spaces: equal for spellings that count as the same."""
    return "_".join(name.casefold().replace("_", " ").split())


def count_known(names: Iterable[str]) -> int:
    """How many of the names are in KNOWN_COLUMNS."""
    return sum(fold_column(name) in KNOWN_COLUMNS for name in names)


def show_column(name: str, number: int) -> str:
    """A column's name in quotes if it is in KNOWN_COLUMNS, else its number, counted from 1."""
    return repr(name) if fold_column(name) in KNOWN_COLUMNS else str(number)


def describe_columns(columns: Sequence[str]) -> str:
    """A clause that counts the columns of a file and names those in KNOWN_COLUMNS; other names may be text."""
    known = [column for column in columns if fold_column(column) in KNOWN_COLUMNS]
    count = f"the file has {len(columns)} column{'' if len(columns) == 1 else 's'}"
    if not known:
        return f"{count}, none with a name that is known here: is its first row the column names?"
    return f"{count}, of which known here: {', '.join(known)}"


def runs_in_spreadsheet(cell: str) -> bool:
    """Whether a spreadsheet that opens the cell would treat it as a formula; negative numbers are not formulas."""
    return FORMULA.match(cell) is not None
