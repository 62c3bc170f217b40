"""The output file and its part file: `--resume` gives no row another's note, and no finished note is lost."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from notes_command import read, write
from support import section_record
from tuned_run import DIALOGUES

from medsum_core.data.records import Record
from medsum_core.errors import InputError
from medsum_core.generation.made_from import MadeFrom, row_sha256
from medsum_core.generation.note_files import made_from_path
from medsum_core.generation.note_rows import GeneratedNote, WrittenRow, note_rows
from medsum_core.generation.part_file import PartFile, part_path
from medsum_core.tasks.task import Answer, Part, Task, Truncation


def save_rows(path: Path, rows: list[tuple[str, str, str]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["ID", "section_header", "dialogue"])
        writer.writerows(rows)
    return path


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of the notes that are written anew."""
    ids: list[str] = []
    add = PartFile.add

    def watched(self: PartFile, row: str, note: Any) -> None:
        ids.append(note.id)
        add(self, row, note)

    monkeypatch.setattr(PartFile, "add", watched)
    return ids


def test_a_row_never_gets_the_note_of_an_earlier_file_with_the_same_ids(run: Path, tmp_path: Path) -> None:
    monday = save_rows(tmp_path / "monday.csv", DIALOGUES)
    out = tmp_path / "notes.csv"
    write(run, monday, out)
    before = out.read_bytes()
    other_dialogue = [(id, section, f"{text}\nPatient: My ankle hurts.") for id, section, text in DIALOGUES]
    other_section = [(DIALOGUES[0][0], "PLAN", DIALOGUES[0][2]), *DIALOGUES[1:]]
    for rows in (other_dialogue, other_section, DIALOGUES[1:]):
        tuesday = save_rows(tmp_path / "tuesday.csv", rows)
        with pytest.raises(InputError, match=r"notes\.csv: made from another input.*another --output_file"):
            write(run, tuesday, out, "--resume")
        assert out.read_bytes() == before


def test_rows_that_were_added_get_notes_and_the_others_keep_theirs(
    run: Path, tmp_path: Path, written: list[str]
) -> None:
    out = tmp_path / "notes.csv"
    first = write(run, save_rows(tmp_path / "a.csv", DIALOGUES[:2]), out)
    written.clear()
    more = save_rows(tmp_path / "b.csv", [*DIALOGUES[2:], *DIALOGUES[:2]])
    rows = write(run, more, out, "--resume")
    assert written == [DIALOGUES[2][0], DIALOGUES[3][0]] or written == [DIALOGUES[3][0], DIALOGUES[2][0]]
    assert rows == write(run, more, tmp_path / "whole.csv") and rows[2:] == first
    written.clear()
    assert write(run, more, out, "--resume") == rows and not written


def test_notes_of_another_model_or_decoding_are_not_kept(
    run: Path, base: Path, dialogues: Path, tmp_path: Path
) -> None:
    out = tmp_path / "notes.csv"
    write(run, dialogues, out)
    for flags, name in ((["--max_new_tokens", "5"], "max_new_tokens"), (["--kernels", "reference"], "kernels")):
        with pytest.raises(InputError, match=rf"other settings \(.*{name}"):
            write(run, dialogues, out, "--resume", *flags)
    import infer

    alone = ["--model_name_or_path", str(base), "--precision", "fp32", "--max_new_tokens", "24", "--resume"]
    with pytest.raises(InputError, match=r"other settings \(.*adapter"):
        infer.main([*alone, "--input_file", str(dialogues), "--output_file", str(out)])


def spoil_record(out: Path) -> None:
    made_from_path(out).write_text("{}")


