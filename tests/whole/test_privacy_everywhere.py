"""A name in ids, headers, column names and cells: no command and no error writes it anywhere but to requested files."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from tiny_run import contents, flags, make_canary_inputs

import infer
import train_loop
from medsum_core import preview
from medsum_core.grounding import __main__ as grounding
from medsum_core.merge import __main__ as merge
from medsum_core.process import run_as_script
from medsum_core.score import __main__ as score

NAME = "Anna Zebrafinch"
CANARY = "Zebrafinch"  # in dialogues and notes without the first name
COLUMNS = ("ID", "section_header", "dialogue", "section_text", f"{NAME} 1970")
DIALOGUE = f"Doctor: Any cough?\nPatient: No, {CANARY} has 3 cats."


def write_rows(path: Path, rows: Sequence[Sequence[str]], columns: Sequence[str] | None = COLUMNS) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows] if columns else rows)
    return path


def row(number: int, *, dialogue: str = DIALOGUE, note: str = f"{CANARY} takes 50 mg.") -> tuple[str, ...]:
    """A row with the same dialogue as the others, whose note states what the dialogue does not."""
    return (f"{NAME} {number}", f"{NAME} history", dialogue, note, NAME)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Inputs: rows with a name everywhere, rows that do not fit, a file without column names, a run over them."""
    folder = make_canary_inputs(tmp_path_factory.mktemp("inputs"))
    write_rows(folder / "train.csv", [row(number) for number in range(4)])
    write_rows(folder / "valid.csv", [row(number) for number in range(4, 6)])
    write_rows(folder / "other.csv", [row(number) for number in range(7, 9)])
    write_rows(folder / "long.csv", [row(1, dialogue="Doctor: " + f"{CANARY} " * 600), row(2, note=f"{CANARY} " * 300)])
    write_rows(folder / "doubled.csv", [row(1), row(1)])
    write_rows(folder / "headerless.csv", [row(1), row(2)], columns=None)
    write_rows(folder / "ragged.csv", [row(1), row(2)[:3]])
    dirty = (f"Doctor: {CANARY}<br>b", f"{CANARY}_x000D_")
    write_rows(folder / "dirty.csv", [row(1, dialogue=dirty[0], note=dirty[1]), row(2, note="nan")])
    turns = json.dumps({"ID": f"{NAME} 1", "dialogue": [{"role": NAME, "text": CANARY}], "section_text": CANARY})
    (folder / "dirty.jsonl").write_text(turns + "\n" + json.dumps({NAME: "", **json.loads(turns), "ID": "2"}))
    (folder / "messages.jsonl").write_text(json.dumps({"messages": [{"role": NAME, "content": CANARY}] * 2}))
    (folder / "broken.jsonl").write_text(f'{{"{NAME}": "{CANARY}", "{NAME}": 1}}\n{{"{CANARY}\n"{NAME}"\n')
    return folder


