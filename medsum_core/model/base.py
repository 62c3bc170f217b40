"""The frozen base model: a hub id, a folder or an embedded model, in fp32, bf16, fp16 or NF4."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from medsum_core.errors import InputError
from medsum_core.model.embedded import embedded_folder, is_embedded
from medsum_core.model.quantised import is_quantised, set_precision
from medsum_core.model.weight_files import check_model_folder
from medsum_core.quiet_libraries import quiet_libraries

# What transformers raises for files that are absent, damaged, nested too deeply or of another kind.
# fmt: off
LOAD_ERRORS = (
    OSError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError, SafetensorError,
    StrictDataclassError,
)
# fmt: on
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def load_config(name_or_path: str, *, revision: str | None = None, offline: bool = False) -> PretrainedConfig:
    """The model's configuration, without its weights. Raises InputError if it can't be had."""
    return _load(AutoConfig, name_or_path, revision=revision, offline=offline)


def load_tokenizer(name_or_path: str, *, revision: str | None = None, offline: bool = False) -> PreTrainedTokenizerBase:
    """The model's tokenizer. Raises InputError if it can't be had."""
    return _load(AutoTokenizer, name_or_path, revision=revision, offline=offline)


def load_base(
    name_or_path: str,
    *,
    precision: str,
    load_in_4bit: bool = False,
    revision: str | None = None,
    offline: bool = False,
    device: torch.device | str = "cpu",
) -> PreTrainedModel:
    """The frozen base in evaluation mode on `device`; `precision` is one of fp32, bf16, fp16.

    With `load_in_4bit` its projections are NF4, doubly quantised; the embedding and the norms keep `precision`. A base
    whose own files are NF4 is loaded as they are, whatever `load_in_4bit` says.

    Raises InputError if the model can't be had. Which precision fits which device: `device.choose_precision`.
    """
    config = load_config(name_or_path, revision=revision, offline=offline)
    dtype, is_quantised_already = DTYPES[precision], is_quantised(config)
    load_in_4bit = load_in_4bit or is_quantised_already
    options: dict[str, Any] = {"dtype": dtype, "attn_implementation": _plain_attention(config)}
    if load_in_4bit and not is_quantised_already:
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    if load_in_4bit:
        options["device_map"] = {"": torch.device(device)}
    loaded = _load(AutoModelForCausalLM, name_or_path, revision=revision, offline=offline, **options)
    base: PreTrainedModel = loaded if load_in_4bit else loaded.to(device)
    base.requires_grad_(False)
    if is_quantised_already:
        set_precision(base, dtype)
    if load_in_4bit:
        release_weight_files(base)
    keep_4bit_differentiable(base)
    return base.eval()


def release_weight_files(model: nn.Module) -> None:
    """Copy the weights that NF4 leaves as they are, so that no file of weights stays mapped into memory.

    On a CPU transformers hands out views into the mapped files. The embedding and each layer's norms are such views,
    and each keeps its whole file resident once it was read: 3.8 GiB of Gemma 2B's 4.7, most of it quantised long ago.
    """
    for parameter in model.parameters():
        if parameter.device.type == "cpu" and getattr(parameter, "quant_state", None) is None:
            parameter.data = parameter.data.clone()


def keep_4bit_differentiable(model: nn.Module) -> None:
    """Stop bitsandbytes from repacking 4-bit weights in evaluation mode on CPUs with AVX512-BF16.

    The packed kernel has no backward pass: one evaluation would silently ruin all later training.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            setattr(module, "support_avx512bf16_for_cpu", False)  # noqa: B010 - bitsandbytes has no types


def _plain_attention(config: PretrainedConfig) -> str:
    soft_capped = getattr(config.get_text_config(), "attn_logit_softcapping", None) is not None
    return "eager" if soft_capped else "sdpa"


def _load(factory: Any, name_or_path: str, *, revision: str | None, offline: bool, **options: Any) -> Any:
    """Load from a folder or the local cache; ask the hub only on a miss and never with `offline`."""
    if is_embedded(name_or_path):
        name_or_path, revision = str(embedded_folder(name_or_path)), None
    is_folder = Path(name_or_path).is_dir()
    if not is_folder and (Path(name_or_path).is_absolute() or name_or_path.startswith((".", "~"))):
        raise InputError(f"--model_name_or_path: there is no folder {name_or_path}")
    if is_folder:
        check_model_folder(Path(name_or_path), with_weights=factory is AutoModelForCausalLM)
    options = {"revision": revision or "main", "trust_remote_code": False, **options}
    if factory is AutoModelForCausalLM:
        options["use_safetensors"] = True
    with quiet_libraries():
        try:
            return factory.from_pretrained(name_or_path, local_files_only=True, **options)
        except LOAD_ERRORS as miss:
            if is_folder or offline:
                hint = "is it a complete model folder?" if is_folder else "not in the local cache, and --offline is set"
                raise InputError(f"--model_name_or_path {name_or_path}: can't be loaded ({hint})") from miss
        try:
            return factory.from_pretrained(name_or_path, **options)
        except LOAD_ERRORS as failure:
            raise InputError(
                f"--model_name_or_path {name_or_path}: neither a folder nor a model that the hub gives out here "
                "(check the name, the network, and for gated models such as Gemma that you accepted the terms and ran "
                "'hf auth login'), or use embedded:gemma3-270m or embedded:smollm2-135m-it"
            ) from failure
