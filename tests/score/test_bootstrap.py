"""Means and rates with bootstrap intervals, compared with plain resampling loops."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest

from medsum_core.score.bootstrap import (
    Estimate,
    bootstrap_interval,
    mean_difference,
    mean_estimate,
    rate_difference,
    rate_estimate,
    sums_estimate,
)


def test_no_rows_and_unequal_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="no rows"):
        bootstrap_interval([])
    with pytest.raises(ValueError, match="cannot be paired"):
        mean_difference([1.0], [1.0, 2.0])


def test_the_interval_equals_that_of_a_plain_loop() -> None:
    values = np.random.default_rng(5).random(37).tolist()
    generator = np.random.default_rng(0)
    means = [float(np.mean([values[i] for i in generator.integers(0, 37, size=37)])) for _ in range(10_000)]
    expected = np.percentile(means, [2.5, 97.5])
    assert bootstrap_interval(values) == pytest.approx(tuple(expected), abs=1e-12)
    assert bootstrap_interval(values) == bootstrap_interval(values)
    assert bootstrap_interval(values, seed=1) != bootstrap_interval(values)
    assert bootstrap_interval([0.25]) == (0.25, 0.25)


def test_the_95_percent_interval_covers_the_true_mean_about_95_percent_of_the_time() -> None:
    generator = np.random.default_rng(7)
    hits = 0
    for _ in range(200):
        low, high = bootstrap_interval(generator.random(60).tolist(), resamples=400)
        hits += low <= 0.5 <= high
    assert 180 <= hits <= 199


def test_the_rates_interval_agrees_with_a_plain_bootstrap() -> None:
    generator = random.Random(3)
    totals = [generator.randrange(5) for _ in range(60)]
    counts = [generator.randint(0, total) for total in totals]
    rates = []
    for _ in range(4000):
        rows = [generator.randrange(60) for _ in range(60)]
        rates.append(sum(counts[row] for row in rows) / sum(totals[row] for row in rows))
    low, high = np.percentile(rates, [2.5, 97.5])
    got = rate_estimate(counts, totals)
    assert got.value == sum(counts) / sum(totals)
    assert (got.low, got.high) == pytest.approx((low, high), abs=0.015)


def test_differences_are_paired() -> None:
    values = [0.1, 0.9, 0.4, 0.3]
    shifted = mean_difference([value + 0.25 for value in values], values)
    assert (shifted.value, shifted.low, shifted.high) == pytest.approx((0.25, 0.25, 0.25))
    same = rate_difference([1, 0, 2], [2, 3, 2], [1, 0, 2], [2, 3, 2])
    assert (same.value, same.low, same.high) == (0, 0, 0)
    assert mean_estimate([0.5] * 9) == Estimate(value=0.5, low=0.5, high=0.5)


def resampled_interval(counts: Sequence[int], totals: Sequence[int]) -> tuple[float, float]:
    """The interval by a plain loop."""
    generator = random.Random(11)
    rates = []
    for _ in range(10_000):
        rows = generator.choices(range(len(counts)), k=len(counts))
        if facts := sum(totals[row] for row in rows):
            rates.append(sum(counts[row] for row in rows) / facts)
    low, high = np.percentile(rates, [2.5, 97.5])
    return float(low), float(high)


def test_resamples_without_facts_are_left_out() -> None:
    counts, totals = [1, 1, *[0] * 10], [2, 2, *[0] * 10]  # every row with facts has the rate 1/2
    rate = rate_estimate(counts, totals)
    assert (rate.low, rate.high) == resampled_interval(counts, totals) == (0.5, 0.5)
    counts, totals = [0, 1, 2, *[0] * 9], [2, 2, 2, *[0] * 9]
    rate = rate_estimate(counts, totals)
    assert (rate.low, rate.high) == pytest.approx(resampled_interval(counts, totals), abs=0.02)
    other = rate_difference(counts, totals, [0] * 12, totals)
    assert (other.low, other.high) == (rate.low, rate.high)


def test_a_statistic_of_sums_resamples_whole_rows() -> None:
    counts = np.random.default_rng(2).integers(0, 4, size=(9, 3)).astype(float)  # right, wrong, missed

    def f1(sums: np.ndarray) -> np.ndarray:
        return 2 * sums[:, 0] / (2 * sums[:, 0] + sums[:, 1] + sums[:, 2])

    generator = np.random.default_rng(0)
    values = []
    for _ in range(10_000):
        right, wrong, missed = (sum(column) for column in zip(*counts[generator.integers(0, 9, size=9)], strict=True))
        values.append(2 * right / (2 * right + wrong + missed))
    right, wrong, missed = counts.sum(axis=0)
    found = sums_estimate(counts, f1)
    assert found.value == pytest.approx(2 * right / (2 * right + wrong + missed))
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(values, [2.5, 97.5])))
    percent = found.scaled(100)
    assert (percent.value, percent.low, percent.high) == (100 * found.value, 100 * found.low, 100 * found.high)


def test_without_rows_or_facts_there_is_no_estimate() -> None:
    some, none = ([1, 0], [2, 2]), ([0, 0], [0, 0])
    for empty in (
        mean_estimate([]),
        rate_estimate(*none),
        rate_difference(*some, *none),
        rate_difference(*none, *some),
    ):
        assert np.isnan([empty.value, empty.low, empty.high]).all()
    with pytest.raises(ValueError, match="no rows"):
        sums_estimate(np.zeros((0, 3)), lambda sums: sums[:, 0])


def test_the_rates_interval_resamples_rows() -> None:
    single = rate_estimate([1], [1])
    assert (single.low, single.high) == (1.0, 1.0)
    one = rate_estimate([1] * 5, [2] * 5)
    assert (one.low, one.high) == (0.5, 0.5)
    spread = rate_estimate([0] * 50 + [2] * 50, [4] * 100)
    assert 0.19 < spread.low < 0.25 < spread.high < 0.31
