"""Every task from file to report and score, by the scripts, on a tiny random model."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
from public_files import serve
from support import tiny_model, tiny_tokenizer
from task_files import questions, summaries, visits, write_csv
from tiny_run import exit_code

import infer
from medsum_core.data.named.sets import aci_bench
from medsum_core.process import run_as_script
from medsum_core.score import __main__ as score
from medsum_core.tasks.divisions import DIVISIONS

ROOT = Path(__file__).parents[2]
OWN = ROOT / "examples" / "patient_instructions.yaml"
LENGTHS = "--max_length 320 --max_new_tokens 24"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny_model("gemma").save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def train(model: Path, folder: Path, task: object, train_file: Path, validation_file: Path, *more: object) -> str:
    """Train a run of one update; returns its report."""
    line = f"""--model_name_or_path {model} --task {task} --train_file {train_file} --validation_file {validation_file}
        --output_dir {folder / "run"} --offline true --precision fp32 --max_steps 1 --gradient_accumulation_steps 2
        {LENGTHS} --no_repeat_ngram_size 3"""
    assert exit_code([*line.split(), *map(str, more)]) == 0
    return (folder / "run" / "report.md").read_text()


def write_notes(folder: Path, rows: Path, *more: object) -> list[dict[str, str]]:
    out = folder / "notes.csv"
    out.unlink(missing_ok=True)
    line = ["--run", folder / "run", "--input_file", rows, "--output_file", out, *more]
    assert run_as_script(lambda: infer.main([str(word) for word in line])) == 0
    with out.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def scores(folder: Path, task: object, references: Path) -> dict[str, object]:
    out = folder / "scores.json"
    line = ["--task", task, "--references", references, "--predictions", folder / "notes.csv", "--json", out]
    score.main([str(word) for word in line])
    found: dict[str, object] = json.loads(out.read_text())
    return found


def test_visits_are_trained_on_by_division_and_written_whole(model: Path, tmp_path: Path) -> None:
    valid = visits(tmp_path / "valid.csv", first=50, count=2)
    other = write_csv(tmp_path / "other.csv", ("encounter_id", "note"), ("V51", "Rest."), ("V50", "Has a rash."))
    report = train(
        model, tmp_path, "visit", visits(tmp_path / "train.csv", first=0, count=4), valid, "--baseline_file", other
    )
    assert "16 of 16 rows used" in report and "same 2 validation rows" in report
    for title in (
        "copied source text",
        "another system's file",
        "| assessment and plan |",
        "| objective results | 1 |",
    ):
        assert title in report.replace("| :---", "")
    (first, second) = write_notes(tmp_path, valid)
    assert list(first)[:2] == ["encounter_id", "note"] and [first["encounter_id"], second["encounter_id"]] == [
        "V50",
        "V51",
    ]
    assert int(first["num_tokens"]) >= len(DIVISIONS)
    found = scores(tmp_path, "visit", valid)
    assert found["count"] == 2 and set(found["divisions"]) == set(DIVISIONS)  # type: ignore[call-overload]
    submission = write_notes(tmp_path, valid, "--output_format", "mediqa")
    assert list(submission[0]) == ["TestID", "SystemOutput"]
    assert scores(tmp_path, "visit", valid)["rouge1"] == found["rouge1"]


def test_visits_of_the_named_data_set_get_the_notes_of_their_file(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With fictional files in the place of the official ones; every split has its own visits."""
    splits = {
        split: visits(tmp_path / f"{split}.csv", first=10 * n, count=2) for n, split in enumerate(aci_bench.FILES)
    }
    files = {path: splits[split].read_bytes() for split, path in aci_bench.FILES.items()}
    serve(monkeypatch, tmp_path / "public", "aci-bench", files)
    line = f"""--model_name_or_path {model} --task visit --dataset_name aci-bench --output_dir {tmp_path / "run"}
        --precision fp32 --max_steps 1 --gradient_accumulation_steps 2 {LENGTHS} --report_rows 1"""
    assert exit_code(line.split()) == 0
    report = (tmp_path / "run" / "report.md").read_text()
    assert "8 of 8 rows used" in report and "same 1 validation rows" in report
    by_path = write_notes(tmp_path, splits["test1"])
    out = tmp_path / "by_name.csv"
    named = f"--run {tmp_path / 'run'} --dataset_name aci-bench --split test1 --output_file {out}"
    assert run_as_script(lambda: infer.main(named.split())) == 0
    with out.open(newline="", encoding="utf-8") as file:
        assert list(csv.DictReader(file)) == by_path


