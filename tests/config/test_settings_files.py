"""Settings files that can't be used: one short message without text of the file, which may be a patient's."""

from __future__ import annotations

import json
import os
import re
from importlib import import_module
from pathlib import Path

import pytest

from medsum_core.config.run_config import parse_run
from medsum_core.errors import InputError

NESTED = 100_000
UNUSABLE = {
    "an alias of itself": ("yaml", "model: &m\n  model: *m\n", "line 2, model: expected a value"),
    "a list of itself": ("yaml", "lora_target_modules: &m [*m]\n", "line 1, lora_target_modules: expected a value"),
    "deep YAML": ("yaml", "lora_r: " + "[" * 3000 + "]" * 3000, "nested too deeply"),
    "deep JSON": ("json", '{"lora_r": ' + "[" * NESTED + "]" * NESTED + "}", "nested too deeply"),
    "a list as a name": ("yaml", "? [a, b]\n: 1\n", "line 1, a name that no setting has"),
    "a number of 400 digits": ("yaml", f"lora_alpha: {10**400}\n", "--lora_alpha: must be at most 4,000,000,000"),
    "a number of 5,000 digits": ("json", '{"seed": 1' + "0" * 5000 + "}", "seed: invalid int value"),
    "a rate beyond float32": ("yaml", "learning_rate: 1e300\n", "--learning_rate: must be at most"),
    "no finite number": ("yaml", "weight_decay: 1e400\n", "--weight_decay inf: must be a finite number"),
}


def problems_of(settings: Path) -> str:
    rows = settings.parent / "rows.csv"
    rows.write_text("ID,section_header,dialogue,section_text\n")
    with pytest.raises(InputError) as caught:
        parse_run(["--train_file", str(rows), "--config", str(settings)])
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_the_text_of_another_file_given_as_settings_is_not_shown(tmp_path: Path) -> None:
    text = "Anna Zebrafinch: has a cough\nlora_r: " + "Zebrafinch " * 20
    for name, content in (
        ("visit.yaml", text),
        ("visit.json", json.dumps({"Anna Zebrafinch": "Zebrafinch", "lora_r": "cough " * 20 + "Zebrafinch"})),
    ):
        path = tmp_path / name
        path.write_text(content)
        message = problems_of(path)
        assert "a name that no setting has" in message and "lora_r: invalid int value" in message
        assert "Anna" not in message and len(message) < 700


@pytest.mark.parametrize("case", UNUSABLE)
def test_settings_that_loop_nest_or_overflow_are_refused_in_a_short_message(tmp_path: Path, case: str) -> None:
    suffix, text, expected = UNUSABLE[case]
    path = tmp_path / f"settings.{suffix}"
    path.write_text(text)
    message = problems_of(path)
    assert expected in message and len(message) < 600


def test_a_pipe_given_as_settings_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    assert "a pipe or a device" in problems_of(tmp_path / "pipe.yaml")


def test_a_tilde_is_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As transformers reads --output_dir: no run may be written to a folder that is named `~`."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "rows.csv").write_text("ID\n")
    (tmp_path / "run.yaml").write_text("output_dir: ~/run\ntrain_file: [~/rows.csv]\nbaseline_file: ~/other.csv\n")
    argv = "--config=~/run.yaml --validation_file=~/rows.csv --model_name_or_path=~/base --image_features=~/images"
    settings = parse_run(argv.split()).settings()
    assert settings["train_file"] == settings["validation_file"] == [str(tmp_path / "rows.csv")]
    names = ("output_dir", "baseline_file", "model_name_or_path", "image_features")
    assert [settings[name] for name in names] == [str(tmp_path / x) for x in ("run", "other.csv", "base", "images")]
    assert parse_run(["--dataset_name=~/data"]).data.dataset_name == str(tmp_path / "data")


COMMANDS = {
    "infer": "--model_name_or_path=m --output_file=notes.csv --input_file={}",
    "medsum_core.server.__main__": "--run=r --token_file={}",
    "medsum_core.score.__main__": "--predictions=r.csv --references={}",
    "medsum_core.grounding.__main__": "--note_column=a --input_file={}",
    "medsum_core.merge.__main__": "--run=r --output_dir={}",
    "medsum_core.preview": "--train_file={}",
    "medsum_core.images.drawn": "--output_dir={}",
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("joint", ["=", " "])
def test_a_tilde_is_the_home_folder_for_every_command(
    command: str, joint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken" / "images").mkdir(parents=True)  # a folder that no command reads or writes to
    line = COMMANDS[command].replace("={}", f"{joint}~/taken")
    with pytest.raises(InputError, match=re.escape(str(tmp_path / "taken"))):
        import_module(command).main(line.split())


def test_a_name_with_dashes_is_the_same_setting(tmp_path: Path) -> None:
    settings = tmp_path / "run.yaml"
    settings.write_text("save-steps: null\nmax-length: 600\nmax_length: 700\n")
    message = problems_of(settings)
    assert "line 3, max_length: given twice (before in" in message and "problems:" not in message
