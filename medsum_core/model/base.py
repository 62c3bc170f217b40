"""The frozen base model: a hub id, a folder or an embedded model, in fp32, bf16, fp16 or NF4."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

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

from medsum_core.data.served_template import base_template
from medsum_core.errors import InputError, is_out_of_memory, reason
from medsum_core.model.embedded import embedded_folder, is_embedded
from medsum_core.model.families import KEPT_DENSE, TOWER, plain_attention
from medsum_core.model.quantised import is_quantised, set_precision
from medsum_core.model.weight_files import FolderPart, check_model_folder, check_weights
from medsum_core.quiet_libraries import quiet_libraries

# What transformers raises for files that are absent, damaged, nested too deeply or of another kind, or that need a
# package which is not there.
# fmt: off
LOAD_ERRORS = (
    OSError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError, ImportError,
    SafetensorError, StrictDataclassError,
)
# fmt: on
MIN_TOKENS = 100  # transformers makes a nearly empty tokenizer if its files are absent; real ones have more entries
PARTS: dict[Any, FolderPart] = {AutoConfig: "config", AutoTokenizer: "tokenizer", AutoModelForCausalLM: "weights"}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def load_config(name_or_path: str, *, revision: str | None = None, offline: bool = False) -> PretrainedConfig:
    """The model's configuration, without its weights. Raises InputError if it can't be loaded."""
    return _load(AutoConfig, name_or_path, revision=revision, offline=offline)


def load_tokenizer(name_or_path: str, *, revision: str | None = None, offline: bool = False) -> PreTrainedTokenizerBase:
    """The model's tokenizer; for a merged model with the base's own chat template. Raises InputError if it can't."""
    tokenizer: PreTrainedTokenizerBase = _load(AutoTokenizer, name_or_path, revision=revision, offline=offline)
    tokenizer.chat_template = base_template(tokenizer.chat_template)
    if len(tokenizer) < MIN_TOKENS:
        raise InputError(
            f"--model_name_or_path {name_or_path}: its tokenizer has {len(tokenizer)} entries and no words; are the "
            "tokenizer's files there?"
        )
    return tokenizer


def empty_model(config: PretrainedConfig, *, precision: str) -> PreTrainedModel:
    """The model of a configuration on the meta device, where weights take no memory. Raises InputError."""
    _check_class(config, config.name_or_path or "")
    with torch.device("meta"):
        try:
            model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=DTYPES[precision])
        except LOAD_ERRORS as failure:
            _refuse(config.name_or_path or "", failure)
    return model


def load_base(
    name_or_path: str,
    *,
    precision: str,
    load_in_4bit: bool = False,
    reads_images: bool = False,
    revision: str | None = None,
    offline: bool = False,
    device: torch.device | str = "cpu",
) -> PreTrainedModel:
    """The frozen base in evaluation mode on `device`; `precision` is one of fp32, bf16, fp16.

    With `load_in_4bit` its projections are NF4 with double quantisation; the embedding and the norms have `precision`.
    A base whose own files are NF4 stays NF4 whatever `load_in_4bit` is. With `reads_images` its vision tower and
    projector have `precision` too: they run once per image and are then freed.

    Raises InputError if the model can't be loaded, or if weights are missing or unexpected. For the precision that fits
    a device see `device.choose_precision`.
    """
    config = load_config(name_or_path, revision=revision, offline=offline)
    _check_class(config, name_or_path)
    dtype, is_quantised_already = DTYPES[precision], is_quantised(config)
    load_in_4bit = load_in_4bit or is_quantised_already
    options: dict[str, Any] = {"dtype": dtype, "attn_implementation": plain_attention(config)}
    if load_in_4bit and not is_quantised_already:
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
            llm_int8_skip_modules=[*KEPT_DENSE.get(config.model_type, ()), *(TOWER if reads_images else ())] or None,
        )
    if load_in_4bit:
        options["device_map"] = {"": torch.device(device)}
    loaded, report = _load(AutoModelForCausalLM, name_or_path, revision=revision, offline=offline, **options)
    check_weights(loaded, report, name=name_or_path)
    base: PreTrainedModel = loaded if load_in_4bit else loaded.to(device)
    base.requires_grad_(False)
    if is_quantised_already:
        set_precision(base, dtype)
    if load_in_4bit:
        release_weight_files(base)
    keep_4bit_differentiable(base)
    return base.eval()


def release_weight_files(model: nn.Module) -> None:
    """Copy the weights that are not in NF4, so that no file of weights stays mapped into memory.

    On a CPU transformers returns views into the mapped files. The embedding and each layer's norms are such views, and
    each keeps its whole file in memory once it was read: 3.8 GiB of Gemma 2B's 4.7, most of which is not used any more.
    """
    for parameter in model.parameters():
        if parameter.device.type == "cpu" and getattr(parameter, "quant_state", None) is None:
            parameter.data = parameter.data.clone()


def keep_4bit_differentiable(model: nn.Module) -> None:
    """Stop bitsandbytes from repacking 4-bit weights in evaluation mode on CPUs with AVX512-BF16.

    The packed kernel has no backward pass: after one evaluation all later gradients would be silently wrong.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            setattr(module, "support_avx512bf16_for_cpu", False)  # noqa: B010 - bitsandbytes has no types


def _load(factory: Any, name_or_path: str, *, revision: str | None, offline: bool, **options: Any) -> Any:
    """Load from a folder or the local cache; ask the hub only on a miss and never with `offline`."""
    if is_embedded(name_or_path):
        name_or_path, revision = str(embedded_folder(name_or_path)), None
    is_folder = Path(name_or_path).is_dir()
    if not is_folder and (Path(name_or_path).is_absolute() or name_or_path.startswith((".", "~"))):
        raise InputError(f"--model_name_or_path: there is no folder {name_or_path}")
    if is_folder:
        check_model_folder(Path(name_or_path), PARTS[factory])
    options = {"revision": revision or "main", "trust_remote_code": False, **options}
    if factory is AutoModelForCausalLM:
        # Weights of another shape are reported like the others that don't fit, by name.
        options |= {"use_safetensors": True, "output_loading_info": True, "ignore_mismatched_sizes": True}
    with quiet_libraries():
        try:
            return factory.from_pretrained(name_or_path, local_files_only=True, **options)
        except LOAD_ERRORS as miss:
            if is_folder:
                _refuse(name_or_path, miss)
            if offline:
                hint = f"can't be loaded (not in the local cache, and --offline is set): {reason(miss)}"
                raise InputError(f"--model_name_or_path {name_or_path}: {hint}") from miss
        try:
            return factory.from_pretrained(name_or_path, **options)
        except LOAD_ERRORS as failure:
            if not isinstance(failure, OSError):  # the files could be had
                _refuse(name_or_path, failure)
            raise InputError(
                f"--model_name_or_path {name_or_path}: neither a folder nor a model that the hub gives out here "
                "(check the name, the network, and for gated models such as Gemma that you accepted the terms and ran "
                "'hf auth login'), or use embedded:gemma3-270m or embedded:smollm2-135m-it"
            ) from failure


def _check_class(config: PretrainedConfig, name: str) -> None:
    if type(config) not in AutoModelForCausalLM._model_mapping:
        raise InputError(f"--model_name_or_path {name}: {config.model_type} is no causal language model")


def _refuse(name: str, error: Exception) -> NoReturn:
    """Raise InputError with the library's message, which is about files and settings; re-raise out-of-memory errors."""
    if is_out_of_memory(error):
        raise error
    raise InputError(f"--model_name_or_path {name}: can't be loaded: {reason(error, folder=name)}") from error
