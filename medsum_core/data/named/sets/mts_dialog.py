"""MTS-Dialog: 1,701 short dialogues, each with one section of a note.

Ben Abacha, Yim, Fan and Lin, EACL 2023; CC BY 4.0. Its training file shares two dialogues with its validation file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from medsum_core.data.named.dataset import ONLY_CONFIG, NamedDataset, csv_table
from medsum_core.data.rows import Table

FOLDER = "Main-Dataset/"
FILES = {
    "train": FOLDER + "MTS-Dialog-TrainingSet.csv",
    "valid": FOLDER + "MTS-Dialog-ValidationSet.csv",
    "test1": FOLDER + "MTS-Dialog-TestSet-1-MEDIQA-Chat-2023.csv",
    "test2": FOLDER + "MTS-Dialog-TestSet-2-MEDIQA-Sum-2023.csv",
}
TEST1_NOTICE = "its challenge did not give the header, which the prompt does: scores with it are not its board's"


def read(files: Mapping[str, bytes], *, source: str, config: str, split: str) -> Table:
    """Columns `ID, section_header, section_text, dialogue`."""
    table = csv_table(files[FILES[split]], source=source)
    return replace(table, notices=(*table.notices, TEST1_NOTICE)) if split == "test1" else table


CREDIT = """\
MTS-Dialog (Ben Abacha, Yim, Fan and Lin: *An Empirical Study of Clinical Note Generation from Doctor-Patient
Encounters*, EACL 2023; [github.com/abachaa/MTS-Dialog](https://github.com/abachaa/MTS-Dialog)), licensed CC BY 4.0:
credit its authors when you pass this adapter on. Its notes came first and its dialogues were written from them: they
are no recordings."""

DATASET = NamedDataset(
    name="mts-dialog",
    repository="abachaa/MTS-Dialog",
    commit="3ff0801933608d6f570468c13125125fb5cabdea",
    configs={ONLY_CONFIG: {split: (path,) for split, path in FILES.items()}},
    sha256={
        FILES["train"]: "65a28681dd59fc159681ea026e44610f2af7bc64a0e7f892d763eb03d9f503dc",
        FILES["valid"]: "227206520c4534381c0d7fba6d3f09319a9af5a6d9603a93c0341af1198e3958",
        FILES["test1"]: "b4d38dd2c99b2e9860099abcf653f1e0f3e9b69f9fcc45be2a2699b37a4d2f37",
        FILES["test2"]: "226644466ed3af82382b327a3e684aab70aa605b96cfd93b04f584f1826ab1a6",
    },
    read=read,
    credit=CREDIT,
)
