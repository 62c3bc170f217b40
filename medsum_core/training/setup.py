"""From a plan to a run: load the base, attach the adapter, make the run folder, restore a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate.utils import set_seed
from peft import PeftModel
from torch import nn

from medsum_core.checkpoint.checkpoint import Progress
from medsum_core.checkpoint.fingerprints import (
    base_fingerprint,
    config_fingerprint,
    environment_fingerprint,
    run_fingerprints,
)
from medsum_core.checkpoint.retention import sweep_checkpoint_drafts
from medsum_core.config.run_config import RunConfig
from medsum_core.config.run_folder import (
    ADAPTER_FOLDER,
    CHECKPOINTS_FOLDER,
    LOCK_NAME,
    METRICS_NAME,
    make_run_folder,
    write_run_config,
)
from medsum_core.data.collator import Collate, split_window
from medsum_core.device import arithmetic_dtype
from medsum_core.errors import InputError
from medsum_core.files import PART_NAME, sweep
from medsum_core.generation.decoding_check import is_tested
from medsum_core.kernels import FAST_PATHS, TRITON_PATHS, Accumulate, Kernels, choose
from medsum_core.model.base import DTYPES, load_base
from medsum_core.model.lora import attach_lora, fit_to, trainable_parameters
from medsum_core.model.recorded_files import BASE_FILES, base_files
from medsum_core.training.agreement import differing_process, on_every_process
from medsum_core.training.auto_settings import RESOLVED
from medsum_core.training.best import resumed_best
from medsum_core.training.distributed import print_main
from medsum_core.training.family_check import check_family
from medsum_core.training.loss import Objective, note_nll
from medsum_core.training.metrics import MetricsLog, cut_back, records_until
from medsum_core.training.objective_check import check_objective
from medsum_core.training.optimizer import build_optimizer as build_named_optimizer
from medsum_core.training.optimizer import record_groups
from medsum_core.training.optimizer_state import check_names
from medsum_core.training.plan import Plan, lora_settings
from medsum_core.training.resume import random_state_notes, restore_run
from medsum_core.training.resume_check import PARTS, check_compatible, saved_record
from medsum_core.training.run import Run
from medsum_core.training.sharding import shard_base
from medsum_core.training.tracker import RunStart, shown_settings


class BuildOptimizer(Protocol):
    """Another optimiser: pass one to `train_loop.main`."""

    def __call__(
        self,
        named_parameters: Sequence[tuple[str, nn.Parameter]],
        *,
        learning_rate: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
    ) -> torch.optim.Optimizer:
        """An optimiser over the trainable parameters. It must be given their names too, by which its state is saved.

        The loop sets the rate of each parameter group before an update: the schedule's, times the ratio of the group's
        rate as built to `learning_rate`. Numbers that it changes in these groups can't be saved.
        """
        ...


def build_run(
    plan: Plan,
    *,
    objective: Objective = note_nll,
    collate: Collate = split_window,
    build_optimizer: BuildOptimizer | None = None,
    prepare_model: Callable[[PeftModel], None] | None = None,
) -> tuple[Run, Progress]:
    """Load the base, attach the adapter, make the run folder, and restore the checkpoint if there is one.

    `objective`, `collate`: those of the loop, recorded since a resumed run must have the same. `build_optimizer`:
    replaces `--optim`. `prepare_model`: called once with the model after adapter and kernels are in place, before the
    first update; when a run is resumed, the checkpoint then overwrites what it changed of the adapter.
    """
    given: dict[str, Callable[..., Any] | None] = {
        "objective": objective,
        "collate": collate,
        "build_renderer": plan.build_renderer,
        "build_optimizer": build_optimizer,
        "prepare_model": prepare_model,
    }
    functions = {role: function for role, function in given.items() if function is not None}
    run = on_every_process(lambda: _build(plan, functions), plan.accelerator)
    return run, _start(plan, run)


def _build(plan: Plan, functions: Mapping[str, Callable[..., Any]]) -> Run:
    """The run, before a checkpoint is restored."""
    config, accelerator = plan.config, plan.accelerator
    prepare_model, build_optimizer = functions.get("prepare_model"), functions.get("build_optimizer")
    model_settings, train = config.model, config.train
    # A base to be sharded is loaded on the CPU, so that no GPU ever holds it whole.
    place = accelerator.device if plan.sharding is None else torch.device("cpu")
    model, kernels, base_weights = _model(config, plan.dataset.image_paths, place)
    check_objective(functions["objective"], model, kernels=kernels.name)
    if prepare_model is not None:
        prepare_model(model)
    if plan.sharding is not None:
        shard_base(model, plan.sharding, device=accelerator.device)
    set_seed(train.seed + accelerator.process_index)  # dropout is drawn by each process for itself
    parameters = trainable_parameters(model)
    scaler = torch.amp.GradScaler(accelerator.device.type, enabled=model_settings.precision == "fp16")
    run = Run(
        config=config,
        folder=plan.folder,
        accelerator=accelerator,
        model=model,
        optimizer=(build_optimizer or partial(build_named_optimizer, name=train.optim))(
            parameters,
            learning_rate=train.learning_rate,
            betas=(train.adam_beta1, train.adam_beta2),
            eps=train.adam_epsilon,
            weight_decay=train.weight_decay,
        ),
        scaler=scaler,
        parameters=parameters,
        rows=plan.dataset.train,
        validation=plan.dataset.validation,
        validation_records=plan.dataset.validation_records,
        renderer=plan.renderer,
        attention=model_settings.attention,
        pack_tokens=train.pack_tokens or 0,
        kernels=kernels,
        accumulate=_accumulate(config, kernels, model, scaler, [parameter for _, parameter in parameters]),
        resolved={name: config.settings()[name] for name in RESOLVED},
        trackers=plan.trackers,
    )
    record_groups(run.optimizer, peak=train.learning_rate)
    if not is_tested(model):
        check_family(model, run.rows, kernels=kernels, attention=run.attention)
    check_names(run.optimizer, [name for name, _ in parameters])
    run.fingerprints = _fingerprints(plan, run, functions, base_weights)
    return run


def _model(config: RunConfig, image_paths: Mapping[str, Path], device: torch.device) -> tuple[PeftModel, Kernels, str]:
    """The base with its adapter and the chosen kernels applied; the kernels; the fingerprint of the base as loaded.

    A model for images has their precomputed features instead of its vision tower.
    """
    model_settings, train = config.model, config.train
    set_seed(train.seed)  # the adapter starts alike on every process
    place: dict[str, Any] = {"revision": model_settings.model_revision, "offline": model_settings.offline}
    base = load_base(
        model_settings.model_name_or_path,
        precision=model_settings.precision,
        load_in_4bit=model_settings.load_in_4bit,
        reads_images=config.data.shows_images,
        **place,
        device=device,
    )
    model = attach_lora(base, fit_to(base, lora_settings(config)), base_name=model_settings.model_name_or_path)
    base_weights = base_fingerprint(model.named_parameters())
    if config.data.shows_images:
        from medsum_core.images.features import show_images  # a run on text imports nothing that reads images

        name, folder = model_settings.model_name_or_path, config.data.image_features
        show_images(model, image_paths, base_name=name, folder=folder, **place)
    kernels = choose(model_settings.kernels, device.type)
    kernels.apply(model, keep_dense=model_settings.dequantize == "on")
    if kernels.warm_up is not None:
        dtype = DTYPES[model_settings.precision]
        kernels.warm_up(dtype, arithmetic_dtype(device, dtype))
    if train.gradient_checkpointing != "off":
        longer_than = train.pack_tokens if train.gradient_checkpointing == "long" else None
        kernels.recompute(model, longer_than=longer_than or 0)
    return model, kernels, base_weights


def _accumulate(
    config: RunConfig,
    kernels: Kernels,
    model: PeftModel,
    scaler: torch.amp.GradScaler,
    parameters: Sequence[nn.Parameter],
) -> Accumulate | None:
    """The fast kernels' function for a window's gradient; None on the reference path (`accumulate_gradients`)."""
    if kernels.accumulator is None:
        return None
    return kernels.accumulator(
        model,
        parameters,
        device=model.device,
        scaler=scaler,
        attention=config.model.attention,
        pack_tokens=config.train.pack_tokens or 0,
        num_concurrent=config.train.parallel_micro_batches or 1,
    )


def _start(plan: Plan, run: Run) -> Progress:
    """The progress to start from, of the checkpoint if it fits this run. From here on the run folder is written to."""
    progress = on_every_process(lambda: _restore(plan, run), run.accelerator)
    parts = {PARTS.get(name, name): value for name, value in run.fingerprints.items() if name != "environment"}
    if difference := differing_process({**parts, "the place to begin": vars(progress)}, run.accelerator):
        raise InputError(f"{difference}: start all processes with the same command line, files and versions")
    on_every_process(lambda: _begin(plan, run, progress) if run.accelerator.is_main_process else None, run.accelerator)
    return progress


def _restore(plan: Plan, run: Run) -> Progress:
    if plan.checkpoint is None:
        return Progress(step=0, epoch=0, window=0)
    allow = run.config.output.allow_inexact_resume
    saved, current = saved_record(plan.checkpoint), run.fingerprints
    if "base_weights" not in saved:  # an earlier version hashed them after they might have been dequantised
        if plan.sharding is not None:
            raise InputError(
                "cannot resume a checkpoint of an earlier version with FSDP: save one more checkpoint without first"
            )
        is_dequantised = run.config.model.dequantize == "on"
        base = base_fingerprint(run.model.named_parameters()) if is_dequantised else current["base_weights"]
        current = {**current, "base": base}
    notes = check_compatible(saved, current, allow_inexact=allow)
    notes += random_state_notes(plan.checkpoint, run.accelerator)
    restore_run(run, plan.checkpoint)
    progress, forgotten = resumed_best(run, plan.checkpoint)
    notes += forgotten
    for note in [f"resuming after update {progress.step} of {run.num_windows}", *notes]:
        print_main(note, run.accelerator)
    return progress


def _begin(plan: Plan, run: Run, progress: Progress) -> None:
    run.folder = _claim_folder(plan)
    try:
        run.log = _begin_folder(plan, run, progress)
    except OSError as error:
        raise InputError(f"--output_dir {run.folder}: can't be written to ({error.strerror})") from error


def _claim_folder(plan: Plan) -> Path:
    """Create and lock the run folder. Raises InputError if another process has started a run in it since the plan."""
    folder = make_run_folder(plan.folder, chosen=plan.config.output.output_dir is not None)
    if plan.lock.held:
        return folder
    plan.lock.take(folder)
    if any(path.name != LOCK_NAME for path in folder.iterdir()):
        raise InputError(f"--output_dir {folder}: another process has begun a run in it meanwhile; name another")
    return folder


def _begin_folder(plan: Plan, run: Run, progress: Progress) -> MetricsLog:
    """Write the configuration and open the metrics. Metrics and trackers are checked before the first write."""
    metrics, step = run.folder / METRICS_NAME, -1 if plan.checkpoint is None else progress.step
    records_until(metrics, step=step)
    model = run.config.model
    resumed_step = None if plan.checkpoint is None else progress.step
    shown = shown_settings(run.config)
    run.trackers.start(RunStart(folder=run.folder, settings=shown, step=resumed_step, offline=model.offline))
    _sweep_leftovers(run)
    facts = {
        "versions": plan.versions,
        "base_revision": plan.base_revision,
        "fingerprints": run.fingerprints,
        BASE_FILES: base_files(model.model_name_or_path, revision=model.model_revision, offline=model.offline),
    }
    write_run_config(run.folder, run.config, facts)
    cut_back(metrics, step=step)
    return MetricsLog(metrics)


def _sweep_leftovers(run: Run) -> None:
    """Delete the drafts that a killed process left; this run holds the lock, so no running process owns them."""
    sweep_checkpoint_drafts(run.folder / CHECKPOINTS_FOLDER)
    for folder in (run.folder, run.folder / ADAPTER_FOLDER):
        sweep(folder, PART_NAME)


def _fingerprints(
    plan: Plan, run: Run, functions: Mapping[str, Callable[..., Any]], base_weights: str
) -> dict[str, Any]:
    environment = environment_fingerprint(
        device=plan.accelerator.device,
        world_size=plan.accelerator.num_processes,
        uses_numba=run.kernels.name in FAST_PATHS,
        uses_triton=run.kernels.name in TRITON_PATHS,
    )
    return run_fingerprints(
        settings=plan.config.compared_on_resume(),
        train_data=plan.dataset.train_sha256,
        validation_data=plan.dataset.validation_sha256,
        base_weights=base_weights,
        base_config=config_fingerprint(plan.base_config),
        tokenizer=plan.tokenizer_sha256,
        parameters={name: parameter.shape for name, parameter in run.parameters},
        num_steps=run.num_windows,
        environment=environment,
        functions=functions,
    )
