"""Every `auto` of a run, decided once: by the device, the model's shape and free memory, or as a checkpoint has it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import PretrainedConfig

from medsum_core.config.run_config import RunConfig
from medsum_core.device import (
    Device,
    choose_attention,
    choose_dequantize,
    choose_gradient_checkpointing,
    choose_pack_tokens,
    choose_parallel_micro_batches,
    choose_precision,
)
from medsum_core.model.attention import PACKABLE_MODEL_TYPES
from medsum_core.training.memory import ModelSize, RunShape, estimate_memory

AUTO = ("auto", None)
RESOLVED = (
    "precision",
    "attention",
    "dequantize",
    "gradient_checkpointing",
    "pack_tokens",
    "parallel_micro_batches",
    "prompt_style",
)


def with_saved(config: RunConfig, saved: Mapping[str, Any]) -> RunConfig:
    """What a checkpoint was made with, in place of each `auto`: so a resumed run goes on alike."""
    settings = config.settings()
    return config.with_resolved(**{name: value for name, value in saved.items() if settings[name] in AUTO})


def resolve_precision(config: RunConfig, base_config: PretrainedConfig, device: Device) -> RunConfig:
    """Precision and attention kernel. Raises InputError where the device can't do what was asked for."""
    precision = choose_precision(config.model.precision, device, model_type=base_config.model_type)
    soft_capped = getattr(base_config.get_text_config(), "attn_logit_softcapping", None) is not None
    attention = choose_attention(config.model.attention, device, precision=precision, soft_capped=soft_capped)
    return config.with_resolved(precision=precision, attention=attention)


def resolve_memory(config: RunConfig, model_type: str, device: Device, size: ModelSize) -> RunConfig:
    """What depends on free memory, in this order: packing, recomputed activations, an unpacked base, lanes."""
    packable = model_type in PACKABLE_MODEL_TYPES
    lean = {"dequantize": "off", "gradient_checkpointing": "off", "parallel_micro_batches": 1}

    def needed(**settings: Any) -> int:
        return estimate_memory(size, run_shape(config.with_resolved(**lean | settings), device)).total

    train, data = config.train, config.data
    pack_tokens = choose_pack_tokens(
        train.pack_tokens,
        device,
        max_length=data.max_length,
        needed_bytes=lambda tokens: needed(pack_tokens=tokens),
        packable=packable,
    )
    recompute = choose_gradient_checkpointing(
        train.gradient_checkpointing,
        device,
        needed_bytes=lambda choice: needed(pack_tokens=pack_tokens, gradient_checkpointing=choice),
        has_long_rows=0 < pack_tokens < data.max_length,
    )
    chosen: dict[str, Any] = {"pack_tokens": pack_tokens, "gradient_checkpointing": recompute}
    dense = choose_dequantize(
        config.model.dequantize,
        device,
        load_in_4bit=config.model.load_in_4bit,
        needed_bytes=needed(**chosen, dequantize="on"),
    )
    chosen["dequantize"] = "on" if dense else "off"
    lanes = choose_parallel_micro_batches(
        train.parallel_micro_batches,
        device,
        needed_bytes=lambda count: needed(**chosen, parallel_micro_batches=count),
        ordered_draws=config.lora.use_dora and config.lora.lora_dropout > 0,
    )
    return config.with_resolved(**chosen, parallel_micro_batches=lanes)


def micro_batch_tokens(pack_tokens: int, batch_size: int, max_length: int) -> dict[str, int]:
    """`RunShape`'s tokens: of a lane's fullest micro-batch, and of the longest row that runs alone (0: none does)."""
    if 0 < pack_tokens < max_length:
        return {"num_tokens": pack_tokens, "alone_tokens": max_length}
    return {"num_tokens": pack_tokens or batch_size * max_length, "alone_tokens": 0}


def run_shape(config: RunConfig, device: Device) -> RunShape:
    """What a run's memory depends on."""
    model, train, data = config.model, config.train, config.data
    return RunShape(
        precision=model.precision,
        load_in_4bit=model.load_in_4bit,
        **micro_batch_tokens(train.pack_tokens or 0, train.per_device_train_batch_size, data.max_length),
        optim=train.optim,
        attention=model.attention,
        dequantize=model.dequantize == "on",
        gradient_checkpointing=train.gradient_checkpointing == "on",
        recompute_alone=train.gradient_checkpointing in ("on", "long"),
        lanes=train.parallel_micro_batches or 1,
        device_kind=device.kind,
        emulated=model.precision != "fp32" and device.kind == "cpu" and not device.has_bf16_units,
    )
