"""Export and restore an optimiser's state by parameter name, so that the next update is bit-identical.

The optimisers that `--optim` names are in the table `optimizer.OPTIMIZERS`. The state of any other optimiser may hold
tensors and a step only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from medsum_core.errors import InputError
from medsum_core.training.optimizer import OPTIMIZERS, State


def optimizer_state(optimizer: torch.optim.Optimizer, names: Sequence[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Copy the state by parameter name: tensors (on the CPU, `NAME.state1` and so on) and plain scalars.

    `names` are the parameters that train; they must be those that the optimiser holds, in any order. Scalars:
    `{"optimizer": name, "steps": {NAME: updates}}`; a parameter that was never updated has no entry. An optimiser that
    `--optim` does not name goes by its class's qualified name: all tensors of its state are saved, a step that is a
    tensor among them, and `keys` lists them, `{NAME: [key, ...]}`. Raises InputError when names differ or are missing,
    when such a state holds more than tensors and a step, or when a number of a parameter group has changed.
    """
    kind = _kind(optimizer)
    check_names(optimizer, names)
    _check_groups(optimizer, kind)
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
    """Restore what `optimizer_state` returned, so that the next update is bit-identical.

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
    """Raise InputError unless the optimiser holds exactly the parameters of these names, and holds their names."""
    if not all("param_names" in group for group in optimizer.param_groups):
        raise InputError(
            f"{_class_name(optimizer)} has no names of its parameters, by which its state is saved: pass it the named "
            "parameters that build_optimizer is given, as (name, parameter) pairs"
        )
    held = {name for name, *_ in _parameters(optimizer)}
    differing = sorted(held ^ set(names))
    if differing:
        raise InputError(f"the optimiser and the model differ in {len(differing)} parameters, such as {differing[0]}")


def _check_groups(optimizer: torch.optim.Optimizer, kind: str) -> None:
    for group in optimizer.param_groups:
        changed = [name for name, value in group.get("built", {}).items() if group[name] != value]
        if changed:
            raise InputError(
                f"{kind}: it changed {changed[0]} of a parameter group, which can't be saved: keep it in the states, "
                "or train without checkpoints (--save_strategy no)"
            )


def _kind(optimizer: torch.optim.Optimizer) -> str:
    """The optimiser's name in OPTIMIZERS, else its class's (also with AMSGrad: the table lacks its third moment)."""
    class_name = _class_name(optimizer)
    if any(group.get("amsgrad") for group in optimizer.param_groups):
        return class_name
    return next((name for name, kind in OPTIMIZERS.items() if class_name in kind.class_names), class_name)


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
    _synchronize(optimizer)  # a kernel zeroes paged buffers asynchronously: wait before the CPU writes
    for key, buffer in buffers.items():
        buffer.copy_(tensors[key])
    for name, state in states.items():
        step = state["step"]
        state["step"] = torch.full_like(step, float(steps[name])) if isinstance(step, Tensor) else steps[name]
    return states


def _other_states(
    optimizer: torch.optim.Optimizer, kind: str, tensors: dict[str, Tensor], scalars: dict[str, Any]
) -> dict[str, State]:
    """The saved tensors on the parameter's device; a step on the CPU, as in torch, unless capturable or fused."""
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
