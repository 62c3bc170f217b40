"""The flat 8-bit optimiser has bitsandbytes' bits, state and fallbacks, but waits for the GPU once, not per parameter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from bitsandbytes.optim.adamw import PagedAdamW8bit
from support import tiny_model
from torch import Tensor, nn
from windows import make_run, make_window, tuned

from medsum_core.training.flat_adamw import FlatPagedAdamW8bit
from medsum_core.training.optimizer_state import load_optimizer_state, optimizer_state
from train_loop import train_step

pytestmark = pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")
SHAPES = {"A": (16, 256), "B": (512, 16), "C": (4, 4096), "odd": (41, 101), "small": (8, 16)}
LARGE = ("A", "B", "C")


class Side:
    """Parameters and one of the two optimisers over them; `update` draws the same gradients on both sides."""

    def __init__(self, build: Callable[..., torch.optim.Optimizer]) -> None:
        chance = torch.Generator().manual_seed(0)
        drawn = {name: torch.randn(shape, generator=chance) * 0.02 for name, shape in SHAPES.items()}
        self.parameters = {name: nn.Parameter(tensor) for name, tensor in drawn.items()}
        self.optimizer = build([{"params": list(self.parameters.items()), "weight_decay": 0.01}], lr=2e-3)

    def update(self, step: int, *, without: str = "") -> None:
        chance = torch.Generator().manual_seed(100 + step)
        for name, parameter in self.parameters.items():
            gradient = torch.randn(parameter.shape, generator=chance) ** 3
            parameter.grad = None if name == without else gradient
        self.optimizer.step()

    def all_of(self) -> dict[str, Any]:
        tensors, scalars = optimizer_state(self.optimizer, list(self.parameters))
        return {
            **{name: p.detach().clone() for name, p in self.parameters.items()},
            **tensors,
            "steps": scalars["steps"],
        }


def assert_same(one: Side, other: Side) -> None:
    found, expected = one.all_of(), other.all_of()
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(found[key], value) if isinstance(value, Tensor) else found[key] == value, key


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """What the library waits for the GPU after."""
    found: list[Tensor] = []
    monkeypatch.setattr("bitsandbytes.optim.optimizer.sync_gpu", found.append)
    return found


def test_ten_updates_are_bit_identical_to_the_librarys() -> None:
    flat, plain = Side(FlatPagedAdamW8bit), Side(PagedAdamW8bit)
    for step in range(10):
        flat.update(step)
        plain.update(step)
        assert_same(flat, plain)


def test_the_library_is_called_once_for_all_large_parameters(waits: list[Tensor]) -> None:
    flat = Side(FlatPagedAdamW8bit)
    for step in range(2):
        waits.clear()
        flat.update(step)
        sizes = [waited.numel() for waited in waits]
        assert sizes == [sum(flat.parameters[name].numel() for name in LARGE), 41 * 101, 128, 128]  # the last one twice


@pytest.mark.parametrize("builds", [(FlatPagedAdamW8bit, PagedAdamW8bit), (PagedAdamW8bit, FlatPagedAdamW8bit)])
def test_a_checkpoint_of_either_optimiser_continues_in_the_other(builds: tuple[Any, Any]) -> None:
    first, straight = Side(builds[0]), Side(PagedAdamW8bit)
    for step in range(3):
        first.update(step)
        straight.update(step)
    second, names = Side(builds[1]), list(SHAPES)
    second.update(9)  # what it held before is not to be seen afterwards
    with torch.no_grad():
        for name, parameter in second.parameters.items():
            parameter.copy_(first.parameters[name])
    load_optimizer_state(second.optimizer, names, *optimizer_state(first.optimizer, names))
    for step in range(3, 6):
        second.update(step)
        straight.update(step)
    assert_same(second, straight)


def test_a_parameter_without_a_gradient_is_skipped_for_that_update(waits: list[Tensor]) -> None:
    flat, plain = Side(FlatPagedAdamW8bit), Side(PagedAdamW8bit)
    for step, without in enumerate(["B", "", "A", "", ""]):
        flat.update(step, without=without)
        plain.update(step, without=without)
        assert_same(flat, plain)


def test_a_parameter_that_was_moved_is_still_updated() -> None:
    flat, plain = Side(FlatPagedAdamW8bit), Side(PagedAdamW8bit)
    flat.update(0)
    plain.update(0)
    flat.parameters["B"].data = flat.parameters["B"].data.clone()
    flat.update(1)
    plain.update(1)
    assert_same(flat, plain)


def test_a_run_ends_in_the_same_bits_as_with_the_librarys_optimiser() -> None:
    found = []
    for build in (FlatPagedAdamW8bit, PagedAdamW8bit):
        run = make_run(tuned(tiny_model(hidden_size=256)), pack_tokens=96, optim="paged_adamw_8bit", max_grad_norm=0.3)
        run.optimizer = build([{"params": run.parameters, "weight_decay": 0.0}], lr=1e-3)
        rows = make_window(12)
        for start in (0, 4, 8):
            assert not train_step(run, rows[start : start + 4], learning_rate=1e-3).skipped
        found.append([tensor.detach().clone() for tensor in run.tensors])
    assert any(tensor.numel() >= 4096 and tensor.numel() % 256 == 0 for tensor in found[0])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
