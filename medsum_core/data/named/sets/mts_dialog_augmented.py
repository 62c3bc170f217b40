"""MTS-Dialog with the back-translations of its training dialogues (through French, Spanish or both), without leaks.

Ben Abacha, Yim, Fan and Lin, EACL 2023, section 4.2; CC BY 4.0. `set3`, the default, is the one that its authors
trained on; `set1` has the French and `set2` the Spanish translations alone. Ids such as `TR=EN-FR-EN 56` carry the id
of the dialogue that was translated. Validation and tests are MTS-Dialog's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

from medsum_core.data.named.dataset import NamedDataset, csv_table
from medsum_core.data.named.sets import mts_dialog
from medsum_core.data.records import dialogue_key, number_doubled
from medsum_core.data.rows import Row, Table

FOLDER = "Augmented-Data/MTS-Dialog-Augmented-TrainingSet-"
FILES = {
    "set3": FOLDER + "3-FR-and-ES-3603-Pairs-final.csv",
    "set1": FOLDER + "1-En-FR-EN-2402-Pairs.csv",
    "set2": FOLDER + "2-EN-ES-EN-2402-Pairs.csv",
}
HELD_OUT = tuple(mts_dialog.FILES[split] for split in ("valid", "test1", "test2"))
ORIGINALS = mts_dialog.FILES["train"]
ORIGINAL_ID = re.compile(r"(?:^|\s)(\d+)(?:\s|$)")


def read(files: Mapping[str, bytes], *, source: str, config: str, split: str) -> Table:
    """Columns as MTS-Dialog's; ids are unique. Training rows that leak are dropped, and counted in a notice."""
    if split != "train":
        return mts_dialog.read(files, source=source, config=config, split=split)
    table = csv_table(files[FILES[config]], source=source)
    held_out = [row for path in HELD_OUT for row in csv_table(files[path], source=path).rows]
    originals = csv_table(files[ORIGINALS], source=ORIGINALS).rows
    return _with_own_ids(without_leaks(table, held_out=held_out, originals=originals))


def without_leaks(table: Table, *, held_out: Iterable[Row], originals: Iterable[Row]) -> Table:
    """The table without rows whose dialogue, or the one it was translated from, is in the rows that are held out.

    A row was translated from the row of `originals` whose number its id carries, where the two have one note. Else the
    number says nothing (each official file counts from 0), and the row is dropped if a held-out row has its note.
    """
    held_out = list(held_out)
    held_dialogues = {_dialogue(row) for row in held_out}
    held_notes = {_note(row) for row in held_out}
    by_id = {row.cells["ID"].strip(): row for row in originals}

    def leaks(row: Row) -> bool:
        number = ORIGINAL_ID.search(row.cells["ID"])
        original = by_id.get(number[1]) if number else None
        if original is None or _note(original) != _note(row):
            return _dialogue(row) in held_dialogues or _note(row) in held_notes
        return _dialogue(row) in held_dialogues or _dialogue(original) in held_dialogues

    kept = tuple(row for row in table.rows if not leaks(row))
    notice = (
        f"{len(table.rows) - len(kept)} of {len(table.rows)} rows dropped: their dialogue, or the one it was "
        "translated from, is in a validation or test file of MTS-Dialog"
    )
    return replace(table, rows=kept, notices=(*table.notices, notice))


def _with_own_ids(table: Table) -> Table:
    ids = number_doubled([row.cells["ID"].strip() for row in table.rows])
    rows = tuple(replace(row, cells={**row.cells, "ID": id}) for row, id in zip(table.rows, ids, strict=True))
    return replace(table, rows=rows)


def _dialogue(row: Row) -> str:
    return dialogue_key(row.cells["dialogue"])


def _note(row: Row) -> tuple[str, str]:
    return row.cells["section_header"].strip().upper(), " ".join(row.cells["section_text"].split())


EVALUATION = {split: (path,) for split, path in mts_dialog.FILES.items() if split != "train"}

CREDIT = """\
MTS-Dialog (Ben Abacha, Yim, Fan and Lin: *An Empirical Study of Clinical Note Generation from Doctor-Patient
Encounters*, EACL 2023; [github.com/abachaa/MTS-Dialog](https://github.com/abachaa/MTS-Dialog)) with its dialogues
translated to French or Spanish and back, licensed CC BY 4.0: credit its authors when you pass this adapter on. Rows
whose dialogue is in a validation or test file were left out here."""

DATASET = NamedDataset(
    name="mts-dialog-augmented",
    repository=mts_dialog.DATASET.repository,
    commit=mts_dialog.DATASET.commit,
    configs={config: {"train": (path, ORIGINALS, *HELD_OUT), **EVALUATION} for config, path in FILES.items()},
    sha256={
        **mts_dialog.DATASET.sha256,
        FILES["set1"]: "0a64de7af48e7d6f4c2fa24ae4eb702cac745ead531c33fa65a37046d3229292",
        FILES["set2"]: "98f20fc36d5688bf95dc037fb75d04a2dee3b676a6a1440577f4bd6071bcaa5d",
        FILES["set3"]: "9c77882a691380b8d373ad868160e44fc5a424cac46ef019671e540f6b128b03",
    },
    read=read,
    credit=CREDIT,
)