@pytest.fixture(scope="module")
def run(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "run"
    train_loop.main(flags(files, folder, "--max_steps", "1", "--report_rows", "2", "--eval_generate", "1"))
    return folder


def holding(folder: Path) -> list[str]:
    return [path for path, data in contents(folder).items() if CANARY.encode() in data]


def test_a_run_writes_the_name_nowhere(files: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    more = ("--max_steps", "1", "--report_rows", "2", "--eval_generate", "1")
    train_loop.main(flags(files, tmp_path / "run", *more))
    shown = capfd.readouterr()
    assert CANARY not in shown.out + shown.err
    assert "<id of 17 characters>" in shown.err  # the rows that share a dialogue
    assert holding(tmp_path) == []
    assert b"<id of 17 characters>" in contents(tmp_path)["run/target_audit.jsonl"]


Main = Callable[[list[str]], object]
# Each command with its arguments ({...} is a path), its exit code, and the files that may contain text.
CASES: dict[str, tuple[Main, str, int, list[str]]] = {
    "train, headerless": (
        train_loop.main,
        "--train_file {files}/headerless.csv --model_name_or_path {files}/model --output_dir {out}/run",
        2,
        [],
    ),
    "train, ragged": (
        train_loop.main,
        "--train_file {files}/ragged.csv --model_name_or_path {files}/model --output_dir {out}/run",
        2,
        [],
    ),
    "train, broken": (
        train_loop.main,
        "--train_file {files}/broken.jsonl --model_name_or_path {files}/model --output_dir {out}/run",
        2,
        [],
    ),
    "train, doubled": (
        train_loop.main,
        "--train_file {files}/doubled.csv --model_name_or_path {files}/model --output_dir {out}/run",
        2,
        [],
    ),
    "train, dirty rows of two files": (
        train_loop.main,
        "--train_file {files}/dirty.csv {files}/dirty.jsonl --section GENHX --model_name_or_path {files}/model "
        "--output_dir {out}/run --dry_run",
        0,
        [],
    ),
    "train, messages of two turns": (
        train_loop.main,
        "--train_file {files}/messages.jsonl --section GENHX --model_name_or_path {files}/model --output_dir {out}/run",
        2,
        [],
    ),
    "score, dirty": (score.main, "--references {files}/dirty.csv --predictions {files}/dirty.csv", 0, []),
    "grounding, dirty": (grounding.main, "--input_file {files}/dirty.csv --note_column section_text", 0, []),
    "train, no row fits": (
        train_loop.main,
        "--train_file {files}/long.csv --model_name_or_path {files}/model --output_dir {out}/run --max_length 200 "
        "--max_new_tokens 32",
        2,
        [],
    ),
    "train, rows as settings": (
        train_loop.main,
        "--config {files}/train.csv --train_file {files}/train.csv --model_name_or_path {files}/model --output_dir {out}/run",
        2,
        [],
    ),
    "resume with other rows": (
        train_loop.main,
        "--train_file {files}/other.csv --validation_file {files}/valid.csv --model_name_or_path {files}/model "
        "--output_dir {run} --resume_from_checkpoint auto --max_length 240 --max_new_tokens 32 --precision fp32",
        2,
        [],
    ),
    "infer": (
        infer.main,
        "--run {run} --input_file {files}/valid.csv --output_file {out}/notes.csv --max_new_tokens 2",
        0,
        ["notes.csv"],
    ),
    "infer, headerless": (
        infer.main,
        "--run {run} --input_file {files}/headerless.csv --output_file {out}/notes.csv",
        2,
        [],
    ),
    "infer, doubled": (infer.main, "--run {run} --input_file {files}/doubled.csv --output_file {out}/n.csv", 2, []),
    "score": (score.main, "--references {files}/valid.csv --predictions {files}/valid.csv", 0, []),
    "score, file": (
        score.main,
        "--references {files}/valid.csv --predictions {files}/valid.csv --json {out}/s.json",
        0,
        ["s.json"],
    ),
    "score, other ids": (score.main, "--references {files}/valid.csv --predictions {files}/other.csv", 2, []),
    "score, headerless": (score.main, "--references {files}/headerless.csv --predictions {files}/valid.csv", 2, []),
    "score, doubled": (score.main, "--references {files}/valid.csv --predictions {files}/doubled.csv", 2, []),
    "grounding": (grounding.main, "--input_file {files}/train.csv --note_column section_text", 0, []),
    "grounding, headerless": (grounding.main, "--input_file {files}/headerless.csv --note_column section_text", 2, []),
    "grounding, doubled": (grounding.main, "--input_file {files}/doubled.csv --note_column section_text", 2, []),
    "preview, headerless": (preview.main, "--train_file {files}/headerless.csv", 2, []),
    "preview, no row fits": (
        preview.main,
        "--train_file {files}/long.csv --model_name_or_path {files}/model --max_length 200 --max_new_tokens 32",
        2,
        [],
    ),
    "merge": (merge.main, "--run {run} --output_dir {out}/merged --input_file {files}/valid.csv", 0, []),
    "merge, headerless": (
        merge.main,
        "--run {run} --output_dir {out}/merged --input_file {files}/headerless.csv",
        2,
        [],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_command_shows_no_text_and_writes_it_only_to_the_requested_files(
    files: Path, run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], case: str
) -> None:
    main, line, code, asked_for = CASES[case]
    argv = [word.format(files=files, run=run, out=tmp_path) for word in line.split()]
    assert run_as_script(lambda: main(argv)) == code
    shown = capfd.readouterr()
    assert CANARY not in shown.out + shown.err
    assert holding(tmp_path) == asked_for and holding(run) == []


def test_ids_without_a_dialogue_are_shown_by_their_length_only(
    files: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    notes = write_rows(tmp_path / "notes.csv", [(f"{NAME} 9", CANARY)], columns=("id", "note"))
    argv = ["--input_file", str(notes), "--note_column", "note", "--dialogues", str(files / "train.csv")]
    assert run_as_script(lambda: grounding.main(argv)) == 2
    shown = capfd.readouterr()
    assert CANARY not in shown.out + shown.err and "<id of 17 characters>" in shown.err


def test_a_dialogue_that_fits_no_prompt_is_reported_without_its_text(
    files: Path, run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    argv = ["--run", str(run), "--input_file", str(files / "long.csv"), "--output_file", str(tmp_path / "notes.csv")]
    run_as_script(lambda: infer.main(argv))
    shown = capfd.readouterr()
    assert CANARY not in shown.out + shown.err and "<id of 17 characters>" in shown.err
