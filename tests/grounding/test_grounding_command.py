"""`python -m medsum_core.grounding`: rates and rows without text, and errors that name the cause."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from medsum_core.errors import InputError
from medsum_core.grounding.__main__ import main
from medsum_core.grounding.check import Fact
from medsum_core.grounding.report import CheckedNote, table_lines, to_json


def write_files(folder: Path) -> tuple[Path, Path]:
    notes, dialogues = folder / "notes.jsonl", folder / "dialogues.csv"
    rows = [{"id": "a", "out": "A 40-year-old."}, {"id": "b", "out": "Left knee, 5 mg."}, {"id": "c", "out": "None."}]
    notes.write_text("".join(json.dumps(row) + "\n" for row in rows))
    dialogues.write_text('ID,dialogue\nc,Hi.\nb,"Patient: My right knee."\na,"Patient: I am forty."\n')
    return notes, dialogues


def test_command_writes_rates_and_every_row_without_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    notes, dialogues = write_files(tmp_path)
    out = tmp_path / "out.json"
    main(["--input_file", str(notes), "--note_column", "OUT", "--dialogues", str(dialogues), "--json", str(out)])
    result = json.loads(out.read_text())
    assert (result["facts"], result["unsupported"]) == (3, 2)
    assert result["unsupported_rate"] == pytest.approx(2 / 3)
    low, high = result["unsupported_rate_interval"]
    assert 0 <= low <= 2 / 3 <= high <= 1
    assert [row["id"] for row in result["rows"]] == ["a", "b", "c"]
    assert result["rows"][0]["facts"] == [{"start": 2, "end": 13, "kind": "age", "verdict": "supported"}]
    assert [fact["verdict"] for fact in result["rows"][1]["facts"]] == ["contradicted", "not_found"]
    screen = capsys.readouterr().out
    assert "laterality" in screen and "66.7%" in screen
    assert "knee" not in screen + out.read_text()


def test_the_interval_is_that_of_the_report_and_absent_without_a_fact() -> None:
    fact = Fact(start=0, end=1, kind="number", verdict="supported", turn=0)
    half = CheckedNote(id="a", facts=(fact, replace(fact, verdict="not_found", turn=None)))
    silent = [CheckedNote(id=str(number), facts=()) for number in range(10)]
    result = to_json([half, replace(half, id="b"), *silent])
    assert (result["facts"], result["unsupported"], result["unsupported_rate"]) == (4, 2, 0.5)
    assert result["unsupported_rate_interval"] == [0.5, 0.5]
    nothing = to_json(silent)
    assert (nothing["unsupported_rate"], nothing["unsupported_rate_interval"]) == (0.0, None)
    assert any("0.0%; in 0 of 10 notes" in line for line in table_lines(silent, nothing))


def test_omissions_are_counted_if_requested(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    notes, dialogues, out = tmp_path / "notes.csv", tmp_path / "dialogues.csv", tmp_path / "out.json"
    notes.write_text("ID,out\na,A 40-year-old.\nb,Fever.\nc,None.\n")
    dialogues.write_text(
        'ID,dialogue\nc,Hi.\nb,"Doctor: Fever?\nPatient: Yes, for 5 days."\na,Patient: I am turning 40.\n'
    )
    command = ["--input_file", str(notes), "--note_column", "out", "--dialogues", str(dialogues), "--json", str(out)]
    main(command)
    assert not {"omissions", "omission_rate"} & json.loads(out.read_text()).keys()
    main([*command, "--omissions"])
    result, screen = json.loads(out.read_text()), capsys.readouterr().out
    assert (result["omissions"], result["stated"]) == (1, 3)
    assert result["omission_rate"] == pytest.approx(1 / 3)
    low, high = result["omission_rate_interval"]
    assert 0 <= low <= 1 / 3 <= high <= 1
    assert [(row["stated"], row["omitted"]) for row in result["rows"]] == [
        (1, []),
        (2, [{"turn": 1, "start": 33, "end": 39, "kind": "duration"}]),
        (0, []),
    ]
    assert "1 of 3 facts that the source texts state are not in the notes: 33.3%" in screen
    assert "(duration 1)" in screen and "days" not in screen + out.read_text()
    assert screen.count("Not checked: ") == 2  # with each rate, what it covers


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--note_column", "absent"], "no column 'absent'"),
        (["--note_column", "out"], "--dialogues"),
        (["--note_column", "out", "--dialogues", "short.csv"], "2 ids have no source text"),
        (["--note_column", "out", "--dialogues", "absent.csv"], "no such file"),
    ],
)
def test_command_names_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_files(tmp_path)
    (tmp_path / "short.csv").write_text("id,dialogue\na,Hi.\n")
    with pytest.raises(InputError, match=message):
        main(["--input_file", "notes.jsonl", *arguments, "--json", "out.json"])
    assert not (tmp_path / "out.json").exists()


def test_no_input_is_overwritten_by_the_result(tmp_path: Path) -> None:
    notes, dialogues = write_files(tmp_path)
    before = [path.read_bytes() for path in (notes, dialogues)]
    for path in (notes, dialogues):
        with pytest.raises(InputError, match="this is one of the input files"):
            main(f"--input_file {notes} --note_column out --dialogues {dialogues} --json {path}".split())
    assert [path.read_bytes() for path in (notes, dialogues)] == before


def test_findings_of_a_lexicon_file_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, lexicon = tmp_path / "t.csv", tmp_path / "mine.tsv"
    table.write_text("id,note,dialogue\n1,Takes Zentol. Denies cough.,Patient: Any cough? No cough.\n")
    lexicon.write_text("medication\tzentol\n")
    main(["--input_file", str(table), "--note_column", "note"])
    assert "medication " not in capsys.readouterr().out
    main(["--input_file", str(table), "--note_column", "note", "--lexicon", str(lexicon)])
    screen = capsys.readouterr().out
    assert "medication " in screen and "symptom " in screen and "1 of 2 facts are not supported" in screen
    lexicon.write_text("zentol\n")
    with pytest.raises(InputError, match="line 1: not kind"):
        main(["--input_file", str(table), "--note_column", "note", "--lexicon", str(lexicon)])


def test_facts_are_looked_up_in_the_part_that_the_task_names(tmp_path: Path) -> None:
    """Not in the part that the answer is written from, where these are two: as in the report of a run."""
    table, task = tmp_path / "t.csv", tmp_path / "task.yaml"
    task.write_text(
        "instruction: Answer.\nfacts_from: chart\ntruncate: {part: letter, unit: paragraphs}\n"
        "parts: [{name: chart, label: C, columns: c}, {name: letter, label: L, columns: l}]\n"
        "answer: {label: A, columns: a}\n"
    )
    table.write_text("ID,c,l,a\n1,Take 5 mg.,A letter.,5 mg.\n2,A chart.,Take 5 mg.,5 mg.\n")
    out = tmp_path / "out.json"
    main(["--input_file", str(table), "--note_column", "a", "--task", str(task), "--json", str(out)])
    verdicts = [[fact["verdict"] for fact in row["facts"]] for row in json.loads(out.read_text())["rows"]]
    assert verdicts == [["supported"], ["not_found"]]


def test_a_task_whose_answers_cannot_be_checked_is_refused(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("ID,question,answer\n1,What helps?,Take 5 mg.\n")
    with pytest.raises(InputError, match="--task medquad: its answers have no text, or none to look their facts up in"):
        main(["--input_file", str(table), "--note_column", "answer", "--task", "medquad"])


def test_notes_that_infer_wrote_are_joined_by_id_whatever_the_column_is_called(tmp_path: Path) -> None:
    notes, dialogues, out = (tmp_path / name for name in ("notes.csv", "visits.csv", "out.json"))
    dialogues.write_text("encounter_id,dialogue\nV1,I take 9 mg.\nV2,I take 5 mg.\n")
    files = ["--input_file", str(notes), "--dialogues", str(dialogues), "--note_column", "note", "--json", str(out)]
    for name, flags in (("id", ["--id_column", "encounter_id"]), ("TestID", ["--task", "visit"])):
        notes.write_text(f"{name},note\nV2,Takes 5 mg.\nV1,Takes 9 mg.\n")
        main([*files, *flags])
        rows = json.loads(out.read_text())["rows"]
        assert [row["id"] for row in rows] == ["V2", "V1"]
        assert all(fact["verdict"] == "supported" for row in rows for fact in row["facts"])
