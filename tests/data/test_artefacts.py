"""Artefacts of exports (escapes, mojibake, control characters) are reported by row, never altered; clean text is not."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from medsum_core.data.artefacts import describe_artefacts
from medsum_core.data.columns import Columns
from medsum_core.data.records import read_source
from medsum_core.data.rows import Row
from medsum_core.tasks.find import find_task

CANARY = "CANARYTEXT"
DIRTY = {
    f"{CANARY}_x000D_\nb": "_x000D_",
    f"{CANARY}\0": "control characters",
    f"{CANARY}\x1b[31m": "control characters",
    f"Doctor: {CANARY}\\nPatient: no": r"`\n` as two characters",
    f"{CANARY}<br>b": "<br>",
    f"{CANARY}<BR />b": "<br>",
    f"{CANARY}\u2028b": "U+2028",
    f"{CANARY}\vb": "vertical tab",
    f"{CANARY} ca\ufffd": "U+FFFD",
    f"{CANARY} I’m".encode().decode("cp1252"): "mojibake",
    f"{CANARY} café".encode().decode("cp1252"): "mojibake",
    f"{CANARY} cafe\u0301": "not NFC",
    f"['Doctor: {CANARY}', 'Patient: no']": "a list in brackets",
    "nan": "nothing but nan",
    "NaN": "nothing but nan",
    "None": "nothing but nan",
}
CLEAN = [
    "None.",
    "N/A",
    "Banana, naïve, café, Å, “fine” – 3 €",
    "a < br",
    "C:\\temp/next is a path",
]
CLEAN += ["患者咳嗽三天", "🙂", "[doctor] hi", "[1]", "x000D", "a\tb\nc\r\nd"]


@pytest.mark.parametrize("text", DIRTY)
@pytest.mark.parametrize("part", ["dialogue", "note"])
def test_each_artefact_is_reported_by_row_and_part_without_the_text(text: str, part: str) -> None:
    other = "note" if part == "dialogue" else "dialogue"
    cells = [{part: "clean", other: "clean"}, {part: text, other: "clean"}]
    rows = [Row(number=number, line=0, cells=cell, not_text={}) for number, cell in enumerate(cells, start=1)]
    (line,) = describe_artefacts(rows, {"dialogue": "dialogue", "note": "note"})
    assert (
        line.startswith(f"{part} cells of 1 rows ") and DIRTY[text] in line and line.endswith("row 2; left as they are")
    )
    assert CANARY not in line


@pytest.mark.parametrize("text", CLEAN)
def test_clean_text_is_not_reported(text: str) -> None:
    row = Row(number=1, line=2, cells={"d": text, "n": text}, not_text={})
    assert describe_artefacts([row], {"dialogue": "d", "note": "n"}) == []


def test_values_that_were_not_strings_are_not_reported() -> None:
    row = Row(number=1, line=2, cells={"d": '["Doctor: hi"]'}, not_text={"d": "list"})
    assert describe_artefacts([row], {"dialogue": "d"}) == []


def test_rows_are_counted_and_their_text_is_unchanged(tmp_path: Path) -> None:
    with (tmp_path / "f.csv").open("w", newline="") as file:
        rows = [(number, "CC", "nan", f"Doctor: a<br>{number}") for number in range(8)]
        csv.writer(file).writerows([("ID", "section_header", "section_text", "dialogue"), *rows])
    source = read_source(tmp_path / "f.csv")
    assert [(record.note, record.source_text) for record in source.records] == [(row[2], row[3]) for row in rows]
    assert len(source.notices) == 2
    rows_named = (
        "row 1 (line 2), row 2 (line 3), row 3 (line 4), row 4 (line 5), row 5 (line 6) and 3 more; left as they are"
    )
    assert all("of 8 rows" in line and line.endswith(rows_named) for line in source.notices)


def test_an_absent_note_is_not_reported(tmp_path: Path) -> None:
    (tmp_path / "f.jsonl").write_text(json.dumps({"ID": "1", "section_header": "CC", "dialogue": "Doctor: hi"}))
    assert read_source(tmp_path / "f.jsonl", require_note=False).notices == ()


def test_the_texts_of_every_task_are_searched(tmp_path: Path) -> None:
    (tmp_path / "f.json").write_text(json.dumps([{"question": "nan", "context": "a<br>b", "final_decision": "no"}]))
    notices = read_source(tmp_path / "f.json", columns=Columns(task=find_task("pubmedqa"))).notices
    assert sum("question cells of 1 rows are nothing but nan" in line for line in notices) == 1
    assert sum("context cells of 1 rows hold `<br>`" in line for line in notices) == 1
