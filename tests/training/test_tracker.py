"""`--report_to` passes trackers the values of metrics.jsonl, once each, however the run ends."""

from __future__ import annotations

import importlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from fake_wandb import calls, install_fake_wandb
from tiny_run import CANARY, CHECKS, contents, exit_code, flags, metrics

import train_loop
from medsum_core.config.arguments import TRACKERS
from medsum_core.config.run_config import parse_run
from medsum_core.training import tracker
from medsum_core.training.loss import note_nll

ROOT = Path(__file__).parents[2]
EVERY_STEP = ("--save_strategy", "steps", "--save_steps", "1", "--save_total_limit", "9")
# A user who is logged in to the hub, on a machine where no address but its own can be reached.
OWN_MACHINE_ONLY = """
import os, socket, sys
os.environ["HF_TOKEN"] = "hf_madeup"
real = socket.socket.connect
def connect(self, address):
    return real(self, address) if self.family == socket.AF_UNIX or address[0] in ("127.0.0.1", "::1") else refuse()
def refuse(*_, **__):
    os._exit(99)  # an error could be caught
socket.socket.connect, socket.getaddrinfo = connect, refuse
"""


@pytest.fixture
def wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The fake package, installed."""
    monkeypatch.syspath_prepend(install_fake_wandb(tmp_path / "site"))
    with patch.dict(sys.modules):  # also forgets the fake afterwards
        sys.modules.pop("wandb", None)
        yield importlib.import_module("wandb")


def scalars(folder: Path) -> list[tuple[str, int, float]]:
    """(name, update, value) of every point in the event files, as TensorBoard itself reads them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return sorted(
        (name, event.step, event.value) for name in events.Tags()["scalars"] for event in events.Scalars(name)
    )


def logged(run: Path) -> list[tuple[str, int, float]]:
    """The same of metrics.jsonl, rounded to what an event holds."""
    values = [(name, line["step"], value) for line in metrics(run) for name, value in line.items() if name != "step"]
    return sorted((name, step, float(np.float32(value))) for name, step, value in values)


def hyperparameters(folder: Path) -> dict[str, Any]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    events = EventAccumulator(str(folder))
    events.Reload()
    stored = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    return dict(HParamsPluginData.FromString(stored).session_start_info.hparams)


