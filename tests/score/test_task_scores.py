"""`score --task`: the files of each task, with scores computed here by rouge-score; all texts are fictional."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from rouge_score.rouge_scorer import RougeScorer

from medsum_core.errors import InputError
from medsum_core.score.__main__ import main
from medsum_core.score.rouge import METRICS

CANARY = "CANARYTEXT"
KNEE = f"CHIEF COMPLAINT\n\nSore knee, {CANARY}.\n\nPHYSICAL EXAM\n\nKnee warm.\n\nASSESSMENT AND PLAN\n\nRest the knee.\nIce."
COUGH = "CC:\nDry cough.\n\nRESULTS\n\nX-ray clear.\n\nPLAN\n\nTea and rest."
KNEE_GIVEN = "CHIEF COMPLAINT\n\nKnee sore.\n\nPLAN\n\nIce the knee.\nRest."
COUGH_GIVEN = "Cough for days.\n\nPLAN\n\nRest, honey and tea."
# (references, predictions) of each division as the official tagger splits the notes above; None: the note lacks it.
DIVISIONS = {
    "subjective": (
        [f"CHIEF COMPLAINT\n\nSore knee, {CANARY}.\n\n", "CC:\nDry cough.\n\n"],
        ["CHIEF COMPLAINT\n\nKnee sore.\n\n", "Cough for days.\n\n"],
    ),
    "objective_exam": (["PHYSICAL EXAM\n\nKnee warm.\n\n", None], [None, None]),
    "objective_results": ([None, "RESULTS\n\nX-ray clear.\n\n"], [None, None]),
    "assessment_and_plan": (
        ["ASSESSMENT AND PLAN\n\nRest the knee.\nIce.", "PLAN\n\nTea and rest."],
        ["PLAN\n\nIce the knee.\nRest.", "PLAN\n\nRest, honey and tea."],
    ),
}


def write(path: Path, columns: str, *rows: Sequence[str]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns.split(","), *rows])
    return path


def score(folder: Path, task: str, references: Path, *predictions: object) -> dict[str, Any]:
    out = folder / "scores.json"
    out.unlink(missing_ok=True)
    flags = ["--task", task, "--references", references, "--predictions", *predictions, "--json", out]
    main([str(flag) for flag in flags])
    return json.loads(out.read_text())


def refusal(folder: Path, task: str, references: Path, *predictions: object) -> str:
    with pytest.raises(InputError) as caught:
        score(folder, task, references, *predictions)
    assert CANARY not in str(caught.value)
    assert not (folder / "scores.json").exists()
    return str(caught.value)


def by_hand(references: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    scorer = RougeScorer(list(METRICS), use_stemmer=False)
    scores = [scorer.score(*pair) for pair in zip(references, predictions, strict=True)]
    return {metric: sum(score[metric].fmeasure for score in scores) / len(scores) for metric in METRICS}


@pytest.fixture
def visits(tmp_path: Path) -> Path:
    return write(
        tmp_path / "visits.csv",
        "dataset,encounter_id,dialogue,note",
        ("x", "D1", "[doctor] a", KNEE),
        ("x", "D2", "[doctor] b", COUGH),
    )


def official(parts: Sequence[str | None]) -> list[str]:
    empty = "#####EMPTY#####" if any(parts) else ""
    return [empty if part is None else part.replace("\n", "__lf1__") for part in parts]


def test_a_visit_is_scored_whole_and_by_division(
    visits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = write(tmp_path / "runs.csv", "TestID,SystemOutput", ("D2", COUGH_GIVEN), ("D1", KNEE_GIVEN))
    result = score(tmp_path, "visit", visits, given)
    whole = by_hand([KNEE, COUGH], [KNEE_GIVEN, COUGH_GIVEN])
    assert {metric: result[metric] for metric in METRICS} == pytest.approx(whole, abs=5e-7)
    assert list(result["divisions"]) == list(DIVISIONS)
    for name, (truth, predicted) in DIVISIONS.items():
        division = result["divisions"][name]
        expected = by_hand(official(truth), official(predicted))
        assert {metric: division[metric] for metric in METRICS} == pytest.approx(expected, abs=5e-7), name
        assert (division["count"], division["references_without"]) == (2, truth.count(None))
        pairs = [(text, other or "") for text, other in zip(truth, predicted, strict=True) if text is not None]
        plain = by_hand([pair[0] for pair in pairs], [pair[1] for pair in pairs])
        assert division["plain"] == pytest.approx({**plain, "count": len(pairs)}, abs=5e-7), name
    screen = capsys.readouterr()
    assert "division objective_exam" in screen.out
    assert CANARY not in screen.out + screen.err + (tmp_path / "scores.json").read_text()


def test_a_division_that_both_notes_lack_scores_1_as_the_official_script_has_it(visits: Path, tmp_path: Path) -> None:
    """But only if another note of that side has it; if none has, that side is empty text."""
    exam = KNEE_GIVEN.replace("PLAN", "EXAM\n\nKnee warm.\n\nPLAN")
    with_exam = write(tmp_path / "p.csv", "encounter_id,note", ("D1", exam), ("D2", COUGH_GIVEN))
    scores = score(tmp_path, "visit", visits, with_exam)["divisions"]["objective_exam"]
    kept = by_hand(
        ["PHYSICAL EXAM__lf1____lf1__Knee warm.__lf1____lf1__"], ["EXAM__lf1____lf1__Knee warm.__lf1____lf1__"]
    )
    assert scores["rouge1"] == pytest.approx((kept["rouge1"] + 1) / 2)
    plain = by_hand(["PHYSICAL EXAM Knee warm."], ["EXAM Knee warm."])["rouge1"]
    assert scores["plain"]["rouge1"] == pytest.approx(plain)  # of the one note that should have it
    without = write(tmp_path / "p.csv", "encounter_id,note", ("D1", KNEE_GIVEN), ("D2", COUGH_GIVEN))
    assert score(tmp_path, "visit", visits, without)["divisions"]["objective_exam"]["rouge1"] == 0.0


def test_mediqas_markers_of_line_breaks_are_line_breaks(visits: Path, tmp_path: Path) -> None:
    rows = [("D1", KNEE_GIVEN.replace("\n", "__lf1__")), ("D2", COUGH_GIVEN.replace("\n", "__lf1__"))]
    marked = score(tmp_path, "visit", visits, write(tmp_path / "p.csv", "ID,SystemOutput2", *rows))
    rows = [("D1", KNEE_GIVEN), ("D2", COUGH_GIVEN)]
    broken = score(tmp_path, "visit", visits, write(tmp_path / "p.csv", "ID,SystemOutput", *rows))
    assert marked["divisions"] == broken["divisions"]


def test_two_seeds_are_averaged_by_division(visits: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "p.csv", "encounter_id,note", ("D1", KNEE_GIVEN), ("D2", COUGH_GIVEN))
    one = score(tmp_path, "visit", visits, other)["divisions"]["subjective"]
    both = score(tmp_path, "visit", visits, other, visits)["divisions"]["subjective"]
    assert both["rouge1"] == pytest.approx((one["rouge1"] + 1) / 2)


def test_without_ids_in_both_files_rows_are_matched_by_order(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = write(tmp_path / "r.csv", "note,dialogue", (KNEE, "a"), (COUGH, "b"))
    given = write(tmp_path / "p.csv", "SystemOutput,n", (KNEE_GIVEN, "1"), (COUGH_GIVEN, "2"))
    result = score(tmp_path, "visit", truth, given)
    assert result["rouge1"] == pytest.approx(by_hand([KNEE, COUGH], [KNEE_GIVEN, COUGH_GIVEN])["rouge1"])
    assert [row["id"] for row in result["rows"]] == ["1", "2"]
    assert capsys.readouterr().err.count("matched by their order") == 1
    short = write(tmp_path / "short.csv", "SystemOutput,n", (KNEE_GIVEN, "1"))
    assert f"{short}: 1 rows, {truth} has 2" in refusal(tmp_path, "visit", truth, short)
    named = write(tmp_path / "named.csv", "id,note", ("1", KNEE_GIVEN), ("2", COUGH_GIVEN))
    assert f"{truth}: no column 'id' or 'TestID' or 'encounter_id'" in refusal(tmp_path, "visit", truth, named)


HEADERS = "TestID,SystemOutput1,SystemOutput2"


def test_headers_are_scored_besides_their_texts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    columns = "ID,section_header,section_text"
    truth = write(
        tmp_path / "r.csv", columns, ("0", "CC", "Cough."), ("1", "ROS", "No fever."), ("2", "EXAM", "Clear.")
    )
    given = write(
        tmp_path / "p.csv", HEADERS, ("2", "", "Clear."), ("0", "Chief complaint", "A cough."), ("1", "CC", "Fever.")
    )
    result = score(tmp_path, "section-with-header", truth, given)
    assert result["header_accuracy"] == pytest.approx(1 / 3)
    assert result["header_accuracy_interval"] == [0.0, 1.0]
    assert result["header_floor"] == pytest.approx(1 / 3)
    expected = by_hand(["Cough.", "No fever.", "Clear."], ["A cough.", "Fever.", "Clear."])
    assert {metric: result[metric] for metric in METRICS} == pytest.approx(expected, abs=5e-7)
    assert "section headers right: 33.33 [0.0, 100.0]" in capsys.readouterr().out
    assert "header_accuracy" not in score(tmp_path, "section", truth, given)


def test_files_without_headers_are_refused(tmp_path: Path) -> None:
    truth = write(tmp_path / "r.csv", HEADERS, ("0", "CC", "Cough."), ("1", "", "Fever."))
    given = write(tmp_path / "p.csv", "id,note", ("0", "Cough."), ("1", "Fever."))
    assert f"{given}: no column 'section_header' or 'SystemOutput1'" in refusal(
        tmp_path, "section-with-header", truth, given
    )
    assert f"{truth}: 1 rows have no section header (ids 1)" in refusal(tmp_path, "section-with-header", truth, truth)
    assert "the task section-with-header knows no sections" in refusal(
        tmp_path, "section-with-header", truth, truth, "--section", "CC"
    )


DECISIONS = "pubid,final_decision,long_answer"


@pytest.fixture
def decisions(tmp_path: Path) -> Path:
    rows = [("7", "yes", f"It does, {CANARY}."), ("8", "no", "It does not."), ("9", "Maybe", "Unclear.")]
    return write(tmp_path / "decisions.csv", DECISIONS, *rows)


def test_answers_by_likelihood_and_generated_answers_are_both_scored(
    decisions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [("9", "no", "maybe", "Unclear."), ("7", "yes", "I think so", "It does."), ("8", "No.", "yes", "")]
    given = write(tmp_path / "p.csv", "id,answer,generated_answer,long_answer", *rows)
    result = score(tmp_path, "pubmedqa", decisions, given)
    assert (result["accuracy"], result["count"], result["invalid"]) == (pytest.approx(2 / 3), 3, 0)
    assert result["macro_f1"] == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert result["accuracy_interval"] == [0.0, 1.0] and len(result["macro_f1_interval"]) == 2
    generated = result["generated"]
    assert (generated["accuracy"], generated["count"], generated["invalid"]) == (pytest.approx(1 / 3), 3, 1)
    assert generated["macro_f1"] == pytest.approx(1 / 3)  # maybe 1; yes and no never rightly given
    assert result["floors"]["commonest_reference_answer"]["accuracy"] == pytest.approx(1 / 3)
    long = by_hand([f"It does, {CANARY}.", "It does not.", "Unclear."], ["It does.", "", "Unclear."])
    assert {metric: result["long_answer"][metric] for metric in METRICS} == pytest.approx(long, abs=5e-7)
    assert result["rows"] == [{"id": "7", "correct": True}, {"id": "8", "correct": True}, {"id": "9", "correct": False}]
    screen = capsys.readouterr()
    assert "1 generated answers are none of the options, and count as wrong." in screen.out
    assert "floor: the references' commonest answer" in screen.out
    assert CANARY not in screen.out + screen.err + (tmp_path / "scores.json").read_text()


def test_answers_without_ids_are_matched_by_order(
    decisions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = write(tmp_path / "r.csv", "final_decision,n", ("yes", "1"), ("no", "2"))
    given = write(tmp_path / "p.csv", "answer,n", ("yes", "1"), ("yes", "2"))
    result = score(tmp_path, "pubmedqa", truth, given)
    assert result["accuracy"] == 0.5 and "generated" not in result and "long_answer" not in result
    assert capsys.readouterr().err.count("matched by their order") == 1
    assert "the other file has ids" in refusal(tmp_path, "pubmedqa", decisions, given)


def test_answer_files_that_cannot_be_scored_are_refused(decisions: Path, tmp_path: Path) -> None:
    missing = write(tmp_path / "missing.csv", "id,answer", ("7", "yes"), ("8", CANARY))
    assert "1 references have no prediction (ids 9)" in refusal(tmp_path, "pubmedqa", decisions, missing)
    doubled = write(tmp_path / "doubled.csv", "id,answer", ("7", "yes"), ("7", "no"))
    assert "row 2 (line 3), column 'id': the same id as row 1" in refusal(tmp_path, "pubmedqa", decisions, doubled)
    both = write(tmp_path / "both.csv", DECISIONS, ("7", "no", "a"), ("7", "yes", "b"))
    assert [row["correct"] for row in score(tmp_path, "pubmedqa", both, doubled, "--number_rows")["rows"]] == [
        False
    ] * 2
    (tmp_path / "scores.json").unlink()
    no_id = write(tmp_path / "no_id.csv", "id,answer", ("7", "yes"), ("", "no"))
    assert "row 2 (line 3), column 'id': empty" in refusal(tmp_path, "pubmedqa", decisions, no_id)
    other = write(tmp_path / "other.csv", DECISIONS, ("7", "yes", "a"), ("8", CANARY, "b"))
    assert "row 2: the answer is none of yes, no, maybe" in refusal(tmp_path, "pubmedqa", other, missing)
    nothing = write(tmp_path / "nothing.csv", "id,text", ("7", "yes"))
    assert "no column 'answer' or 'final_decision'" in refusal(tmp_path, "pubmedqa", decisions, nothing)
    number = tmp_path / "number.jsonl"
    number.write_text('{"id": 7, "answer": 1}\n')
    assert "row 1 (line 1), column 'answer': int, not text" in refusal(tmp_path, "pubmedqa", decisions, number)


def test_flags_without_effect_on_answers_are_refused(decisions: Path, tmp_path: Path) -> None:
    message = refusal(
        tmp_path,
        "pubmedqa",
        decisions,
        decisions,
        "--dialogue_column",
        "x",
        "--tokenizer",
        "unicode",
        "--compare",
        decisions,
    )
    assert "--compare, --dialogue_column, --tokenizer: not with --task pubmedqa" in message
    second = write(tmp_path / "second.csv", DECISIONS, ("7", "yes", "a"))
    assert "one file at a time" in refusal(tmp_path, "pubmedqa", decisions, decisions, second)
    own = write(tmp_path / "own.csv", "key,final_decision", ("7", "yes"), ("8", "no"), ("9", "maybe"))
    assert score(tmp_path, "pubmedqa", own, decisions, "--id_column", "key")["accuracy"] == 1.0


def test_a_users_task_is_scored_by_its_options(tmp_path: Path) -> None:
    """With its columns, options and id; a generated answer is the option that it begins with, as in decoding."""
    task = tmp_path / "triage.yaml"
    task.write_text(
        "instruction: How urgent is it?\n"
        "parts: [{name: letter, label: 'Letter:', columns: [letter]}]\n"
        "answer: {label: 'Answer:', columns: [why], choice: {columns: [urgency], options: [urgent, can wait]}}\n"
        "id_columns: [case]\nmetrics: [accuracy, macro_f1]\n"
    )
    truth = write(tmp_path / "r.csv", "case,urgency,why", ("a", "Urgent", "Pain."), ("b", "can wait", "None."))
    given = write(
        tmp_path / "p.csv",
        "id,answer,generated_answer",
        ("b", "soon", "Can wait: no pain."),
        ("a", "urgent", "Perhaps urgent"),
    )
    result = score(tmp_path, str(task), truth, given)
    assert [row["correct"] for row in result["rows"]] == [True, False]
    assert (result["invalid"], result["generated"]["invalid"], result["generated"]["accuracy"]) == (1, 1, 0.5)
    assert "over urgent, can wait" in result["protocol"]
    assert "why" not in result
    rows = [("b", "soon", "No pain."), ("a", "urgent", "Pain.")]
    result = score(tmp_path, str(task), truth, write(tmp_path / "p.csv", "id,answer,long_answer", *rows))
    assert result["why"]["rouge1"] == pytest.approx(by_hand(["Pain.", "None."], ["Pain.", "No pain."])["rouge1"])
    task.write_text(task.read_text().replace("[why]", "[]"))  # the choice alone
    truth = write(tmp_path / "r.csv", "case,urgency,long_answer", ("a", "Urgent", "Pain."), ("b", "can wait", "None."))
    assert score(tmp_path, str(task), truth, tmp_path / "p.csv")["accuracy"] == 0.5


def test_the_sections_of_a_users_task_are_scored_one_by_one(tmp_path: Path) -> None:
    task = tmp_path / "notes.yaml"
    task.write_text(
        "instruction: Write it.\nanswer: {label: 'Note:', columns: text}\nparts:\n"
        "- {name: section_header, label: 'Section:', columns: part, form: line, is_section: true}\n"
        "- {name: talk, label: 'Talk:', columns: talk}\n"
    )
    # The file also has columns with the usual names: those of the task count, as in training.
    rows = [("1", "CC", "Cough.", "a", "x", "x"), ("2", "ROS", "Fever.", "b", "x", "x")]
    truth = write(tmp_path / "r.csv", "ID,part,text,talk,note,section_header", *rows)
    result = score(tmp_path, str(task), truth, write(tmp_path / "p.csv", "id,note", ("1", "Cough."), ("2", "No.")))
    assert {name: scores["rouge1"] for name, scores in result["sections"].items()} == {"CC": 1.0, "ROS": 0.0}


def test_medquad_is_scored_by_rouge(tmp_path: Path) -> None:
    truth = write(
        tmp_path / "r.csv", "id,question,answer", ("1", "What is it?", "A rash."), ("2", "Why?", "Rest helps.")
    )
    given = write(tmp_path / "p.csv", "id,note", ("2", "Rest."), ("1", "A red rash."))
    expected = by_hand(["A rash.", "Rest helps."], ["A red rash.", "Rest."])
    result = score(tmp_path, "medquad", truth, given)
    assert {metric: result[metric] for metric in METRICS} == pytest.approx(expected, abs=5e-7)


def test_an_unknown_task_is_refused_with_the_known_ones(visits: Path, tmp_path: Path) -> None:
    said = refusal(tmp_path, "poem", visits, visits)
    assert all(task in said for task in ("section", "section-with-header", "visit", "pubmedqa", "medquad"))
