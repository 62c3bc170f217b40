"""Differences between model families, by transformers' model type: scaling of logits, layers that get adapters.

A family that is in none of these lists is supported too: on the reference path, without packing, decoded with its own
cache, and after `training/family_check.py` has compared it with the model's own forward pass. The families that the
tests compare with transformers are listed in examples/models.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import nn
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from medsum_core.config.arguments import ALL_LINEAR, AUTO_TARGETS, LORA_PROJECTIONS
from medsum_core.errors import InputError

TOWERS = re.compile(r"\(\.\*\\\.\)\?\(\w+(\|\w+)*\)\\\.\.\*")  # what `excluded_towers` gives
# Names that PEFT also matches with the stacked weights of experts, which are not linear layers and allow no dropout.
EXPERT_NAMES = ("gate", "gate_proj", "up_proj", "down_proj", "w1", "w2", "w3")


def _divided(config: Any) -> float:
    return 1 / config.logits_scaling


def _multiplied(name: str) -> Callable[[Any], float]:
    return lambda config: float(getattr(config, name))


# Families whose logits are the head's output times a number in the configuration.
LOGIT_FACTORS: dict[str, Callable[[Any], float]] = {
    **dict.fromkeys(("cohere", "cohere2", "cohere2_moe", "cohere_compass_text"), _multiplied("logit_scale")),
    **dict.fromkeys(("granite", "granite_swa", "granitemoe", "granitemoe_swa"), _divided),
    **dict.fromkeys(("granitemoehybrid", "granitemoeshared", "minicpm3"), _divided),
    "falcon_h1": _multiplied("lm_head_multiplier"),
    "hyperclovax": _multiplied("logits_scaling"),
}
# Families whose notes by `generation/kv_cache.py` the tests compare with transformers'.
# fmt: off
CACHED_MODEL_TYPES = (
    "apertus", "biogpt", "bitnet", "cohere", "cohere2", "deepseek_v2", "deepseek_v3",
    "ernie4_5", "ernie4_5_moe", "exaone4", "gemma", "gemma2", "gemma3_text", "gemma3n_text", "gemma4_text",
    "glm", "glm4", "glm4_moe", "gpt_bigcode", "gpt_neox", "granite", "granitemoe", "helium", "hunyuan_v1_dense",
    "llama", "llama4_text", "minicpm3", "ministral", "ministral3", "mistral", "mixtral",
    "olmo", "olmo2", "olmo3", "olmoe", "opt", "phi3", "qwen2", "qwen2_moe",
    "qwen3", "qwen3_moe", "seed_oss", "smollm3", "starcoder2", "vaultgemma",
)
# fmt: on
# Linear layers that return more than a tensor, or of which only the weight is read.
NEVER_ADAPTED = ("router", "dt_proj")
# Families whose output projection of a state space PEFT refuses to adapt.
PEFT_MAMBA_TYPES = ("falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h")
# Layers that stay dense: the family's own code changes their weights in training mode, which 4 bits do not allow.
KEPT_DENSE = dict.fromkeys(("gemma3n", "gemma3n_text"), ("lm_head", "correction_coefs", "prediction_coefs"))

# Kept dense where images are read. The head is listed too: a given list replaces the default, which keeps it dense.
TOWER = ("lm_head", "vision_tower", "multi_modal_projector")


def logit_factor(config: PretrainedConfig) -> float:
    """The factor of the head's logits, applied before any soft cap; 1.0 for most models."""
    text = config.get_text_config()
    return LOGIT_FACTORS.get(text.model_type, lambda _: 1.0)(text)


def logit_softcap(config: PretrainedConfig) -> float | None:
    """The soft cap of the logits by tanh (Gemma 2 and others); None for most models."""
    return getattr(config.get_text_config(), "final_logit_softcapping", None)


def attention_heads(config: PretrainedConfig) -> tuple[int, int, int]:
    """Query heads, key-value heads and features of a head, the maximum over layers (in Gemma 4 they differ).

    A state-space layer, which has none, counts as one head. Raises InputError for a model without its own
    layers, such as `blt`, which is made of four others.
    """
    text = config.get_text_config()
    if not hasattr(text, "num_hidden_layers"):
        raise InputError(
            f"--model_name_or_path: {text.model_type} names no number of layers, so that neither its memory nor its "
            "cache can be planned: it can be neither trained nor decoded here"
        )
    layers: Sequence[Any] = getattr(text, "per_layer_config", ())
    found = []
    for layer in layers or [text]:
        num_heads = getattr(layer, "num_attention_heads", None) or 1
        size = getattr(layer, "head_dim", None) or layer.hidden_size // num_heads
        found.append((num_heads, getattr(layer, "num_key_value_heads", None) or num_heads, size))
    num_heads, num_groups, size = (max(counts) for counts in zip(*found, strict=True))
    return num_heads, num_groups, size


