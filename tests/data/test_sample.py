"""The bundled sample is as its README says: complete, and its notes state only what is in their dialogues."""

from __future__ import annotations

import csv
import re
from collections import Counter
from pathlib import Path

import pytest

DATA = Path(__file__).resolve().parents[2] / "medsum_core" / "data" / "sample"
COLUMNS = ["ID", "section_header", "section_text", "dialogue"]
HEADERS = frozenset(
    {"FAM/SOCHX", "GENHX", "PASTMEDICALHX", "CC", "PASTSURGICAL", "ALLERGY", "ROS", "MEDICATIONS", "ASSESSMENT", "EXAM"}
    | {"DIAGNOSIS", "DISPOSITION", "PLAN", "EDCOURSE", "IMMUNIZATIONS", "IMAGING", "GYNHX", "PROCEDURES", "LABS"}
    | {"OTHER_HISTORY"}
)
SPEAKERS = frozenset({"Doctor", "Patient", "Guest_family", "Guest_clinician"})
FILES = ("demo_train.csv", "demo_valid.csv")


def rows_of(name: str) -> list[dict[str, str]]:
    with (DATA / name).open(encoding="utf-8", newline="") as lines:
        reader = csv.DictReader(lines, strict=True)
        rows = list(reader)
    assert reader.fieldnames == COLUMNS
    return rows


def squeezed(text: str) -> str:
    return " ".join(text.lower().split())


@pytest.mark.parametrize(("name", "at_least"), [("demo_train.csv", 128), ("demo_valid.csv", 32)])
def test_there_are_enough_rows_and_no_cell_is_empty(name: str, at_least: int) -> None:
    rows = rows_of(name)
    assert len(rows) >= at_least
    for row in rows:
        assert None not in row and all(isinstance(row[c], str) and row[c].strip() == row[c] != "" for c in COLUMNS)


@pytest.mark.parametrize("name", FILES)
def test_files_are_utf8_with_lf_and_no_byte_order_mark(name: str) -> None:
    raw = (DATA / name).read_bytes()
    raw.decode("utf-8")
    assert b"\r" not in raw and not raw.startswith(b"\xef\xbb\xbf") and raw.endswith(b"\n")


def test_training_has_all_20_section_headers_and_validation_most() -> None:
    assert len(HEADERS) == 20
    assert {row["section_header"] for row in rows_of("demo_train.csv")} == HEADERS
    in_validation = {row["section_header"] for row in rows_of("demo_valid.csv")}
    assert in_validation <= HEADERS and len(in_validation) >= 15


def test_ids_and_dialogues_are_unique_over_both_files() -> None:
    rows = [row for name in FILES for row in rows_of(name)]
    assert [i for i, n in Counter(row["ID"] for row in rows).items() if n > 1] == []
    assert [d for d, n in Counter(squeezed(row["dialogue"]) for row in rows).items() if n > 1] == []
    assert all(re.fullmatch(r"demo-\d{3}", row["ID"]) for row in rows)


@pytest.mark.parametrize("name", FILES)
def test_every_turn_has_a_known_speaker_and_says_something(name: str) -> None:
    speakers: Counter[str] = Counter()
    for row in rows_of(name):
        for turn in row["dialogue"].split("\n"):
            match = re.fullmatch(r"(\w+): (\S.*)", turn)
            assert match and match[1] in SPEAKERS, row["ID"]
            speakers[match[1]] += 1
    assert set(speakers) == SPEAKERS


@pytest.mark.parametrize("name", FILES)
def test_numbers_are_spoken_in_words(name: str) -> None:
    assert [row["ID"] for row in rows_of(name) if re.search(r"\d", row["dialogue"])] == []


def test_some_dialogues_are_long_and_most_are_short() -> None:
    lengths = [len(row["dialogue"].split()) for row in rows_of("demo_train.csv")]
    assert sum(n >= 250 for n in lengths) >= 6
    assert sum(n <= 120 for n in lengths) >= 0.85 * len(lengths)


@pytest.mark.parametrize("name", FILES)
def test_notes_hold_no_fact_that_the_dialogue_does_not_say(name: str) -> None:
    """By the project's own check, which is known to misread one symptom in each of three rows."""
    grounding = pytest.importorskip("medsum_core.grounding.check")
    found = [
        (row["ID"], f) for row in rows_of(name) for f in grounding.check_note(row["section_text"], row["dialogue"])
    ]
    assert len(found) >= 50
    misread = {("demo-133", "symptom"), ("demo-201", "symptom"), ("demo-226", "symptom")}
    assert {(i, f.kind) for i, f in found if f.verdict != "supported"} <= misread
