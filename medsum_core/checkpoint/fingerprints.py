"""Fingerprints of what determines a run: its settings, contents by hash, environment and functions.

A checkpoint holds them. `training/resume_check.py` compares them with those of the run that resumes it.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Callable, Iterable, Mapping
from importlib import metadata
from typing import Any

import torch
from torch import Tensor, nn

from medsum_core import __version__
from medsum_core.checkpoint.code_identity import code_identity

PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "accelerate", "tokenizers", "numpy")

# Fields of a configuration without effect on the computed numbers: origin, dtype, outputs.
# fmt: off
NOT_COMPUTED_WITH = frozenset({
    "_name_or_path", "_commit_hash", "transformers_version", "architectures", "dtype", "torch_dtype", "use_cache",
    "output_hidden_states", "output_attentions", "return_dict", "problem_type", "id2label", "label2id",
})
# fmt: on
# Environment variables that change a library's choice of kernels, and so the last bits of its products.
CPU_VARIABLES = (
    "ONEDNN_MAX_CPU_ISA",
    "DNNL_MAX_CPU_ISA",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "DNNL_DEFAULT_FPMATH_MODE",
    "MKL_CBWR",
    "MKL_ENABLE_INSTRUCTIONS",
    "OPENBLAS_CORETYPE",
)
CUDA_VARIABLES = ("NVIDIA_TF32_OVERRIDE", "CUBLAS_WORKSPACE_CONFIG")
CPU_IDENTITY = ("vendor_id", "cpu family", "model", "stepping")
ARM_IDENTITY = ("CPU implementer", "CPU architecture", "CPU variant", "CPU part", "CPU revision")


def run_fingerprints(
    *,
    settings: Mapping[str, Any],
    train_data: str,
    validation_data: str | None,
    base_weights: str,
    base_config: str,
    tokenizer: str,
    parameters: Mapping[str, Iterable[int]],
    num_steps: int,
    environment: Mapping[str, Any],
    functions: Mapping[str, Callable[..., Any]],
) -> dict[str, Any]:
    """The record that a checkpoint stores; writing it as JSON and reading it back gives an equal record.

    `settings`: flag -> value of those that are compared (`RunConfig.compared_on_resume`); `parameters`: name to shape
    of the trained parameters; `num_steps`: updates of the whole run; `functions`: those of `train_loop.main`, by the
    names of its arguments; the others are fingerprints of content.
    """
    record = {
        "settings": dict(settings),
        "train_data": train_data,
        "validation_data": validation_data,
        "base_weights": base_weights,
        "base_config": base_config,
        "tokenizer": tokenizer,
        "parameters": {name: list(shape) for name, shape in parameters.items()},
        "num_steps": num_steps,
        "environment": dict(environment),
        "functions": {role: code_identity(function) for role, function in functions.items()},
    }
    return json.loads(json.dumps(record))


def environment_fingerprint(
    *, device: torch.device, world_size: int, uses_numba: bool = False, uses_triton: bool = False
) -> dict[str, Any]:
    """What can change the last bits of sums, apart from settings: versions, processor, threads, number of processes.

    `uses_numba`: include its version and target processor. `uses_triton`: include its version.
    """
    found: dict[str, Any] = {f"{name} version": _version(name) for name in PACKAGES}
    found["medsum-core version"] = __version__
    found["number of processes"] = world_size
    found["device"] = device.type
    found["fp32 matmul precision"] = torch.get_float32_matmul_precision()
    if uses_numba:
        found |= _numba_target()
    if uses_triton:
        found["triton version"] = _version("triton")
    if device.type == "cuda":
        found["GPU"] = torch.cuda.get_device_name(device)
        found["CUDA version"] = torch.version.cuda
        return found | {name: os.environ.get(name) for name in CUDA_VARIABLES}
    found |= _processor()
    found["CPU capability"] = torch.backends.cpu.get_cpu_capability()
    found["CPU threads"] = torch.get_num_threads()
    return found | {name: os.environ.get(name) for name in CPU_VARIABLES}


def base_fingerprint(named_parameters: Iterable[tuple[str, nn.Parameter]]) -> str:
    """sha256 over the frozen weights as stored in memory: names, shapes, dtypes, bytes, 4-bit scales included.

    Computed before the kernels are applied, it does not depend on them or on `--dequantize`.
    """
    digest = hashlib.sha256()
    for name, parameter in sorted(named_parameters, key=lambda pair: pair[0]):
        if parameter.requires_grad:
            continue
        _add_tensor(digest, name, parameter)
        quant_state = getattr(parameter, "quant_state", None)
        scales = quant_state.as_dict(packed=True) if quant_state is not None else {}
        for key, tensor in sorted(scales.items()):
            _add_tensor(digest, f"{name}.{key}", tensor)
    return digest.hexdigest()


def config_fingerprint(config: Any) -> str:
    """sha256 over the fields of a model's configuration that affect its numbers.

    Another version of transformers may have other fields, and thus give another hash.
    """
    return json_sha256(_computed_with(config.to_dict()))


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """sha256 over a fast tokenizer's whole definition, its special tokens and its chat template."""
    parts = [tokenizer.backend_tokenizer.to_str(), tokenizer.special_tokens_map, tokenizer.chat_template]
    return json_sha256(parts)


def json_sha256(value: Any) -> str:
    """sha256 (hex) of a value as JSON with sorted keys; other types are converted by `str`."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def _computed_with(values: Any) -> Any:
    if not isinstance(values, dict):
        return values
    return {key: _computed_with(value) for key, value in values.items() if key not in NOT_COMPUTED_WITH}


def _add_tensor(digest: Any, name: str, tensor: Tensor) -> None:
    digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    digest.update(flat.view(torch.uint8).numpy().data)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _numba_target() -> dict[str, Any]:
    import numba  # slow to import, and not everybody has it
    from numba.core.registry import cpu_target

    _, name, features = cpu_target.target_context.codegen().magic_tuple()
    return {"numba version": numba.__version__, "numba CPU": str(name), "numba CPU features": _short(str(features))}


def _processor() -> dict[str, Any]:
    """Family, model and flags of the CPU, by which matrix libraries choose kernels; its name is not specific enough."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            first = file.read().split("\n\n")[0]
    except OSError:
        return {"CPU": platform.processor() or platform.machine()}
    found = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first.splitlines())}
    identity = [f"{key} {found[key]}" for key in (*CPU_IDENTITY, *ARM_IDENTITY) if key in found]
    flags = sorted(found.get("flags", found.get("Features", "")).split())
    return {"CPU family and model": ", ".join(identity) or platform.machine(), "CPU flags": _short(" ".join(flags))}


def _short(text: str) -> str:
    """A short sha256 that distinguishes long lists in a message."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
