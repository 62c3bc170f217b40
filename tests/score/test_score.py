"""The official ROUGE setting, rows matched by id, bad files refused."""

from __future__ import annotations

import csv
import errno
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import section_record

from medsum_core.data.records import Record
from medsum_core.errors import InputError
from medsum_core.score import __main__ as score
from medsum_core.score.__main__ import main
from medsum_core.score.bootstrap import bootstrap_interval
from medsum_core.score.evaluate import evaluate, floors, strip_tags
from medsum_core.score.rouge import METRICS, RougeRows, score_rows, summarise

REAL = Path(__file__).parents[3] / "shared" / "data"
CANARY = "CANARYTEXT"


def write(path: Path, columns: str, *rows: Sequence[str]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns.split(","), *rows])
    return path


def run(*arguments: object) -> None:
    main([str(argument) for argument in arguments])


def refusal(*arguments: object) -> str:
    with pytest.raises(InputError) as caught:
        run(*arguments)
    assert CANARY not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def references(tmp_path: Path) -> Path:
    return write(
        tmp_path / "references.csv",
        "ID,section_header,section_text,dialogue",
        ("0", "CC", "Chest pain.", "Doctor: Hi\nPatient: Chest pain"),
        ("1", "ROS", "The patient denies fever and cough.", "Doctor: Any fever?\nPatient: No fever: none"),
        ("2", "ROS", f"No {CANARY} of any kind here.", "Doctor: ok"),
    )


@pytest.fixture
def predictions(tmp_path: Path) -> Path:
    rows = [("2", "ROS", f"No {CANARY} here."), ("0", "CC", "Pain in the chest."), ("1", "ROS", "")]
    return write(tmp_path / "predictions.csv", "id,section_header,note", *rows)


def test_rouge_by_hand() -> None:
    rows = score_rows(["the cat sat", "a b\nc d", "x", "running"], ["the cat ran fast", "c d\na b", "", "runs"])
    assert rows.rouge1 == pytest.approx((4 / 7, 1.0, 0.0, 0.0))  # no stemmer: running is not runs
    assert rows.rouge2 == pytest.approx((2 / 5, 2 / 3, 0.0, 0.0))
    assert rows.rougeL == pytest.approx((4 / 7, 0.5, 0.0, 0.0))
    assert rows.rougeLsum == pytest.approx((4 / 7, 1.0, 0.0, 0.0))  # newlines split
    assert rows.count == 4  # the empty prediction counts
    assert rows.select((3, 1)).rougeL == (rows.rougeL[3], rows.rougeL[1])


def test_unequal_or_no_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="no rows"):
        score_rows([], [])
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        score_rows(["a", "b"], ["a"])


@pytest.mark.skipif(not REAL.is_dir(), reason="the MEDIQA outputs are not beside the checkout (../shared/data)")
@pytest.mark.parametrize("system", ["flan_t5_large_run1", "flan_t5_large_wo_header_prediction_run1"])
def test_published_scores_to_six_decimals(system: str, tmp_path: Path) -> None:
    folder = REAL / "mediqa-valid"
    out = tmp_path / "scores.json"
    train = REAL / "mts-dialog" / "MTS-Dialog-TrainingSet.csv"
    run(
        *("--references", folder / "references.csv", "--predictions", folder / f"{system}.csv"),
        *("--json", out, "--train_file", train),
    )
    result = json.loads(out.read_text())
    published = json.loads((folder / f"{system}.json").read_text())["all"]
    assert result["count"] == 100
    for metric in METRICS:
        assert result[metric] == pytest.approx(published[metric], abs=5e-7), metric
        low, high = result[f"{metric}_interval"]
        assert low < result[metric] < high
    assert result["without_shared_dialogues"]["removed_ids"] == ["taskA4", "taskA58"]
    assert result["without_shared_dialogues"]["count"] == 98
    assert 0.15 < result["floors"]["copied_dialogue"]["rouge1"] < 0.3
    assert sum(section["count"] for section in result["sections"].values()) == 100
    assert sum(stratum["count"] for stratum in result["strata"].values()) == 100


def test_summary_has_each_metric_with_its_own_interval() -> None:
    matrix = np.random.default_rng(1).random((23, 4))
    rows = RougeRows(**dict(zip(METRICS, map(tuple, matrix.T.tolist()), strict=True)))
    summary = summarise(rows)
    assert summary["count"] == 23
    for metric in METRICS:
        values = getattr(rows, metric)
        assert summary[metric] == pytest.approx(float(np.mean(values)), abs=1e-15)
        assert summary[f"{metric}_interval"] == pytest.approx(bootstrap_interval(values), abs=1e-15)


