"""A row that does not fit is set aside and reported, as in training; the others get their notes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from notes_command import write
from support import tiny_tokenizer

import infer
from medsum_core.data.prompt import build_renderer
from medsum_core.data.records import Record, divide_records
from medsum_core.errors import InputError
from medsum_core.process import run_as_script
from medsum_core.score.files import read_predictions
from medsum_core.tasks.find import find_task

LONG = "Patient: I have a fever and " + "cough " * 2000
ROWS = f"ID,section_header,dialogue\nx1,CC,Doctor: Hi.\nx9,CC,{LONG}\nx2,PLAN,Doctor: Rest.\n"


def test_one_row_that_does_not_fit_leaves_the_others_their_notes(
    run: Path, dialogues: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dialogues.write_text(ROWS)
    out = tmp_path / "o.csv"
    flags = ["--run", str(run), "--input_file", str(dialogues), "--output_file", str(out), "--evidence"]
    assert run_as_script(lambda: infer.main(flags)) == 0
    shown = capsys.readouterr().err
    assert "1 of 3 rows set aside (ids x9): no turn of the dialogue fits a prompt of 488 tokens" in shown
    assert "2 notes in" in shown
    first, aside, last = write(run, dialogues, out, "--evidence", "--resume")
    assert list(aside)[-1] == "set_aside" and aside["set_aside"].startswith("no turn of the dialogue fits")
    assert (aside["id"], aside["note"], aside["num_tokens"], aside["hit_limit"]) == ("x9", "", "0", "false")
    assert json.loads(aside["unsupported"]) == json.loads(aside["evidence"]) == []
    assert (aside["checked"], json.loads(aside["omitted"])) == ("0", [])
    assert first["set_aside"] == last["set_aside"] == ""
    dialogues.write_text(ROWS.replace(f"x9,CC,{LONG}\n", ""))
    assert write(run, dialogues, tmp_path / "fitting.csv", "--evidence") == [first, last]
    assert [note.id for note in read_predictions(out).records] == ["x1", "x9", "x2"]


def test_a_row_set_aside_is_an_empty_note_of_a_submission(run: Path, dialogues: Path, tmp_path: Path) -> None:
    dialogues.write_text(ROWS)
    rows = write(run, dialogues, tmp_path / "o.csv", "--output_format", "mediqa")
    assert [row["TestID"] for row in rows] == ["x1", "x9", "x2"]
    assert list(rows[1]) == ["TestID", "SystemOutput1", "SystemOutput2"] and rows[1]["SystemOutput2"] == ""


def test_a_note_that_the_model_has_no_room_for_sets_its_row_aside(run: Path, dialogues: Path, tmp_path: Path) -> None:
    """The tiny model has 2,048 positions: the long prompt leaves its note fewer than the short one does."""
    dialogues.write_text(f"ID,section_header,dialogue\nx1,CC,Doctor: Hi.\nx9,CC,Doctor: {'cough ' * 60}\n")
    short, long = write(run, dialogues, tmp_path / "o.csv", "--max_new_tokens", "1900")
    assert short["set_aside"] == "" and "2048 tokens that this model has room for" in long["set_aside"]


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the weights were loaded")

    monkeypatch.setattr(infer, "_load_model", refuse)


def test_a_visit_is_not_shown_without_a_division_that_does_not_fit(
    base: Path, tmp_path: Path, no_weights: None
) -> None:
    task = find_task("visit")
    renderer = build_renderer(tiny_tokenizer(), task=task)

    def lengths(words: int) -> list[int]:
        whole = Record(id="1", parts={task.source: f"Doctor: {'z' * words}"}, source=task.source)
        return [len(renderer.prompt_ids(record.parts)) for record in divide_records([whole])]

    words = 500 + 768 - max(lengths(500)) + 1  # 1,024 tokens less a note of 256
    assert sorted(length <= 768 for length in lengths(words)) == [False, True, True, True]
    (tmp_path / "visit.txt").write_text(f"Doctor: {'z' * words}")
    with pytest.raises(InputError, match=r"(?s)whole note can't be written.*1 of 4 rows .*1/assessment_and_plan"):
        flags = ["--model_name_or_path", str(base), "--task", "visit", "--dialogue_file", str(tmp_path / "visit.txt")]
        infer.main(flags)


def test_if_no_row_fits_it_is_bad_input_before_the_weights_are_loaded(
    run: Path, dialogues: Path, tmp_path: Path, no_weights: None
) -> None:
    dialogues.write_text(f"ID,section_header,dialogue\nx8,CC,{LONG}\nx9,CC,{LONG}\n")
    with pytest.raises(InputError, match=r"(?s)no row is left.*2 of 2 rows set aside \(ids x8, x9\)"):
        write(run, dialogues, tmp_path / "o.csv")
    visit = tmp_path / "visit.txt"
    visit.write_text(LONG)
    with pytest.raises(InputError, match="no turn of the dialogue fits"):
        infer.main(["--run", str(run), "--dialogue_file", str(visit), "--section", "CC"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dialogues.csv", "visit.txt"]
