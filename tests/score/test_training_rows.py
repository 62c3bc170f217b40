"""`score --train_file` in every task: the rows that training has, and the commonest text of a header, counted by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from task_files import summaries, visits, write_csv

from medsum_core.data.columns import Columns
from medsum_core.data.records import read_records
from medsum_core.errors import InputError
from medsum_core.score.__main__ import main
from medsum_core.score.baseline import read_baseline
from medsum_core.tasks.find import find_task, read_task_file

EXAMPLE = Path(__file__).parents[2] / "examples" / "patient_instructions.yaml"
SECTIONS = ("ID", "section_header", "section_text", "dialogue")


def score(task: str, references: Path, training: Path) -> dict[str, Any]:
    out = references.with_name("scores.json")
    main(
        f"--task {task} --references {references} --predictions {references} --train_file {training} --json {out}".split()
    )
    return json.loads(out.read_text())


def test_visits_that_training_has_are_found_although_training_divides_them(tmp_path: Path) -> None:
    references, training = visits(tmp_path / "r.csv", first=2, count=3), visits(tmp_path / "t.csv", first=0, count=4)
    shared = score("visit", references, training)["without_shared_dialogues"]
    assert (shared["count"], shared["removed_ids"]) == (1, ["V2", "V3"])


def test_rows_of_a_task_of_ones_own_that_training_has_are_found(tmp_path: Path) -> None:
    references, training = (summaries(tmp_path / name, first=n, count=3) for n, name in ((2, "r.csv"), (0, "t.csv")))
    assert score(str(EXAMPLE), references, training)["without_shared_dialogues"]["removed_ids"] == ["S2"]


@pytest.mark.parametrize("task", ["section", "section-with-header"])
def test_the_commonest_text_is_that_of_the_rows_header(tmp_path: Path, task: str) -> None:
    texts = [("CC", "A cough."), ("ALLERGY", "None known."), ("Allergies", "None known.")]
    rows = [(str(n), header, text, f"Doctor: {n}") for n, (header, text) in enumerate(texts)]
    path = write_csv(tmp_path / "f.csv", SECTIONS, *rows)
    assert score(task, path, path)["floors"]["commonest_training_text"]["rouge1"] == 1.0


def test_training_rows_with_images_are_refused(tmp_path: Path) -> None:
    """The references' images are not read, so that the same question about another image would count as learnt."""
    path = write_csv(tmp_path / "f.csv", ("qid", "image", "question", "answer"), ("1", "a.png", "Is it big?", "yes"))
    with pytest.raises(InputError, match="--train_file: of rows with images"):
        score("vqa-rad", path, path)


def test_another_systems_notes_have_the_columns_of_the_task(tmp_path: Path) -> None:
    path = summaries(tmp_path / "f.csv", first=0, count=2)
    task = read_task_file(EXAMPLE)
    records = read_records(path, columns=Columns(task=task))
    assert read_baseline(path, records, task) == {"S0": "Rest 0 days.", "S1": "Rest 1 days."}
    given = write_csv(tmp_path / "p.csv", ("id", "note"), ("S1", "One."), ("S0", "None."), ("S9", "x"))
    assert read_baseline(given, records, task) == {"S0": "None.", "S1": "One."}
    with pytest.raises(InputError, match=r"no note for 2 validation rows \(ids V0, V1\)"):
        visit = find_task("visit")
        read_baseline(
            given, read_records(visits(tmp_path / "v.csv", first=0, count=2), columns=Columns(task=visit)), visit
        )
