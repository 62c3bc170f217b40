"""The state of one process's run: model, optimiser, rows, run folder; when to evaluate, save, stop and log."""

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
    """One process's part of a run, which the loop reads.

    Updates change the weights of `model`, the state of `optimizer` and `scaler`; logging changes `log`, `trackers`,
    `unlogged`, `seconds`, `saved_at` and `save_failures`, saving `course`. The others stay as `build_run` set them.
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
    attention: str  # the function inside packed rows, by its name
    pack_tokens: int
    kernels: Kernels
    accumulate: Accumulate | None  # the fast kernels'; None: `accumulate_gradients` of train_loop.py
    resolved: dict[str, Any]  # what each `auto` came to
    fingerprints: dict[str, Any] = field(default_factory=dict)
    log: MetricsLog | None = None  # of the first process only
    trackers: Trackers = field(default_factory=Trackers)  # running on the first process only
    resumed_at: int | None = None  # windows done when the run was resumed
    course: set[str] = field(default_factory=set)  # names of the checkpoints that retention may delete
    save_failures: list[str] = field(default_factory=list)
    saved_at: float = field(default_factory=lambda: time.monotonic())  # clock of the last save, at first of the start
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))  # by phase
    unlogged: list[StepStats] = field(default_factory=list)  # since the last logged line: for the speed

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
        """How a window is cut into micro-batches."""
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
        """The last window of an epoch may be short."""
        return math.ceil(len(self.rows) / self.window_rows)

    @property
    def num_windows(self) -> int:
        """Windows of the whole run if none is skipped: its updates."""
        return self.config.train.num_updates(self.windows_per_epoch)

    def windows_done(self, progress: Progress) -> int:
        """Windows gone through since the start, skipped ones included."""
        return progress.epoch * self.windows_per_epoch + progress.window

    def is_done(self, progress: Progress) -> bool:
        """With `--max_steps` so many updates, else so many epochs."""
        by_steps = self.config.train.max_steps > 0
        return (progress.step if by_steps else self.windows_done(progress)) >= self.num_windows

    def window(self, progress: Progress) -> list[Example]:
        """The rows of the next update: a pure function of seed, epoch and place in the epoch."""
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
        """Before the first update, as `--eval_strategy` says, and after the last update."""
        train = self.config.train
        if not self.validation or train.eval_strategy == "no":
            return False
        start = self.windows_done(progress) == 0 and self.resumed_at is None
        return start or self._is_due(train.eval_strategy, train.eval_steps, progress, last=last)

    def saves(self, progress: Progress, *, last: bool, best: bool) -> bool:
        """As `--save_strategy` says, after the last update, and a best one that will be wanted at the end."""
        output = self.config.output
        wanted = best and self.config.train.load_best_model_at_end
        return wanted or self._is_due(output.save_strategy, output.save_steps, progress, last=last)

    def saves_by_time(self, progress: Progress) -> bool:
        """Whether `--save_minutes` have passed on any process since the last save, and there is something new to save.

        All processes must ask together: they agree on the answer.
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
        """Whether what is done by epoch or by steps is due; never at the point just resumed from, where it was done.

        With any strategy but `no` it is due after the last update too. By steps, a skipped window makes nothing due: it
        leaves the weights as they were judged and saved.
        """
        done = self.windows_done(progress)
        if strategy == "no" or done == 0 or done == self.resumed_at:
            return False
        if strategy == "epoch":
            return last or progress.window == 0
        updated = progress.windows_in_a_row_skipped == 0
        return last or (every is not None and updated and progress.step % every == 0)

    def log_step(self, progress: Progress, stats: StepStats, learning_rate: float) -> Progress:
        """Every `--logging_steps` updates a line: the loss since the last line, weighted by targets.

        The sums belong to the progress that is returned, so that a resumed run logs what an unbroken one would.
        """
        self.seconds["training"] += stats.seconds
        if stats.skipped:
            text = f"warning: update {progress.step + 1} skipped: no target, or a loss or gradient that is not finite"
            print_main(text, self.accelerator)
            return progress
        self.unlogged.append(stats)
        nll = progress.unlogged_nll + stats.loss * stats.num_targets
        num_targets = progress.unlogged_targets + stats.num_targets
        if progress.step % self.config.output.logging_steps:
            return replace(progress, unlogged_nll=nll, unlogged_targets=num_targets)
        tokens_per_second = sum(entry.num_tokens for entry in self.unlogged) / sum(
            entry.seconds for entry in self.unlogged
        )
        values = {
            "loss": nll / num_targets,
            "grad_norm": stats.grad_norm,
            "learning_rate": learning_rate,
            "tokens_per_second": round(tokens_per_second, 2),
        }
        self.unlogged.clear()
        self.write_metrics(progress, values)
        return replace(progress, unlogged_nll=0.0, unlogged_targets=0)

    def write_metrics(self, progress: Progress, values: dict[str, float]) -> None:
        """A line of metrics.jsonl, and the same for the trackers."""
        values = {"epoch": round(self.windows_done(progress) / self.windows_per_epoch, 4), **values}
        if self.log is not None:
            self.log.append({"step": progress.step, **values})
        self.trackers.log(values, step=progress.step)


def after_window(progress: Progress, *, windows_per_epoch: int, skipped: bool) -> Progress:
    """Where a run stands after one more window. A skipped one uses up its rows but is no update."""
    last = progress.window + 1 == windows_per_epoch
    return replace(
        progress,
        step=progress.step + (not skipped),
        epoch=progress.epoch + last,
        window=0 if last else progress.window + 1,
        windows_in_a_row_skipped=progress.windows_in_a_row_skipped + 1 if skipped else 0,
        windows_skipped=progress.windows_skipped + skipped,
    )
