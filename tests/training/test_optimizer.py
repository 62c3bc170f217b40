"""The optimiser: schedules against transformers', state by name, and a saved state that continues bit for bit."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from bitsandbytes.optim import Lion8bit
from safetensors.torch import load, save
from torch import Tensor, nn
from transformers import (
    get_constant_schedule_with_warmup,
    get_cosine_schedule_with_warmup,
    get_linear_schedule_with_warmup,
)

from medsum_core.errors import InputError
from medsum_core.training.optimizer import build_optimizer, lr_at, record_groups, set_lr
from medsum_core.training.optimizer_state import load_optimizer_state, optimizer_state

KINDS = ["paged_adamw_8bit", "adamw_torch"]
# What a user may pass to train_loop.main: (class, settings).
OTHERS: dict[str, tuple[Callable[..., torch.optim.Optimizer], dict[str, Any]]] = {
    "Adam": (torch.optim.Adam, {}),
    "AdamW with AMSGrad": (torch.optim.AdamW, {"amsgrad": True}),
    "SGD with momentum": (torch.optim.SGD, {"momentum": 0.9}),
    "RMSprop": (torch.optim.RMSprop, {"centered": True, "momentum": 0.9}),
    "NAdam": (torch.optim.NAdam, {}),
    "Lion, 8 bits": (Lion8bit, {}),
}
SHAPES = {"big.lora_A": (64, 128), "small.lora_B": (8, 16), "magnitude": (40,), "odd.lora_A": (41, 101)}


def make_parameters(seed: int = 0) -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return {name: nn.Parameter(torch.randn(*shape, generator=generator) * 0.02) for name, shape in SHAPES.items()}


def update(parameters: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer, step: int) -> None:
    generator = torch.Generator().manual_seed(1000 + step)
    for parameter in parameters.values():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    set_lr(optimizer, lr_at(step, schedule="cosine", peak=2e-3, warmup_steps=2, num_steps=10))
    optimizer.step()


def build(parameters: dict[str, nn.Parameter], kind: str, **settings: Any) -> torch.optim.Optimizer:
    if kind in OTHERS:
        optimizer, chosen = OTHERS[kind]
        return optimizer(list(parameters.items()), lr=2e-3, **chosen)
    return build_optimizer(parameters.items(), name=kind, learning_rate=2e-3, **settings)


@pytest.mark.parametrize("warmup_steps,num_steps", [(0, 10), (3, 10), (10, 10), (0, 1), (1, 1), (4, 4)])
@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_lr_equals_transformers_schedule(schedule: str, warmup_steps: int, num_steps: int) -> None:
    parameter = nn.Parameter(torch.zeros(1))
    reference = torch.optim.SGD([parameter], lr=2e-4)
    scheduler = {
        "linear": lambda: get_linear_schedule_with_warmup(reference, warmup_steps, num_steps),
        "cosine": lambda: get_cosine_schedule_with_warmup(reference, warmup_steps, num_steps),
        "constant": lambda: get_constant_schedule_with_warmup(reference, warmup_steps),
    }[schedule]()
    for step in range(num_steps + 1):
        found = lr_at(step, schedule=schedule, peak=2e-4, warmup_steps=warmup_steps, num_steps=num_steps)
        assert found == scheduler.get_last_lr()[0], step
        reference.step()
        scheduler.step()


def test_unknown_schedule_and_optimiser_are_bad_input() -> None:
    with pytest.raises(InputError, match="polynomial"):
        lr_at(0, schedule="polynomial", peak=1.0, warmup_steps=0, num_steps=1)
    with pytest.raises(InputError, match="lion"):
        build(make_parameters(), "lion")
    frozen = nn.Parameter(torch.zeros(2, 2), requires_grad=False)
    with pytest.raises(InputError, match="no parameter trains"):
        build({"frozen": frozen}, "adamw_torch")


@pytest.mark.parametrize("kind", [*KINDS, *OTHERS])
def test_saved_state_continues_bit_for_bit(kind: str) -> None:
    straight = make_parameters()
    optimizer = build(straight, kind)
    for step in range(7):
        update(straight, optimizer, step)
    expected_state, _ = optimizer_state(optimizer, list(straight))

    halted = make_parameters()
    first = build(halted, kind)
    for step in range(3):
        update(halted, first, step)
    tensors, scalars = optimizer_state(first, list(halted))
    tensors = load(save(tensors))  # no two tensors share memory, or safetensors would refuse
    scalars = json.loads(json.dumps(scalars))

    resumed = {name: nn.Parameter(parameter.detach().clone()) for name, parameter in halted.items()}
    second = build(resumed, kind)
    before = {key: tensor.clone() for key, tensor in tensors.items()}
    load_optimizer_state(second, list(reversed(list(resumed))), tensors, scalars)
    for step in range(3, 7):
        update(resumed, second, step)
    assert all(torch.equal(tensors[key], before[key]) for key in before)  # copied, not taken over
    found_state, _ = optimizer_state(second, list(resumed))
    for name, parameter in straight.items():
        assert torch.equal(parameter, resumed[name]), name
    assert expected_state.keys() == found_state.keys()
    assert all(torch.equal(expected_state[key], found_state[key]) for key in expected_state)


def test_8bit_from_4096_elements_fp32_below_and_no_code_tables_saved() -> None:
    parameters = make_parameters()
    optimizer = build(parameters, "paged_adamw_8bit")
    update(parameters, optimizer, 3)
    tensors, scalars = optimizer_state(optimizer, list(parameters))
    assert tensors["big.lora_A.state1"].dtype == torch.uint8
    assert tensors["odd.lora_A.state2"].dtype == torch.uint8
    assert tensors["odd.lora_A.absmax1"].shape == (17,)  # 41 x 101 elements in blocks of 256
    assert tensors["small.lora_B.state1"].dtype == torch.float32
    assert not any("qmap" in key for key in tensors)
    assert scalars == {"optimizer": "paged_adamw_8bit", "steps": dict.fromkeys(SHAPES, 1)}


@pytest.mark.parametrize("kind", [*KINDS, *OTHERS])
def test_state_before_the_first_update_is_empty_and_loads(kind: str) -> None:
    parameters = make_parameters()
    tensors, scalars = optimizer_state(build(parameters, kind), list(parameters))
    assert tensors == {} and scalars["steps"] == {}
    optimizer = build(parameters, kind)
    update(parameters, optimizer, 3)
    load_optimizer_state(optimizer, list(parameters), tensors, scalars)
    assert optimizer_state(optimizer, list(parameters)) == (tensors, scalars)


@pytest.mark.parametrize("kind", [*KINDS, *OTHERS])
def test_a_parameter_that_was_never_updated_has_no_state(kind: str) -> None:
    parameters = make_parameters()
    optimizer = build(parameters, kind)
    parameters["big.lora_A"].grad = torch.ones_like(parameters["big.lora_A"])
    optimizer.step()
    saved = optimizer_state(optimizer, list(parameters))
    assert {key.rpartition(".")[0] for key in saved[0]} == {"big.lora_A"}
    second = build(parameters, kind)
    load_optimizer_state(second, list(parameters), *saved)
    assert [parameter.shape for parameter, state in second.state.items() if state] == [SHAPES["big.lora_A"]]


@pytest.mark.parametrize("kind", [*KINDS, *OTHERS])
def test_another_optimiser_than_the_checkpoints_is_refused_by_its_name(kind: str) -> None:
    parameters = make_parameters()
    optimizer = build(parameters, kind)
    update(parameters, optimizer, 3)
    saved = optimizer_state(optimizer, list(parameters))
    name = kind if kind in KINDS else f"{type(optimizer).__module__}.{type(optimizer).__qualname__}"
    assert saved[1]["optimizer"] == name
    for other in [*KINDS, *OTHERS]:
        if other == kind:
            continue
        second = build(parameters, other)
        with pytest.raises(InputError, match=re.escape(name)):
            load_optimizer_state(second, list(parameters), *saved)
        assert not second.state


def test_an_optimiser_without_parameter_names_is_refused_with_the_remedy() -> None:
    parameters = make_parameters()
    optimizer = torch.optim.Adam(parameters.values(), lr=1e-3)
    with pytest.raises(InputError, match="pass it the named parameters"):
        optimizer_state(optimizer, list(parameters))
    named = optimizer_state(build(parameters, "Adam"), list(parameters))
    with pytest.raises(InputError, match="pass it the named parameters"):
        load_optimizer_state(optimizer, list(parameters), *named)


def test_a_state_that_cannot_be_saved_completely_is_refused() -> None:
    parameters = make_parameters()
    optimizer = build(parameters, "SGD with momentum")
    update(parameters, optimizer, 3)
    optimizer.state[parameters["magnitude"]]["history"] = [torch.zeros(1)]
    with pytest.raises(InputError, match="history"):
        optimizer_state(optimizer, list(parameters))


@pytest.mark.parametrize("kind", KINDS)
def test_weight_decay_is_off_by_default_and_applies_to_matrices_only(kind: str) -> None:
    for decay, matrix_moves in ((0.0, False), (0.5, True)):
        parameters = make_parameters()
        before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        optimizer = build(parameters, kind, weight_decay=decay) if decay else build(parameters, kind)
        for parameter in parameters.values():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        assert torch.equal(parameters["magnitude"], before["magnitude"])
        assert torch.equal(parameters["big.lora_A"], before["big.lora_A"]) != matrix_moves


@pytest.mark.parametrize(
    "kind,damage",
    [
        *((kind, damage) for kind in KINDS for damage in ("missing", "extra", "shape", "dtype", "name", "kind")),
        *((kind, damage) for kind in OTHERS for damage in ("missing", "extra", "name", "key", "kind")),
    ],
)
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(kind: str, damage: str) -> None:
    parameters = make_parameters()
    optimizer = build(parameters, kind)
    update(parameters, optimizer, 3)
    tensors, scalars = optimizer_state(optimizer, list(parameters))
    before = {key: tensor.clone() for key, tensor in tensors.items()}
    key = next(key for key in tensors if key.startswith("big.lora_A"))
    if damage == "missing":
        del tensors[key]
    elif damage == "extra":
        tensors["other.state1"] = torch.zeros(1)
    elif damage == "shape":
        tensors[key] = tensors[key].flatten()
    elif damage == "dtype":
        tensors[key] = tensors[key].to(torch.float64)
    elif damage == "name":
        scalars = {**scalars, "steps": {**scalars["steps"], "other": 1}}
    elif damage == "key":
        scalars = {**scalars, "keys": {**scalars["keys"], "other": []}}
    else:
        scalars = {**scalars, "optimizer": "other"}
    with pytest.raises(InputError):
        load_optimizer_state(optimizer, list(parameters), tensors, scalars)
    after, _ = optimizer_state(optimizer, list(parameters))
    assert all(torch.equal(after[key], before[key]) for key in before)


def test_state_names_must_be_those_of_the_trainable_parameters() -> None:
    parameters = make_parameters()
    optimizer = build(parameters, "adamw_torch")
    with pytest.raises(InputError, match="magnitude"):
        optimizer_state(optimizer, [name for name in parameters if name != "magnitude"])


def test_state_is_loaded_into_the_librarys_own_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    """On CUDA `get_state_buffer` pages; the loaded tensors must be copied into what it hands out, not replace it."""
    parameters = make_parameters()
    optimizer = build(parameters, "paged_adamw_8bit")
    update(parameters, optimizer, 3)
    tensors, scalars = optimizer_state(optimizer, list(parameters))

    second = build(parameters, "paged_adamw_8bit")
    handed_out: list[Tensor] = []
    get_state_buffer = second.get_state_buffer  # type: ignore[attr-defined]

    def paged_buffer(parameter: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        buffer = get_state_buffer(parameter, dtype=dtype)
        buffer.is_paged = True
        handed_out.append(buffer)
        return buffer

    monkeypatch.setattr(second, "get_state_buffer", paged_buffer)
    load_optimizer_state(second, list(parameters), tensors, scalars)
    for name, parameter in parameters.items():
        for key in ("state1", "state2"):
            buffer = second.state[parameter][key]
            assert buffer.is_paged and any(buffer is other for other in handed_out)
            assert torch.equal(buffer, tensors[f"{name}.{key}"])


def test_a_paged_optimiser_on_a_cpu_prints_no_warning() -> None:
    parameters = make_parameters()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        optimizer = build(parameters, "paged_adamw_8bit")
        update(parameters, optimizer, 3)
        warnings.warn("another", stacklevel=1)
    assert [str(warning.message) for warning in caught] == ["another"]


def test_an_optimiser_that_changes_its_groups_is_refused_when_it_is_saved() -> None:
    """As Prodigy and schedule-free optimisers do: after resuming, such a number would silently be the first one."""

    class Adaptive(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            self.param_groups[0]["momentum"] += 0.1

    parameters = make_parameters()
    optimizer = Adaptive(list(parameters.items()), lr=2e-3)
    record_groups(optimizer, peak=2e-3)
    optimizer_state(optimizer, list(parameters))
    update(parameters, optimizer, 0)
    with pytest.raises(InputError, match="Adaptive: it changed momentum of a parameter group"):
        optimizer_state(optimizer, list(parameters))
