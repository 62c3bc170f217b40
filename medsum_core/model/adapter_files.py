"""The adapter in PEFT's own format: written atomically, and read as an untrusted file.

PEFT looks up a missing folder on the hub as a repository name, accepts files that run code when they are read, and
loads any base that an adapter names. Therefore adapters are read here: from a local folder, safetensors only, with a
matching base, matching shapes and finite values.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor
from transformers import PreTrainedModel

from medsum_core.config.arguments import MAX_RANK
from medsum_core.config.validation import LARGEST
from medsum_core.errors import InputError
from medsum_core.files import file_sha256, read_plain_file, write_bytes_atomic
from medsum_core.model.families import TOWERS, check_target_modules
from medsum_core.model.lora import LoraSettings, attach_lora

WEIGHTS_NAME = "adapter_model.safetensors"
CONFIG_NAME = "adapter_config.json"
PLAIN_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Settings of a plain adapter that may have any valid value; all others must have PEFT's default.
FREE_SETTINGS = {
    "base_model_name_or_path",
    "target_modules",
    "exclude_modules",
    "r",
    "lora_alpha",
    "lora_dropout",
    "use_rslora",
    "use_dora",
}
NOTES_OF_PEFT = {
    "auto_mapping",
    "inference_mode",
    "init_lora_weights",
    "peft_type",
    "peft_version",
    "revision",
    "task_type",
}
PLAIN_STARTS = (True, "gaussian")  # values of init_lora_weights; others change the base's weights too


def adapter_tensors(model: PeftModel) -> dict[str, Tensor]:
    """The adapter under the names of PEFT's files, fp32 on the CPU."""
    # `save_embedding_layers="auto"` would ask the hub about the base.
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    return {name: tensor.detach().to("cpu").contiguous().clone() for name, tensor in state.items()}


def adapter_config(model: PeftModel) -> dict[str, Any]:
    """The content of `adapter_config.json`, as plain JSON values."""
    values = model.peft_config["default"].to_dict() | {"inference_mode": True}
    return json.loads(json.dumps(values, default=lambda value: sorted(value) if isinstance(value, set) else str(value)))


def save_adapter(folder: Path, tensors: dict[str, Tensor], config: dict[str, Any]) -> dict[str, str]:
    """Write both files atomically; `PeftModel.from_pretrained(plain_base, folder)` loads them.

    Returns file name -> sha256 (hex) of what was written. Raises OSError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    files = {WEIGHTS_NAME: save(tensors, metadata={"format": "pt"}), CONFIG_NAME: text.encode("utf-8")}
    for name, data in files.items():
        write_bytes_atomic(folder / name, data)
    return {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}


def load_adapter_tensors(model: PeftModel, tensors: dict[str, Tensor]) -> None:
    """Copy tensors into the model's adapter. Raises InputError unless names and shapes match and values are finite."""
    own = get_peft_model_state_dict(model, save_embedding_layers=False)
    if own.keys() != tensors.keys():
        extra, missing = sorted(tensors.keys() - own.keys()), sorted(own.keys() - tensors.keys())
        raise InputError(f"the adapter's tensors do not fit this base: unexpected {extra[:3]}, missing {missing[:3]}")
    for name, tensor in tensors.items():
        if tensor.shape != own[name].shape:
            raise InputError(f"the adapter's {name} is {tuple(tensor.shape)}; this base needs {tuple(own[name].shape)}")
        if tensor.dtype not in PLAIN_DTYPES:
            raise InputError(f"the adapter's {name} is {tensor.dtype}: it must be in 16 or 32 bits")
        if not torch.isfinite(tensor).all():
            raise InputError(f"the adapter's {name} has values that are not finite: it is damaged")
    with torch.no_grad():
        for name, tensor in tensors.items():
            own[name].copy_(tensor)


