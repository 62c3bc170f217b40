"""One evaluation of a run: loss, if asked for ROUGE of generated notes, and whether it is the best so far."""

from __future__ import annotations

import math
import time
from dataclasses import replace

from medsum_core.checkpoint.checkpoint import Progress
from medsum_core.report.comparison import generation_scores
from medsum_core.training.run import Run
from medsum_core.training.validation import evaluate_loss


def evaluate(run: Run, progress: Progress) -> tuple[Progress, bool]:
    """Log `eval_loss` (and, with `--eval_generate N`, ROUGE of N notes); returns the progress and whether it is a gain.

    Nothing of the training's state changes: neither modes nor random numbers nor weights.
    """
    started = time.perf_counter()
    result = evaluate_loss(
        run.model, run.validation, accelerator=run.accelerator, kernel=run.kernel, **run.collate_settings
    )
    values = {"eval_loss": result.loss, "eval_stop_loss": result.stop_loss}
    train, data = run.config.train, run.config.data
    if train.eval_generate:
        values |= generation_scores(
            run.model,
            run.renderer,
            run.validation_records[: train.eval_generate],
            max_length=data.max_length,
            max_new_tokens=data.max_new_tokens,
            no_repeat_ngram_size=data.no_repeat_ngram_size,
            show_progress=run.accelerator.is_main_process,
        )
    run.seconds["evaluation"] += time.perf_counter() - started
    run.write_metrics(progress, values)
    run.say(f"update {progress.step}: " + ", ".join(f"{name} {value:.4f}" for name, value in values.items()))
    return judge(progress, values[train.metric_for_best_model], lower_is_better="loss" in train.metric_for_best_model)


def judge(progress: Progress, metric: float, *, lower_is_better: bool) -> tuple[Progress, bool]:
    """Count an evaluation: a new best metric and its step, or one more without a gain. The untrained base is none."""
    best = progress.best_metric
    better = best is None or (metric < best if lower_is_better else metric > best)
    if better and math.isfinite(metric):
        step = progress.step if progress.step else None
        gain = replace(progress, best_metric=metric, best_step=step, evaluations_without_gain=0)
        return gain, progress.step > 0
    return replace(progress, evaluations_without_gain=progress.evaluations_without_gain + 1), False
