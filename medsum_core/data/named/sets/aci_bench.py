"""ACI-Bench: 207 full visits, each with its whole note.

Yim, Fu, Ben Abacha, Snider, Lin and Yetisgen, Scientific Data 2023; CC BY 4.0. Tests 1 and 2 are those of Task B and
Task C of MEDIQA-Chat 2023, test 3 is that of MEDIQA-Sum 2023 (CLEF).
"""

from __future__ import annotations

from collections.abc import Mapping

from medsum_core.data.named.dataset import ONLY_CONFIG, NamedDataset, csv_table
from medsum_core.data.rows import Table

FOLDER = "data/challenge_data/"
FILES = {
    "train": FOLDER + "train.csv",
    "valid": FOLDER + "valid.csv",
    "test1": FOLDER + "clinicalnlp_taskB_test1.csv",
    "test2": FOLDER + "clinicalnlp_taskC_test2.csv",
    "test3": FOLDER + "clef_taskC_test3.csv",
}


def read(files: Mapping[str, bytes], *, source: str, config: str, split: str) -> Table:
    """Columns `encounter_id, dialogue, note, dataset`."""
    return csv_table(files[FILES[split]], source=source)


CREDIT = """\
ACI-Bench (Yim, Fu, Ben Abacha, Snider, Lin and Yetisgen: *Aci-bench: a Novel Ambient Clinical Intelligence Dataset for
Benchmarking Automatic Visit Note Generation*, Scientific Data 2023;
[github.com/wyim/aci-bench](https://github.com/wyim/aci-bench)), licensed CC BY 4.0: credit its authors when you pass
this adapter on."""

DATASET = NamedDataset(
    name="aci-bench",
    repository="wyim/aci-bench",
    commit="b909b2bb9cf1d19de08df15cddde7bd0179665e4",
    configs={ONLY_CONFIG: {split: (path,) for split, path in FILES.items()}},
    sha256={
        FILES["train"]: "6c778d4ac5e6cc6f1964786f9286e8d765c210f22ed6b57f83aff8497409cea4",
        FILES["valid"]: "6629e89e3fb409d2b3eceab60dc7b32fe1d3fb8d4e07795039284965522aa4d0",
        FILES["test1"]: "5cc4008e68545f84913744a8e493a58bdf17ba7e1b7a0be46d6943d6bfca9471",
        FILES["test2"]: "599e3330a14e25a0e056aee1365ffac7ebe50058f15821eae42a5513c2bb5a4f",
        FILES["test3"]: "d3c18362a42124ea2bd1b2b4b66ba76a11bb123dfdb416471ae3b5924d1428ec",
    },
    read=read,
    credit=CREDIT,
)
