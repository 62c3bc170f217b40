"""ROUGE in the official MEDIQA setting, by row, and bootstrap intervals over rows.

Setting (MEDIQA-Chat 2023, `evaluate_summarization.py`): package rouge-score, `use_stemmer=False`, F-measure, arithmetic
mean over rows, raw text; rougeLsum splits at newlines. Another setting shifts scores by points: never compare across.
Letters: N rows, R resamples, M metrics.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

METRICS = ("rouge1", "rouge2", "rougeL", "rougeLsum")
RESAMPLES = 10_000
SEED = 0
CONFIDENCE = 0.95
DRAWS_PER_CHUNK = 1 << 20  # bounds the memory of the resampling, whatever the number of rows

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class RougeRows:
    """F-measures from 0 to 1, one entry a row, by metric."""

    rouge1: tuple[float, ...]
    rouge2: tuple[float, ...]
    rougeL: tuple[float, ...]
    rougeLsum: tuple[float, ...]

    @property
    def count(self) -> int:
        return len(self.rouge1)

    def matrix(self) -> Floats:
        """All scores as one [N, M] array, columns in the order of `METRICS`."""
        return np.array([getattr(self, metric) for metric in METRICS], dtype=np.float64).T

    def means(self) -> dict[str, float]:
        """The score by metric: the mean over rows."""
        return dict(zip(METRICS, self.matrix().mean(axis=0).tolist(), strict=True))

    def select(self, indices: Sequence[int]) -> RougeRows:
        """The rows with these indices."""
        return rows_of_matrix(self.matrix()[list(indices)])


@dataclass(frozen=True, kw_only=True)
class PairedDifference:
    """Mean of a - b over the same rows, with its 95 % bootstrap interval."""

    difference: float
    low: float
    high: float


def rows_of_matrix(matrix_NM: Floats) -> RougeRows:
    """The inverse of `RougeRows.matrix`."""
    columns = (tuple(column) for column in matrix_NM.T.tolist())
    return RougeRows(**dict(zip(METRICS, columns, strict=True)))


def score_rows(references: Sequence[str], predictions: Sequence[str]) -> RougeRows:
    """The F-measures of each prediction against its reference; an empty prediction scores 0 and counts.

    Raises ValueError when the lengths differ or there is no row.
    """
    if not references:
        raise ValueError("no rows to score")
    from rouge_score.rouge_scorer import RougeScorer
    from tqdm import tqdm

    scorer = RougeScorer(list(METRICS), use_stemmer=False)
    pairs = tqdm(
        zip(references, predictions, strict=True),
        total=len(references),
        desc="scoring",
        delay=3,
        leave=False,
        disable=None,
    )
    scores = [scorer.score(reference, prediction) for reference, prediction in pairs]
    return RougeRows(**{metric: tuple(float(score[metric].fmeasure) for score in scores) for metric in METRICS})


def average_runs(runs: Sequence[RougeRows]) -> RougeRows:
    """The mean of several runs (seeds) of one system, row by row."""
    return rows_of_matrix(np.mean([run.matrix() for run in runs], axis=0))


def bootstrap_interval(values: Sequence[float], *, resamples: int = RESAMPLES, seed: int = SEED) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval of the mean of `values`. Raises ValueError when there are none."""
    means_RM = _resampled_means(np.asarray(values, dtype=np.float64)[:, None], resamples=resamples, seed=seed)
    return _percentiles(means_RM)[0]


def paired_bootstrap(
    a: Sequence[float], b: Sequence[float], *, resamples: int = RESAMPLES, seed: int = SEED
) -> PairedDifference:
    """The difference of two systems on the same rows; rows are resampled. Raises ValueError on unequal lengths."""
    if len(a) != len(b):
        raise ValueError(f"{len(a)} and {len(b)} scores cannot be paired")
    differences = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    low, high = bootstrap_interval(differences.tolist(), resamples=resamples, seed=seed)
    return PairedDifference(difference=float(differences.mean()), low=low, high=high)


def summarise(rows: RougeRows, *, resamples: int = RESAMPLES, seed: int = SEED) -> dict[str, Any]:
    """`{"rouge1": mean, "rouge1_interval": [low, high], ..., "count": N}`, the intervals as by `bootstrap_interval`."""
    intervals = _percentiles(_resampled_means(rows.matrix(), resamples=resamples, seed=seed))
    summary: dict[str, Any] = {}
    for (metric, mean), interval in zip(rows.means().items(), intervals, strict=True):
        summary[metric] = mean
        summary[f"{metric}_interval"] = list(interval)
    return {**summary, "count": rows.count}


def _resampled_means(matrix_NM: Floats, *, resamples: int, seed: int) -> Floats:
    """[R, M] means of `resamples` draws of N rows with replacement; every metric sees the same draws."""
    num_rows = len(matrix_NM)
    if not num_rows:
        raise ValueError("no rows to resample")
    generator = np.random.default_rng(seed)
    per_chunk = max(1, DRAWS_PER_CHUNK // num_rows)
    chunks = []
    for start in range(0, resamples, per_chunk):
        draws_RN = generator.integers(0, num_rows, size=(min(per_chunk, resamples - start), num_rows))
        chunks.append(matrix_NM[draws_RN].mean(axis=1))
    return np.concatenate(chunks)


def _percentiles(means_RM: Floats) -> list[tuple[float, float]]:
    tail = 100 * (1 - CONFIDENCE) / 2
    bounds_2M = np.percentile(means_RM, [tail, 100 - tail], axis=0)
    return [(float(low), float(high)) for low, high in bounds_2M.T]
