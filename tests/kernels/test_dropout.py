"""Dropout masks: elements dropped independently at the requested rate, by a pure function of the seed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from triton_standin import standin

from medsum_core.kernels.layers.dropout import DroppedElements, dropout_seed, layer_seed, layer_seeds

CPU = torch.device("cpu")


def keep(num_elements: int, rate: float, seed: int) -> Tensor:
    """1 where an element stays, 0 where it is dropped."""
    return DroppedElements(num_elements, rate=rate, seed=seed, device=CPU).without(torch.ones(num_elements))


@pytest.mark.parametrize("rate", [1e-4, 0.05, 0.3, 0.5, 0.999])
def test_elements_are_dropped_at_the_requested_rate(rate: float) -> None:
    size = 400_000
    dropped = 1 - float(keep(size, rate, 7).double().mean())
    assert abs(dropped - rate) < 5 * (rate * (1 - rate) / size) ** 0.5


@pytest.mark.parametrize("rate", [1e-20, 1e-39])
def test_a_tiny_rate_drops_nothing(rate: float) -> None:
    assert keep(1000, rate, 7).all()


@pytest.mark.parametrize("distance", [1, 2, 3, 20])
def test_elements_are_dropped_independently(distance: int) -> None:
    rate, size = 0.1, 400_000
    dropped = 1 - keep(size, rate, 3).double()
    both = float((dropped[distance:] * dropped[:-distance]).mean())
    assert abs(both - rate**2) < 5 * (rate**2 / size) ** 0.5


def test_each_position_is_dropped_equally_often() -> None:
    # Also the first positions, where the first step begins, and the last ones.
    rate, draws = 0.2, 4000
    share = 1 - torch.stack([keep(50, rate, seed) for seed in range(draws)]).double().mean(0)
    assert (share - rate).abs().max() < 5 * (rate * (1 - rate) / draws) ** 0.5


def test_a_mask_is_a_pure_function_of_its_seed() -> None:
    state = torch.get_rng_state()
    one, again, other = (keep(1001, 0.3, seed) for seed in (5, 5, 6))
    assert torch.equal(one, again) and not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_longer_mask_begins_with_the_shorter_one() -> None:
    longest = keep(100_000, 0.3, 5)
    for size in (0, 1, 2, 3, 10, 101, 5000, 99_999):
        assert torch.equal(keep(size, 0.3, 5), longest[:size])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_a_copy_and_the_tensor_itself_lose_the_same_elements(dtype: torch.dtype) -> None:
    x = torch.randn(30, 20, generator=torch.Generator().manual_seed(1)).to(dtype)
    before = x.clone()
    drawn = DroppedElements(x.numel(), rate=0.3, seed=2, device=CPU)
    copy = drawn.without(x.t()).t()  # a transposed view: the mask follows the view's own order of elements
    assert torch.equal(copy, (x.t() * keep(600, 0.3, 2).view(20, 30).to(dtype)).t())
    assert torch.equal(x, before)
    assert drawn.zero_(x) is x
    assert torch.equal(x, before * keep(600, 0.3, 2).view(30, 20).to(dtype))


@pytest.mark.parametrize("kind", ["cpu", "meta"], ids=["seeds on the device", "a number"])
def test_each_layer_has_the_seed_of_its_number(kind: str) -> None:
    with standin(kind), dropout_seed(layer_seeds(2**61, 3, device=torch.device("cpu"))):
        assert [int(layer_seed(number)) for number in range(3)] == [2**61, 2**61 + 1, 2**61 + 2]
        assert isinstance(layer_seed(0), Tensor) == (kind == "cpu")  # where Triton's functions read it
