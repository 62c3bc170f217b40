"""A run must be resumed with the functions that it was started with; by the real script."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from checkpoints import rewrite_state
from tiny_run import contents, exit_code, flags

from medsum_core.data.collator import split_window
from medsum_core.data.prompt import build_renderer
from medsum_core.training.loss import note_nll

SHORT = ("--save_strategy", "steps", "--save_steps", "1", "--eval_strategy", "no")
ALLOWED = ("--allow_inexact_resume", "true")


def doubled(*arguments: Any, **settings: Any) -> Any:
    return 2 * note_nll(*arguments, **settings)


def reversed_rows(rows: Any, **settings: Any) -> Any:
    return split_window(rows[::-1], **settings)


def another_renderer(*arguments: Any, **settings: Any) -> Any:
    return build_renderer(*arguments, **settings)


def prepare_nothing(_model: Any) -> None:
    pass


@pytest.fixture(scope="module")
def trained(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Updates 1 and 2 of 3."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert exit_code(flags(inputs, folder, *SHORT)) == 0
    shutil.rmtree(folder / "checkpoints" / "step-000003")
    return folder


@pytest.fixture
def resumable(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize("more", [(), ALLOWED])
@pytest.mark.parametrize("given", [{"objective": doubled}, {"collate": reversed_rows}])
def test_another_objective_or_collator_is_refused_always(
    inputs: Path, resumable: Path, capsys: pytest.CaptureFixture[str], given: dict[str, Any], more: tuple[str, ...]
) -> None:
    before = contents(resumable)
    argv = flags(inputs, resumable, *SHORT, "--resume_from_checkpoint", "auto", *more)
    assert exit_code(argv, **given) == 2
    (role, function), error = *given.items(), capsys.readouterr().err
    assert f"{role} was medsum_core." in error and function.__name__ in error
    assert contents(resumable) == before


@pytest.mark.parametrize("given", [{"build_renderer": another_renderer}, {"prepare_model": prepare_nothing}])
def test_another_prompt_or_prepared_model_needs_consent(
    inputs: Path, resumable: Path, capsys: pytest.CaptureFixture[str], given: dict[str, Any]
) -> None:
    argv = flags(inputs, resumable, *SHORT, "--resume_from_checkpoint", "auto")
    assert exit_code(argv, **given) == 2
    assert "--allow_inexact_resume" in capsys.readouterr().err
    assert exit_code([*argv, *ALLOWED], **given) == 0
    assert "resuming inexactly, as asked" in capsys.readouterr().err


def test_a_run_resumes_with_the_same_objective(inputs: Path, tmp_path: Path) -> None:
    argv = flags(inputs, tmp_path / "run", *SHORT, "--resume_from_checkpoint", "auto", "--max_steps")
    assert exit_code([*argv, "1"], objective=doubled) == 0
    assert exit_code([*argv, "2"], objective=doubled) == 0


@pytest.mark.parametrize("name", ["ONEDNN_MAX_CPU_ISA", "MKL_CBWR"])
def test_another_instruction_set_needs_consent(
    inputs: Path, resumable: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "AVX2")
    argv = flags(inputs, resumable, *SHORT, "--resume_from_checkpoint", "auto")
    assert exit_code(argv) == 2
    assert f"{name} was None, is AVX2" in capsys.readouterr().err
    assert exit_code([*argv, *ALLOWED]) == 0


def test_the_fast_kernels_record_numbas_target(trained: Path) -> None:
    facts = json.loads((trained / "config.json").read_text())["facts"]["fingerprints"]["environment"]
    assert {"numba version", "numba CPU", "numba CPU features", "medsum-core version"} <= facts.keys()


def test_a_checkpoint_of_an_earlier_version_can_be_resumed(
    inputs: Path, resumable: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def make_old(state: dict[str, Any]) -> None:
        record = state["fingerprints"]
        del record["functions"], record["base_config"]
        record["base"] = record.pop("base_weights")
        kept = ("torch version", "device", "CPU capability", "CPU threads", "number of processes")
        environment = {"CPU": "a marketing name", "attention kernel": record["settings"]["attention"]}
        record["environment"] = {name: record["environment"][name] for name in kept} | environment
        record["settings"]["model_name_or_path"] = str(inputs / "model")
        for name in ("kernels", "parallel_micro_batches"):
            del state["resolved"][name], record["settings"][name]

    for path in (resumable / "checkpoints").iterdir():
        rewrite_state(path, make_old)
    argv = flags(inputs, resumable, *SHORT, "--resume_from_checkpoint", "auto", "--parallel_micro_batches", "1")
    assert exit_code(argv) == 0
    assert capsys.readouterr().err.count("not recorded, so not compared") == 1
