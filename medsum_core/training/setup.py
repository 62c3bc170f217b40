"""Everything about a run that is settled before weights are loaded, and then the run itself.

`prepare` reads, checks and decides; it writes nothing but what a first use puts into the user's cache. `build` loads
the base, attaches the adapter and, when resuming, puts the checkpoint back.
"""

from __future__ import annotations

import os
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed

from medsum_core.checkpoint.checkpoint import Checkpoint, Progress, find_checkpoint, load_checkpoint
from medsum_core.checkpoint.fingerprints import (
    PACKAGES,
    base_fingerprint,
    check_compatible,
    environment_fingerprint,
    run_fingerprints,
    tokenizer_fingerprint,
)
from medsum_core.config.run_config import RunConfig
from medsum_core.config.run_folder import (
    CHECKPOINTS_FOLDER,
    METRICS_NAME,
    default_folder,
    make_run_folder,
    write_run_config,
)
from medsum_core.data.prompt import build_renderer
from medsum_core.device import apply_tf32, choose_tf32, find_device, keep_few_products, repeat_bits
from medsum_core.errors import InputError
from medsum_core.kernels.cpu.bf16_products import arithmetic_dtype
from medsum_core.kernels.cpu.lanes import Lanes
from medsum_core.kernels.cpu.warm_up import compile_kernels
from medsum_core.model.base import (
    DTYPES,
    attach_lora,
    checkpoint_activations,
    load_base,
    load_config,
    load_tokenizer,
    trainable_parameters,
)
from medsum_core.training.auto_settings import RESOLVED, resolve_memory, resolve_precision, with_saved
from medsum_core.training.dataset import load_corpus
from medsum_core.training.memory import measure_model
from medsum_core.training.metrics import MetricsLog, cut_back
from medsum_core.training.optimizer import build_optimizer
from medsum_core.training.plan import Plan, lora_settings
from medsum_core.training.resume import restore
from medsum_core.training.run import Run

SHARDED = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron",
}


def prepare(config: RunConfig) -> Plan:
    """Check everything that can be checked without weights. Raises InputError; nothing of the run is written yet."""
    keep_few_products()
    accelerator = _accelerator(config)
    checkpoint = _checkpoint(config)
    model, data = config.model, config.data
    source: dict[str, Any] = {"revision": model.model_revision, "offline": model.offline}
    base_config = load_config(model.model_name_or_path, **source)
    tokenizer = load_tokenizer(model.model_name_or_path, **source)
    device = find_device(accelerator.local_process_index)
    config = resolve_precision(with_saved(config, checkpoint.resolved if checkpoint else {}), base_config, device)
    size = measure_model(base_config, lora_settings(config), precision=config.model.precision)
    config = resolve_memory(config, base_config.model_type, device, size)
    apply_tf32(choose_tf32(device, precision=config.model.precision))
    repeat_bits(device.torch_device)
    renderer = build_renderer(tokenizer, style=config.data.prompt_style)
    plan = Plan(
        config=config.with_resolved(prompt_style=renderer.style),
        folder=Path(config.output.output_dir or default_folder(config.preset)),
        accelerator=accelerator,
        device=device,
        size=size,
        base_config=base_config,
        renderer=renderer,
        corpus=load_corpus(data, renderer, offline=model.offline),
        checkpoint=checkpoint,
        tokenizer_sha256=tokenizer_fingerprint(tokenizer),
        versions={package: metadata.version(package) for package in PACKAGES},
    )
    if accelerator.is_main_process:
        for line in [*plan.corpus.notices, *plan.lines()]:
            print(line, file=sys.stderr)
    return plan


