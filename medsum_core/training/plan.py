"""The plan of a run: everything that is checked and decided before any weight is loaded, and its summary."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from transformers import PretrainedConfig

from medsum_core.checkpoint.checkpoint import Checkpoint, find_checkpoint, load_checkpoint
from medsum_core.checkpoint.fingerprints import PACKAGES, tokenizer_fingerprint
from medsum_core.config.run_config import RunConfig
from medsum_core.config.run_folder import (
    CHECKPOINTS_FOLDER,
    CONFIG_NAME,
    REPORT_NAME,
    FolderLock,
    default_folder,
    read_run_config,
)
from medsum_core.config.validation import no_validation_problems
from medsum_core.data.image_tokens import with_image_tokens
from medsum_core.data.prompt import BuildRenderer, PromptRenderer, build_renderer, check_prompt
from medsum_core.device import Device, describe, find_device
from medsum_core.errors import InputError, raise_all
from medsum_core.kernels import REFERENCE
from medsum_core.model.base import load_config, load_tokenizer
from medsum_core.model.lora import LoraSettings
from medsum_core.score.baseline import read_baseline
from medsum_core.training.agreement import gather_json, on_every_process
from medsum_core.training.auto_settings import (
    AUTO,
    RESOLVED,
    resolve_arithmetic,
    resolve_memory,
    run_shape,
    with_saved,
)
from medsum_core.training.dataset import Dataset, load_dataset
from medsum_core.training.distributed import print_main, window_rows
from medsum_core.training.limits import check_positions, check_rows
from medsum_core.training.memory import ModelSize, estimate_memory, fitting_settings, measure_model
from medsum_core.training.sharding import Sharding, begin_sharding, fsdp_plugin, with_sharded_choices
from medsum_core.training.tracker import Trackers, check_trackers

LAUNCHER_ECHO_SECONDS = 2.0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that is known of a run before any weight is loaded."""

    config: RunConfig  # every `auto` resolved
    folder: Path
    accelerator: Accelerator
    sharding: Sharding | None  # of the base over the processes; None: each process holds the whole base
    device: Device
    size: ModelSize
    base_config: PretrainedConfig
    renderer: PromptRenderer
    build_renderer: BuildRenderer  # the function that made `renderer`
    dataset: Dataset
    baseline: dict[str, str] | None  # another system's notes by row id, for the report
    checkpoint: Checkpoint | None
    lock: FolderLock  # held from here on if the folder exists already, otherwise from `build_run` on
    trackers: Trackers  # started by `build_run`
    tokenizer_sha256: str
    versions: dict[str, str]

    @property
    def base_type(self) -> str:
        """The base's model type, e.g. gemma3_text."""
        return str(self.base_config.model_type)

    @property
    def base_revision(self) -> str | None:
        """The hub commit of the base; None for a folder or an embedded model."""
        return getattr(self.base_config, "_commit_hash", None)

    @property
    def echo_seconds(self) -> float:
        """The time in which a second signal counts as a launcher's copy of the first."""
        return LAUNCHER_ECHO_SECONDS if self.accelerator.num_processes > 1 else 0.0

    def lines(self) -> list[str]:
        """A summary of the run: device, settings, updates, trainable parameters, estimated memory by part."""
        train, model = self.config.train, self.config.model
        rows = window_rows(train, self.accelerator)
        windows = math.ceil(len(self.dataset.train) / rows)
        estimate = estimate_memory(self.size, run_shape(self.config, self.device))
        return [
            describe(self.device, num_processes=self.accelerator.num_processes),
            f"{model.model_name_or_path}: {'NF4, ' if model.load_in_4bit else ''}{model.precision}, "
            f"kernels {model.kernels}, attention {model.attention}, prompt {self.renderer.style}, "
            f"packed to {train.pack_tokens} tokens, "
            f"dequantised once: {model.dequantize}, activations recomputed: {train.gradient_checkpointing}, "
            f"concurrent micro-batches: {train.parallel_micro_batches}",
            f"{train.num_updates(windows)} updates of {rows} rows, {windows} an epoch; "
            f"{self.size.adapter:,} trainable parameters in {' '.join(self.size.targets)}",
            f"estimated peak memory, by part{', with whole layers (FSDP shards them)' if self.sharding else ''}:",
            *(f"  {line}" for line in estimate.lines()),
        ]

    def card_lines(self) -> list[str]:
        """For each size of GPU, whether the run fits, or what to change so that it does."""
        shape, size = run_shape(self.config, self.device), self.size
        if self.device.kind == "cpu":  # this CPU may compute in 32 bits; on a GPU the run would use 16
            shape = replace(shape, precision="bf16")
            how: dict[str, Any] = {"precision": "bf16", "kernels": REFERENCE, "images": self.config.data.shows_images}
            size = measure_model(self.base_config, lora_settings(self.config), **how)
        return fitting_settings(size, shape)


def lora_settings(config: RunConfig) -> LoraSettings:
    """The settings of the adapter, from the run's configuration."""
    lora = config.lora
    return LoraSettings(
        r=lora.lora_r,
        alpha=lora.lora_alpha,
        dropout=lora.lora_dropout,
        target_modules=tuple(lora.lora_target_modules),
        use_rslora=lora.use_rslora,
        use_dora=lora.use_dora,
        init="gaussian" if lora.init_lora_weights == "gaussian" else "default",
    )


