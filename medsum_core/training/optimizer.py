"""The optimiser, its state by parameter name, and the learning rate as a pure function of the completed step.

Paged 8-bit AdamW (Dettmers et al. 2022, arXiv:2110.02861; paging: arXiv:2305.14314) keeps both moments as one byte
an element with one fp32 scale (absmax) for every 256; tensors under 4,096 elements keep fp32 moments. The byte codes
(qmaps) are constants of the library, shared by all parameters: they are left out of a saved state and built anew.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from medsum_core.errors import InputError

PAGED_ADAMW_8BIT = "paged_adamw_8bit"
ADAMW_TORCH = "adamw_torch"
STATE_KEYS = {PAGED_ADAMW_8BIT: ("state1", "state2", "absmax1", "absmax2"), ADAMW_TORCH: ("exp_avg", "exp_avg_sq")}


def build_optimizer(
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    *,
    name: str,
    learning_rate: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> torch.optim.Optimizer:
    """AdamW over the parameters that train, matrices with `weight_decay`, vectors (DoRA's magnitudes) without.

    `name` is `paged_adamw_8bit` (bitsandbytes) or `adamw_torch`. Both libraries would decay by 1e-2 if not told.
    Raises InputError for another name or when nothing trains.
    """
    trained = [(key, parameter) for key, parameter in named_parameters if parameter.requires_grad]
    if not trained:
        raise InputError("no parameter trains: check --lora_target_modules")
    matrices = [pair for pair in trained if pair[1].ndim >= 2]
    vectors = [pair for pair in trained if pair[1].ndim < 2]
    groups: list[dict[str, Any]] = [{"params": matrices, "weight_decay": weight_decay}]
    groups.append({"params": vectors, "weight_decay": 0.0})
    groups = [group for group in groups if group["params"]]
    if name == ADAMW_TORCH:
        return torch.optim.AdamW(groups, lr=learning_rate, betas=betas, eps=eps)
    if name == PAGED_ADAMW_8BIT:
        return _paged_adamw_8bit(groups, learning_rate=learning_rate, betas=betas, eps=eps)
    raise InputError(f"--optim {name} is unknown: choose {PAGED_ADAMW_8BIT} or {ADAMW_TORCH}")


def _paged_adamw_8bit(
    groups: list[dict[str, Any]], *, learning_rate: float, betas: tuple[float, float], eps: float
) -> torch.optim.Optimizer:
    from bitsandbytes.optim.adamw import PagedAdamW8bit

    # Paging moves state between a GPU and main memory. On a CPU it is in main memory already: nothing is lost there.
    warnings.filterwarnings("ignore", message="Paged optimizers are not supported on CPU")
    return PagedAdamW8bit(groups, lr=learning_rate, betas=betas, eps=eps)


def lr_at(step: int, *, schedule: str, peak: float, warmup_steps: int, num_steps: int) -> float:
    """Learning rate of the update that follows `step` completed ones; equals transformers' schedules to the last bit.

    Linear warm-up from 0 over `warmup_steps` (so that update 0 of a warm-up has rate 0), then `linear` to 0 at
    `num_steps`, `cosine` (half a wave) to 0, or `constant`. Pure: nothing to save, nothing to step twice.
    """
    if step < warmup_steps:
        return peak * (float(step) / float(max(1, warmup_steps)))
    decay_steps = float(max(1, num_steps - warmup_steps))
    if schedule == "constant":
        return peak
    if schedule == "linear":
        return peak * max(0.0, float(num_steps - step) / decay_steps)
    if schedule == "cosine":
        progress = float(step - warmup_steps) / decay_steps
        return peak * max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress)))
    raise InputError(f"--lr_scheduler_type {schedule} is unknown: choose linear, cosine or constant")


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the rate of every parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def optimizer_state(optimizer: torch.optim.Optimizer, names: Sequence[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Copy the state out by parameter name: tensors (on the CPU, `NAME.state1` and so on) and plain scalars.

    `names` are the parameters that train; they must be those that the optimiser holds, in any order. Scalars:
    `{"optimizer": name, "steps": {NAME: updates}}`; a parameter that was never updated has no entry.
    """
    kind = _kind(optimizer)
    _check_names(optimizer, names)
    _synchronize(optimizer)
    tensors: dict[str, Tensor] = {}
    steps: dict[str, int] = {}
    for name, parameter, _, _ in _parameters(optimizer):
        state = optimizer.state.get(parameter, {})
        if "step" not in state:
            continue
        steps[name] = int(state["step"])
        for key in STATE_KEYS[kind]:
            if key in state:
                tensors[f"{name}.{key}"] = state[key].detach().cpu().clone(memory_format=torch.contiguous_format)
    return tensors, {"optimizer": kind, "steps": steps}


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, names: Sequence[str], tensors: dict[str, Tensor], scalars: dict[str, Any]
) -> None:
    """Put back what `optimizer_state` copied out, so that the next update is bit-identical.

    On CUDA the buffers are allocated by the library's own `get_state_buffer`, hence paged again (its `load_state_dict`
    leaves them in plain device memory: bitsandbytes #782). Raises InputError, before anything is changed, when the
    optimiser, a name, a shape or a dtype differs.
    """
    kind = _kind(optimizer)
    if scalars.get("optimizer") != kind:
        raise InputError(f"the checkpoint's optimiser is {scalars.get('optimizer')}, this run's is {kind} (--optim)")
    _check_names(optimizer, names)
    steps = scalars["steps"]
    unknown = sorted(set(steps) - set(names))
    if unknown:
        raise InputError(f"the checkpoint holds optimiser state for {unknown[0]}, which does not train in this run")
    fresh = {name: _empty_state(optimizer, kind, place) for name, *place in _parameters(optimizer) if name in steps}
    _check_tensors(fresh, tensors, keys=STATE_KEYS[kind])
    _synchronize(optimizer)  # paged buffers are zeroed by a kernel: let it end before the CPU writes
    for name, parameter, _, _ in _parameters(optimizer):
        optimizer.state.pop(parameter, None)
        if name not in steps:
            continue
        state = fresh[name]
        for key in STATE_KEYS[kind]:
            if key in state:
                state[key].copy_(tensors[f"{name}.{key}"])
        state["step"] = _step_like(state["step"], steps[name])
        optimizer.state[parameter] = state
    _synchronize(optimizer)


