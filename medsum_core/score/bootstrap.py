"""A figure with its 95 % interval: means by the bootstrap over rows, rates of facts by resampling whole rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medsum_core.score.rouge import RESAMPLES, SEED, bootstrap_interval, paired_bootstrap

CHUNK = 500  # resamples drawn at a time, so that a large validation file does not fill the memory

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A value and its percentile-bootstrap interval of 95 %; all NaN where there is nothing to measure."""

    value: float
    low: float
    high: float

    def scaled(self, factor: float) -> Estimate:
        """The same in another unit, e.g. times 100 for percentages."""
        return Estimate(value=factor * self.value, low=factor * self.low, high=factor * self.high)


def mean_estimate(values: Sequence[float]) -> Estimate:
    """The mean over rows, rows resampled. An empty sequence: NaN."""
    if not values:
        return nothing()
    low, high = bootstrap_interval(values)
    return Estimate(value=float(np.mean(values)), low=low, high=high)


def mean_difference(values: Sequence[float], minus: Sequence[float]) -> Estimate:
    """The mean of one side minus the other's over the same rows in the same order, rows resampled together (paired)."""
    if not values:
        return nothing()
    paired = paired_bootstrap(values, minus)
    return Estimate(value=paired.difference, low=paired.low, high=paired.high)


def rate_estimate(counts: Sequence[int], totals: Sequence[int]) -> Estimate:
    """Sum of counts over sum of totals (unsupported facts of all facts), whole rows resampled; no total: NaN."""
    if sum(totals) == 0:
        return nothing()
    rates = _resampled_rates([(counts, totals)])[0]
    return _around(sum(counts) / sum(totals), rates)


def rate_difference(
    counts: Sequence[int], totals: Sequence[int], minus_counts: Sequence[int], minus_totals: Sequence[int]
) -> Estimate:
    """One rate minus another over the same rows in the same order; a resample takes the same rows of both (paired)."""
    if sum(totals) == 0 or sum(minus_totals) == 0:
        return nothing()
    one, other = _resampled_rates([(counts, totals), (minus_counts, minus_totals)])
    return _around(sum(counts) / sum(totals) - sum(minus_counts) / sum(minus_totals), one - other)


def nothing() -> Estimate:
    """The estimate of something that no row shows."""
    return Estimate(value=float("nan"), low=float("nan"), high=float("nan"))


def _around(value: float, resampled: npt.NDArray[np.float64]) -> Estimate:
    low, high = np.nanpercentile(resampled, [2.5, 97.5])
    return Estimate(value=value, low=float(low), high=float(high))


def _resampled_rates(pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[npt.NDArray[np.float64]]:
    """For each (counts, totals) the rate in every resample; a resample that drew no total at all is NaN there."""
    columns_PR: list[tuple[Ints, Ints]] = [(np.asarray(counts), np.asarray(totals)) for counts, totals in pairs]
    num_rows = len(pairs[0][0])
    generator = np.random.default_rng(SEED)
    drawn: list[list[npt.NDArray[np.float64]]] = [[] for _ in pairs]
    for start in range(0, RESAMPLES, CHUNK):
        rows_SR = generator.integers(num_rows, size=(min(CHUNK, RESAMPLES - start), num_rows))
        for rates, (counts_R, totals_R) in zip(drawn, columns_PR, strict=True):
            totals_S = totals_R[rows_SR].sum(axis=1)
            rates.append(np.where(totals_S > 0, counts_R[rows_SR].sum(axis=1) / np.maximum(totals_S, 1), np.nan))
    return [np.concatenate(rates) for rates in drawn]
