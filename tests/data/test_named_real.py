"""The readers of named data sets on the official files, if they are beside the checkout: counts and known leaks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import pytest

from medsum_core.data.columns import Columns
from medsum_core.data.named.dataset import csv_table
from medsum_core.data.named.registry import named_datasets
from medsum_core.data.named.sets import aci_bench, mts_dialog_augmented
from medsum_core.data.records import read_records
from medsum_core.data.rows import Table
from medsum_core.data.tables import load_table
from medsum_core.tasks.find import find_task

REAL = Path(__file__).parents[3] / "shared" / "data"
pytestmark = pytest.mark.skipif(not REAL.is_dir(), reason="the official files are not beside the checkout")


def files_below(folder: Path) -> Mapping[str, bytes]:
    kinds = (".TextGrid", ".json", ".xml")
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.suffix in kinds
    }


def table(name: str, split: str, files: Mapping[str, bytes]) -> Table:
    return named_datasets()[name].read(files, source=name, config="default", split=split)


def test_primock57_dialogues_alternate_and_have_all_words_of_both_transcripts() -> None:
    files = files_below(REAL / "primock57")
    rows = table("primock57", "all", files).rows
    assert len(rows) == 57 and all(row.cells["note"].strip() for row in rows)
    for row in rows:
        spoken: list[str] = []
        for speaker in ("doctor", "patient"):
            text = files[f"transcripts/{row.cells['id']}_{speaker}.TextGrid"].decode()
            values = [line.strip()[8:-1] for line in text.splitlines() if line.strip().startswith('text = "')]
            spoken += re.sub("<[^<>]*>", " ", " ".join(values)).split()
        lines = row.cells["dialogue"].split("\n")
        assert sorted(word for line in lines for word in line.split()[1:]) == sorted(spoken)
        tags = [line.split()[0] for line in lines]
        assert set(tags) == {"Doctor:", "Patient:"} and all(a != b for a, b in pairwise(tags))


def test_medquad_counts_and_entities_on_one_side_only() -> None:
    files = files_below(REAL / "medquad")
    whole, train, valid = (table("medquad", split, files) for split in ("all", "train", "valid"))
    assert len(files) == 180 and "594 without an answer" in whole.notices[0]
    assert len(whole.rows) == 761 == len(train.rows) + len(valid.rows)
    focuses = [{row.cells["focus"].casefold() for row in part.rows} for part in (train, valid)]
    assert not focuses[0] & focuses[1] and len(focuses[1]) > 0


def test_pubmedqa_counts_and_labels() -> None:
    path = REAL / "pubmedqa" / "ori_pqal_without_test.json"
    records = read_records(path, columns=Columns(task=find_task("pubmedqa")))
    assert len(records) == 500 and all(record.source_text for record in records)
    assert {record.choice for record in records} == {"yes", "no", "maybe"}


def test_augmented_rows_that_share_a_dialogue_with_the_validation_file_are_dropped() -> None:
    name = mts_dialog_augmented.FILES["set1"].rpartition("/")[2]
    augmented = csv_table((REAL / "mts-dialog-augmented" / name).read_bytes(), source=name)
    train, valid = (
        load_table(REAL / "mts-dialog" / f"MTS-Dialog-{part}Set.csv") for part in ("Training", "Validation")
    )
    kept = mts_dialog_augmented.without_leaks(augmented, held_out=valid.rows, originals=train.rows)
    dropped = {row.cells["ID"] for row in augmented.rows} - {row.cells["ID"] for row in kept.rows}
    assert dropped == {"56", "284", "TR=EN-FR-EN 56", "TR=EN-FR-EN 284"}


@pytest.mark.parametrize("split,count", [("train", 67), ("valid", 20)])
def test_aci_bench_counts(split: str, count: int) -> None:
    data = (REAL / "aci-bench" / "challenge_data" / f"{split}.csv").read_bytes()
    assert len(table("aci-bench", split, {aci_bench.FILES[split]: data}).rows) == count
