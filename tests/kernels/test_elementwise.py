"""Each compiled kernel against torch's operators in fp64: fp32 and fp64 nearly exact, bf16 within one rounding."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from numba import njit
from numba.core import caching
from torch import Tensor
from torch.nn.functional import gelu, silu
from windows import relative

from medsum_core.kernels.cpu import elementwise
from medsum_core.kernels.cpu.elementwise import array_of, exponential, narrow, rank, wide
from medsum_core.kernels.cpu.elementwise_dropout import logarithm, zero_some

BOUNDS = {torch.bfloat16: 4e-3, torch.float32: 5e-7, torch.float64: 1e-14}
GELU = (2 * math.sqrt(2 / math.pi), 0.044715)
SILU = (1.0, 0.0)


def flat(x: Tensor) -> elementwise.Array:
    return array_of(x.view(-1))


every_dtype = pytest.mark.parametrize("dtype", list(BOUNDS))


def draw(*shape: int, dtype: torch.dtype, seed: int = 0, scale: float = 1.0) -> Tensor:
    return (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale).to(dtype)


def sums_in(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


@njit
def rounded(x: Any, y: Any) -> None:
    for i in range(x.size):
        y[i] = narrow(x[i], y[i])


def each(function: Any) -> Any:
    """A compiled loop that applies a function to each element."""

    @njit
    def loop(x: Any, y: Any) -> None:
        for i in range(x.size):
            y[i] = function(x[i])

    return loop


ranks, exponentials, logarithms, widened = map(each, (rank, exponential, logarithm, wide))


def every_bf16() -> Tensor:
    """All 65,536 values, with infinities, NaNs and denormals."""
    return torch.from_numpy(np.arange(1 << 16, dtype=np.uint16).view(np.int16)).view(torch.bfloat16)


def same(found: Tensor, expected: Tensor) -> bool:
    """Equal, with NaN equal to NaN."""
    return torch.equal(found.isnan(), expected.isnan()) and torch.equal(found.nan_to_num(), expected.nan_to_num())


def test_bf16_is_widened_and_rounded_as_in_torch() -> None:
    wide_numbers = torch.empty(1 << 16)
    widened(array_of(every_bf16()), wide_numbers.numpy())
    assert same(wide_numbers, every_bf16().float())
    bits = np.random.default_rng(1).integers(0, 1 << 32, 200_000, dtype=np.uint32)
    bits[:4] = (
        0x7FFFFFFF,
        0xFFFFFFFF,
        0x7F7FFFFF,
        0x00008000,
    )  # NaNs with all bits set, the largest number, half of the last bit
    x = torch.from_numpy(bits.view(np.float32))
    found = torch.empty(len(x), dtype=torch.bfloat16)
    rounded(x.numpy(), array_of(found))
    assert same(found, x.bfloat16())


def test_rank_orders_numbers_by_their_value() -> None:
    for x in (every_bf16(), draw(1000, dtype=torch.float32)):
        x = x[~x.isnan()].sort().values
        found = torch.empty(len(x), dtype=torch.int64)
        ranks(array_of(x), found.numpy())
        grows = x[1:] > x[:-1]
        assert bool((found[1:] > found[:-1])[grows].all())


def test_exponential_and_logarithm_are_exact_to_fp32() -> None:
    x = torch.linspace(-87, 88, 100_001)
    found = torch.empty_like(x)
    exponentials(x.numpy(), found.numpy())
    assert float((found.double() / x.double().exp() - 1).abs().max()) < 3e-7
    exponentials(torch.tensor([-1e30, -torch.inf, torch.nan]).numpy(), found[:3].numpy())
    assert bool((found[:2] < 1e-37).all()) and bool(found[2].isnan())
    u = torch.cat((torch.arange(1, 50_000) * 2.0**-24, torch.linspace(0.001, 1, 50_001)))
    found = torch.empty_like(u)
    logarithms(u.numpy(), found.numpy())
    exact = u.double().log()
    assert float(((found.double() - exact).abs() / exact.abs().clamp(min=1e-3)).max()) < 3e-7


@every_dtype
def test_rms_norm_and_its_gradient(dtype: torch.dtype) -> None:
    x, dy = (draw(7, 96, dtype=dtype, seed=seed, scale=3) for seed in range(2))
    scale_H = 1 + draw(96, dtype=sums_in(dtype), seed=3)
    inverse_R = torch.empty(7, dtype=sums_in(dtype))
    y, dx = (torch.empty_like(x) for _ in range(2))
    elementwise.rms_inverse(array_of(x), 1e-6, array_of(inverse_R))
    norm = (array_of(x), array_of(inverse_R), array_of(scale_H))
    elementwise.rms_scaled(*norm, False, array_of(y))
    elementwise.rms_backward(array_of(dy), *norm, array_of(dx))
    exact = x.double().requires_grad_()
    expected = exact * (exact.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * scale_H.double()
    assert relative(y, expected) <= BOUNDS[dtype]
    assert relative(dx, torch.autograd.grad(expected, exact, dy.double())[0]) <= BOUNDS[dtype]


@pytest.mark.parametrize("numbers,function", [(GELU, lambda x: gelu(x, approximate="tanh")), (SILU, silu)])
@every_dtype
def test_gated_activation_and_its_gradients(dtype: torch.dtype, numbers: tuple[float, float], function: Any) -> None:
    gate, up, dproduct = (draw(4, 301, dtype=dtype, seed=seed, scale=3) for seed in range(3))
    product, dgate, dup = (torch.empty_like(gate) for _ in range(3))
    elementwise.gated(flat(gate), flat(up), *numbers, flat(product))
    elementwise.gated_backward(flat(gate), flat(up), flat(dproduct), *numbers, flat(dgate), flat(dup))
    exact = [x.double().requires_grad_() for x in (gate, up)]
    expected = function(exact[0]) * exact[1]
    gradients = torch.autograd.grad(expected, exact, dproduct.double())
    for found, reference in zip((product, dgate, dup), (expected, *gradients), strict=True):
        assert relative(found, reference) <= BOUNDS[dtype]


@pytest.mark.parametrize("window", [1, 4, 100])
@every_dtype
def test_causal_softmax_and_its_gradient(dtype: torch.dtype, window: int) -> None:
    num_queries, num_shared, seen_before, scale = 6, 2, 5, 0.3
    scores = draw(num_queries * num_shared, num_queries + seen_before, dtype=sums_in(dtype), scale=20)
    weight, dweight = torch.empty(scores.shape, dtype=dtype), draw(*scores.shape, dtype=dtype, seed=1)
    dscore = torch.empty_like(weight)
    elementwise.causal_softmax(array_of(scores.clone()), scale, num_shared, seen_before, window, array_of(weight))
    elementwise.softmax_backward(array_of(weight), array_of(dweight), scale, array_of(dscore))
    last_R1 = (seen_before + torch.arange(len(scores)) // num_shared)[:, None]
    key_K = torch.arange(scores.shape[1])
    exact = scores.double().requires_grad_()
    hidden_RK = (key_K > last_R1) | (key_K <= last_R1 - window)
    expected = (exact * scale).masked_fill(hidden_RK, -torch.inf).softmax(-1)
    assert relative(weight, expected) <= BOUNDS[dtype]
    assert bool((weight[hidden_RK] == 0).all())
    expected_gradient = torch.autograd.grad(expected, exact, dweight.double())[0]
    error = (dscore.double() - expected_gradient).norm()
    assert float(error) <= BOUNDS[dtype] * scale * float(dweight.double().norm())


@every_dtype
def test_running_softmax_over_tiles_equals_the_softmax_of_all_logits(dtype: torch.dtype) -> None:
    num_rows, num_words = 5, 40
    tiles = [draw(num_rows, num_words, dtype=dtype, seed=seed, scale=4) for seed in range(3)]
    targets = torch.tensor([0, 39, 40, 85, 119])
    probabilities = [tile.clone() for tile in tiles]
    largest, total, wanted, earlier = (torch.zeros(num_rows, dtype=sums_in(dtype)) for _ in range(4))
    largest -= torch.inf
    scaled = [torch.ones(num_rows, 1, dtype=torch.float64) for _ in tiles]
    for place, tile in enumerate(probabilities):
        columns = targets - place * num_words
        elementwise.running_softmax(
            array_of(tile), array_of(columns), *map(array_of, (largest, total, wanted, earlier))
        )
        for before in range(place):
            scaled[before] *= earlier.double()[:, None]
    logits = torch.cat(tiles, 1).double()
    assert relative(largest + total.log(), logits.logsumexp(-1)) <= 1e-6
    assert torch.equal(wanted.double(), logits.gather(1, targets[:, None])[:, 0])
    found = torch.cat([tile.double() * factor for tile, factor in zip(probabilities, scaled, strict=True)], 1)
    expected = logits.softmax(-1).scatter(1, targets[:, None], 0)
    assert float((found - expected).abs().max()) <= BOUNDS[dtype]


def test_kernels_compile_where_no_cache_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a read-only installation, for a user without a home folder."""
    monkeypatch.setattr(caching.CompileResultCacheImpl, "_locator_classes", [])
    kernel = elementwise.compiled(lambda x_N: x_N[0] + 1)
    assert kernel(np.ones(1)) == 2 and not kernel.stats.cache_path


