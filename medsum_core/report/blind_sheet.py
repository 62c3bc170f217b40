"""The sheet for reading base and tuned notes side by side without knowing which is which. It holds patient text.

Besides the output of `infer.py`, the sheet is the only file of this program with patient text: written only on request,
readable by its owner only, with the key in a separate file.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from medsum_core.config.validation import key_path
from medsum_core.data.csv_tables import csv_text
from medsum_core.data.records import Record
from medsum_core.errors import FinalSaveError, InputError
from medsum_core.files import PRIVATE_MODE, read_plain_file, write_text_atomic
from medsum_core.generation.note_rows import GeneratedNote

SHEET_COLUMNS = ("id", "dialogue", "reference", "note_a", "note_b")
KEY_COLUMNS = ("id", "note_a", "note_b")


def write_blind_sheet(
    examples_file: str | Path,
    *,
    records: Sequence[Record],
    base_notes: Sequence[GeneratedNote],
    tuned_notes: Sequence[GeneratedNote],
    seed: int,
) -> None:
    """Write the sheet (id, dialogue, reference, note_a, note_b; a row per record) and its key (which of them is whose).

    In half of the rows, drawn by `seed`, the tuned note comes first (one more or fewer for an odd number): a reader who
    prefers one position favours neither model. Both files are written atomically, readable by the owner only (0600),
    the key first. Raises InputError where the three lists are not about the same rows, and FinalSaveError where a file
    of another content exists: somebody may have filled it in.
    """
    ids = [record.id for record in records]
    if [note.id for note in base_notes] != ids or [note.id for note in tuned_notes] != ids:
        raise InputError("the blinded sheet needs one base note and one tuned note for each row, in the rows' order")
    sheet, key = [], []
    for record, base, tuned, tuned_first in zip(
        records, base_notes, tuned_notes, _draw_sides(len(ids), seed=seed), strict=True
    ):
        notes = (tuned.note, base.note) if tuned_first else (base.note, tuned.note)
        sheet.append((record.id, record.source_text, record.note, *notes))
        key.append((record.id, *(("tuned", "base") if tuned_first else ("base", "tuned"))))
    texts = {key_path(examples_file): csv_text(KEY_COLUMNS, key), Path(examples_file): csv_text(SHEET_COLUMNS, sheet)}
    for path, text in texts.items():
        if path.exists() and read_plain_file(path) != text.encode():
            raise FinalSaveError(f"{path} exists already and holds something else: move it away, then resume the run")
    for path, text in texts.items():
        write_text_atomic(path, text, mode=PRIVATE_MODE)


def _draw_sides(num_rows: int, *, seed: int) -> list[bool]:
    generator = random.Random(seed)
    offset = generator.randrange(2)
    sides = [(row + offset) % 2 == 0 for row in range(num_rows)]
    generator.shuffle(sides)
    return sides