def _kind(optimizer: torch.optim.Optimizer) -> str:
    return ADAMW_TORCH if isinstance(optimizer, torch.optim.AdamW) else PAGED_ADAMW_8BIT


def _parameters(optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, nn.Parameter, int, int]]:
    """Name, parameter, index of its group and index inside that group."""
    for group_index, group in enumerate(optimizer.param_groups):
        for index, (name, parameter) in enumerate(zip(group["param_names"], group["params"], strict=True)):
            yield name, parameter, group_index, index


def _check_names(optimizer: torch.optim.Optimizer, names: Sequence[str]) -> None:
    held = {name for name, *_ in _parameters(optimizer)}
    differing = sorted(held ^ set(names))
    if differing:
        raise InputError(f"the optimiser and the model differ in {len(differing)} parameters, such as {differing[0]}")


def _empty_state(optimizer: torch.optim.Optimizer, kind: str, place: list[Any]) -> dict[str, Any]:
    """State as the library would create it before a parameter's first update, not yet given to the optimiser."""
    parameter, group_index, index = place
    if kind == ADAMW_TORCH:
        moments = {key: torch.zeros_like(parameter) for key in STATE_KEYS[kind]}
        return {"step": torch.tensor(0.0, dtype=torch.float32), **moments}
    former = optimizer.state.pop(parameter, None)
    optimizer.init_state(optimizer.param_groups[group_index], parameter, group_index, index)  # type: ignore[attr-defined]
    state = optimizer.state.pop(parameter)
    if former is not None:
        optimizer.state[parameter] = former
    return state


def _check_tensors(fresh: dict[str, dict[str, Any]], tensors: dict[str, Tensor], *, keys: Sequence[str]) -> None:
    expected = {f"{name}.{key}": state[key] for name, state in fresh.items() for key in keys if key in state}
    differing = sorted(set(expected) ^ set(tensors))
    if differing:
        raise InputError(
            f"the checkpoint's optimiser state differs in {len(differing)} tensors, such as {differing[0]}"
        )
    for key, buffer in expected.items():
        if (buffer.shape, buffer.dtype) != (tensors[key].shape, tensors[key].dtype):
            found = f"{tuple(tensors[key].shape)} {tensors[key].dtype}"
            raise InputError(f"optimiser state {key} is {found}, expected {tuple(buffer.shape)} {buffer.dtype}")


def _step_like(step: Any, value: int) -> Any:
    return torch.full_like(step, float(value)) if isinstance(step, Tensor) else value


def _synchronize(optimizer: torch.optim.Optimizer) -> None:
    """Paged state is managed memory that kernels write asynchronously: wait before the CPU touches it."""
    if any(parameter.is_cuda for _, parameter, _, _ in _parameters(optimizer)):
        torch.cuda.synchronize()
