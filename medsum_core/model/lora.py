"""The LoRA adapter on a frozen base, in PEFT's own layers: only its tensors train, in fp32.

`prepare_model_for_kbit_training` is not used: it would convert Gemma's embedding of 256,000 tokens to fp32 (2.1 GB for
Gemma 2B).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import PreTrainedModel

from medsum_core.config.arguments import LORA_PROJECTIONS
from medsum_core.model.families import adapter_targets, check_target_modules, excluded_towers
from medsum_core.quiet_libraries import quiet_libraries


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """The adapter's settings: rank, alpha, dropout rate, adapted layers, and PEFT's variants."""

    r: int = 16
    alpha: int = 32
    dropout: float = 0.05
    target_modules: tuple[str, ...] = LORA_PROJECTIONS
    excluded: str | None = None  # regular expression of modules without an adapter, as PEFT's `exclude_modules`
    use_rslora: bool = False
    use_dora: bool = False
    init: Literal["default", "gaussian"] = "default"


def fit_to(base: PreTrainedModel, settings: LoraSettings) -> LoraSettings:
    """The settings with layer names of this base for `auto` or `all-linear`, and without its vision or audio towers.

    Raises InputError when a target module matches nothing.
    """
    targets = adapter_targets(base, settings.target_modules)
    return replace(settings, target_modules=targets, excluded=excluded_towers(base, targets))


def attach_lora(base: PreTrainedModel, settings: LoraSettings, *, base_name: str) -> PeftModel:
    """The base with a fresh adapter, in training mode. Exactly the LoRA tensors require a gradient, all fp32.

    Raises InputError when a target module matches nothing.
    """
    check_target_modules(base, settings.target_modules)
    with quiet_libraries():
        model = get_peft_model(base, lora_config(settings, base_name=base_name))
    assert isinstance(model, PeftModel)
    # PEFT writes the local folder of the weights there; the name that the user gave is valid on every machine.
    model.peft_config["default"].base_model_name_or_path = base_name
    check_only_adapter_trains(model)
    return model.train()


def dequantize_base(model: nn.Module) -> None:
    """Replace each NF4 weight by its dense matrix, which has the same values as dequantising it at each use.

    Costs 2 or 4 bytes a weight in memory and saves a dequantisation in each forward and backward pass.
    """
    for module in model.modules():
        quant_state = getattr(
            module._parameters.get("weight"), "quant_state", None
        )  # PEFT's layers have it as an alias
        if quant_state is not None:
            from bitsandbytes.functional import dequantize_4bit

            layer: Any = module
            layer.weight = nn.Parameter(dequantize_4bit(layer.weight.data, quant_state), requires_grad=False)
            layer.__class__ = nn.Linear


def lora_config(settings: LoraSettings, *, base_name: str) -> LoraConfig:
    """PEFT's own configuration of the adapter, as stored in `adapter_config.json`."""
    return LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=list(settings.target_modules),
        exclude_modules=settings.excluded,
        use_rslora=settings.use_rslora,
        use_dora=settings.use_dora,
        init_lora_weights="gaussian" if settings.init == "gaussian" else True,
        base_model_name_or_path=base_name,
        bias="none",
        task_type="CAUSAL_LM",
    )


def check_only_adapter_trains(model: nn.Module) -> None:
    """Raise RuntimeError unless the trainable parameters are LoRA tensors in fp32 and nothing else."""
    wrong = [name for name, parameter in model.named_parameters() if parameter.requires_grad and "lora_" not in name]
    wrong += [name for name, parameter in trainable_parameters(model) if parameter.dtype != torch.float32]
    if wrong or not trainable_parameters(model):
        raise RuntimeError(f"not exactly the adapter trains in fp32: {wrong[:5] or 'nothing trains'}")


def trainable_parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Names and tensors that require a gradient, in the model's order."""
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
