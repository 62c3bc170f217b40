"""What of a file may stand in a message or a log, and which of its cells no file of ours may hold.

Everything that names rows or columns to a person goes through here: ids may be typed by hand, a wrong column may have
been named as the id, and the first row of a file without column names is patient text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

MAX_IDS = 10
MAX_CHARACTERS = 40
# Names that this project, MTS-Dialog and the MEDIQA challenges give to columns: no patient is called so.
# fmt: off
KNOWN_COLUMNS = frozenset({
    "id", "testid", "encounter_id", "dialogue", "section_header", "section_text", "note", "num_tokens", "hit_limit",
    "unsupported", "evidence", "dataset", "systemoutput", "systemoutput1", "systemoutput2", "messages", "conversations",
    "prompt", "completion", "instruction", "input", "output", "question", "context", "contexts", "labels",
    "long_answer", "final_decision", "answer", "src", "tgt", "file", "checked", "omitted",
    "image", "indication", "findings",
})
# fmt: on
# What a spreadsheet runs when it opens a CSV; it reads the full-width forms alike, and skips space in front.
FORMULA = re.compile(r"[\t\r]|\s*(?:[=+@＝＋＠]|[-－](?!\s*$|\d[\d.,]*\s*$))")


def escape(text: str) -> str:
    """The text on one line, with control and invisible characters as Python escapes: a terminal obeys none of it."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def show_id(id: str) -> str:
    """A row's id for a message: escaped; one with spaces or of more than 40 characters is described, as it may be text.

    An ESC becomes the four characters `\\x1b`. In its place stands e.g. `<id of 212 characters>`.
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
    """What two spellings of a column's name have in common: neither case nor spaces for underscores count."""
    return "_".join(name.casefold().replace("_", " ").split())


def count_known(names: Iterable[str]) -> int:
    """How many of the names are those of known columns."""
    return sum(fold_column(name) in KNOWN_COLUMNS for name in names)


def show_column(name: str, number: int) -> str:
    """A column's name in quotes where it is a known one, else its number from 1."""
    return repr(name) if fold_column(name) in KNOWN_COLUMNS else str(number)


def describe_columns(columns: Sequence[str]) -> str:
    """A clause that counts the columns of a file and names those that have a known name; the others may be text."""
    known = [column for column in columns if fold_column(column) in KNOWN_COLUMNS]
    count = f"the file has {len(columns)} column{'' if len(columns) == 1 else 's'}"
    if not known:
        return f"{count}, none with a name that is known here: is its first row the column names?"
    return f"{count}, of which known here: {', '.join(known)}"


def runs_in_spreadsheet(cell: str) -> bool:
    """Whether a spreadsheet that opens the cell would take it for a formula; negative numbers are none."""
    return FORMULA.match(cell) is not None