def test_finished_notes_of_visits_cannot_be_resumed(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    valid = visits(tmp_path / "valid.csv", first=50, count=1)
    more = ("--report_rows", 0, "--eval_generate", 1)  # one visit, that is four rows, at each evaluation
    train(model, tmp_path, "visit", visits(tmp_path / "train.csv", first=0, count=1), valid, *more)
    assert '"eval_rouge1"' in (tmp_path / "run" / "metrics.jsonl").read_text()
    write_notes(tmp_path, valid)
    line = f"--run {tmp_path / 'run'} --input_file {valid} --output_file {tmp_path / 'notes.csv'} --resume"
    assert run_as_script(lambda: infer.main(line.split())) == 2
    assert "rows of its task can't be added" in capsys.readouterr().err


def test_questions_are_answered_by_likelihood_and_by_generation(model: Path, tmp_path: Path) -> None:
    valid = questions(tmp_path / "valid.json", first=30, count=3)
    report = train(model, tmp_path, "pubmedqa", questions(tmp_path / "train.json", first=0, count=6), valid)
    for line in (
        "base, likeliest option",
        "tuned, likeliest option, without the context (floor)",
        "always 'yes' (floor)",
        "tuned, as written",
    ):
        assert f"| {line} |" in report
    assert "Accuracy, tuned − base" in report and "copied source text" not in report
    rows = write_notes(tmp_path, valid)
    assert list(rows[0])[:4] == ["id", "answer", "generated_answer", "long_answer"]
    assert all(row["answer"] in ("yes", "no", "maybe") for row in rows)
    found = scores(tmp_path, "pubmedqa", valid)
    right = sum(row["answer"] == truth for row, truth in zip(rows, ("yes", "no", "maybe"), strict=True))
    assert found["accuracy"] == pytest.approx(right / 3) and found["generated"]["count"] == 3  # type: ignore[index]


def test_a_sections_header_is_written_before_the_section(model: Path, tmp_path: Path) -> None:
    header = ("ID", "section_header", "dialogue", "section_text")
    rows = [(str(n), ("CC", "ROS")[n % 2], f"Doctor: Hm {n}?\nPatient: A cough.", "Cough.") for n in range(4)]
    data = write_csv(tmp_path / "rows.csv", header, *rows)
    valid = write_csv(tmp_path / "valid.csv", header, ("9", "CC", "Doctor: And?\nPatient: A rash.", "Rash."))
    report = train(model, tmp_path, "section-with-header", data, valid)
    assert "| always 'Chief complaint' (floor) |" in report and "likeliest" not in report
    submission = write_notes(tmp_path, valid, "--output_format", "mediqa")
    assert list(submission[0]) == ["TestID", "SystemOutput1", "SystemOutput2"]
    assert "header_accuracy" in scores(tmp_path, "section-with-header", valid)


def test_a_users_task_goes_from_its_file_to_report_and_score(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The worked example of `examples/`. The run stores the task: its file may be changed or deleted afterwards."""
    own = tmp_path / "own.yaml"
    own.write_text(OWN.read_text())
    valid = summaries(tmp_path / "valid.csv", first=30, count=2)
    report = train(model, tmp_path, own, summaries(tmp_path / "train.csv", first=0, count=4), valid, "--grounded")
    assert (
        "greedy decoding, no 3 tokens of a note in a row twice, no fact that the source text does not support" in report
    )
    assert "4 of 4 rows used" in report and "copied source text" in report and "facts checked" in report
    own.unlink()
    rows = write_notes(tmp_path, valid)
    assert [row["id"] for row in rows] == ["S30", "S31"] and list(rows[0])[1] == "note"
    assert "left_out" in rows[0]  # decoding is grounded, as in the run
    assert scores(tmp_path, OWN, valid)["count"] == 2
    said = [report, (tmp_path / "run" / "adapter" / "README.md").read_text(), *capsys.readouterr()]
    assert not re.search(r"\bdialogues?\b", "\n".join(said), re.IGNORECASE)  # its rows are summaries


def test_a_question_without_a_text_is_answered_and_its_facts_are_not_checked(model: Path, tmp_path: Path) -> None:
    rows = [(str(n), f"What helps {n}?", f"Rest for {n} days.") for n in range(4)]
    data = write_csv(tmp_path / "rows.csv", ("id", "question", "answer"), *rows)
    valid = write_csv(tmp_path / "valid.csv", ("id", "question", "answer"), ("9", "What is rest?", "Doing nothing."))
    report = train(model, tmp_path, "medquad", data, valid)
    assert "Not checked: the task gives the model no text" in report and "facts checked" not in report
    assert "unsupported" not in write_notes(tmp_path, valid)[0]
    line = f"--run {tmp_path / 'run'} --input_file {valid} --output_file {tmp_path / 'more.csv'} --grounded"
    assert run_as_script(lambda: infer.main(line.split())) == 2