def test_tensorboard_has_each_value_of_the_metrics_once_after_a_resume_too(inputs: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    run = tmp_path / "run"
    argv = flags(inputs, run, *EVERY_STEP, "--report_to", "tensorboard")
    train_loop.main(argv)
    assert scalars(run / "tensorboard") == logged(run)
    assert {"loss", "eval_loss", "learning_rate", "grad_norm"} <= {name for name, _, _ in logged(run)}
    shown = hyperparameters(run / "tensorboard")
    assert shown["learning_rate"].number_value == 2e-4 and shown["prompt_style"].string_value == "chat"
    assert json.loads(shown["lora_target_modules"].string_value)[0] == "q_proj"
    again = ("--resume_from_checkpoint", str(run / "checkpoints" / "step-000001"), "--num_train_epochs", "2")
    train_loop.main([*argv, *again, "--overwrite_later_checkpoints", "true"])
    assert max(step for _, step, _ in scalars(run / "tensorboard")) == 6
    assert scalars(run / "tensorboard") == logged(run)
    stored = b"".join(data for name, data in contents(run).items() if name.startswith("tensorboard"))
    assert CANARY.encode() not in stored and str(inputs).encode() not in stored


def test_a_tracker_gets_the_values_of_the_metrics_file(inputs: Path, tmp_path: Path, wandb: Any) -> None:
    run = tmp_path / "run"
    argv = flags(inputs, run, *EVERY_STEP, "--report_to", "wandb")
    train_loop.main(argv)
    assert calls(run, "log") == metrics(run)
    [init], [code] = calls(run, "init"), calls(run, "finish")
    assert (init["dir"], init["mode"], init["resume"], code) == (str(run), "offline", None, 0)
    assert init["config"]["learning_rate"] == 2e-4 and init["config"]["model_name_or_path"] == "model"
    assert str(tmp_path) not in json.dumps(init["config"]) and str(inputs) not in json.dumps(init["config"])
    train_loop.main([*argv, "--resume_from_checkpoint", "auto", "--num_train_epochs", "2"])
    assert calls(run, "log") == metrics(run)
    first, second = calls(run, "init")
    assert first["id"] == second["id"] and second["resume"] == "allow"


def test_no_path_of_a_setting_is_sent() -> None:
    files = ["train_file", "validation_file", "baseline_file", "examples_file"]
    folders = ["image_features", "output_dir", "resume_from_checkpoint"]
    config = parse_run([]).with_resolved(**{name: ["/jane-doe"] for name in files[:2]})
    config = config.with_resolved(**dict.fromkeys(files[2:] + folders, "/jane-doe"))
    assert "jane-doe" not in json.dumps(tracker.shown_settings(config))


@pytest.mark.parametrize("way", ["diverged", "signal", "unexpected"])
def test_trackers_are_finished_however_a_run_ends(inputs: Path, tmp_path: Path, wandb: Any, way: str) -> None:
    seen = []

    def objective(*args: torch.Tensor, **settings: float) -> torch.Tensor:
        seen.append(1)
        checked = len(seen) > CHECKS
        if way == "signal" and checked:
            os.kill(os.getpid(), signal.SIGTERM)
        if way == "unexpected" and checked:
            raise KeyError("a fault in the objective")
        return note_nll(*args, **settings) * (float("nan") if way == "diverged" else 1)

    argv = flags(inputs, tmp_path / "run", "--report_to", "wandb", "--kernels", "reference", "--pack_tokens", "0")
    argv += ["--gradient_accumulation_steps", "1", "--eval_strategy", "no"]
    expected = {"diverged": 3, "signal": 75, "unexpected": 1}[way]
    if way == "unexpected":
        with pytest.raises(KeyError):
            exit_code(argv, objective=objective)
    else:
        assert exit_code(argv, objective=objective) == expected
    assert calls(tmp_path / "run", "finish") == [expected]


def test_a_tracker_that_fails_is_dropped_and_the_run_continues(
    inputs: Path, tmp_path: Path, wandb: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(wandb, "FAILS_AT", 2)
    run = tmp_path / "run"
    assert exit_code(flags(inputs, run, "--report_to", "wandb")) == 0
    assert calls(run, "log") == [line for line in metrics(run) if line["step"] < 2]
    warning = "--report_to wandb failed at update 2 (OSError: disk full)"
    assert capsys.readouterr().err.count(warning) == 1 and metrics(run)[-1]["step"] == 3


def test_a_tracker_that_cannot_start_ends_the_run_before_training(
    inputs: Path, tmp_path: Path, wandb: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def start(_: tracker.RunStart) -> tracker.Tracker:
        raise RuntimeError("no key\nand more")

    monkeypatch.setitem(tracker.STARTERS, "trackio", start)
    monkeypatch.setattr(tracker, "check_trackers", lambda names: None)
    monkeypatch.setattr("medsum_core.training.plan.check_trackers", lambda names: None)
    assert exit_code(flags(inputs, tmp_path / "run", "--report_to", "wandb", "trackio")) == 2
    assert "--report_to trackio: can't start (RuntimeError: no key)" in capsys.readouterr().err
    assert list((tmp_path / "run").iterdir()) == []


def test_a_missing_package_is_named_before_anything_is_loaded(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "wandb").mkdir()  # what wandb leaves where it was used is no package
    monkeypatch.setattr(tracker, "find_spec", lambda name: PathFinder.find_spec(name, [str(tmp_path)]))
    assert exit_code(flags(inputs, tmp_path / "run", "--report_to", "tensorboard", "wandb")) == 2
    message = capsys.readouterr().err
    assert "--report_to tensorboard wandb: not installed: tensorboard, wandb; pip install tensorboard wandb" in message
    assert not (tmp_path / "run").exists()


def test_every_tracker_of_the_flag_can_be_started() -> None:
    assert set(tracker.STARTERS) == set(TRACKERS)


def run_offline(package: str, inputs: Path, run: Path) -> None:
    if find_spec(package) is None:
        pytest.skip(f"needs {package}")
    argv = flags(inputs, run, "--report_to", package)
    script = f"{OWN_MACHINE_ONLY}\nimport train_loop\ntrain_loop.main(sys.argv[1:])"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}
    environment = {name: value for name, value in environment.items() if not name.startswith(("TRACKIO_", "WANDB_"))}
    done = subprocess.run(
        [sys.executable, "-c", script, *argv], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0 and "warning: --report_to" not in done.stderr, done.stderr[-3000:]


def test_trackio_keeps_an_offline_run_in_its_folder(inputs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run_offline("trackio", inputs, run)
    with sqlite3.connect(run / "trackio" / "medsum.db") as database:
        rows = database.execute("SELECT step, metrics FROM metrics ORDER BY id").fetchall()
    assert [{"step": step, **json.loads(values)} for step, values in rows] == metrics(run)


def test_wandb_keeps_an_offline_run_in_its_folder(inputs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run_offline("wandb", inputs, run)
    [path] = (run / "wandb").glob("offline-run-*/*.wandb")
    stored = path.read_bytes()
    for line in metrics(run):
        for name, value in line.items():
            assert name.encode() in stored and json.dumps(value).encode() in stored, (name, value)
    assert CANARY.encode() not in stored and str(inputs).encode() not in stored
