"""Regression test: minimum recall and precision on the labelled pairs that the rules were tuned on.

The lower figures for pairs that no rule was tuned on are in examples/grounding.md.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medsum_core.grounding.check import check_note

FOLDER = Path(__file__).parent / "labelled_pairs"


@pytest.mark.parametrize(
    ("name", "recall", "precision"),
    [
        ("dev", 0.83, 0.95),
        ("dev_more", 0.63, 0.89),
        ("dev_fresh", 0.78, 0.87),
        ("dev_fresh_2", 0.88, 0.88),
        ("dev_fresh_3", 0.82, 0.88),
        ("dev_fresh_4", 0.91, 0.90),
        ("dev_fresh_5", 0.93, 0.87),
        ("dev_fresh_6", 0.87, 0.78),
    ],
)
def test_recall_and_precision_on_labelled_pairs(name: str, recall: float, precision: float) -> None:
    found = missed = wrong = 0
    for line in (FOLDER / f"{name}.jsonl").read_text("utf-8").splitlines():
        pair = json.loads(line)
        note = pair["note"]
        flagged = [(f.start, f.end) for f in check_note(note, pair["dialogue"]) if f.is_unsupported]
        faults = [(note.index(text), note.index(text) + len(text)) for text, _ in pair["unsupported"]]
        hits = sum(any(a < d and c < b for c, d in flagged) for a, b in faults)
        found, missed = found + hits, missed + len(faults) - hits
        wrong += sum(not any(a < d and c < b for a, b in faults) for c, d in flagged)
    assert found / (found + missed) >= recall
    assert found / (found + wrong) >= precision
