"""The blind sheet: whole texts, sides shuffled and balanced, the key in a file of its own, both private."""

from __future__ import annotations

import csv
import os
import stat

import pytest
from support import section_record

from medsum_core.config.arguments import OutputArguments
from medsum_core.config.report_parts import part_path
from medsum_core.config.validation import _output_problems, examples_file_problems, key_path
from medsum_core.errors import FinalSaveError, InputError
from medsum_core.generation.note_files import GeneratedNote
from medsum_core.report.blind_sheet import write_blind_sheet


def rows(count):
    records = [
        section_record(
            id=f"r{n}", section_header="CC", dialogue=f'Doctor: "Hm, {n}?"\nPatient: yes, a, b', note=f"ref {n}"
        )
        for n in range(count)
    ]
    sides = [
        [
            GeneratedNote(id=record.id, note=f"{name} of {record.id}", num_tokens=3, hit_limit=False)
            for record in records
        ]
        for name in ("base", "tuned")
    ]
    return records, *sides


def write(path, count=20, seed=7):
    records, base, tuned = rows(count)
    write_blind_sheet(path, records=records, base_notes=base, tuned_notes=tuned, seed=seed)
    return records


def read(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_key_says_which_note_of_the_sheet_is_the_tuned_one(tmp_path):
    path = tmp_path / "sheet.csv"
    records = write(path)
    sheet, key = read(path), read(tmp_path / "sheet.key.csv")
    assert list(sheet[0]) == ["id", "dialogue", "reference", "note_a", "note_b"]
    assert list(key[0]) == ["id", "note_a", "note_b"]
    for record, line, owners in zip(records, sheet, key, strict=True):
        assert (line["id"], line["dialogue"], line["reference"]) == (record.id, record.source_text, record.note)
        assert owners["id"] == record.id and {owners["note_a"], owners["note_b"]} == {"base", "tuned"}
        for side in ("note_a", "note_b"):
            assert line[side] == f"{owners[side]} of {record.id}"


def test_a_resumed_report_may_rewrite_its_own_sheet_and_replaces_no_other(tmp_path):
    folder, path = tmp_path / "run", tmp_path / "sheet.csv"
    folder.mkdir()
    write(path)
    flags = {"output_dir": str(folder), "examples_file": str(path), "resume_from_checkpoint": "auto"}
    assert [p for p in _output_problems(OutputArguments(**flags)) if "exists already" in p]
    part_path(folder, "tuned").write_text("")
    assert not [p for p in _output_problems(OutputArguments(**flags)) if "exists already" in p]
    write(path)  # the same again
    filled_in = path.read_text() + "a rater's word"
    path.write_text(filled_in)
    with pytest.raises(FinalSaveError, match="holds something else"):
        write(path)
    assert path.read_text() == filled_in


@pytest.mark.parametrize("count", [1, 20, 21])
def test_each_side_has_half_of_the_tuned_notes(tmp_path, count):
    for seed in range(5):
        write(tmp_path / f"{seed}.csv", count, seed)
        tuned_first = sum(line["note_a"] == "tuned" for line in read(tmp_path / f"{seed}.key.csv"))
        assert tuned_first in (count // 2, (count + 1) // 2)


def test_the_sides_depend_on_the_seed(tmp_path):
    orders = []
    for place, seed in enumerate((1, 1, 2, 3)):
        write(tmp_path / f"{place}.csv", seed=seed)
        orders.append([line["note_a"] for line in read(tmp_path / f"{place}.key.csv")])
    assert orders[0] == orders[1]
    assert orders[1] != orders[2] and orders[2] != orders[3]


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX")
def test_only_the_owner_can_read_the_files(tmp_path):
    before = os.umask(0)
    try:
        write(tmp_path / "sheet.csv")
    finally:
        os.umask(before)
    for path in (tmp_path / "sheet.csv", tmp_path / "sheet.key.csv"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(list(tmp_path.iterdir())) == 2


def test_the_key_has_no_text_and_the_repr_of_a_note_neither(tmp_path):
    _, base, _ = rows(1)
    assert "base of" not in repr(base[0])
    write(tmp_path / "sheet.csv")
    key = (tmp_path / "sheet.key.csv").read_text()
    assert "Patient" not in key and "ref " not in key and " of r" not in key


def test_rows_that_do_not_match_are_refused(tmp_path):
    records, base, tuned = rows(3)
    with pytest.raises(InputError) as caught:
        write_blind_sheet(tmp_path / "s.csv", records=records, base_notes=base, tuned_notes=tuned[::-1], seed=0)
    assert "of r" not in str(caught.value) and not list(tmp_path.iterdir())


def test_a_new_run_replaces_no_existing_sheet(tmp_path):
    assert examples_file_problems(tmp_path / "sheet.csv") == []
    for taken in (tmp_path / "sheet.csv", key_path(tmp_path / "sheet.csv")):
        taken.write_text("my verdicts")
        (problem,) = examples_file_problems(tmp_path / "sheet.csv")
        assert f"{taken} exists already" in problem
        taken.unlink()
    (problem,) = examples_file_problems(tmp_path / "absent" / "sheet.csv")
    assert "no folder" in problem
