"""Means and rates over rows with 95 % percentile-bootstrap intervals: whole rows are resampled with replacement.

A rate is a sum over a sum (unsupported facts of all facts). A resample without a single fact has no rate, so it is left
out of the interval: counting it as 0 would put a rate into the interval that no row shows.
Letters: N rows, R resamples, M columns (metrics).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

RESAMPLES = 10_000
SEED = 0
CONFIDENCE = 0.95
DRAWS_PER_CHUNK = 1 << 20  # row numbers drawn at a time: bounds the memory, whatever the number of rows

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A value and its 95 % interval; all three are NaN where there is nothing to measure."""

    value: float
    low: float
    high: float

    def scaled(self, factor: float) -> Estimate:
        """The same in another unit, e.g. times 100 for percentages."""
        return Estimate(value=factor * self.value, low=factor * self.low, high=factor * self.high)


def mean_estimate(values: Sequence[float]) -> Estimate:
    """The mean over rows. NaN for no rows."""
    if not values:
        return _nothing()
    low, high = bootstrap_interval(values)
    return Estimate(value=float(np.mean(values)), low=low, high=high)


def mean_difference(values: Sequence[float], minus: Sequence[float]) -> Estimate:
    """The mean of `values - minus` over the same rows in the same order, resampled together (paired). NaN for no rows.

    Raises ValueError on unequal lengths.
    """
    if len(values) != len(minus):
        raise ValueError(f"{len(values)} and {len(minus)} scores cannot be paired")
    differences = np.asarray(values, dtype=np.float64) - np.asarray(minus, dtype=np.float64)
    return mean_estimate(differences.tolist())


def rate_estimate(counts: Sequence[int], totals: Sequence[int]) -> Estimate:
    """Sum of `counts` over sum of `totals`, an entry a row. NaN where the totals sum to 0."""
    if sum(totals) == 0:
        return _nothing()
    (rates_R,) = _resampled_rates([(counts, totals)])
    low, high = _percentiles(rates_R[~np.isnan(rates_R)])
    return Estimate(value=sum(counts) / sum(totals), low=low, high=high)


def rate_difference(
    counts: Sequence[int], totals: Sequence[int], minus_counts: Sequence[int], minus_totals: Sequence[int]
) -> Estimate:
    """One rate minus another over the same rows in the same order, resampled together (paired).

    NaN where either side's totals sum to 0. Resamples in which one of the sides has no rate are left out.
    """
    if sum(totals) == 0 or sum(minus_totals) == 0:
        return _nothing()
    rates_R, minus_R = _resampled_rates([(counts, totals), (minus_counts, minus_totals)])
    differences_R = rates_R - minus_R
    low, high = _percentiles(differences_R[~np.isnan(differences_R)])
    return Estimate(value=sum(counts) / sum(totals) - sum(minus_counts) / sum(minus_totals), low=low, high=high)


def sums_estimate(matrix_NM: Floats, statistic: Callable[[Floats], Floats]) -> Estimate:
    """A statistic of the sums over rows, such as an F1 of counts: `statistic` maps sums [R, M] to values [R].

    Every column sees the same resamples. Raises ValueError for no rows.
    """
    if not len(matrix_NM):
        raise ValueError("no rows to resample")
    draws = _draw_rows(len(matrix_NM), resamples=RESAMPLES, seed=SEED)
    low, high = _percentiles(np.concatenate([statistic(matrix_NM[rows_RN].sum(axis=1)) for rows_RN in draws]))
    return Estimate(value=float(statistic(matrix_NM.sum(axis=0)[None])[0]), low=low, high=high)


def bootstrap_interval(values: Sequence[float], *, resamples: int = RESAMPLES, seed: int = SEED) -> tuple[float, float]:
    """The interval of the mean of `values`. Raises ValueError when there are none."""
    return bootstrap_intervals(np.asarray(values, dtype=np.float64)[:, None], resamples=resamples, seed=seed)[0]


def bootstrap_intervals(
    matrix_NM: Floats, *, resamples: int = RESAMPLES, seed: int = SEED
) -> list[tuple[float, float]]:
    """The interval of each column's mean; every column sees the same resamples. Raises ValueError for no rows."""
    if not len(matrix_NM):
        raise ValueError("no rows to resample")
    draws = _draw_rows(len(matrix_NM), resamples=resamples, seed=seed)
    means_RM = np.concatenate([matrix_NM[rows_RN].mean(axis=1) for rows_RN in draws])
    return [_percentiles(means_R) for means_R in means_RM.T]


def _nothing() -> Estimate:
    return Estimate(value=float("nan"), low=float("nan"), high=float("nan"))


def _resampled_rates(sides: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[Floats]:
    """For each (counts, totals) the [R] rates, all over the same resamples; NaN where a resample has no total."""
    columns: list[tuple[Ints, Ints]] = [(np.asarray(counts), np.asarray(totals)) for counts, totals in sides]
    chunks: list[list[Floats]] = [[] for _ in sides]
    for rows_RN in _draw_rows(len(columns[0][0]), resamples=RESAMPLES, seed=SEED):
        for chunk, (counts_N, totals_N) in zip(chunks, columns, strict=True):
            totals_R = totals_N[rows_RN].sum(axis=1)
            chunk.append(np.where(totals_R > 0, counts_N[rows_RN].sum(axis=1) / np.maximum(totals_R, 1), np.nan))
    return [np.concatenate(chunk) for chunk in chunks]


def _draw_rows(num_rows: int, *, resamples: int, seed: int) -> Iterator[Ints]:
    """Row numbers of `resamples` draws of `num_rows` rows with replacement, [R, N] in chunks."""
    generator = np.random.default_rng(seed)
    per_chunk = max(1, DRAWS_PER_CHUNK // num_rows)
    for start in range(0, resamples, per_chunk):
        yield generator.integers(0, num_rows, size=(min(per_chunk, resamples - start), num_rows))


def _percentiles(values_R: Floats) -> tuple[float, float]:
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(values_R, [tail, 100 - tail])
    return float(low), float(high)
