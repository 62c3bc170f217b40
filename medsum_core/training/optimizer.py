"""The optimiser, and the learning rate as a pure function of the number of completed updates.

Paged 8-bit AdamW (Dettmers et al. 2022, arXiv:2110.02861; paging: arXiv:2305.14314) stores both moments as one byte
an element with one fp32 scale (absmax) for every 256; tensors under 4,096 elements have fp32 moments. The byte codes
(qmaps) are constants of the library, shared by all parameters: they are not saved, but built again.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from medsum_core.errors import InputError

PAGED_ADAMW_8BIT = "paged_adamw_8bit"
ADAMW_TORCH = "adamw_torch"
SMALL_TENSOR = 4096  # elements; below, the 8-bit optimiser has fp32 moments
State = dict[str, Any]  # of one parameter


@dataclass(frozen=True, kw_only=True)
class OptimizerKind:
    """What differs between the optimisers that `--optim` names."""

    class_names: tuple[str, ...]  # qualified
    build: Callable[..., torch.optim.Optimizer]  # (parameter groups, lr=, betas=, eps=)
    state_keys: tuple[str, ...]  # the tensors of a parameter's state that are saved
    empty_state: Callable[..., State]  # (optimizer, parameter, index of its group, index inside that group)
    moment_bytes: Callable[[int, int], int]  # (elements that train, those of them in tensors under SMALL_TENSOR)


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

    `name` is `paged_adamw_8bit` (bitsandbytes) or `adamw_torch`. Both libraries' default weight decay is 1e-2.
    Raises InputError for another name or when nothing trains.
    """
    trained = [(key, parameter) for key, parameter in named_parameters if parameter.requires_grad]
    if not trained:
        raise InputError("no parameter trains: check --lora_target_modules")
    if name not in OPTIMIZERS:
        raise InputError(f"--optim {name} is unknown: choose {' or '.join(OPTIMIZERS)}")
    matrices = [pair for pair in trained if pair[1].ndim >= 2]
    vectors = [pair for pair in trained if pair[1].ndim < 2]
    groups: list[dict[str, Any]] = [{"params": matrices, "weight_decay": weight_decay}]
    groups.append({"params": vectors, "weight_decay": 0.0})
    groups = [group for group in groups if group["params"]]
    return OPTIMIZERS[name].build(groups, lr=learning_rate, betas=betas, eps=eps)


def _paged_adamw_8bit(groups: list[dict[str, Any]], **settings: Any) -> torch.optim.Optimizer:
    from bitsandbytes.optim.adamw import PagedAdamW8bit

    from medsum_core.training.flat_adamw import FlatPagedAdamW8bit

    on_gpu = any(parameter.is_cuda for group in groups for _, parameter in group["params"])
    # Paging moves state between a GPU and main memory. On a CPU it is in main memory anyway: the warning is irrelevant.
    warnings.filterwarnings("ignore", message="Paged optimizers are not supported on CPU")
    # On a CPU nothing waits for a GPU, and one large update would need temporaries as large as all parameters.
    return (FlatPagedAdamW8bit if on_gpu else PagedAdamW8bit)(groups, **settings)


def _empty_paged_state(
    optimizer: torch.optim.Optimizer, parameter: nn.Parameter, group_index: int, index: int
) -> State:
    """State as the library creates it before a parameter's first update; the optimiser itself is left unchanged."""
    former = optimizer.state.pop(parameter, None)
    optimizer.init_state(optimizer.param_groups[group_index], parameter, group_index, index)  # type: ignore[attr-defined]
    state: State = optimizer.state.pop(parameter)
    if former is not None:
        optimizer.state[parameter] = former
    return state


def _empty_adamw_state(_: torch.optim.Optimizer, parameter: nn.Parameter, *_place: int) -> State:
    moments = {key: torch.zeros_like(parameter) for key in OPTIMIZERS[ADAMW_TORCH].state_keys}
    return {"step": torch.tensor(0.0, dtype=torch.float32), **moments}


OPTIMIZERS = {
    PAGED_ADAMW_8BIT: OptimizerKind(
        class_names=(
            "medsum_core.training.flat_adamw.FlatPagedAdamW8bit",
            "bitsandbytes.optim.adamw.PagedAdamW8bit",
        ),
        build=_paged_adamw_8bit,
        state_keys=("state1", "state2", "absmax1", "absmax2"),
        empty_state=_empty_paged_state,
        moment_bytes=lambda elements, small: int((2 + 8 / 256) * (elements - small)) + 8 * small,
    ),
    ADAMW_TORCH: OptimizerKind(
        class_names=("torch.optim.adamw.AdamW",),
        build=torch.optim.AdamW,
        state_keys=("exp_avg", "exp_avg_sq"),
        empty_state=_empty_adamw_state,
        moment_bytes=lambda elements, small: 8 * elements,
    ),
}


def lr_at(step: int, *, schedule: str, peak: float, warmup_steps: int, num_steps: int) -> float:
    """Learning rate of the update that follows `step` completed ones; equals transformers' schedules to the last bit.

    Linear warm-up from 0 over `warmup_steps` (so that update 0 of a warm-up has rate 0), then `linear` to 0 at
    `num_steps`, `cosine` (half a wave) to 0, or `constant`. There is no scheduler state that would have to be saved.
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


def record_groups(optimizer: torch.optim.Optimizer, *, peak: float) -> None:
    """Record each parameter group as built, under `built` and `lr_ratio`.

    `set_lr` keeps the ratio of its rate to `peak`, the rate of `--learning_rate`; `optimizer_state` refuses numbers
    that changed, since they would not be restored.
    """
    for group in optimizer.param_groups:
        built = {name: value for name, value in group.items() if isinstance(value, int | float) and name != "lr"}
        group.update(built=built, lr_ratio=group["lr"] / peak if peak else 1.0)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the rate of every parameter group: `lr` times the group's ratio (`record_groups`; else 1)."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_ratio", 1.0)