def plain_attention(config: PretrainedConfig) -> str:
    """transformers' own attention function for a model: `sdpa`, or `eager` for soft-capped scores and older classes."""
    soft_capped = getattr(config.get_text_config(), "attn_logit_softcapping", None) is not None
    # without an entry in transformers' table, loading fails later with transformers' own message
    model_class = AutoModelForCausalLM._model_mapping.get(type(config), None)
    return "eager" if soft_capped or not getattr(model_class, "_supports_sdpa", True) else "sdpa"


def adapter_targets(model: PreTrainedModel, asked: Sequence[str]) -> tuple[str, ...]:
    """The names of the layers that get an adapter. Raises InputError where a name matches no linear layer.

    `auto`: the seven projections of a Llama where the model has them all, else as `all-linear`: every linear layer of
    the language model but its head, gates of one output and the experts of a mixture.
    """
    fitting = _linear_names(model)
    if list(asked) == [AUTO_TARGETS]:
        return LORA_PROJECTIONS if fitting.issuperset(LORA_PROJECTIONS) else _some(model, fitting)
    if list(asked) == [ALL_LINEAR]:
        return _some(model, fitting)
    check_target_modules(model, asked)
    return tuple(asked)


def check_target_modules(model: PreTrainedModel, names: Iterable[str], *, where: str = "--lora_target_modules") -> None:
    """Raise InputError unless each name is that of a linear layer of the language model, other than the head.

    where: what gives the names, for the message.
    """
    fitting = _linear_names(model)
    if missing := [name for name in names if name not in fitting]:
        raise InputError(
            f"{where}: {', '.join(missing)} matches no linear layer that takes an adapter; "
            f"this model has {', '.join(sorted(fitting)) or 'none'}"
        )


def excluded_towers(model: PreTrainedModel, targets: Iterable[str]) -> str | None:
    """A regular expression for PEFT's `exclude_modules`: towers with layers of these names; None if there are none.

    Vision and audio towers get no adapter: they process no input during training, so it would never be trained.
    """
    decoder, names = decoder_name(model), set(targets)
    towers = set()
    for name, _ in model.named_modules():
        if name.rsplit(".", 1)[-1] in names and not is_inside(name, decoder):
            towers.add(_tower(name, decoder))
    return rf"(.*\.)?({'|'.join(sorted(towers))})\..*" if towers else None


def decoder_name(model: PreTrainedModel) -> str:
    """The name of the stack of text layers in the model, such as `model` or `model.language_model`."""
    decoder = text_decoder(model)
    return next(name for name, module in model.named_modules() if module is decoder)


def text_decoder(model: PreTrainedModel) -> PreTrainedModel:
    """The stack of text layers without the head. Raises InputError for a model that has none of its own."""
    decoder = model.get_decoder()
    if decoder is model:  # transformers' get_decoder looks for another attribute than this class has
        decoder = getattr(model, "model", None)
    if not isinstance(decoder, PreTrainedModel):
        raise InputError(
            f"--model_name_or_path: {model.config.model_type} has no stack of text layers apart from its head, which "
            "this loop needs: take a plain causal language model"
        )
    return decoder


def _linear_names(model: PreTrainedModel) -> set[str]:
    """The last part of the names of the decoder's linear layers that can have an adapter."""
    decoder, head = text_decoder(model), model.get_output_embeddings()
    names = {
        name.rsplit(".", 1)[-1]
        for name, module in decoder.named_modules()
        if isinstance(module, nn.Linear) and module is not head and module.out_features > 1
    }
    if any(name.rsplit(".", 2)[-2] == "experts" for name, _ in decoder.named_parameters() if name.count(".") > 1):
        names -= set(EXPERT_NAMES)
    if model.config.model_type in PEFT_MAMBA_TYPES:
        names.discard("out_proj")
    return {name for name in names if not name.isdigit()} - set(NEVER_ADAPTED)


def _some(model: PreTrainedModel, names: set[str]) -> tuple[str, ...]:
    if not names:
        raise InputError(f"--model_name_or_path: {model.config.model_type} has no linear layer that takes an adapter")
    return tuple(sorted(names))


def is_inside(name: str, parent: str) -> bool:
    """Whether a module is inside of `parent`, by their names; "" is the model itself."""
    return not parent or name.startswith(parent + ".")


def _tower(name: str, decoder: str) -> str:
    """The first part of a module's name that differs from the decoder's name."""
    parts, shared = name.split("."), decoder.split(".")
    depth = next((i for i, part in enumerate(parts) if i >= len(shared) or part != shared[i]), 0)
    return parts[depth]