def test_rows_are_matched_by_id_in_any_format(references: Path, predictions: Path, tmp_path: Path) -> None:
    with predictions.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    mediqa = write(
        tmp_path / "mediqa.csv",
        "TestID,SystemOutput1,SystemOutput2",
        *((row["id"], row["section_header"], row["note"]) for row in rows[::-1]),
    )
    jsonl = tmp_path / "p.jsonl"
    jsonl.write_text("\n".join(json.dumps({**row, "id": int(row["id"]), "hit_limit": False}) for row in rows))
    results: list[dict[str, Any]] = []
    for path in (predictions, mediqa, jsonl):
        run("--references", references, "--predictions", path, "--json", tmp_path / "out.json")
        results.append(json.loads((tmp_path / "out.json").read_text()))
    assert results[0] == results[1] == results[2]
    assert [row["id"] for row in results[0]["rows"]] == ["0", "1", "2"]
    assert results[0]["rows"][0]["rouge1"] == pytest.approx(4 / 6)  # 2 words of 4, 2 of 2
    assert results[0]["rows"][1]["rouge1"] == 0.0


BAD_PREDICTIONS = {
    "missing": ([("0", "a"), ("1", CANARY)], ["1 references have no prediction", "ids 2"]),
    "unknown": ([("0", "a"), ("1", "b"), ("2", "c"), ("7", CANARY)], ["1 predictions have no reference", "ids 7"]),
    "doubled": ([("0", "a"), ("1", "b"), ("2", "c"), ("1", CANARY)], ["row 4 (line 5)", "same id as row 2"]),
    "empty id": ([("0", "a"), ("1", "b"), ("", CANARY)], ["row 3", "'id'", "empty"]),
}


@pytest.mark.parametrize("case", BAD_PREDICTIONS)
def test_ids_that_do_not_match_are_refused(references: Path, tmp_path: Path, case: str) -> None:
    rows, expected = BAD_PREDICTIONS[case]
    path = write(tmp_path / "bad.csv", "id,note", *rows)
    message = refusal("--references", references, "--predictions", path, "--json", tmp_path / "out.json")
    assert [words for words in [str(path), *expected] if words not in message] == [], message
    assert not (tmp_path / "out.json").exists()


def test_missing_and_ambiguous_columns_are_refused(references: Path, predictions: Path, tmp_path: Path) -> None:
    both = write(tmp_path / "both.csv", "id,note,section_text", ("0", "a", "b"))
    assert "could all be meant" in refusal("--references", references, "--predictions", both)
    no_id = write(tmp_path / "no_id.csv", "number,note", ("0", "a"))
    assert "no column 'id' or 'TestID'" in refusal("--references", references, "--predictions", no_id)
    no_note = write(tmp_path / "no_note.csv", "id,text", ("0", "a"))
    assert "'SystemOutput2'; the file has 2 columns, of which known here: id" in refusal(
        "--references", references, "--predictions", no_note
    )
    empty = write(tmp_path / "empty.csv", "id,note", ("0", "a"), ("1", " "))
    assert "row 2 (line 3), column 'note': empty" in refusal("--references", empty, "--predictions", predictions)
    null = tmp_path / "null.jsonl"
    null.write_text('{"id": "0", "note": null}')
    assert "NoneType, not text" in refusal("--references", references, "--predictions", null)


def test_an_impossible_output_is_refused_before_scoring(references: Path, predictions: Path, tmp_path: Path) -> None:
    both = ("--references", references, "--predictions", predictions)
    assert "folder that exists" in refusal(*both, "--json", tmp_path / "absent" / "out.json")
    before = references.read_bytes()
    assert "input files" in refusal(*both, "--json", references)
    assert references.read_bytes() == before
    assert "names a file twice" in refusal(*both, predictions)


def records(*rows: tuple[str, str, str]) -> list[Record]:
    return [
        section_record(id=str(number), section_header=header, dialogue=dialogue, note=note)
        for number, (header, dialogue, note) in enumerate(rows)
    ]


def test_floors_are_the_copied_dialogue_and_the_commonest_training_text() -> None:
    training = records(
        ("ROS", "a", "None."),
        ("ROS", "b", "Fever."),
        ("ROS", "c", "Fever."),
        ("CC", "d", "Cough."),
        ("CC", "e", "Pain."),
    )
    valid = records(
        ("ros", "Doctor: Fever?", "Fever."), ("CC", "Doctor_2: Cough", "Cough."), ("PLAN", "Patient: x", "Fever.")
    )
    found = floors(valid, training=training)
    assert found["copied_dialogue"].rouge1 == (1.0, 1.0, 0.0)
    assert found["commonest_training_text"].rouge1 == (1.0, 1.0, 1.0)  # first of equals; all texts for a new header
    assert set(floors(valid)) == {"copied_dialogue"}
    assert floors(records(("", "", "Fever."))) == {}