def build(plan: Plan) -> tuple[Run, Progress]:
    """Load the base, attach the adapter, make the run folder; put the checkpoint back where there is one."""
    config, accelerator = plan.config, plan.accelerator
    model_settings, train = config.model, config.train
    set_seed(train.seed)  # the adapter starts alike on every process
    base = load_base(
        model_settings.model_name_or_path,
        precision=model_settings.precision,
        load_in_4bit=model_settings.load_in_4bit,
        revision=model_settings.model_revision,
        offline=model_settings.offline,
        device=accelerator.device,
    )
    keep_dense = model_settings.dequantize == "on"
    model = attach_lora(base, lora_settings(config), base_name=model_settings.model_name_or_path, keep_dense=keep_dense)
    if accelerator.device.type == "cpu":
        dtype = DTYPES[model_settings.precision]
        compile_kernels(dtype, arithmetic_dtype(accelerator.device, dtype))
    if train.gradient_checkpointing != "off":
        longer_than = train.pack_tokens if train.gradient_checkpointing == "long" else None
        checkpoint_activations(model, longer_than=longer_than or 0)
    set_seed(train.seed + accelerator.process_index)  # dropout is drawn by each process for itself
    parameters = trainable_parameters(model)
    run = Run(
        config=config,
        folder=plan.folder,
        accelerator=accelerator,
        model=model,
        optimizer=build_optimizer(
            parameters,
            name=train.optim,
            learning_rate=train.learning_rate,
            betas=(train.adam_beta1, train.adam_beta2),
            eps=train.adam_epsilon,
            weight_decay=train.weight_decay,
        ),
        scaler=torch.amp.GradScaler(accelerator.device.type, enabled=model_settings.precision == "fp16"),
        parameters=parameters,
        rows=plan.corpus.train,
        validation=plan.corpus.validation,
        validation_records=plan.corpus.validation_records,
        renderer=plan.renderer,
        kernel=model_settings.attention,
        pack_tokens=train.pack_tokens or 0,
        lanes=Lanes(train.parallel_micro_batches or 1),
        resolved={name: config.settings()[name] for name in RESOLVED},
    )
    run.fingerprints = _fingerprints(plan, run)
    return run, _start(plan, run)


def _start(plan: Plan, run: Run) -> Progress:
    """The place to begin: the checkpoint's, if it fits this run. From here on the run folder is written to."""
    progress = Progress(step=0, epoch=0, window=0)
    if plan.checkpoint is not None:
        allow = run.config.output.allow_inexact_resume
        notes = check_compatible(plan.checkpoint.fingerprints, run.fingerprints, allow_inexact=allow)
        progress = restore(run, plan.checkpoint)
        for note in [f"resuming after update {progress.step} of {run.num_windows}", *notes]:
            run.say(note)
    if run.accelerator.is_main_process:
        make_run_folder(run.folder)
        try:
            run.log = _begin_folder(plan, run, progress)
        except OSError as error:
            raise InputError(f"--output_dir {run.folder}: can't be written to ({error.strerror})") from error
    return progress


def _begin_folder(plan: Plan, run: Run, progress: Progress) -> MetricsLog:
    facts = {"versions": plan.versions, "base_revision": plan.base_revision, "fingerprints": run.fingerprints}
    write_run_config(run.folder, run.config, facts)
    metrics = run.folder / METRICS_NAME
    if metrics.exists():
        cut_back(metrics, step=-1 if plan.checkpoint is None else progress.step)
    return MetricsLog(metrics)


def _fingerprints(plan: Plan, run: Run) -> dict[str, Any]:
    world_size = plan.accelerator.num_processes
    environment = environment_fingerprint(device=plan.accelerator.device, attention=run.kernel, world_size=world_size)
    return run_fingerprints(
        settings=plan.config.fixed_on_resume(),
        train_data=plan.corpus.train_sha256,
        validation_data=plan.corpus.validation_sha256,
        base=base_fingerprint(run.model.named_parameters()),
        tokenizer=plan.tokenizer_sha256,
        parameters={name: parameter.shape for name, parameter in run.parameters},
        num_steps=run.num_windows,
        environment=environment,
    )


def _accelerator(config: RunConfig) -> Accelerator:
    """One device a process. Precision is written out in the model's dtypes, so accelerate gets to do none of it."""
    for variable, name in SHARDED.items():
        if os.environ.get(variable, "").lower() in ("1", "true"):
            raise InputError(f"{name} is not supported: start with plain `accelerate launch --num_processes N`")
    tracker = None if config.output.report_to == "none" else config.output.report_to
    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(),  # accelerate would take Apple's GPU, which bitsandbytes does not know
        gradient_accumulation_steps=1,
        mixed_precision="no",
        log_with=tracker,
        project_dir=config.output.output_dir or ".",
    )
    return accelerator


def _checkpoint(config: RunConfig) -> Checkpoint | None:
    choice, folder = config.output.resume_from_checkpoint, config.output.output_dir
    if choice is None:
        return None
    if choice == "auto" and folder is None:
        raise InputError("--resume_from_checkpoint auto looks in --output_dir: name the run's folder")
    found = find_checkpoint(Path(folder or ".") / CHECKPOINTS_FOLDER, choice)
    if found is None:
        print("no checkpoint to resume from: starting fresh", file=sys.stderr)
        return None
    return load_checkpoint(found)
