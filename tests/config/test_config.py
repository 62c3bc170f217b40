"""Settings: their sources, which source overrides which, and that all faults are named before anything is loaded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import pytest

from medsum_core.config.arguments import TrainArguments
from medsum_core.config.on_resume import SETTINGS as ON_RESUME
from medsum_core.config.parser import SECTIONS, preset_names, read_preset
from medsum_core.config.run_config import RunConfig, parse_run, with_later_settings
from medsum_core.errors import InputError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.csv"
    path.write_text("ID,section_header,dialogue,section_text\n")
    return path


def problems_of(argv: list[str]) -> str:
    with pytest.raises(InputError) as caught:
        parse_run(argv)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_the_recipe_is_the_default():
    config = parse_run([])
    assert config.preset == "gemma-2b"
    assert config.model.model_name_or_path == "google/gemma-2b-it" and config.model.load_in_4bit
    assert (config.lora.lora_r, config.lora.lora_alpha, config.lora.lora_dropout) == (16, 32, 0.05)
    assert config.lora.lora_target_modules == ["auto"]  # for Gemma its seven projections
    assert (config.train.per_device_train_batch_size, config.train.gradient_accumulation_steps) == (1, 16)
    assert (config.train.learning_rate, config.train.optim) == (2e-4, "paged_adamw_8bit")
    assert (config.train.num_train_epochs, config.data.max_length, config.data.max_new_tokens) == (1, 1024, 256)
    assert (config.train.weight_decay, config.train.max_grad_norm, config.train.seed) == (0, 1.0, 42)
    assert config.data.dataset_name == "mts-dialog" and config.data.validation_file is None


def test_the_recipe_preset_has_the_values_of_the_defaults():
    """Otherwise `--help` would show other defaults than a run without flags uses."""
    values = read_preset("gemma-2b").values
    assert values.pop("dataset_name") == "mts-dialog"
    defaults = {
        field.name: getattr(section(), field.name) for section in SECTIONS.values() for field in fields(section)
    }
    assert values == {name: defaults[name] for name in values}


@pytest.mark.parametrize("name", preset_names())
def test_presets_are_valid(name):
    layer = read_preset(name)
    assert layer.problems == [] and layer.values


def test_demo_uses_the_embedded_model_and_the_bundled_rows():
    values = read_preset("demo").values
    assert values["model_name_or_path"] == "embedded:gemma3-270m" and values["load_in_4bit"] is True
    assert values["train_file"] == ["bundled:demo_train.csv"] and values["report_rows"] == 30
    assert TrainArguments().gradient_accumulation_steps == values["gradient_accumulation_steps"]


def test_the_command_line_overrides_the_file_and_that_the_preset(tmp_path, rows):
    file = tmp_path / "run.yaml"
    file.write_text("train:\n  learning_rate: 5e-5\n  seed: 7\nlora_r: 8\n")
    config = parse_run(["--config", str(file), "--seed", "9", "--train_file", str(rows)])
    assert (config.train.learning_rate, config.train.seed, config.lora.lora_r) == (5e-5, 9, 8)
    assert config.train.gradient_accumulation_steps == 16


@pytest.mark.parametrize("suffix", ["yaml", "json"])
def test_file_values_get_the_types_of_the_flags(tmp_path, suffix):
    """YAML 1.1 reads `2e-4` as text and `on` as a boolean; argparse must see what is written."""
    file = tmp_path / f"run.{suffix}"
    yaml = (
        "learning_rate: 2e-5\ndequantize: on\nload_in_4bit: yes\nlora_target_modules: [q_proj, v_proj]\neval_steps: ~\n"
    )
    values = {"learning_rate": 2e-5, "dequantize": "on", "load_in_4bit": True, "eval_steps": None}
    file.write_text(yaml if suffix == "yaml" else json.dumps(values | {"lora_target_modules": ["q_proj", "v_proj"]}))
    config = parse_run(["--config", str(file)])
    assert config.train.learning_rate == 2e-5 and type(config.train.learning_rate) is float
    assert config.model.dequantize == "on" and config.model.load_in_4bit is True
    assert config.lora.lora_target_modules == ["q_proj", "v_proj"] and config.train.eval_steps is None


def test_a_file_can_unset_a_value_of_the_preset(tmp_path, rows):
    file = tmp_path / "run.yaml"
    file.write_text(f"dataset_name: null\ntrain_file: {rows}\n")
    config = parse_run(["--config", str(file)])
    assert config.data.dataset_name is None and config.data.validation_file is None


def test_train_file_replaces_all_data_of_the_preset(rows):
    config = parse_run(["--preset", "demo", "--train_file", str(rows)])
    assert config.data.train_file == [str(rows)] and config.data.validation_file is None
    config = parse_run(["--train_file", str(rows), "--validation_file", str(rows)])
    assert config.data.dataset_name is None and config.data.validation_file == [str(rows)]


def test_all_faults_are_reported_together(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("learning_rate: fast\nlora_rank: 4\nseed: 1\nseed: 2\n")
    argv = ["--config", str(file), "--max_lenght", "9", "--precision", "fp8", "--lora_r", "0", "--train_file", "no.csv"]
    message = problems_of([*argv, "--gradient_accumulation_steps", "1.5", "--eval_steps", "3", "--max_steps"])
    expected = [
        f"{file}, line 1, learning_rate: invalid float value: 'fast'",
        f"{file}, line 2, lora_rank: there is no such setting",
        f"{file}, line 4, seed: given twice",
        "--max_lenght: there is no such setting; did you mean --max_length?",
        "--precision: invalid choice: 'fp8'",
        "--gradient_accumulation_steps: invalid int value: '1.5'",
        "--max_steps: expected one argument",
        "--lora_r 0: must be at least 1",
        "--eval_steps has no effect",
        "--train_file no.csv: there is no such file",
    ]
    assert [text for text in expected if text not in message] == []
    assert message.startswith(f"{len(expected)} problems")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("--max_len 9", "no such setting"),
        ("stray", "unexpected value"),
        ("--learning_rate -1", "must not be negative"),
        ("--learning_rate nan", "finite"),
        ("--num_train_epochs 0", "above 0"),
        ("--lora_dropout 1", "below 1"),
        ("--save_total_limit 1", "at least 2"),
        ("--max_steps 0", "at least 1, or -1"),
        ("--max_length 300", "44 tokens for the prompt"),
        ("--dequantize on --load_in_4bit false", "nothing to unpack"),
        ("--init_lora_weights pissa_niter_4", "PiSSA rewrites the base"),
        ("--init_lora_weights loftq", "LoftQ rewrites the base"),
        ("--init_lora_weights eva", "EVA needs a pass over the data"),
        ("--lora_target_modules q_proj,v_proj", "separate the names by spaces"),
        ("--lora_target_modules all-linear q_proj", "auto and all-linear stand alone"),
        ("--eval_strategy steps", "give --eval_steps"),
        ("--save_strategy steps", "give --save_steps"),
        ("--save_steps 5", "no effect with --save_strategy epoch"),
        ("--metric_for_best_model eval_rouge1", "give --eval_generate"),
        ("--load_best_model_at_end --eval_strategy no", "not with --eval_strategy no"),
        ("--early_stopping_patience 2 --eval_strategy no", "not with --eval_strategy no"),
        ("--baseline_file other.csv --report_rows 0", "not with --report_rows 0"),
        ("--resume_from_checkpoint auto", "give --output_dir"),
        ("--resume_from_checkpoint nowhere --output_dir out", "there is no such folder"),
        ("--preset none", "choose from demo, gemma-2b"),
        ("--config none.yaml", "cannot be read"),
        ("--model_name_or_path . --model_revision v1", ". is a folder, which has no revisions; leave"),
        ("--preset demo --model_revision v1", "gemma3-270m is an embedded model, which has no revisions"),
    ],
)
def test_each_wrong_setting_is_refused(flags, expected, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    message = problems_of(flags.split())
    assert expected in message and "problems:" not in message
    assert list(tmp_path.iterdir()) == []


PATH_FLAGS = "train_file validation_file baseline_file examples_file image_features output_dir resume_from_checkpoint"


@pytest.mark.parametrize("flag", [f"--{name}" for name in PATH_FLAGS.split()])
def test_a_path_that_no_file_can_have_is_refused_and_not_repeated(flag, rows):
    text = "Doctor: Any pain? " * 300  # as of a shell that was to give a file's name and gave its text
    others = [] if flag == "--train_file" else ["--train_file", str(rows)]
    for value, expected in (("", "empty value"), (text, "5,400 characters"), ("a\0b", "3 characters")):
        message = problems_of([flag, value, *others])
        assert f"{flag}: " in message and expected in message and "Any pain" not in message
    assert "a folder, not a file" in problems_of(["--examples_file", "/", "--validation_file", str(rows), *others])


@pytest.mark.parametrize(
    "flags",
    ["--eval_generate 3", "--load_best_model_at_end", "--early_stopping_patience 1", "--baseline_file other.csv"],
)
def test_settings_that_need_validation_rows_are_refused_without(rows, flags):
    assert "needs validation rows" in problems_of(["--train_file", str(rows), *flags.split()])


def test_two_sources_of_training_data_are_refused(rows):
    assert "both name training data" in problems_of(["--train_file", str(rows), "--dataset_name", "mts-dialog"])


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.yaml", "a: [1\n", "not valid YAML"),
        ("a.yaml", "- 1\n", "expected `name: value`"),
        ("a.yaml", "optim: {a: 1}\n", "expected a value or a list"),
        ("a.yaml", "preset: demo\n", "belongs on the command line"),
        ("a.json", "{", "not valid JSON"),
        ("a.json", "[1]", "expected an object"),
        ("a.json", '{"seed": {"a": 1}}', "expected a value or a list"),
        ("a.json", '{"seed": 1, "seed": 2}', "given twice"),
    ],
)
def test_a_broken_file_is_refused(tmp_path, name, text, expected):
    (tmp_path / name).write_text(text)
    assert expected in problems_of(["--config", str(tmp_path / name)])


def test_the_run_folder_must_be_new_or_resumed(tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    flags = ["--output_dir", str(tmp_path / "run")]
    assert "not empty" in problems_of(flags)
    assert parse_run([*flags, "--resume_from_checkpoint", "auto"]).output.resume_from_checkpoint == "auto"
    assert "not empty" not in problems_of([*flags, "--resume_from_checkpoint", "nowhere"])  # that is the only fault
    assert "is a file" in problems_of(["--output_dir", str(tmp_path / "run" / "config.json" / "deeper")])
    monkeypatch.setenv("RANK", "1")  # the first process may have begun to write there
    assert parse_run(flags).output.output_dir == str(tmp_path / "run")


def test_a_configuration_survives_json_and_wrong_json_is_refused():
    config = parse_run(["--learning_rate", "3e-4", "--lora_target_modules", "q_proj", "--no_load_in_4bit"])
    values = json.loads(json.dumps(config.to_json()))
    assert RunConfig.from_json(values) == config
    of_folder = values["model"] | {"model_name_or_path": os.sep, "model_revision": "v1"}  # earlier versions took it
    assert RunConfig.from_json(values | {"model": of_folder}).model.model_revision == "v1"
    earlier = {name: value for name, value in values["data"].items() if name != "no_repeat_ngram_size"}
    assert RunConfig.from_json(values | {"data": earlier}) == config  # a run of a version that lacked the setting
    for section, name, wrong in [("train", "seed", "1"), ("train", "seed", True), ("model", "precision", "fp8")]:
        broken = values | {section: values[section] | {name: wrong}}
        with pytest.raises(InputError, match=f"{name}.*wrong type"):
            RunConfig.from_json(broken)
    with pytest.raises(InputError, match=r"(?s)unknown entry 'extra'.*'lora' is missing.*unknown entry 'rank'"):
        RunConfig.from_json(
            {name: value for name, value in values.items() if name != "lora"}
            | {"extra": 1, "model": values["model"] | {"rank": 3}}
        )
    with pytest.raises(InputError, match="must be at least 1"):
        RunConfig.from_json(values | {"lora": values["lora"] | {"lora_r": 0}})


def test_resolved_values_make_a_new_configuration():
    config = parse_run([])
    resolved = config.with_resolved(precision="bf16", pack_tokens=1024, output_dir="out")
    assert (resolved.model.precision, resolved.train.pack_tokens, resolved.output.output_dir) == ("bf16", 1024, "out")
    assert config.model.precision == "auto" and config.train.pack_tokens is None
    with pytest.raises(KeyError, match="no_such"):
        config.with_resolved(no_such=1)
    with pytest.raises(FrozenInstanceError):
        config.train.seed = 1


def test_settings_that_change_the_result_are_compared_on_resume():
    names = {field.name for section in SECTIONS.values() for field in fields(section)}
    with_rule = [name for names_of_rule in ON_RESUME.values() for name in names_of_rule]
    assert names >= set(with_rule) and len(set(with_rule)) == len(with_rule)
    compared = parse_run([]).compared_on_resume()
    assert {"learning_rate", "seed", "lora_r", "max_length", "optim", "precision", "pack_tokens"} <= set(compared)
    assert not {"num_train_epochs", "logging_steps", "output_dir", "model_name_or_path"} & set(compared)


@pytest.mark.parametrize(
    ("epochs", "max_steps", "windows", "expected"),
    [(1, -1, 75, 75), (1.5, -1, 3, 5), (0.1, -1, 30, 3), (0.01, -1, 3, 1), (3, 10, 75, 10)],
)
def test_the_number_of_updates_follows_from_epochs_max_steps_and_windows(epochs, max_steps, windows, expected):
    assert TrainArguments(num_train_epochs=epochs, max_steps=max_steps).num_updates(windows) == expected


def test_help_needs_no_torch_and_names_every_flag():
    code = "import sys; from medsum_core.config.run_config import parse_run\ntry: parse_run(['--help'])\n"
    code += "except SystemExit as end: print('torch' in sys.modules, end.code)"
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert shown.splitlines()[-1] == "False 0"
    missing = [
        field.name for section in SECTIONS.values() for field in fields(section) if f"--{field.name} " not in shown
    ]
    assert missing == []


def test_every_setting_is_documented():
    undocumented = [
        field.name
        for section in SECTIONS.values()
        for field in fields(section)
        if len(field.metadata.get("help", "")) < 4
    ]
    assert undocumented == []


def test_with_own_data_the_demo_preset_has_the_recipes_learning_rate_and_lengths(tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("dialogue,section_text,section_header\nDoctor: hi,None.,CC\n")
    sample, own = parse_run(["--preset", "demo"]), parse_run(["--preset", "demo", "--train_file", str(rows)])
    assert (sample.train.num_train_epochs, sample.train.learning_rate) == (1, 5e-4)
    assert (own.train.num_train_epochs, own.train.learning_rate) == (1, 2e-4)
    assert (sample.data.max_new_tokens, own.data.max_new_tokens) == (128, 256)
    asked = parse_run(["--preset", "demo", "--train_file", str(rows), "--learning_rate", "3e-4"])
    assert asked.train.learning_rate == 3e-4


def test_settings_that_an_earlier_version_lacked_get_its_behaviour() -> None:
    """Runs from before --kernels and --parallel_micro_batches used the fast kernels and one micro-batch at a time."""
    now = parse_run(["--preset", "demo"]).with_resolved(kernels="fast", parallel_micro_batches=1).compared_on_resume()
    older = {name: value for name, value in now.items() if name not in ("kernels", "parallel_micro_batches")}
    assert with_later_settings(older) == now
    assert with_later_settings(now | {"kernels": "reference"})["kernels"] == "reference"


def test_report_to_takes_names_of_trackers_or_none(rows: Path, tmp_path: Path) -> None:
    argv = ["--train_file", str(rows), "--report_to"]
    assert parse_run(argv[:2]).output.trackers == parse_run([*argv, "none"]).output.trackers == ()
    assert parse_run([*argv, "wandb", "tensorboard", "wandb"]).output.trackers == ("wandb", "tensorboard")
    (tmp_path / "run.yaml").write_text("report_to: tensorboard\n")
    assert parse_run([*argv[:2], "--config", str(tmp_path / "run.yaml")]).output.trackers == ("tensorboard",)
    assert "--report_to all: choose from tensorboard, wandb, trackio" in problems_of([*argv, "all"])
    assert "--report_to mlflow: choose from" in problems_of([*argv, "wandb", "mlflow"])
    assert "--report_to none: not with" in problems_of([*argv, "none", "wandb"])
    values = parse_run(argv[:2]).to_json()
    earlier = values | {"output": values["output"] | {"report_to": "wandb"}}  # a run of a version with one tracker
    assert RunConfig.from_json(earlier).output.report_to == ["wandb"]


def test_a_tracker_that_sends_to_another_machine_is_refused_offline(
    rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = ["--train_file", str(rows), "--offline", "true", "--report_to", "trackio"]
    monkeypatch.setenv("TRACKIO_SPACE_ID", "hospital/space")
    assert "TRACKIO_SPACE_ID in the environment sends to another machine" in problems_of(argv)
    monkeypatch.delenv("TRACKIO_SPACE_ID")
    assert parse_run(argv).output.trackers == ("trackio",)