def test_each_kernel_propagates_nan() -> None:
    bad = torch.full((1, 8), torch.nan)
    one, out = torch.ones(1), torch.zeros(1, 8)
    elementwise.rms_inverse(array_of(bad), 1e-6, array_of(one))
    assert bool(one.isnan())
    elementwise.gated(flat(bad), flat(torch.ones(8)), *GELU, flat(out))
    assert bool(out.isnan().all())
    elementwise.causal_softmax(array_of(bad.clone()), 1.0, 1, 7, 8, array_of(out))
    assert bool(out.isnan().all())
    some = torch.zeros(1, 8)
    some[0, 3] = torch.nan
    totals = [torch.full((1,), -torch.inf), torch.zeros(1), torch.zeros(1), torch.zeros(1)]
    elementwise.running_softmax(array_of(some), array_of(torch.tensor([0])), *map(array_of, totals))
    assert bool(totals[1].isnan()) or bool(totals[0].isnan())


@pytest.mark.parametrize("rate", [0.03, 0.5])
def test_dropped_positions_follow_splitmix64_and_the_geometric_distribution(rate: float) -> None:
    seed, size, mask = 12345, 20_000, (1 << 64) - 1

    def mixed(state: int) -> int:
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 & mask
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB & mask
        return state ^ (state >> 31)

    expected, place, state = [], -1, mixed(seed)
    while place < size:
        u = ((mixed(state) >> 40) + 1) / 2**24
        place += 1 + math.floor(math.log(u) / math.log1p(-rate))
        expected.append(place)
        state = (state + 0x9E3779B97F4A7C15) & mask
    x = torch.ones(size)
    zero_some(array_of(x), np.uint64(seed), np.float32(1 / math.log1p(-rate)))
    assert (x == 0).nonzero()[:, 0].tolist() == expected[:-1]
