"""Resolve every `auto` setting once: from a checkpoint, or from the device, the model's shape and free memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from transformers import PretrainedConfig

from medsum_core.config.run_config import DEFAULTS_BEFORE, RunConfig
from medsum_core.device import Device, choose_precision
from medsum_core.errors import InputError
from medsum_core.kernels import FAST, REFERENCE, check_settings, choose
from medsum_core.kernels import resolve as resolve_kernels
from medsum_core.model.attention import DOCUMENT_ATTENTION, OWN_ATTENTION, TESTED_MODEL_TYPES, is_registered
from medsum_core.model.quantised import is_quantised
from medsum_core.training.memory import MULTIPROCESSORS, ModelSize, RunShape, estimate_memory

Choice = TypeVar("Choice")
AUTO = ("auto", None)
MAX_PACKED_ROWS = 8  # beyond 8 x max_length tokens a micro-batch no longer gets faster
NOT_APPLIED = ("attention_dropout", "use_bidirectional_attention")  # by the functions of model/attention.py
RESOLVED = (
    "kernels",
    "precision",
    "attention",
    "dequantize",
    "gradient_checkpointing",
    "pack_tokens",
    "parallel_micro_batches",
    "prompt_style",
)


def with_saved(config: RunConfig, saved: Mapping[str, Any]) -> RunConfig:
    """The configuration with each `auto` replaced by the checkpoint's value, so that a resumed run is computed alike.

    `saved` is read from a file and not trusted: only the settings in `RESOLVED` are taken from it, checked as those of
    the command line; anything else raises InputError, so that no checkpoint can decide where a run writes.
    """
    where = "cannot resume: the checkpoint's resolved settings"
    if unknown := sorted(set(saved) - set(RESOLVED)):
        raise InputError(f"{where} may not name {', '.join(map(repr, unknown))}: resume from another checkpoint")
    settings = config.settings()
    if not saved:  # a new run
        return config
    saved = {name: value for name, value in DEFAULTS_BEFORE.items() if name in RESOLVED} | dict(saved)
    try:  # load_in_4bit=True: whether the base is in 4 bits now is checked below
        RunConfig.from_json(config.with_resolved(**saved, load_in_4bit=True).to_json())
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    chosen = config.with_resolved(**{name: value for name, value in saved.items() if settings[name] in AUTO})
    ruled_out = {  # choices of the checkpoint that contradict other settings of this run
        "gradient_checkpointing": chosen.train.gradient_checkpointing == "long" and not has_long_rows(chosen),
        "dequantize": chosen.model.dequantize == "on" and not config.model.load_in_4bit,
    }
    return chosen.with_resolved(**{name: settings[name] for name, holds in ruled_out.items() if holds})


def _choose_or_auto(choose: Callable[[Any], Choice], chosen: Any, *, asked: Any) -> Choice:
    """`choose(chosen)`; where this machine can't do a checkpoint's choice and `auto` was asked, `choose(asked)`."""
    try:
        return choose(chosen)
    except InputError:
        if asked not in AUTO:
            raise
        return choose(asked)


def resolve_arithmetic(
    config: RunConfig, base_config: PretrainedConfig, device: Device, *, asked: RunConfig
) -> RunConfig:
    """Resolve kernels, precision, 4 bits and attention. Raises InputError where the device can't do what was asked for.

    `asked`: `config` before each `auto` was replaced by the checkpoint's choice. A choice that this machine can't do is
    made again.
    """
    model_type = base_config.model_type
    kernels = _choose_or_auto(
        lambda choice: resolve_kernels(choice, device_kind=device.kind, model_type=model_type),
        config.model.kernels,
        asked=asked.model.kernels,
    )
    precision = _choose_or_auto(
        lambda choice: choose_precision(choice, device, model_type=model_type),
        config.model.precision,
        asked=asked.model.precision,
    )
    soft_capped = getattr(base_config.get_text_config(), "attn_logit_softcapping", None) is not None
    if config.model.attention == "auto" and model_type not in TESTED_MODEL_TYPES:
        attention = OWN_ATTENTION  # packing is not tested for this family: one document a row
    else:
        attention = _choose_or_auto(
            lambda choice: choose_attention(
                choice, device, precision=precision, soft_capped=soft_capped, images=config.data.shows_images
            ),
            config.model.attention,
            asked=asked.model.attention,
        )
    if attention != OWN_ATTENTION or kernels != REFERENCE:
        _check_attention_settings(base_config)
    load_in_4bit = config.model.load_in_4bit or is_quantised(base_config)
    return config.with_resolved(kernels=kernels, precision=precision, attention=attention, load_in_4bit=load_in_4bit)


def _check_attention_settings(base_config: PretrainedConfig) -> None:
    text = base_config.get_text_config()
    if wanted := [name for name in NOT_APPLIED if getattr(text, name, None)]:
        raise InputError(
            f"--model_name_or_path: its config.json sets {', '.join(wanted)}, which the attention functions here do "
            "not apply; delete it there, or give --kernels reference --attention model"
        )


def resolve_memory(
    config: RunConfig, model_type: str, device: Device, size: ModelSize, *, asked: RunConfig
) -> RunConfig:
    """Resolve what depends on free memory: packing, recomputed activations, dequantised base, concurrent micro-batches.

    `asked`: as in `resolve_arithmetic`.
    """
    packable = model_type in TESTED_MODEL_TYPES and config.model.attention != OWN_ATTENTION
    least = {"dequantize": "off", "gradient_checkpointing": "off", "parallel_micro_batches": 1}

    def needed(**settings: Any) -> int:
        return estimate_memory(size, run_shape(config.with_resolved(**least | settings), device)).total

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
        has_long_rows=has_long_rows(config.with_resolved(pack_tokens=pack_tokens)),
    )
    chosen: dict[str, Any] = {"pack_tokens": pack_tokens, "gradient_checkpointing": recompute}
    dense = choose_dequantize(
        config.model.dequantize,
        device,
        load_in_4bit=config.model.load_in_4bit,
        needed_bytes=needed(**chosen, dequantize="on"),
    )
    chosen["dequantize"] = "on" if dense else "off"
    concurrent = _choose_or_auto(
        lambda choice: choose_parallel_micro_batches(
            choice,
            device,
            kernels=config.model.kernels,
            needed_bytes=lambda count: needed(**chosen, parallel_micro_batches=count),
            ordered_draws=config.lora.use_dora and config.lora.lora_dropout > 0,
        ),
        train.parallel_micro_batches,
        asked=asked.train.parallel_micro_batches,
    )
    check_settings(
        config.model.kernels,
        attention=config.model.attention,
        pack_tokens=pack_tokens,
        gradient_checkpointing=recompute,
        use_dora=config.lora.use_dora,
    )
    return config.with_resolved(**chosen, parallel_micro_batches=concurrent)


def has_long_rows(config: RunConfig) -> bool:
    """Whether there can be rows too long to pack, which run alone."""
    return 0 < (config.train.pack_tokens or 0) < config.data.max_length


def micro_batch_tokens(pack_tokens: int, batch_size: int, max_length: int) -> dict[str, int]:
    """`RunShape`'s tokens: of the largest micro-batch, and of the longest row that runs alone (0: none does)."""
    if 0 < pack_tokens < max_length:
        return {"num_tokens": pack_tokens, "alone_tokens": max_length}
    return {"num_tokens": pack_tokens or batch_size * max_length, "alone_tokens": 0}


