"""The best adapter of a resumed run: found where it lies, compared with its like only, or forgotten and said so."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from checkpoints import fail_to_read
from test_run_options import EVERY_STEP, adapters_equal, script_losses
from tiny_run import exit_code, flags, metrics

import train_loop
from medsum_core.checkpoint.checkpoint import Progress
from medsum_core.config.run_config import parse_run
from medsum_core.errors import InputError
from medsum_core.training import validation
from medsum_core.training.best import best_checkpoint, judged_by, resumed_best

BEST = ("--load_best_model_at_end", "true")
ON = ("--resume_from_checkpoint", "auto", "--num_train_epochs", "2")


@pytest.fixture(scope="module")
def done(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three updates whose best evaluation was the second."""
    folder = tmp_path_factory.mktemp("done") / "run"
    with pytest.MonkeyPatch.context() as patch:
        script_losses(patch, [4.0, 3.0, 2.0, 2.5])
        train_loop.main(flags(inputs, folder, *EVERY_STEP, *BEST, "--save_total_limit", "3"))
    return folder


@pytest.fixture
def copy(done: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(done, tmp_path / "copy"))


def test_the_best_adapter_is_found_in_the_folder_that_the_run_was_resumed_from(
    inputs: Path, done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script_losses(monkeypatch, [2.1, 2.2, 2.3])
    last = done / "checkpoints" / "step-000003"
    more = ("--num_train_epochs", "2", "--resume_from_checkpoint", str(last))
    assert exit_code(flags(inputs, tmp_path / "new", *EVERY_STEP, *BEST, *more)) == 0
    assert adapters_equal(tmp_path / "new" / "adapter", done / "checkpoints" / "step-000002")


def test_an_adapter_of_the_runs_own_folder_is_taken_before_one_of_the_same_update_elsewhere(
    inputs: Path, done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script_losses(monkeypatch, [2.1, 2.2])
    more = ("--max_steps", "9", "--early_stopping_patience", "1")  # other rates than those of the first run
    first = ("--resume_from_checkpoint", str(done / "checkpoints" / "step-000001"))
    assert exit_code(flags(inputs, tmp_path / "new", *EVERY_STEP, *BEST, *more, *first)) == 0
    here, elsewhere = (folder / "checkpoints" / "step-000002" for folder in (tmp_path / "new", done))
    assert adapters_equal(tmp_path / "new" / "adapter", here) and not adapters_equal(here, elsewhere)


def test_a_best_adapter_that_cannot_be_read_is_bad_input(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run: Any = SimpleNamespace(folder=copy)
    fail_to_read(monkeypatch, "step-000002", times=99)
    with pytest.raises(InputError, match="of update 2, can't be read back"):
        best_checkpoint(run, 2, resumed_from=None)


def test_a_metric_is_named_with_the_flags_that_change_it() -> None:
    decoding = ("--eval_generate", "1", "--no_repeat_ngram_size", "12", "--grounded", "true")
    config = parse_run([*decoding, "--metric_for_best_model", "eval_rouge1"])
    assert judged_by(config) == "eval_rouge1 --eval_generate 1 --no_repeat_ngram_size 12 --grounded true"


@pytest.mark.parametrize(
    ("judged", "flags_now", "is_kept"),
    [
        ("eval_loss", (), True),  # its adapter is gone, but is not asked for
        ("eval_loss", BEST, False),
        ("eval_rouge1", (), False),
        (None, (), True),  # of an earlier version, or before the first evaluation
    ],
)
def test_the_best_evaluation_is_kept_or_forgotten_as_a_whole(
    tmp_path: Path, judged: str | None, flags_now: tuple[str, ...], is_kept: bool
) -> None:
    where = {"step": 3, "epoch": 1, "window": 0}
    saved = Progress(**where, best_metric=2.0, best_metric_of=judged, best_step=2, evaluations_without_gain=1)
    run: Any = SimpleNamespace(folder=tmp_path, config=parse_run(list(flags_now)), is_done=lambda _: False)
    checkpoint: Any = SimpleNamespace(progress=saved, path=tmp_path / "checkpoints" / "step-000003")
    progress, notes = resumed_best(run, checkpoint)
    assert (progress, len(notes)) == ((saved, 0) if is_kept else (Progress(**where), 1))


def test_a_best_adapter_that_is_gone_is_forgotten_when_the_run_is_resumed(
    inputs: Path, copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(copy / "checkpoints" / "step-000002")
    assert exit_code(flags(inputs, copy, *EVERY_STEP, *BEST, *ON[:2])) == 2  # no evaluation is left
    assert "update 2, is not among the checkpoints, and the run is done" in capsys.readouterr().err
    script_losses(monkeypatch, [2.2, 2.1, 2.3])
    assert exit_code(flags(inputs, copy, *EVERY_STEP, *BEST, *ON)) == 0
    assert "update 2, is not among the checkpoints: the best evaluation so far is forgotten" in capsys.readouterr().err
    assert adapters_equal(copy / "adapter", copy / "checkpoints" / "step-000005")


def test_a_best_adapter_that_could_not_be_saved_is_named_with_a_way_on(
    inputs: Path, copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lose_the_best(*_: Any, **__: Any) -> validation.EvalResult:
        shutil.rmtree(copy / "checkpoints" / "step-000002", ignore_errors=True)
        return validation.EvalResult(loss=9.0, stop_loss=9.0, num_targets=1)

    monkeypatch.setattr(validation, "evaluate_loss", lose_the_best)
    assert exit_code(flags(inputs, copy, *EVERY_STEP, *BEST, *ON)) == 4
    assert "--load_best_model_at_end false" in capsys.readouterr().err
    assert exit_code(flags(inputs, copy, *EVERY_STEP, *ON)) == 0


def test_evaluations_are_compared_with_their_like_only(
    inputs: Path, copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rouge = iter([0.4, 0.3, 0.2, 0.1, 0.1, 0.1])
    monkeypatch.setattr(validation, "generation_scores", lambda *_, **__: {"eval_rouge1": next(rouge)})
    by_rouge = ("--metric_for_best_model", "eval_rouge1", "--early_stopping_patience", "2")
    script_losses(monkeypatch, [1.0] * 6)
    more = (*EVERY_STEP, *BEST, *by_rouge, "--resume_from_checkpoint", "auto")
    assert exit_code(flags(inputs, copy, *more, "--eval_generate", "1", "--num_train_epochs", "2")) == 0
    assert "judged by eval_loss, now by eval_rouge1 --eval_generate 1" in capsys.readouterr().err
    assert adapters_equal(
        copy / "adapter", copy / "checkpoints" / "step-000004"
    )  # 0.4 is no bad loss, but a good score
    # The patience is used up, but of other rows nothing is known yet.
    assert exit_code(flags(inputs, copy, *more, "--eval_generate", "2", "--num_train_epochs", "3")) == 0
    assert max(line["step"] for line in metrics(copy)) == 9