def test_tags_are_stripped_and_colons_kept() -> None:
    text = "Doctor: Two: one now.\nGuest_family_2: Yes: I do\nShe said this: no"
    assert strip_tags(text) == "Two: one now. Yes: I do She said this: no"


def test_runs_strata_sections_shared_dialogues_and_comparison() -> None:
    valid = records(
        ("CC", "Doctor: seen  it", "one two three"),
        ("CC", "Doctor: new", "one two three four"),
        ("ROS", "Doctor: other", "a b"),
    )
    training = records(("CC", "Doctor: seen it", "x"))
    good = [record.note for record in valid]
    half = ["one two three", "nothing", "nothing"]
    result = evaluate(valid, [good, half], compare=half, training=training)
    assert [run["rouge1"] for run in result["runs"]] == pytest.approx([1.0, 1 / 3])
    assert result["rouge1"] == pytest.approx(2 / 3)
    assert result["rouge1_spread"] == pytest.approx(float(np.std([1, 1 / 3], ddof=1)))
    assert result["strata"]["short_references"]["count"] == 2
    assert result["strata"]["longer_references"]["rouge1"] == pytest.approx(0.5)
    assert {header: section["count"] for header, section in result["sections"].items()} == {"CC": 2, "ROS": 1}
    assert result["without_shared_dialogues"]["removed_ids"] == ["0"]
    assert result["without_shared_dialogues"]["rouge1"] == pytest.approx(0.5)
    assert result["compare"]["rouge1"] == pytest.approx(1 / 3)
    low, high = result["compare"]["rouge1_interval"]
    assert low <= 1 / 3 <= high
    json.dumps(result, allow_nan=False)


def test_command_line_prints_no_text_and_exits_2(references: Path, predictions: Path, tmp_path: Path) -> None:
    def call(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "medsum_core.score", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False)

    out = tmp_path / "out.json"
    done = call("--references", references, "--predictions", predictions, "--compare", predictions, "--json", out)
    assert done.returncode == 0, done.stderr
    assert "use_stemmer=False" in done.stdout and "all rows" in done.stdout and "section ROS" in done.stdout
    assert "Not computed: the commonest-text floor needs --train_file" in done.stdout
    assert CANARY not in done.stdout + done.stderr + out.read_text()
    result = json.loads(out.read_text())
    for metric in METRICS:
        assert 0 <= result[f"{metric}_interval"][0] <= result[metric] <= result[f"{metric}_interval"][1] <= 1
    refused = call("--references", tmp_path / "absent.csv", "--predictions", predictions)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith("error: ") and refused.stderr.count("\n") == 1
    assert call("--reference", references, "--predictions", predictions).returncode == 2


def test_unknown_headers_are_counted_and_not_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [("1", f"Anna {CANARY}", "Cough."), ("2", "ROS", "Fever."), ("3", "Review of systems", "Fever.")]
    path = write(tmp_path / "notes.csv", "id,section_header,note", *rows)
    run("--references", path, "--predictions", path, "--json", tmp_path / "out.json")
    screen = capsys.readouterr().out
    assert CANARY not in screen and "1 headers are not MTS-Dialog's" in screen
    assert "section ROS" in screen and "section Review of systems" in screen
    assert f"Anna {CANARY}" in json.loads((tmp_path / "out.json").read_text())["sections"]


def test_a_full_disk_is_one_message(
    references: Path, predictions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(score, "write_text_atomic", fail)
    message = refusal("--references", references, "--predictions", predictions, "--json", tmp_path / "out.json")
    assert "cannot be written (No space left on device)" in message


def test_the_widest_cells_of_the_table_do_not_touch(references: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("--references", references, "--predictions", references)
    shown = capsys.readouterr().out
    assert "100.00 [100.0, 100.0]" in shown and re.search(r"\]\d", shown) is None


def test_the_json_is_written_before_anything_is_printed(
    references: Path, predictions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A closed pipe ends the command when it prints; by then the scores must be saved."""

    def reader_has_gone(*_: object, **__: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("builtins.print", reader_has_gone)
    with pytest.raises(BrokenPipeError):
        run("--references", references, "--predictions", predictions, "--json", tmp_path / "scores.json")
    assert "rouge1" in json.loads((tmp_path / "scores.json").read_text())
