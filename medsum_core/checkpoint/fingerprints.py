"""Fingerprints of what determines a run, and which of them may differ between a checkpoint and the run that resumes it.

Three kinds. What decides the updates (data, base, tokenizer, adapter's shapes, settings, objective and collator): a
change is refused. What decides only their last bits (versions, threads, processor, attention kernel, number of
processes), or may (another prompt, optimiser or prepared model of the user's own): a change is refused unless the user
accepts it with --allow_inexact_resume. What decides neither (logging, saving, more epochs) may change.
What an earlier version did not record is not compared; that is said once.
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
from medsum_core.checkpoint.code_identity import code_identity, is_own
from medsum_core.errors import InputError, differing_names

PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "accelerate", "tokenizers", "numpy")

PARTS = {
    "train_data": "the training data",
    "validation_data": "the validation data",
    "base": "the base model's weights",
    "tokenizer": "the tokenizer or its chat template",
}
DECISIVE_FUNCTIONS = ("objective", "collate")  # of `train_loop.main`; the others can be accepted
# Each changes which kernels a library takes for its products, and so their last bits.
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
    base: str,
    tokenizer: str,
    parameters: Mapping[str, Iterable[int]],
    num_steps: int,
    environment: Mapping[str, Any],
    functions: Mapping[str, Callable[..., Any]],
) -> dict[str, Any]:
    """The record that a checkpoint stores; writing it as JSON and reading it back gives an equal record.

    `settings`: flag -> value of those that decide the updates (`RunConfig.fixed_on_resume`); `parameters`: name to
    shape of the trained parameters; `num_steps`: updates of the whole run; `functions`: those of `train_loop.main`, by
    the names of its arguments; the others are fingerprints of content.
    """
    record = {
        "settings": dict(settings),
        "train_data": train_data,
        "validation_data": validation_data,
        "base": base,
        "tokenizer": tokenizer,
        "parameters": {name: list(shape) for name, shape in parameters.items()},
        "num_steps": num_steps,
        "environment": dict(environment),
        "functions": {role: code_identity(function) for role, function in functions.items()},
    }
    return json.loads(json.dumps(record))


def environment_fingerprint(
    *, device: torch.device, attention: str, world_size: int, uses_numba: bool = False
) -> dict[str, Any]:
    """What can change the last bits of a sum: versions, processor, threads, kernels, number of processes.

    `uses_numba`: its version and the processor that it compiles for count as well.
    """
    found: dict[str, Any] = {f"{name} version": _version(name) for name in PACKAGES}
    found["medsum-core version"] = __version__
    found["attention kernel"] = attention
    found["number of processes"] = world_size
    found["device"] = device.type
    found["fp32 matmul precision"] = torch.get_float32_matmul_precision()
    if uses_numba:
        found |= _numba_target()
    if device.type == "cuda":
        found["GPU"] = torch.cuda.get_device_name(device)
        found["CUDA version"] = torch.version.cuda
        return found | {name: os.environ.get(name) for name in CUDA_VARIABLES}
    found |= _processor()
    found["CPU capability"] = torch.backends.cpu.get_cpu_capability()
    found["CPU threads"] = torch.get_num_threads()
    return found | {name: os.environ.get(name) for name in CPU_VARIABLES}


def base_fingerprint(named_parameters: Iterable[tuple[str, nn.Parameter]]) -> str:
    """sha256 over the frozen weights as stored in memory: names, shapes, dtypes, bytes, 4-bit scales included."""
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


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """sha256 over a fast tokenizer's whole definition, its special tokens and its chat template."""
    parts = [tokenizer.backend_tokenizer.to_str(), tokenizer.special_tokens_map, tokenizer.chat_template]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def check_compatible(saved: Mapping[str, Any], current: Mapping[str, Any], *, allow_inexact: bool) -> list[str]:
    """Compare two records of `run_fingerprints`; return notes for the user, such as a longer schedule.

    Raises InputError with every reason and what to do about it. `allow_inexact` turns differences of the environment
    into notes; changed data, weights or settings are refused all the same.
    """
    problems = [f"{what} changed" for key, what in PARTS.items() if saved[key] != current[key]]
    problems += _parameter_problems(saved["parameters"], current["parameters"])
    problems += [f"--{change}" for change in _changes(saved["settings"], current["settings"])]
    refused, changes = _function_changes(saved.get("functions"), current["functions"])
    problems += refused
    notes: list[str] = []
    if current["num_steps"] < saved["num_steps"]:
        problems.append(f"the run has {current['num_steps']} updates, it was started for {saved['num_steps']}")
    elif current["num_steps"] > saved["num_steps"]:
        notes.append(
            f"the run now has {current['num_steps']} updates instead of {saved['num_steps']}: "
            "a decaying learning rate follows the longer schedule from here on"
        )
    if problems:
        remedy = "give the former values back, or start a new run with another --output_dir"
        raise InputError(f"cannot resume: {'; '.join(problems)}. Remedy: {remedy}")
    known, now = saved["environment"], current["environment"]
    changes += _changes({**now, **known}, {**known, **now})  # what one of them lacks can't be compared
    unknown = [
        *sorted(set(now) - set(known)),
        *(["the functions of train_loop.main"] if "functions" not in saved else []),
    ]
    if unknown:
        notes.append(
            f"the checkpoint is of an earlier version and does not tell, so not compared: {', '.join(unknown)}"
        )
    if changes and not allow_inexact:
        raise InputError(
            f"cannot resume to the last bit: {'; '.join(changes)}. Remedy: resume where it was started, or pass "
            "--allow_inexact_resume and accept a result that differs in its last digits"
        )
    if changes:
        notes.append(f"resuming inexactly, as asked: {'; '.join(changes)}")
    return notes


def _function_changes(
    saved: Mapping[str, Mapping[str, str]] | None, current: Mapping[str, Mapping[str, str]]
) -> tuple[list[str], list[str]]:
    """What is refused always, and what can be accepted: functions of the user's own, or of another version of these."""
    refused: list[str] = []
    acceptable: list[str] = []
    for role in sorted({*saved, *current}) if saved is not None else ():
        before, now = (saved or {}).get(role), current.get(role)
        if before == now:
            continue
        names = [one["name"] if one is not None else "not given" for one in (before, now)]
        same_name = names[0] == names[1]
        text = f"the source of {role}, {names[0]}, changed" if same_name else f"{role} was {names[0]}, is {names[1]}"
        own = same_name and now is not None and is_own(now)
        (refused if role in DECISIVE_FUNCTIONS and not own else acceptable).append(text)
    return refused, acceptable


def _parameter_problems(saved: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    if saved == current:
        return []
    differing = differing_names(saved, current)
    return [f"{len(differing)} trained parameters differ in name or shape, such as {differing[0]}"]


def _changes(saved: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    names = differing_names(saved, current)
    return [f"{name} was {saved.get(name)}, is {current.get(name)}" for name in names]


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
    """Matrix libraries choose kernels by family, model and flags; one marketing name can stand for several."""
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
    """Enough of a sha256 to tell long lists apart in a message."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
