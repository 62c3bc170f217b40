"""The state of a run on one process (model, optimiser, rows, folder), and when to evaluate, save, stop and log."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from peft import PeftModel
from torch import nn

from medsum_core.checkpoint.checkpoint import Progress
from medsum_core.config.run_config import RunConfig
from medsum_core.data.masking import Example
from medsum_core.data.prompt import PromptRenderer
from medsum_core.data.records import Record
from medsum_core.data.sampler import window_indices
from medsum_core.kernels import Accumulate, Kernels
from medsum_core.training.distributed import any_process, print_main, window_rows
from medsum_core.training.metrics import MetricsLog, StepStats
from medsum_core.training.optimizer import lr_at
from medsum_core.training.tracker import Trackers


@dataclass(kw_only=True, eq=False)
class Run:
    """The state of a run on one process.

    Updates change the weights of `model` and the state of `optimizer` and `scaler`; logging and saving change `log`,
    `trackers`, `unlogged`, `seconds`, `saved_at`, `save_failures` and `course`. All else stays as `build_run` set it;
    only the report, which needs its memory, sets `accumulate` to None.
    """

    config: RunConfig
    folder: Path
    accelerator: Accelerator
    model: PeftModel
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    parameters: list[tuple[str, nn.Parameter]]
    rows: Sequence[Example]
    validation: Sequence[Example]
    validation_records: Sequence[Record]
    renderer: PromptRenderer
    attention: str  # name of the attention function for packed rows
    pack_tokens: int
    kernels: Kernels
    accumulate: Accumulate | None  # of the fast kernels; None: `accumulate_gradients` of train_loop.py
    resolved: dict[str, Any]  # the value of each `auto` setting
    fingerprints: dict[str, Any] = field(default_factory=dict)
    log: MetricsLog | None = None  # None on all processes but the first
    trackers: Trackers = field(default_factory=Trackers)  # running on the first process only
    resumed_at: int | None = None  # windows done when the run was resumed
    course: set[str] = field(default_factory=set)  # names of the checkpoints that retention may delete
    save_failures: list[str] = field(default_factory=list)
    saved_at: float = field(default_factory=lambda: time.monotonic())  # seconds; before the first save: of the start
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))  # by phase
    unlogged: list[StepStats] = field(default_factory=list)  # since the last logged line, for tokens_per_second

    @property
    def device(self) -> torch.device:
        """The device of this process."""
        return self.accelerator.device

    @property
    def tensors(self) -> list[nn.Parameter]:
        """The trainable parameters."""
        return [parameter for _, parameter in self.parameters]

    @property
    def collate_settings(self) -> dict[str, int]:
        """The arguments of `Collate` other than the rows."""
        return {
            "batch_size": self.config.train.per_device_train_batch_size,
            "pack_tokens": self.pack_tokens,
            "pad_token_id": self.renderer.pad_token_id,
        }

    @property
    def window_rows(self) -> int:
        """Rows of one update, over all processes."""
        return window_rows(self.config.train, self.accelerator)

    @property
    def windows_per_epoch(self) -> int:
        """Number of windows; the last window of an epoch may have fewer rows."""
        return math.ceil(len(self.rows) / self.window_rows)

    @property
    def num_windows(self) -> int:
        """Windows of the whole run, which are its updates if none is skipped."""
        return self.config.train.num_updates(self.windows_per_epoch)

    def windows_done(self, progress: Progress) -> int:
        """Windows processed since the start, skipped ones included."""
        return progress.epoch * self.windows_per_epoch + progress.window

    def is_done(self, progress: Progress) -> bool:
        """Whether the updates of `--max_steps`, or else the epochs of `--num_train_epochs`, are done."""
        by_steps = self.config.train.max_steps > 0
        return (progress.step if by_steps else self.windows_done(progress)) >= self.num_windows

    def window(self, progress: Progress) -> list[Example]:
        """The rows of the next update: a pure function of the seed and of the epoch and window in `progress`."""
        windows = window_indices(
            len(self.rows), seed=self.config.train.seed, epoch=progress.epoch, window_rows=self.window_rows
        )
        return [self.rows[index] for index in windows[progress.window]]

    def learning_rate(self, step: int) -> float:
        """The rate of the update after `step` completed ones."""
        train = self.config.train
        return lr_at(
            step,
            schedule=train.lr_scheduler_type,
            peak=train.learning_rate,
            warmup_steps=train.warmup_steps,
            num_steps=self.num_windows,
        )

    def evaluates(self, progress: Progress, *, last: bool) -> bool:
        """Whether to evaluate now: before the first update, as `--eval_strategy` says, and after the last update."""
        train = self.config.train
        if not self.validation or train.eval_strategy == "no":
            return False
        start = self.windows_done(progress) == 0 and self.resumed_at is None
        return start or self._is_due(train.eval_strategy, train.eval_steps, progress, last=last)

    def saves(self, progress: Progress, *, last: bool, best: bool) -> bool:
        """Whether to save now: as `--save_strategy` says, after the last update, and a best model."""
        output = self.config.output
        wanted = best and self.config.train.load_best_model_at_end
        return wanted or self._is_due(output.save_strategy, output.save_steps, progress, last=last)

    def saves_by_time(self, progress: Progress) -> bool:
        """Whether `--save_minutes` have passed on any process since the last save, with an update since then.

        All processes must call it together; they get the same answer.
        """
        output, done = self.config.output, self.windows_done(progress)
        if output.save_strategy == "no" or output.save_minutes == 0 or done in (0, self.resumed_at):
            return False
        return any_process(time.monotonic() - self.saved_at >= 60 * output.save_minutes, self.accelerator)

    def stops_early(self, progress: Progress) -> bool:
        """Whether `--early_stopping_patience` is used up."""
        patience = self.config.train.early_stopping_patience
        return patience > 0 and progress.evaluations_without_gain >= patience

    def _is_due(self, strategy: str, every: int | None, progress: Progress, *, last: bool) -> bool:
        """Whether an evaluation or a save is due by epoch or by steps; never at the window that was just resumed from.

        With every strategy but `no` it is due after the last update too. By steps, a skipped window makes nothing due:
        the weights are unchanged since they were last evaluated and saved.
        """
        done = self.windows_done(progress)
        if strategy == "no" or done == 0 or done == self.resumed_at:
            return False
        if strategy == "epoch":
            return last or progress.window == 0
        updated = progress.windows_in_a_row_skipped == 0
        return last or (every is not None and updated and progress.step % every == 0)

    def log_step(self, progress: Progress, stats: StepStats) -> Progress:
        """Log a line every `--logging_steps` updates, with the mean loss a target since the last line.

        The sums are part of the returned progress, so that a resumed run logs the same as an uninterrupted one.
        """
        self.seconds["training"] += stats.seconds
        if stats.skipped:
            text = f"warning: update {progress.step + 1} skipped: no target, or a loss or gradient that is not finite"
            print_main(text, self.accelerator)
            return progress
        self.unlogged.append(stats)
        nll = progress.unlogged_nll + stats.loss * stats.num_targets
        num_targets = progress.unlogged_targets + stats.num_targets
        progress = replace(progress, unlogged_nll=nll, unlogged_targets=num_targets)
        return progress if progress.step % self.config.output.logging_steps else self.log_rest(progress)

    def log_rest(self, progress: Progress) -> Progress:
        """Log the updates since the last line, if there are any; at a run's end these may be fewer than in the others.

        The gradient norm and the learning rate are those of the last update.
        """
        if not self.unlogged:
            return progress
        seconds = sum(stats.seconds for stats in self.unlogged)
        values = {
            "loss": progress.unlogged_nll / progress.unlogged_targets,
            "grad_norm": self.unlogged[-1].grad_norm,
            "learning_rate": self.learning_rate(progress.step - 1),
            "tokens_per_second": round(sum(stats.num_tokens for stats in self.unlogged) / seconds, 2),
        }
        self.unlogged.clear()
        self.write_metrics(progress, values)
        return replace(progress, unlogged_nll=0.0, unlogged_targets=0)

    def searches_loss_scale(self, stats: StepStats) -> bool:
        """Whether a skipped window only shows that fp16's loss scale is still too high.

        GradScaler starts at 65,536 and halves the scale at each overflow of a gradient; four overflows in a row are
        common at the start of a run. Below 1 the gradients themselves are too large.
        """
        return self.scaler.is_enabled() and math.isfinite(stats.loss) and self.scaler.get_scale() >= 1.0

    def write_metrics(self, progress: Progress, values: dict[str, float]) -> None:
        """Write a line to metrics.jsonl and to the trackers."""
        values = {"epoch": round(self.windows_done(progress) / self.windows_per_epoch, 4), **values}
        if self.log is not None:
            self.log.append({"step": progress.step, **values})
        self.trackers.log(values, step=progress.step)


def after_window(progress: Progress, *, windows_per_epoch: int, skipped: bool) -> Progress:
    """The progress after one more window. A skipped window uses up its rows but is no update."""
    last = progress.window + 1 == windows_per_epoch
    return replace(
        progress,
        step=progress.step + (not skipped),
        epoch=progress.epoch + last,
        window=0 if last else progress.window + 1,
        windows_in_a_row_skipped=progress.windows_in_a_row_skipped + 1 if skipped else 0,
        windows_skipped=progress.windows_skipped + skipped,
    )
