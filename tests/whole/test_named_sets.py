"""A named data set from its files to notes: training, the model card's credit, and the run's own configuration."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import pytest
from public_files import serve
from tiny_run import make_canary_inputs

import infer
import train_loop
from medsum_core.data.named.sets import mts_dialog
from medsum_core.data.named.sets.mts_dialog_augmented import FILES
from medsum_core.errors import InputError

NAME = "mts-dialog-augmented"


def rows(*ids: str) -> bytes:
    lines = [f'{id},GENHX,Cough of {id}.,"Doctor: Any cough, {id}?\nPatient: Yes."' for id in ids]
    return "\n".join(["ID,section_header,section_text,dialogue", *lines]).encode()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a model; the files of the augmented set are served from it."""
    folder = make_canary_inputs(tmp_path_factory.mktemp("inputs"))
    files = {path: rows(split) for split, path in mts_dialog.FILES.items()}
    files |= {FILES["set1"]: rows("A", "B"), FILES["set2"]: rows("C"), FILES["set3"]: rows("D", "E", "F")}
    with pytest.MonkeyPatch.context() as patch:
        serve(patch, folder, NAME, files)
        yield folder


@pytest.fixture(scope="module")
def run(served: Path) -> Path:
    argv = f"""--model_name_or_path {served / "model"} --dataset_name {NAME} --dataset_config_name set1 --max_steps 1
        --output_dir {served / "run"} --precision fp32 --gradient_accumulation_steps 2 --max_length 240
        --max_new_tokens 32 --report_rows 0"""
    train_loop.main(argv.split())
    return served / "run"


def ids_of_notes(run: Path, out: Path, *more: str) -> list[str]:
    argv = ["--run", str(run), "--dataset_name", NAME, "--output_file", str(out), "--max_new_tokens", "2", *more]
    infer.main(argv)
    with out.open(newline="") as file:
        return [row["id"] for row in csv.DictReader(file)]


def test_a_run_on_a_named_data_set_credits_it_in_the_model_card(run: Path) -> None:
    report = (run / "report.md").read_text()
    assert "0 of 2 rows dropped: their dialogue" in report
    card = (run / "adapter" / "README.md").read_text()
    assert "translated to French or Spanish and back, licensed CC BY 4.0" in card and "the user's own" not in card


def test_notes_are_for_a_split_of_the_runs_configuration_unless_the_flag_names_another(
    run: Path, tmp_path: Path
) -> None:
    assert ids_of_notes(run, tmp_path / "1.csv", "--split", "train", "--offline") == ["A", "B"]
    assert ids_of_notes(run, tmp_path / "2.csv", "--split", "train", "--dataset_config_name", "set3") == ["D", "E", "F"]
    assert ids_of_notes(run, tmp_path / "3.csv", "--split", "test2") == ["test2"]
    for more, message in (
        (["--split", "dev"], "no split 'dev': choose one of train, valid, test1, test2"),
        (["--split", "valid", "--dataset_config_name", "x"], "no configuration 'x'"),
        (["--split", "valid", "--dataset_name", "none"], "no named data set 'none': choose from aci-bench"),
    ):
        with pytest.raises(InputError, match=message):
            ids_of_notes(run, tmp_path / "4.csv", *more)
    with pytest.raises(InputError, match="--dataset_config_name is a choice within --dataset_name"):
        infer.main(["--run", str(run), "--input_file", "x.csv", "--output_file", "y.csv", "--dataset_config_name", "a"])
    assert not (tmp_path / "4.csv").exists()
