"""The two sides of the training benchmark: the same ids and targets through this project's step and TRL's trainer."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from process_memory import PeakGpuMemory, PeakMemory

WINDOW_ROWS = 16
# `padding_free` concatenates a batch's rows. TRL's own packing does the same with rows joined beforehand.
TRL_SETTINGS: dict[str, dict[str, Any]] = {
    "recipe": {"gradient_checkpointing": True, "per_device_train_batch_size": 1},
    "no_checkpointing": {"gradient_checkpointing": False, "per_device_train_batch_size": 1},
    "batch4": {"gradient_checkpointing": False, "per_device_train_batch_size": 4},
    "padding_free4": {"gradient_checkpointing": False, "per_device_train_batch_size": 4, "padding_free": True},
    "padding_free16": {"gradient_checkpointing": False, "per_device_train_batch_size": 16, "padding_free": True},
}


def base_name(args: argparse.Namespace) -> str:
    """The model to train: one of `random_models.py` becomes its folder, built at the first use."""
    from random_models import NAMES, build

    if args.model_name_or_path not in NAMES:
        return str(args.model_name_or_path)
    if args.folder is None:
        raise SystemExit(f"{args.model_name_or_path}: give --folder, where the model is built, for later runs too")
    return str(build(args.model_name_or_path, Path(args.folder).resolve()))


def our_plan(args: argparse.Namespace, folder: str, *more: str) -> Any:
    """This project's run before any weight is loaded."""
    from medsum_core.training.plan import plan_run

    return plan_run(_config(args, folder, *more))


def our_run(args: argparse.Namespace, folder: str, *more: str) -> Any:
    """This project's run, built as `train_loop.py` builds it: weights loaded, nothing trained yet."""
    from medsum_core.training.setup import build_run

    run, _ = build_run(our_plan(args, folder, *more))
    return run


def run_ours(args: argparse.Namespace, rows: Sequence[Any] | None = None, **settings: Any) -> dict[str, Any]:
    """One pass over the rows with this project's own step; `settings` go to it, e.g. another collator."""
    with tempfile.TemporaryDirectory() as folder:
        run = our_run(args, folder)
        return train_windows(run, run.rows if rows is None else rows, **settings)


def train_windows(run: Any, rows: Sequence[Any], **settings: Any) -> dict[str, Any]:
    """The windows of those rows, timed from the first step on; `settings` go to `train_step`."""
    from train_loop import train_step

    losses = []
    started = time.perf_counter()
    with peak_memory() as memory:
        for step, start in enumerate(range(0, len(rows), WINDOW_ROWS)):
            window = rows[start : start + WINDOW_ROWS]
            losses.append(train_step(run, window, learning_rate=run.learning_rate(step), **settings).loss)
    return _result(rows, losses, time.perf_counter() - started, memory.above_start) | {"flop": flop(run.model, rows)}


def run_trl(args: argparse.Namespace, setting: str, rows: Sequence[Any] | None = None) -> dict[str, Any]:
    """One pass of TRL's SFTTrainer over the same ids and labels in the same order; `rows` replace the file's."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    from medsum_core.model.base import load_base, load_tokenizer
    from medsum_core.model.lora import lora_config
    from medsum_core.training.plan import lora_settings

    with tempfile.TemporaryDirectory() as folder:
        plan, step_ends = our_plan(args, folder), []
        rows, name = plan.dataset.train if rows is None else rows, plan.config.model.model_name_or_path
        device = plan.device.torch_device
        trainer = SFTTrainer(
            model=load_base(name, precision=args.precision, load_in_4bit=True, device=device),
            args=SFTConfig(output_dir=folder, **_trl_arguments(args.precision, setting)),
            train_dataset=Dataset.from_list(
                [{"input_ids": list(row.input_ids), "labels": _labels(row)} for row in rows]
            ),
            processing_class=load_tokenizer(name),
            peft_config=lora_config(lora_settings(plan.config), base_name=name),
            callbacks=[_step_clock(step_ends)],
        )
        started = time.perf_counter()
        with peak_memory() as memory:
            trainer.train()
        seconds = time.perf_counter() - started
        losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    windows = {"window_seconds": [end - start for start, end in pairwise([started, *step_ends])]}
    return _result(rows, [float(loss) for loss in losses], seconds, memory.above_start) | windows


def _step_clock(step_ends: list[float]) -> Any:
    """A callback that records when each of TRL's updates has finished, on the GPU too."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            wait_for_device()
            step_ends.append(time.perf_counter())

    return Clock()


def wait_for_device() -> None:
    """Wait until a GPU has finished its queued work."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _trl_arguments(precision: str, setting: str) -> dict[str, Any]:
    import torch

    batch = TRL_SETTINGS[setting]["per_device_train_batch_size"]
    return {
        "dataset_kwargs": {"skip_prepare_dataset": True},
        "gradient_accumulation_steps": WINDOW_ROWS // batch,
        "num_train_epochs": 1,
        "max_length": None,
        "learning_rate": 2e-4,
        "optim": "paged_adamw_8bit",
        "bf16": precision == "bf16",
        "fp16": precision == "fp16",
        "use_cpu": not torch.cuda.is_available(),
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": 1,
        "train_sampling_strategy": "sequential",
        "disable_tqdm": True,
        **TRL_SETTINGS[setting],
    }


def _config(args: argparse.Namespace, folder: str, *more: str) -> Any:
    from medsum_core.config.run_config import parse_run

    flags = ["--preset", "demo", "--model_name_or_path", base_name(args), "--train_file", args.train_file]
    flags += ["--precision", args.precision, "--output_dir", folder, "--eval_strategy", "no", "--report_rows", "0"]
    flags += ["--lora_dropout", str(args.lora_dropout), *(args.ours or []), *more]
    return parse_run(flags)


def _labels(row: Any) -> list[int]:
    """TRL shifts by itself: the label of a position is that position's own token."""
    return [-100, *row.targets[:-1]]


def peak_memory() -> PeakMemory | PeakGpuMemory:
    """The peak of the device that the model is on."""
    import torch

    return PeakGpuMemory() if torch.cuda.is_available() else PeakMemory()


def _result(rows: Sequence[Any], losses: list[float], seconds: float, peak_bytes: int) -> dict[str, Any]:
    return {
        "seconds": seconds,
        "tokens": sum(row.num_tokens for row in rows),
        "targets": sum(row.num_targets for row in rows),
        "losses": losses,
        "peak_bytes": peak_bytes,
    }


def flop(model: Any, rows: Sequence[Any]) -> float:
    """FLOP of a forward and backward pass over the rows, by the formula of `train.py`."""
    config = model.config.get_text_config()
    layers = [layer.base_layer for layer in model.modules() if hasattr(layer, "base_layer")]
    frozen = sum(layer.in_features * layer.out_features for layer in layers)
    adapter = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    tokens, targets = sum(row.num_tokens for row in rows), sum(row.num_targets for row in rows)
    return tokens * (4 * frozen + 6 * adapter) + targets * 4 * config.hidden_size * config.vocab_size