def edit_note(out: Path) -> None:
    out.write_text(out.read_text() + "8,CC,By hand.,2,false,[]\n")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda out: made_from_path(out).unlink(), "is missing"),
        (spoil_record, "not what infer.py wrote"),
        (edit_note, "was changed since"),
    ],
)
def test_an_output_file_without_a_record_of_its_input_is_not_overwritten(
    run: Path, dialogues: Path, tmp_path: Path, change: Callable[[Path], object], message: str
) -> None:
    out = tmp_path / "notes.csv"
    write(run, dialogues, out)
    change(out)
    before = out.read_bytes()
    with pytest.raises(InputError, match=f"{message}.*another --output_file"):
        write(run, dialogues, out, "--resume")
    assert out.read_bytes() == before


def test_the_record_of_the_input_has_hashes_and_no_text(run: Path, dialogues: Path, tmp_path: Path) -> None:
    out = tmp_path / "notes.csv"
    rows = write(run, dialogues, out)
    record = made_from_path(out)
    assert record.name == "notes.csv.made_from.json" and record.stat().st_mode & 0o077 == 0
    text = record.read_text()
    assert not any(row["note"] in text for row in rows if row["note"])
    assert not any(dialogue in text or line in text for _, _, dialogue in DIALOGUES for line in dialogue.split("\n"))


def test_a_part_file_of_an_older_version_or_of_other_rows_is_refused(
    run: Path, dialogues: Path, tmp_path: Path
) -> None:
    out, line = tmp_path / "notes.csv", {"id": "7", "note": "It is Monday's.", "num_tokens": 4, "hit_limit": False}
    part = part_path(out)
    part.write_text(json.dumps({"settings": {"rows": "0"}}) + "\n" + json.dumps(line) + "\n")
    with pytest.raises(InputError, match=r"older version.*delete it"):
        write(run, dialogues, out, "--resume")
    record = section_record(id="7", section_header="GENHX", dialogue="Doctor: Another day.", note="")
    header = json.dumps({"made_from": MadeFrom(settings={}, rows=(row_sha256(record),)).to_json()})
    part.write_text(header + "\n" + json.dumps({"row": row_sha256(record), **line}) + "\n")
    with pytest.raises(InputError, match="another input"):
        write(run, dialogues, out, "--resume")
    part.write_text(header + "\n" + json.dumps(line) + "\n")
    with pytest.raises(InputError, match="not what an interrupted call leaves"):
        write(run, dialogues, out, "--resume")
    assert not out.exists() and part.exists()


def test_each_note_of_a_part_file_belongs_to_a_row_of_the_input(run: Path, dialogues: Path, tmp_path: Path) -> None:
    """A part file may have a note of an earlier call for a row that the input lacks now."""
    out = tmp_path / "notes.csv"
    line = {"row": "0" * 64, "id": "7", "note": "It is Monday's.", "num_tokens": 4, "hit_limit": False}
    header = {"made_from": MadeFrom(settings={}, rows=()).to_json()}
    part_path(out).write_text(json.dumps(header) + "\n" + json.dumps(line) + "\n")
    with pytest.raises(InputError, match="rows that are not in this input"):
        write(run, dialogues, out, "--resume")
    assert read(part_path(out))


def test_evidence_is_looked_for_where_the_facts_are() -> None:
    """Of a task with two texts: in the one that it names as `facts_from`, as the column `unsupported`."""
    parts = (Part(name="chart", label="C", columns=("c",)), Part(name="letter", label="L", columns=("l",)))
    rule, answer = Truncation(part="letter", unit="paragraphs"), Answer(label="A", columns=("a",))
    task = Task(name="x", instruction="x", parts=parts, answer=answer, truncate=rule, facts_from="chart")
    record = Record(id="1", parts={"chart": "Hello.\nTakes 5 mg of lisinopril.", "letter": "Bye."}, source="letter")
    note = GeneratedNote(id="1", note="Takes 5 mg of lisinopril.", num_tokens=9, hit_limit=False)
    rows = [WrittenRow(record=record, note=note)]
    [cells] = note_rows(rows, task, output_format="csv", with_evidence=True, grounded=False)
    assert cells["unsupported"] == "[]" and [one["turns"] for one in json.loads(cells["evidence"])] == [[1]]
