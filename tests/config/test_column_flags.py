"""The column flags: the same for all commands, with the run's values as defaults; those of older runs are read."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from medsum_core.config.column_flags import COLUMN_FLAGS, add_column_flags, column_settings
from medsum_core.config.run_config import RunConfig, parse_run
from medsum_core.config.run_folder import write_run_config
from medsum_core.errors import InputError


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    (tmp_path / "rows.csv").write_text("ID\n1\n")
    return tmp_path / "rows.csv"


def settings(line: str, run: Path | None = None) -> dict[str, object]:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_column_flags(parser)
    data = column_settings(parser.parse_args(line.split()), run=None if run is None else str(run))
    return {name: getattr(data, name) for name in COLUMN_FLAGS}


def run_with(rows: Path, *more: str) -> Path:
    folder = rows.parent / "run"
    folder.mkdir()
    write_run_config(folder, parse_run(["--train_file", str(rows), "--output_dir", "x", *more]), {})
    return folder


def test_flags_override_the_runs_values_and_those_the_defaults(rows: Path) -> None:
    run = run_with(rows, "--note_column", "note", "--id_column", "key", "--section", "PLAN", "--number_rows")
    defaults = settings("")
    assert defaults["note_column"] is None and defaults["section"] is None
    of_run = {"note_column": "note", "id_column": "key", "section": "PLAN", "number_rows": True}
    assert settings("", run) == defaults | of_run
    assert settings("--note_column n", run) == defaults | of_run | {"note_column": "n"}


def test_a_section_column_replaces_the_runs_section_and_both_together_are_refused(rows: Path) -> None:
    constant = run_with(rows, "--section", "PLAN")
    assert settings("--section_column part", constant)["section"] is None
    with pytest.raises(InputError, match="give one"):
        settings("--section_column part --section CC")
    with pytest.raises(InputError, match="--section and --section_column"):
        parse_run(["--train_file", str(rows), "--section_column", "part", "--section", "CC"])


def test_a_section_replaces_the_runs_section_column(rows: Path) -> None:
    column = run_with(rows, "--section_column", "part")
    assert settings("--section CC", column) == settings("") | {"section": "CC"}


def test_a_run_of_an_earlier_version_is_read(rows: Path) -> None:
    config = parse_run(["--train_file", str(rows), "--validation_file", str(rows)])
    values = json.loads(json.dumps(config.to_json()))
    later = ("dataset_config_name", "train_split", "validation_split", "section", "number_rows")
    values["data"] = {name: value for name, value in values["data"].items() if name not in later}
    values["data"] |= {"train_file": str(rows), "validation_file": str(rows)}  # one path each, not a list
    assert RunConfig.from_json(values) == config


@pytest.mark.parametrize(
    "flags,message",
    [
        ("--train_file {rows} {rows}", "--train_file: names a file twice"),
        ("--train_file {rows} nowhere.csv", "--train_file nowhere.csv: there is no such file"),
        (
            "--train_file {rows} --train_split dev --dataset_config_name a",
            "--dataset_config_name, --train_split: a choice",
        ),
        ("--dataset_name x --validation_split dev --validation_file {rows}", "both name validation data"),
    ],
)
def test_files_and_splits_that_conflict_are_refused(rows: Path, flags: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_run(flags.format(rows=rows).split())
    assert message in str(caught.value)


def test_several_files_from_the_command_line_and_from_a_settings_file(rows: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.csv"
    other.write_text("ID\n1\n")
    asked = parse_run(["--train_file", str(rows), str(other), "--validation_file", str(other)])
    assert (asked.data.train_file, asked.data.validation_file) == ([str(rows), str(other)], [str(other)])
    (tmp_path / "run.yaml").write_text(f"train_file: [{rows}, {other}]\nvalidation_file: {other}\n")
    assert parse_run(["--config", str(tmp_path / "run.yaml")]).data == asked.data