def run_shape(config: RunConfig, device: Device) -> RunShape:
    """The settings that a run's memory depends on."""
    model, train, data = config.model, config.train, config.data
    kernels = choose(model.kernels, device.kind)
    tokens = micro_batch_tokens(train.pack_tokens or 0, train.per_device_train_batch_size, data.max_length)
    return RunShape(
        precision=model.precision,
        load_in_4bit=model.load_in_4bit,
        **{name: number + -number % kernels.token_multiple for name, number in tokens.items()},
        optim=train.optim,
        attention=model.attention,
        dequantize=model.dequantize == "on",
        gradient_checkpointing=train.gradient_checkpointing == "on",
        recompute_alone=train.gradient_checkpointing in ("on", "long"),
        concurrent=train.parallel_micro_batches or 1,
        num_documents=-(-train.pack_tokens // data.max_length)
        if train.pack_tokens
        else train.per_device_train_batch_size,
        multiprocessors=device.multiprocessors or MULTIPROCESSORS,
        saved_attention_tokens=kernels.saved_attention_tokens,
        device_kind=device.kind,
        emulated=model.kernels == FAST
        and model.precision != "fp32"
        and device.kind == "cpu"
        and not device.has_bf16_units,
    )


def choose_attention(asked: str, device: Device, *, precision: str, soft_capped: bool, images: bool = False) -> str:
    """The attention function for packed rows: torch's varlen kernel on a GPU from 8.0, else one document after another.

    The varlen kernel takes 16-bit numbers only. On a GPU neither it nor SDPA supports soft-capped scores (Gemma 2):
    `eager` does. From 8.0, images (whose positions attend to each other in both directions) and fp32 use SDPA with a
    mask of the whole row. Raises InputError for `varlen` and `model` where they cannot run, and for an unregistered
    name.
    """
    if images and asked in ("varlen", OWN_ATTENTION):
        raise InputError(f"--attention {asked}: is causal inside images too, so it reads them wrongly; use auto")
    has_varlen = device.is_ampere and precision in ("bf16", "fp16") and not soft_capped and not images
    if asked == "varlen" and not has_varlen:
        raise InputError(
            "--attention varlen: needs a GPU of capability 8.0 or above, bf16 or fp16, and a model without soft-capped "
            "attention; use --attention auto"
        )
    if asked not in ("auto", OWN_ATTENTION, *DOCUMENT_ATTENTION) and not is_registered(asked):
        known = ", ".join(("auto", OWN_ATTENTION, *DOCUMENT_ATTENTION))
        raise InputError(
            f"--attention {asked}: unknown; give {known}, or register your function with transformers' "
            "AttentionInterface first"
        )
    if asked != "auto":
        return asked
    if device.kind == "cpu":
        return "per_document"
    if soft_capped:
        return "eager"
    if not device.is_ampere:
        return "per_document"
    return "varlen" if has_varlen else "sdpa"


def choose_gradient_checkpointing(
    asked: str, device: Device, *, needed_bytes: Callable[[str], int], has_long_rows: bool
) -> str:
    """Which micro-batches compute their activations again: none, those of rows that are too long to pack, or all.

    As few as possible: `needed_bytes(choice)` is the estimate for a run with "off" or "long".
    """
    if asked != "auto":
        return asked
    choices = ("off", "long") if has_long_rows else ("off",)
    return next((choice for choice in choices if needed_bytes(choice) <= device.usable_bytes), "on")


def choose_dequantize(asked: str, device: Device, *, load_in_4bit: bool, needed_bytes: int) -> bool:
    """Whether to dequantise the NF4 base once, where a run with the dense copy (`needed_bytes`) fits; same numbers.

    Packing and recomputation are chosen before, for a base in 4 bits: the dense copy only takes memory that is left.
    """
    if not load_in_4bit or asked == "off":
        return False
    return asked == "on" or needed_bytes <= device.usable_bytes


def choose_pack_tokens(
    asked: int | None, device: Device, *, max_length: int, needed_bytes: Callable[[int], int], packable: bool = True
) -> int:
    """Tokens of a packed micro-batch: `asked`; for None a multiple of `max_length` that fits a GPU, once on a CPU.

    `needed_bytes(tokens)` is the estimate for a run. 0 (no packing) where the model's own attention is used, or packing
    is not tested.
    """
    if not packable:
        return 0
    if asked is not None:
        return asked
    rows = MAX_PACKED_ROWS if device.kind == "cuda" else 1
    while rows > 1 and needed_bytes(rows * max_length) > device.usable_bytes:
        rows //= 2
    return rows * max_length


def choose_parallel_micro_batches(
    asked: int | None,
    device: Device,
    *,
    kernels: str,
    needed_bytes: Callable[[int], int],
    ordered_draws: bool,
) -> int:
    """Concurrent micro-batches: 2 with the fast kernels on a CPU with 2 cores if `needed_bytes(2)` fits, else 1.

    `ordered_draws`: PEFT's own dropout is used; it draws from torch's generator, where two threads would draw in random
    order. Raises InputError for more than 1 where that is not possible.
    """
    num_cores = torch.get_num_threads()
    if asked is None:
        fits = kernels == FAST and device.kind == "cpu" and num_cores >= 2 and not ordered_draws
        return 2 if fits and needed_bytes(2) <= device.usable_bytes else 1
    refusals = {
        "a GPU takes one at a time": device.kind != "cpu",
        "the reference path takes one after another": kernels != FAST,
        f"this process has {num_cores} cores": asked > num_cores,
        "with --use_dora dropout is drawn in the order of the layers (or give --lora_dropout 0)": ordered_draws,
    }
    if asked > 1 and (reasons := [reason for reason, holds in refusals.items() if holds]):
        raise InputError(f"--parallel_micro_batches {asked}: {reasons[0]}; leave it out or give 1")
    return asked
