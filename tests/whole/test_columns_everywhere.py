"""Every command that is given a run takes the run's columns and section, so that all build the same prompts."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from tiny_run import flags, make_canary_inputs

import infer
import train_loop
from medsum_core import preview
from medsum_core.config.run_folder import read_run_config
from medsum_core.errors import InputError
from medsum_core.grounding import __main__ as grounding
from medsum_core.merge import __main__ as merge
from medsum_core.score import __main__ as score

NAMES = ("dataset", "encounter_id", "dialogue", "note")
COLUMNS = ("--id_column", "encounter_id", "--note_column", "note")


def write_visits(path: Path, *ids: str) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = [
            ("clinic", id, f"Doctor: Any cough, {id}?\nPatient: For 3 days.", f"Cough of {id}, 3 days.") for id in ids
        ]
        csv.writer(file, delimiter=";").writerows([NAMES, *rows])
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and visits in two files for training and one held out: semicolons, no section column, an id that occurs twice."""
    folder = make_canary_inputs(tmp_path_factory.mktemp("inputs"))
    write_visits(folder / "a.csv", "V1", "V2", "V2")
    write_visits(folder / "b.csv", "V2", "V3")
    write_visits(folder / "held_out.csv", "V4", "V4")
    return folder


@pytest.fixture(scope="module")
def run(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "run"
    rows = (
        "--train_file",
        str(files / "a.csv"),
        str(files / "b.csv"),
        "--validation_file",
        str(files / "held_out.csv"),
    )
    more = ("--section", "GENHX", "--number_rows", "--max_steps", "1")
    train_loop.main(flags(files, folder, *rows, *COLUMNS, *more))
    return folder


def test_the_report_names_the_files_and_how_they_were_read(files: Path, run: Path) -> None:
    report = (run / "report.md").read_text()
    assert f"- training rows by file: 3 of {files / 'a.csv'}, 2 of {files / 'b.csv'}" in report
    assert f"- {files / 'a.csv'}: columns are separated by semicolons" in report
    assert f"- 1 source texts of {files / 'b.csv'} are in {files / 'a.csv'} too" in report
    assert "a:ID, b:ID" not in report  # V2#1 and V2#2 in one file, V2 in the other: no id is in both


def test_notes_are_written_with_the_columns_of_the_run(
    files: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "notes.csv"
    argv = ["--input_file", str(files / "held_out.csv"), "--output_file", str(out), "--max_new_tokens", "3"]
    (checkpoint,) = (run / "checkpoints").iterdir()
    infer.main(["--run", str(checkpoint), *argv])
    out.unlink()
    infer.main(["--run", str(run), *argv])
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["id"], row["section_header"]) for row in rows] == [("V4#1", "GENHX"), ("V4#2", "GENHX")]
    assert "held_out.csv: columns are separated by semicolons" in capsys.readouterr().err
    references, result = str(files / "held_out.csv"), tmp_path / "score.json"
    score.main(["--run", str(run), "--references", references, "--predictions", str(out), "--json", str(result)])
    scores = json.loads(result.read_text())
    assert [row["id"] for row in scores["rows"]] == ["V4#1", "V4#2"] and list(scores["sections"]) == ["GENHX"]
    score.main(
        ["--references", references, "--predictions", str(out), *COLUMNS, "--number_rows", "--json", str(result)]
    )
    assert json.loads(result.read_text())["rouge1"] == scores["rouge1"]


def test_flags_override_the_runs_columns(run: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("ID,part,dialogue\n1,PLAN,Doctor: Any cough?\n")
    argv = ["--run", str(run), "--input_file", str(rows), "--output_file", str(tmp_path / "notes.csv")]
    with pytest.raises(InputError, match="no column 'encounter_id'"):
        infer.main(argv)
    infer.main([*argv, "--id_column", "ID", "--section_column", "part", "--max_new_tokens", "3"])
    with (tmp_path / "notes.csv").open(newline="") as file:
        assert next(csv.DictReader(file))["section_header"] == "PLAN"


def test_one_dialogue_gets_the_section_of_the_run_unless_the_flag_names_another(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "visit.txt").write_text("Doctor: Any cough?")
    sections: list[str] = []
    monkeypatch.setattr(
        "medsum_core.generation.screen.show_note", lambda _, rows, **__: sections.append(rows[0].section_header)
    )
    for more in ([], ["--section", "ROS"]):
        infer.main(["--run", str(run), "--dialogue_file", str(tmp_path / "visit.txt"), *more])
    assert sections == ["GENHX", "ROS"]
    with pytest.raises(InputError, match="--section: say which"):
        infer.main(["--model_name_or_path", "nowhere", "--dialogue_file", str(tmp_path / "visit.txt")])
    with pytest.raises(InputError, match=r"--note_column: about the columns of a file"):
        infer.main(["--run", str(run), "--dialogue_file", str(tmp_path / "visit.txt"), "--note_column", "x"])


def test_preview_grounding_and_merge_take_the_runs_columns(
    files: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, held_out = io.StringIO(), str(files / "held_out.csv")
    preview.main(["--run", str(run), "--train_file", held_out, "--model_name_or_path", str(files / "model")], out=out)
    shown = out.getvalue()
    assert "row id V4#1, section GENHX" in shown and "separated by semicolons" in shown
    grounding.main(["--run", str(run), "--input_file", held_out, "--json", str(tmp_path / "g.json")])
    result = json.loads((tmp_path / "g.json").read_text())
    assert [row["id"] for row in result["rows"]] == ["V4#1", "V4#2"] and result["facts"] == 6
    assert "separated by semicolons" in capsys.readouterr().err
    with pytest.raises(InputError, match="--note_column: say which"):
        grounding.main(["--input_file", held_out])
    merge.main(["--run", str(run), "--output_dir", str(tmp_path / "merged"), "--input_file", held_out])
    assert read_run_config(run).data.section == "GENHX"


def test_grounding_reads_turns_and_refuses_other_values_as_training_does(tmp_path: Path) -> None:
    rows = [
        {"note": "Left knee pain.", "dialogue": ["Doctor: Does the left knee hurt?", "Patient: No, the right one."]},
        {"note": 4, "dialogue": "x"},
    ]
    path = tmp_path / "f.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputError, match=r"row 2 \(line 2\), column 'note': int, not text"):
        grounding.main(["--input_file", str(path), "--note_column", "note"])
    path.write_text(json.dumps(rows[0]))
    grounding.main(["--input_file", str(path), "--note_column", "note", "--json", str(tmp_path / "g.json")])
    (row,) = json.loads((tmp_path / "g.json").read_text())["rows"]
    found = {fact["kind"]: fact["verdict"] for fact in row["facts"]}
    assert found == {
        "laterality": "contradicted",
        "symptom": "supported",
    }  # read as turns, else the denial would not be found
    for bad in ({**rows[0], "dialogue": [5]}, {**rows[0], "dialogue": None}, {**rows[0], "note": None}):
        path.write_text(json.dumps(bad))
        with pytest.raises(InputError, match="row 1"):
            grounding.main(["--input_file", str(path), "--note_column", "note"])