def plan_run(config: RunConfig, *, build_renderer: BuildRenderer = build_renderer) -> Plan:
    """Check everything that can be checked without weights. Raises InputError; nothing is written to the run folder.

    `build_renderer`: another prompt than the project's own. Enter `Plan.lock`, then `Plan.trackers`, for as long as
    the run folder is written.
    """
    (accelerator, sharding), lock = _accelerator(config), FolderLock()
    try:
        checkpoint = _checkpoint(config, accelerator, lock)
        plan = on_every_process(
            lambda: _plan(config, accelerator, sharding, checkpoint, lock, build_renderer), accelerator
        )
        plan = _with_first_choices(plan, asked=config)
    except BaseException:
        lock.release()
        raise
    print_main("\n".join([*plan.dataset.notices, *plan.lines()]), accelerator)
    return plan


def _with_first_choices(plan: Plan, *, asked: RunConfig) -> Plan:
    """The plan with each `auto` as the first process resolved it, since processes may differ in free memory."""
    chosen, settings = plan.config.settings(), asked.settings()
    first = gather_json({name: chosen[name] for name in RESOLVED}, plan.accelerator)[0]
    shared = {name: value for name, value in first.items() if settings[name] in AUTO}
    return replace(plan, config=plan.config.with_resolved(**shared))


def _plan(
    config: RunConfig,
    accelerator: Accelerator,
    sharding: Sharding | None,
    checkpoint: Checkpoint | None,
    lock: FolderLock,
    build_renderer: BuildRenderer,
) -> Plan:
    model, data = config.model, config.data
    if accelerator.is_main_process:  # only this process starts trackers
        check_trackers(config.output.trackers)
    source: dict[str, Any] = {"revision": model.model_revision, "offline": model.offline}
    base_config = load_config(model.model_name_or_path, **source)
    tokenizer = load_tokenizer(model.model_name_or_path, **source)
    in_prompt = with_image_tokens(data.prompt_settings, base_config, tokenizer)
    device = find_device(accelerator.local_process_index)
    asked, config = config, config if checkpoint is None else with_saved(config, checkpoint.resolved)
    if sharding is not None:
        config = with_sharded_choices(config, asked=asked)
    config = resolve_arithmetic(config, base_config, device, asked=asked)
    arithmetic: dict[str, Any] = {"precision": config.model.precision, "kernels": config.model.kernels}
    arithmetic |= {"images": data.shows_images}
    check_positions(data.max_length, base_config)
    size = measure_model(base_config, lora_settings(config), **arithmetic)
    config = config.with_resolved(lora_target_modules=list(size.targets))
    config = resolve_memory(config, base_config.model_type, device, size, asked=asked)
    renderer = build_renderer(tokenizer, **in_prompt)
    check_prompt(renderer, is_new=checkpoint is None, warn=partial(print_main, accelerator=accelerator))
    dataset = load_dataset(data, renderer, offline=model.offline)
    if not dataset.validation:  # for data sets of the hub this is known only now
        raise_all(no_validation_problems(config.train, config.output))
    other = config.output.baseline_file
    check_rows([*dataset.train, *dataset.validation], renderer.stop_token_ids, base_config)
    return Plan(
        config=config.with_resolved(prompt_style=renderer.style),
        folder=Path(config.output.output_dir or default_folder(config.preset)),
        accelerator=accelerator,
        sharding=sharding,
        device=device,
        size=size,
        base_config=base_config,
        renderer=renderer,
        build_renderer=build_renderer,
        dataset=dataset,
        baseline=None if other is None else read_baseline(other, dataset.validation_records, renderer.task),
        checkpoint=checkpoint,
        lock=lock,
        trackers=Trackers(config.output.trackers),
        tokenizer_sha256=tokenizer_fingerprint(tokenizer),
        versions={package: metadata.version(package) for package in PACKAGES},
    )


def _accelerator(config: RunConfig) -> tuple[Accelerator, Sharding | None]:
    """One device a process, without accelerate's mixed precision: the model's dtypes are set explicitly here."""
    plugin = fsdp_plugin()
    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(),  # accelerate would take Apple's GPU, which bitsandbytes does not know
        gradient_accumulation_steps=1,
        mixed_precision="no",
        fsdp_plugin=plugin,
    )
    return accelerator, None if plugin is None else begin_sharding(config, accelerator, plugin)


def _checkpoint(config: RunConfig, accelerator: Accelerator, lock: FolderLock) -> Checkpoint | None:
    """The checkpoint that the first process chooses; the listing of a shared folder may be stale on the others."""
    found = on_every_process(lambda: _choice(config, lock) if accelerator.is_main_process else None, accelerator)
    path = gather_json(found, accelerator)[0]
    return on_every_process(lambda: load_checkpoint(path) if path is not None else None, accelerator)


def _choice(config: RunConfig, lock: FolderLock) -> str | None:
    """The checkpoint's folder. The run folder is locked first, so that no process deletes a checkpoint meanwhile."""
    choice, folder = config.output.resume_from_checkpoint, config.output.output_dir
    if choice is None:
        return None
    if choice == "auto" and folder is None:
        raise InputError("--resume_from_checkpoint auto looks in --output_dir: name the run's folder")
    if folder is not None and Path(folder).is_dir() and not config.output.dry_run:
        lock.take(Path(folder).resolve())
    found = find_checkpoint(Path(folder or ".") / CHECKPOINTS_FOLDER, choice)
    if found is None:
        _check_replaceable(Path(folder or "."))
        print("no checkpoint to resume from: starting fresh", file=sys.stderr)
        return None
    return str(found.resolve())


def _check_replaceable(folder: Path) -> None:
    """Raise InputError where a run that starts fresh would replace a finished one, or the settings of something else.

    Without a report a run is not finished: it stopped before its first checkpoint, or in a report with none.
    """
    if (folder / REPORT_NAME).exists():
        raise InputError(
            f"--resume_from_checkpoint auto: {folder} holds {REPORT_NAME} and no checkpoint: a new run would replace "
            "the finished one; name another --output_dir"
        )
    if (folder / CONFIG_NAME).exists():
        read_run_config(folder)
