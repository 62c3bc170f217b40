"""For a base larger than one GPU: FSDP2 shards its frozen layers over the processes; the adapter is not sharded.

Each process keeps a part of every layer. A layer's parts are gathered for its forward pass and for its backward pass,
recomputed activations included, and freed after each. The adapter, its gradients, the optimiser and all files are the
same as without FSDP, so a run can be resumed with or without it.

It is requested by `accelerate launch --use_fsdp --fsdp_version 2`. accelerate's own `prepare` is not called: it would
shard the adapter and not NF4 weights.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator, FullyShardedDataParallelPlugin
from peft import PeftModel
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, fully_shard

from medsum_core.config.run_config import RunConfig
from medsum_core.data.collator import MicroBatch, pack_rows
from medsum_core.data.masking import IGNORE_INDEX, Example
from medsum_core.errors import InputError, raise_all
from medsum_core.kernels import FAST_PATHS, REFERENCE
from medsum_core.model.forward import inner_model
from medsum_core.training.agreement import gather_json
from medsum_core.training.auto_settings import AUTO

LAUNCH = "accelerate launch --use_fsdp --fsdp_version 2"
OTHER_ENGINES = {"ACCELERATE_USE_DEEPSPEED": "DeepSpeed", "ACCELERATE_USE_MEGATRON_LM": "Megatron"}
EMPTY_ROW = Example(id="", input_ids=(0,), targets=(IGNORE_INDEX,), num_prompt_tokens=1, num_turns_dropped=0)


@dataclass(frozen=True, kw_only=True)
class Sharding:
    """How the base is sharded."""

    mesh: DeviceMesh  # all processes, in one dimension
    reshard_after_forward: bool  # False: a layer stays gathered until its backward pass


def fsdp_plugin() -> FullyShardedDataParallelPlugin | None:
    """The settings of the launcher's `--use_fsdp`; None without it. Raises InputError for unsupported options."""
    for variable, name in OTHER_ENGINES.items():
        if _is_on(variable):
            raise InputError(
                f"{name} is not supported: start with plain `accelerate launch --num_processes N`, or, where the base "
                f"does not fit on one GPU, with FSDP: `{LAUNCH}`"
            )
    if not _is_on("ACCELERATE_USE_FSDP"):
        return None
    if os.environ.get("FSDP_VERSION") != "2":
        raise InputError(f"FSDP: only its second version is supported: `{LAUNCH}`")
    # True (the default) would make transformers load weights on the first process only, for accelerate to send them.
    plugin = FullyShardedDataParallelPlugin(cpu_ram_efficient_loading=False)
    refusals = {
        "--fsdp_offload_params true: not supported; use more GPUs": isinstance(plugin.cpu_offload, CPUOffloadPolicy),
        "--fsdp_activation_checkpointing true: give train_loop.py --gradient_checkpointing on": (
            plugin.activation_checkpointing
        ),
    }
    raise_all([problem for problem, holds in refusals.items() if holds])
    return plugin


def begin_sharding(config: RunConfig, accelerator: Accelerator, plugin: FullyShardedDataParallelPlugin) -> Sharding:
    """Make the device mesh; all processes must call it. Raises InputError for settings that need the whole base."""
    kernels = config.model.kernels
    refusals = {
        "FSDP shards the base over several processes: give accelerate launch --num_processes 2 or more": (
            accelerator.num_processes == 1
        ),
        f"--kernels {kernels}: reads weights where FSDP gathers none; use --kernels reference": kernels in FAST_PATHS,
        "--report_rows: with FSDP no process holds the base that would write the notes; give --report_rows 0, and use "
        "infer.py afterwards on a machine that holds it": config.output.report_rows != 0,
        "--eval_generate: with FSDP no process holds the base that would write the notes; give --eval_generate 0": (
            config.train.eval_generate > 0
        ),
        "--use_dora: reads the base itself, which with FSDP comes without NF4's scales; use LoRA": config.lora.use_dora,
        "rows with images: not with FSDP, which leaves the vision tower on the CPU": config.data.shows_images,
    }
    raise_all([problem for problem, holds in refusals.items() if holds])
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    return Sharding(mesh=mesh, reshard_after_forward=bool(plugin.reshard_after_forward))


def with_sharded_choices(config: RunConfig, *, asked: RunConfig) -> RunConfig:
    """The reference path and packed NF4 for each `auto`, even if a checkpoint made without FSDP has other values.

    `asked`: `config` before each `auto` was replaced by the checkpoint's choice.
    """
    choices = {"kernels": REFERENCE, "dequantize": "off"}
    settings = asked.settings()
    return config.with_resolved(**{name: value for name, value in choices.items() if settings[name] in AUTO})


def shard_base(model: PeftModel, sharding: Sharding, *, device: torch.device) -> None:
    """Keep this process's part of each frozen layer, and move it and all unsharded parameters to `device`.

    Not sharded are the adapter, the embedding, the last norm, the scales of NF4, and the head, which is read outside of
    the model's forward pass. Works layer by layer, so that the device never holds the whole base. Processes do not
    communicate here.
    """
    inner = inner_model(model)
    kinds = inner._no_split_modules or ()  # the classes that transformers declares as units for FSDP
    layers = [module for module in inner.modules() if type(module).__name__ in kinds]
    if not layers:
        raise InputError(f"--model_name_or_path: {model.config.model_type} does not name its layers for FSDP")
    sharded = {p for layer in layers for p in layer.parameters() if not p.requires_grad}
    whole: set[nn.Parameter] = set(inner.parameters()) - sharded
    how: dict[str, Any] = {"mesh": sharding.mesh, "ignored_params": whole}
    for layer in layers:
        _store_packed_as_floats(layer, device)
        fully_shard(layer, reshard_after_forward=sharding.reshard_after_forward, **how)
    fully_shard(inner, **how)  # it lets a layer be gathered while the one before computes
    model.to(device)


def is_sharded(model: PeftModel) -> bool:
    """Whether the base is sharded, so that each pass through the model gathers its layers from all processes."""
    return isinstance(inner_model(model), FSDPModule)


def with_equal_counts(micro_batches: list[MicroBatch], model: PeftModel, accelerator: Accelerator) -> list[MicroBatch]:
    """With a sharded base, pad the list so that all processes have equally many micro-batches; all must call it.

    Each pass gathers layers from all processes: a process with fewer passes would leave the others waiting for ever.
    The added micro-batches have one token and no target, so their loss and gradient are zero.
    """
    if not is_sharded(model):
        return micro_batches
    most = max(gather_json(len(micro_batches), accelerator))
    return [*micro_batches, *(pack_rows([EMPTY_ROW]) for _ in range(most - len(micro_batches)))]


def _store_packed_as_floats(layer: nn.Module, device: torch.device) -> None:
    """View NF4's bytes in the dtype of the layer's norms, since FSDP2 takes no integers before torch 2.12 or 2.13.

    The same bytes as with bitsandbytes' `bnb_4bit_quant_storage`, which has no effect if a base's own files are NF4.
    """
    for module in layer.modules():
        weight: Any = module._parameters.get("weight")  # PEFT's layers have it as an alias
        state = getattr(weight, "quant_state", None)
        if state is not None:
            state.to(device)  # the module refers to it too: a gathered weight is a plain tensor without scales
            weight.data = weight.data.flatten().view(state.dtype).unsqueeze(1)


def _is_on(variable: str) -> bool:
    return os.environ.get(variable, "").lower() in ("1", "true")
