"""One dialogue from a text file or from standard input, for `infer.py --dialogue_file`."""

from __future__ import annotations

import sys

from medsum_core.data.columns import Columns
from medsum_core.data.records import Record, divide_records, is_visible, normalise_dialogue
from medsum_core.data.text_files import not_utf8
from medsum_core.errors import InputError
from medsum_core.files import read_plain_file


def read_dialogue(source: str, *, columns: Columns) -> list[Record]:
    """The record of the dialogue in a text file, or on standard input for `-`; for a visit, one record a division.

    Read as UTF-8 whatever the locale. Raises InputError for a file that can't be read, is not UTF-8 or is empty, and
    for a task whose prompt has more parts than a dialogue and a section.
    """
    task, section = columns.task, columns.task.section_part
    others = [part.name for part in task.parts if part.columns and part.name != task.source and part is not section]
    if others:
        raise InputError(f"--dialogue_file: the task {task.name} also reads {', '.join(others)}: use --input_file")
    if section is not None and columns.section is None:
        raise InputError("--section: say which section of a note to write; the run has none of its own")
    parts = {part.name: columns.section or "" for part in task.parts} | {task.source: _read(source)}
    record = Record(id="1", parts=parts, source=task.source)
    return divide_records([record]) if task.divide else [record]


def _read(source: str) -> str:
    try:
        data = sys.stdin.buffer.read() if source == "-" else read_plain_file(source)
        text = normalise_dialogue(data.decode("utf-8-sig"))
    except OSError as error:
        raise InputError(f"--dialogue_file {source}: can't be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise InputError(f"--dialogue_file {source}: {not_utf8(error)}") from None
    if not any(map(is_visible, text)):
        raise InputError(f"--dialogue_file {source}: the dialogue is empty")
    return text