def load_adapter(base: PreTrainedModel, folder: str | Path, *, base_name: str) -> PeftModel:
    """The base with the adapter of a local folder, in evaluation mode. Never looked up on a hub.

    Raises InputError for a missing folder or file, an adapter for another base, or settings that are not plain LoRA.
    """
    folder = Path(folder)
    settings = _read_settings(folder, base_name)
    check_target_modules(base, settings.target_modules, where=f"{folder / CONFIG_NAME}, target_modules")
    try:
        tensors = load(read_plain_file(folder / WEIGHTS_NAME))
    except OSError as error:
        raise InputError(
            f"{folder / WEIGHTS_NAME}: can't be read ({error.strerror}); is the adapter complete?"
        ) from error
    except SafetensorError as error:
        raise InputError(f"{folder / WEIGHTS_NAME}: not safetensors; is the adapter complete?") from error
    model = attach_lora(base, settings, base_name=base_name)
    load_adapter_tensors(model, tensors)
    model.requires_grad_(False)
    return model.eval()


def adapter_hashes(folder: Path) -> dict[str, str]:
    """File name -> sha256 (hex) of the adapter's two files, as `save_adapter` returned them. Raises InputError."""
    try:
        return {name: file_sha256(folder / name) for name in (WEIGHTS_NAME, CONFIG_NAME)}
    except OSError as error:
        raise InputError(f"adapter folder {folder}: can't be read ({error.strerror}); is it complete?") from error


def adapter_base_name(folder: str | Path) -> str:
    """The base that an adapter folder names. Raises InputError if it can't be read."""
    name = _read_config(Path(folder)).get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise InputError(f"{Path(folder) / CONFIG_NAME}: names no base_model_name_or_path")
    return name


def _read_config(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise InputError(f"adapter folder {folder}: there is no such folder (it is not looked up on a hub)")
    path = folder / CONFIG_NAME
    try:
        config = json.loads(read_plain_file(path))
    except FileNotFoundError as error:
        raise InputError(f"{path}: missing") from error
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON") from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise InputError(f"{path}: not a LoRA adapter's configuration")
    return config


def _read_settings(folder: Path, base_name: str) -> LoraSettings:
    config = _read_config(folder)
    named = config.get("base_model_name_or_path")
    if named != base_name:
        raise InputError(f"{folder}: the adapter is for the base {named!r}, not {base_name!r}")
    path = folder / CONFIG_NAME
    if used := _beyond_plain_lora(config):
        raise InputError(f"{path}: {', '.join(used)} is not supported here")
    targets, rank, alpha = config.get("target_modules"), config.get("r"), config.get("lora_alpha")
    if (
        not isinstance(targets, list)
        or not targets
        or not all(isinstance(one, str) and one.isidentifier() for one in targets)
    ):
        raise InputError(f"{path}: target_modules is not a list of layer names")
    excluded = config.get("exclude_modules") or None
    if excluded is not None and not (isinstance(excluded, str) and TOWERS.fullmatch(excluded)):
        raise InputError(f"{path}: exclude_modules is not what this project writes for the towers of a multimodal base")
    if type(rank) is not int or not 0 < rank <= MAX_RANK:
        raise InputError(f"{path}: r must be a whole number from 1 to {MAX_RANK}")
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or abs(alpha) > LARGEST or alpha % 1:
        raise InputError(f"{path}: lora_alpha must be a whole number up to {LARGEST:,}")
    return LoraSettings(
        r=rank,
        alpha=int(alpha),
        dropout=0.0,
        target_modules=tuple(targets),
        excluded=excluded,
        use_rslora=bool(config.get("use_rslora")),
        use_dora=bool(config.get("use_dora")),
    )


def _beyond_plain_lora(config: dict[str, Any]) -> list[str]:
    """The settings beyond plain LoRA, also those of other PEFT releases; empty values have no effect."""
    plain = LoraConfig().to_dict()
    others = {key: value for key, value in config.items() if key not in FREE_SETTINGS | NOTES_OF_PEFT}
    changed = [key for key, value in others.items() if value and value != plain.get(key)]
    changed += [key for key in ("use_rslora", "use_dora") if not isinstance(config.get(key, False), bool)]
    start = config.get("init_lora_weights", True)
    return changed + ["init_lora_weights"] * (start not in PLAIN_STARTS)
