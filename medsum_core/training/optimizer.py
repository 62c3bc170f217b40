"""The optimiser, its state by parameter name, and the learning rate as a pure function of the completed step.

Paged 8-bit AdamW (Dettmers et al. 2022, arXiv:2110.02861; paging: arXiv:2305.14314) stores both moments as one byte
an element with one fp32 scale (absmax) for every 256; tensors under 4,096 elements have fp32 moments. The byte codes
(qmaps) are constants of the library, shared by all parameters: they are left out of a saved state and built anew.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from medsum_core.errors import InputError

PAGED_ADAMW_8BIT = "paged_adamw_8bit"
ADAMW_TORCH = "adamw_torch"
SMALL_TENSOR = 4096  # elements; below, the 8-bit optimiser has fp32 moments
State = dict[str, Any]  # of one parameter


@dataclass(frozen=True, kw_only=True)
class OptimizerKind:
    """What differs between the optimisers that `--optim` names."""

    class_name: str  # qualified
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

    `name` is `paged_adamw_8bit` (bitsandbytes) or `adamw_torch`. Both libraries would decay by 1e-2 if not told.
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

    # Paging moves state between a GPU and main memory. On a CPU it is in main memory already: nothing is lost there.
    warnings.filterwarnings("ignore", message="Paged optimizers are not supported on CPU")
    return PagedAdamW8bit(groups, **settings)


def _empty_paged_state(
    optimizer: torch.optim.Optimizer, parameter: nn.Parameter, group_index: int, index: int
) -> State:
    """State as the library would create it before a parameter's first update, not yet given to the optimiser."""
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
        class_name="bitsandbytes.optim.adamw.PagedAdamW8bit",
        build=_paged_adamw_8bit,
        state_keys=("state1", "state2", "absmax1", "absmax2"),
        empty_state=_empty_paged_state,
        moment_bytes=lambda elements, small: int((2 + 8 / 256) * (elements - small)) + 8 * small,
    ),
    ADAMW_TORCH: OptimizerKind(
        class_name="torch.optim.adamw.AdamW",
        build=torch.optim.AdamW,
        state_keys=("exp_avg", "exp_avg_sq"),
        empty_state=_empty_adamw_state,
        moment_bytes=lambda elements, small: 8 * elements,
    ),
}


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
    `{"optimizer": name, "steps": {NAME: updates}}`; a parameter that was never updated has no entry. An optimiser that
    `--optim` does not name goes by its class's qualified name: all tensors of its state are saved, a step that is a
    tensor among them, and `keys` lists them, `{NAME: [key, ...]}`. What it holds in its parameter groups is not saved.
    Raises InputError when names differ or are missing, or when such a state holds more than tensors and a step.
    """
    kind = _kind(optimizer)
    check_names(optimizer, names)
    _synchronize(optimizer)
    tensors: dict[str, Tensor] = {}
    steps: dict[str, float] = {}
    keys: dict[str, list[str]] = {}
    for name, parameter, _, _ in _parameters(optimizer):
        state = optimizer.state.get(parameter)
        if not state:
            continue
        saved, step = _known_parts(kind, state) if kind in OPTIMIZERS else _other_parts(kind, state)
        keys[name] = sorted(saved)
        if step is not None:
            steps[name] = step
        for key, tensor in saved.items():
            tensors[f"{name}.{key}"] = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
    return tensors, {"optimizer": kind, "steps": steps, **({} if kind in OPTIMIZERS else {"keys": keys})}


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, names: Sequence[str], tensors: dict[str, Tensor], scalars: dict[str, Any]
) -> None:
    """Put back what `optimizer_state` copied out, so that the next update is bit-identical.

    On CUDA the buffers of paged 8-bit AdamW are allocated by the library's own `get_state_buffer`, hence paged again
    (its `load_state_dict` leaves them in plain device memory: bitsandbytes #782). Raises InputError, before anything is
    changed, when the optimiser or a name differs; for the optimisers of `--optim` also for a shape or a dtype.
    """
    kind = _kind(optimizer)
    if scalars.get("optimizer") != kind:
        raise InputError(f"the checkpoint's optimiser is {scalars.get('optimizer')}, this run's is {kind} (--optim)")
    check_names(optimizer, names)
    unknown = sorted({*scalars["steps"], *scalars.get("keys", ())} - set(names))
    if unknown:
        raise InputError(f"the checkpoint holds optimiser state for {unknown[0]}, which does not train in this run")
    restore = _known_states if kind in OPTIMIZERS else _other_states
    states = restore(optimizer, kind, tensors, scalars)
    for name, parameter, _, _ in _parameters(optimizer):
        optimizer.state.pop(parameter, None)
        if name in states:
            optimizer.state[parameter] = states[name]
    _synchronize(optimizer)


def check_names(optimizer: torch.optim.Optimizer, names: Sequence[str]) -> None:
    """Raise InputError unless the optimiser holds the parameters of these names, and knows them by their names."""
    if not all("param_names" in group for group in optimizer.param_groups):
        raise InputError(
            f"{_class_name(optimizer)} has no names of its parameters, by which its state is saved: pass it the named "
            "parameters that build_optimizer is given, as (name, parameter) pairs"
        )
    held = {name for name, *_ in _parameters(optimizer)}
    differing = sorted(held ^ set(names))
    if differing:
        raise InputError(f"the optimiser and the model differ in {len(differing)} parameters, such as {differing[0]}")


def _kind(optimizer: torch.optim.Optimizer) -> str:
    """Its name in OPTIMIZERS, else its class's. AMSGrad's third moment is not in that table: it goes by its class."""
    class_name = _class_name(optimizer)
    if any(group.get("amsgrad") for group in optimizer.param_groups):
        return class_name
    return next((name for name, kind in OPTIMIZERS.items() if kind.class_name == class_name), class_name)


def _class_name(optimizer: torch.optim.Optimizer) -> str:
    return f"{type(optimizer).__module__}.{type(optimizer).__qualname__}"


def _parameters(optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, nn.Parameter, int, int]]:
    """Name, parameter, index of its group and index inside that group."""
    for group_index, group in enumerate(optimizer.param_groups):
        for index, (name, parameter) in enumerate(zip(group["param_names"], group["params"], strict=True)):
            yield name, parameter, group_index, index


def _known_parts(kind: str, state: State) -> tuple[dict[str, Tensor], int]:
    return {key: state[key] for key in OPTIMIZERS[kind].state_keys if key in state}, int(state["step"])


def _other_parts(kind: str, state: State) -> tuple[dict[str, Tensor], float | None]:
    """All tensors of a state, and its step where that is a number."""
    numbers = {key: value for key, value in state.items() if key == "step" and isinstance(value, int | float)}
    tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    unsaved = sorted(set(state) - set(numbers) - set(tensors))
    if unsaved:
        raise InputError(
            f"{kind}: its state holds {unsaved[0]}, which is neither a tensor nor the step, so it can't be saved; "
            "choose another optimiser"
        )
    return tensors, numbers.get("step")


def _known_states(
    optimizer: torch.optim.Optimizer, kind: str, tensors: dict[str, Tensor], scalars: dict[str, Any]
) -> dict[str, State]:
    steps, keys = scalars["steps"], OPTIMIZERS[kind].state_keys
    empty_state = OPTIMIZERS[kind].empty_state
    states = {name: empty_state(optimizer, *place) for name, *place in _parameters(optimizer) if name in steps}
    buffers = {f"{name}.{key}": state[key] for name, state in states.items() for key in keys if key in state}
    _check_keys(buffers, tensors)
    for key, buffer in buffers.items():
        if (buffer.shape, buffer.dtype) != (tensors[key].shape, tensors[key].dtype):
            found = f"{tuple(tensors[key].shape)} {tensors[key].dtype}"
            raise InputError(f"optimiser state {key} is {found}, expected {tuple(buffer.shape)} {buffer.dtype}")
    _synchronize(optimizer)  # paged buffers are zeroed by a kernel: let it end before the CPU writes
    for key, buffer in buffers.items():
        buffer.copy_(tensors[key])
    for name, state in states.items():
        step = state["step"]
        state["step"] = torch.full_like(step, float(steps[name])) if isinstance(step, Tensor) else steps[name]
    return states


def _other_states(
    optimizer: torch.optim.Optimizer, kind: str, tensors: dict[str, Tensor], scalars: dict[str, Any]
) -> dict[str, State]:
    """The saved tensors in the parameter's memory, but for the step: torch computes with it on the CPU unless told."""
    steps, keys = scalars["steps"], scalars["keys"]
    _check_keys([f"{name}.{key}" for name in keys for key in keys[name]], tensors)
    states: dict[str, State] = {}
    for name, parameter, group_index, _ in _parameters(optimizer):
        if name not in keys:
            continue
        group = optimizer.param_groups[group_index]
        step_device = parameter.device if group.get("capturable") or group.get("fused") else torch.device("cpu")
        devices = {"step": step_device}
        states[name] = {
            key: tensors[f"{name}.{key}"].to(devices.get(key, parameter.device), copy=True) for key in keys[name]
        }
        if name in steps:
            states[name]["step"] = steps[name]
    return states


def _check_keys(expected: Iterable[str], tensors: dict[str, Tensor]) -> None:
    differing = sorted(set(expected) ^ set(tensors))
    if differing:
        raise InputError(
            f"the checkpoint's optimiser state differs in {len(differing)} tensors, such as {differing[0]}"
        )


def _synchronize(optimizer: torch.optim.Optimizer) -> None:
    """Paged state is managed memory that kernels write asynchronously: wait before the CPU touches it."""
    if any(parameter.is_cuda for _, parameter, _, _ in _parameters(optimizer)):
        torch.cuda.synchronize()
