"""When a run evaluates, saves, ends and logs: two epochs of ten rows in windows of four, by each strategy."""

from __future__ import annotations

import math
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest

from medsum_core.checkpoint.checkpoint import Progress
from medsum_core.config.arguments import OutputArguments, TrainArguments
from medsum_core.training.metrics import StepStats
from medsum_core.training.run import Run, after_window

START = Progress(step=0, epoch=0, window=0)


def make_run(*, rows: int = 10, validation: int = 1, resumed_at: int | None = None, **settings: Any) -> Run:
    """The parts of a run that the schedule depends on."""
    fields = TrainArguments.__dataclass_fields__
    train = {name: value for name, value in settings.items() if name in fields}
    output = {name: value for name, value in settings.items() if name not in fields}
    run: Any = object.__new__(Run)
    run.config = SimpleNamespace(
        train=TrainArguments(gradient_accumulation_steps=4, num_train_epochs=2, **train),
        output=OutputArguments(**output),
    )
    run.accelerator = SimpleNamespace(num_processes=1, is_main_process=True)
    run.rows, run.validation, run.resumed_at, run.saved_at = range(rows), range(validation), resumed_at, -math.inf
    return run


BY_STEPS = {"eval_strategy": "steps", "save_strategy": "steps"}
EVERY_2 = {**BY_STEPS, "eval_steps": 2, "save_steps": 2}
EVERY_4 = {**BY_STEPS, "eval_steps": 4, "save_steps": 4}
# settings, windows that are skipped, windows after which it evaluates, after which it saves
SCHEDULES: dict[str, tuple[dict[str, Any], set[int], list[int], list[int]]] = {
    "by epoch": ({}, set(), [0, 3, 6], [3, 6]),
    "never": ({"eval_strategy": "no", "save_strategy": "no"}, set(), [], []),
    "by steps": (EVERY_2, set(), [0, 2, 4, 6], [2, 4, 6]),
    "after the last one too": (EVERY_4, set(), [0, 4, 6], [4, 6]),
    "steps are updates": (EVERY_2, {2}, [0, 3, 5, 6], [3, 5, 6]),
    "a skipped window is no update": (EVERY_2, {3}, [0, 2, 5, 6], [2, 5, 6]),
    "resumed": ({"resumed_at": 3}, set(), [6], [6]),
    "resumed, by steps": ({"resumed_at": 3, "eval_strategy": "steps", "eval_steps": 3}, set(), [6], [6]),
    "updates at most": ({"max_steps": 4}, {2}, [0, 3, 5], [3, 5]),
    "no rows to evaluate": ({"validation": 0}, set(), [], [3, 6]),
    "the best ones": ({"load_best_model_at_end": True}, set(), [0, 3, 6], [1, 3, 4, 6]),
}


@pytest.mark.parametrize("settings,skipped,evaluated,saved", SCHEDULES.values(), ids=list(SCHEDULES))
def test_when_a_run_evaluates_and_saves(
    settings: dict[str, Any], skipped: set[int], evaluated: list[int], saved: list[int]
) -> None:
    run, progress, found = make_run(**settings), START, ([], [])
    assert (run.windows_per_epoch, run.window_rows) == (3, 4)
    for _ in range(run.resumed_at or 0):
        progress = after_window(progress, windows_per_epoch=3, skipped=False)
    while True:
        done, window = run.is_done(progress), run.windows_done(progress)
        if run.evaluates(progress, last=done):
            found[0].append(window)
        if run.saves(progress, last=done, best=window in (1, 4)):
            found[1].append(window)
        if done:
            break
        progress = after_window(progress, windows_per_epoch=3, skipped=window + 1 in skipped)
    assert found == (evaluated, saved)
    assert progress.windows_skipped == len(skipped)


@pytest.mark.parametrize(
    "settings,expected",
    [
        ({}, True),
        ({"save_strategy": "no"}, False),
        ({"save_minutes": 0}, False),
        ({"resumed_at": 2}, False),
        ({"resumed_at": 1}, True),
    ],
)
def test_a_save_by_time_needs_an_update_since_the_start_and_may_be_turned_off(
    settings: dict[str, Any], expected: bool
) -> None:
    run = make_run(**settings)
    assert run.saves_by_time(Progress(step=2, epoch=0, window=2)) == expected
    assert not run.saves_by_time(START)


@pytest.mark.parametrize("patience,evaluations,expected", [(0, 5, False), (2, 1, False), (2, 2, True)])
def test_patience(patience: int, evaluations: int, expected: bool) -> None:
    progress = Progress(step=5, epoch=0, window=0, evaluations_without_gain=evaluations)
    assert make_run(early_stopping_patience=patience).stops_early(progress) == expected


def test_windows_in_a_row_skipped_are_counted_from_the_last_update() -> None:
    progress, counts = START, []
    for skipped in (True, True, False, True):
        progress = after_window(progress, windows_per_epoch=3, skipped=skipped)
        counts.append((progress.windows_in_a_row_skipped, progress.windows_skipped, progress.step))
    assert counts == [(1, 1, 0), (2, 2, 0), (0, 2, 1), (1, 3, 1)]
    assert (progress.epoch, progress.window) == (1, 1)


def test_a_logged_line_is_about_the_updates_since_the_last_one(capsys: pytest.CaptureFixture[str]) -> None:
    run, progress, lines = make_run(logging_steps=2), START, []
    trackers: Any = SimpleNamespace(log=lambda values, step: lines.append((step, values)))
    run.log, run.trackers, run.unlogged, run.seconds = None, trackers, [], defaultdict(float)
    run.learning_rate = lambda step: step / 10  # type: ignore[method-assign]
    for loss, targets, tokens, seconds in (
        (1.0, 10, 100, 1.0),
        (math.nan, 7, 70, 0.25),
        (4.0, 20, 200, 3.0),
        (2.0, 5, 50, 0.5),
        (2.5, 5, 50, 0.5),
    ):
        stats = StepStats(
            loss=loss,
            grad_norm=loss / 2,
            num_targets=targets,
            num_tokens=tokens,
            seconds=seconds,
            skipped=math.isnan(loss),
        )
        progress = after_window(progress, windows_per_epoch=3, skipped=stats.skipped)
        progress = run.log_step(progress, stats)
    assert lines == [
        (2, {"epoch": 1.0, "loss": 3.0, "grad_norm": 2.0, "learning_rate": 0.1, "tokens_per_second": 75.0}),
        (4, {"epoch": 1.6667, "loss": 2.25, "grad_norm": 1.25, "learning_rate": 0.3, "tokens_per_second": 100.0}),
    ]
    assert run.seconds["training"] == 5.25
    assert capsys.readouterr().err.count("update 2 skipped") == 1
