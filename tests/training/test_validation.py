"""Evaluation: losses are those over full logits, without dropout; which evaluation is the best."""

from __future__ import annotations

import math

import pytest
from support import tiny_model
from windows import make_run, make_window, plain_peft, reference_losses, tuned

from medsum_core.checkpoint.checkpoint import Progress
from medsum_core.model.lora import LoraSettings
from medsum_core.training.validation import evaluate_loss, judge


@pytest.mark.parametrize("kernels", ["reference", "fast"])
def test_evaluation_losses_equal_those_over_full_logits(kernels: str) -> None:
    window, dropout = make_window(6), LoraSettings(r=16, dropout=0.5)
    model = tuned(tiny_model("gemma3_text"), dropout, kernels=kernels)
    expected = reference_losses(plain_peft(tiny_model("gemma3_text"), model).eval(), window)
    for split in ({"batch_size": 4}, {"pack_tokens": 96}):  # a batch with padding, and documents in one row
        run = make_run(model, kernels=kernels, **split)
        found = evaluate_loss(
            model,
            window,
            accelerator=run.accelerator,
            kernels=run.kernels,
            attention=run.attention,
            **run.collate_settings,
        )
        assert (found.loss, found.stop_loss) == pytest.approx(expected, rel=1e-5)
        assert found.num_targets == sum(row.num_targets for row in window)
        assert model.training


@pytest.mark.parametrize("lower_is_better,sign", [(True, 1), (False, -1)])
def test_the_best_evaluation_is_the_first_with_the_best_value(lower_is_better: bool, sign: int) -> None:
    progress = Progress(step=0, epoch=0, window=0)
    nan = math.nan
    table = [  # step, metric; is it the best?, best metric, its step, evaluations since
        (0, 3.0, False, 3.0, None, 0),  # the base's: there is no checkpoint of it
        (1, 2.5, True, 2.5, 1, 0),
        (2, 2.75, False, 2.5, 1, 1),
        (3, 2.5, False, 2.5, 1, 2),
        (4, nan, False, 2.5, 1, 3),
        (5, 2.0, True, 2.0, 5, 0),
    ]
    for step, metric, best, value, best_step, without in table:
        progress = Progress(**{**vars(progress), "step": step})
        progress, found = judge(progress, sign * metric, lower_is_better=lower_is_better)
        assert (found, progress.best_metric, progress.best_step) == (best, sign * value, best_step)
        assert progress.evaluations_without_gain == without
    empty, found = judge(Progress(step=1, epoch=0, window=1), nan, lower_is_better=lower_is_better)
    assert not found and empty.best_metric is None
    base, found = judge(Progress(step=0, epoch=0, window=0), nan, lower_is_better=lower_is_better)
    assert not found and base.evaluations_without_gain == 0  # else patience could end a run before its first update
