"""ROUGE in the official MEDIQA setting, by row.

Setting (MEDIQA-Chat 2023, `evaluate_summarization.py`): package rouge-score, `use_stemmer=False`, F-measure, arithmetic
mean over rows, raw text; rougeLsum splits at newlines. Other settings shift scores by whole points, so scores are
comparable within one setting only.
Letters: N rows, M metrics.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from medsum_core.score.bootstrap import Floats, bootstrap_intervals

METRICS = ("rouge1", "rouge2", "rougeL", "rougeLsum")


@dataclass(frozen=True, kw_only=True)
class RougeRows:
    """F-measures from 0 to 1 by metric, one entry per row."""

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


def rows_of_matrix(matrix_NM: Floats) -> RougeRows:
    """The inverse of `RougeRows.matrix`."""
    columns = (tuple(column) for column in matrix_NM.T.tolist())
    return RougeRows(**dict(zip(METRICS, columns, strict=True)))


def score_rows(references: Sequence[str], predictions: Sequence[str], *, tokenizer: Any = None) -> RougeRows:
    """The F-measures of each prediction against its reference; an empty prediction scores 0 and counts.

    `tokenizer`: instead of the official one, such as `letters.UnicodeTokenizer`. Raises ValueError when the
    lengths differ or there is no row.
    """
    if not references:
        raise ValueError("no rows to score")
    with _home_folder_named():
        from rouge_score.rouge_scorer import RougeScorer
    from tqdm import tqdm

    scorer = RougeScorer(list(METRICS), use_stemmer=False, tokenizer=tokenizer)
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


@contextmanager
def _home_folder_named() -> Iterator[None]:
    """Name a home folder for a user without one, as in a container: rouge-score imports nltk, which insists on a name.

    nltk would store downloads there; nothing here downloads.
    """
    if os.path.expanduser("~") != "~":
        yield
        return
    os.environ["HOME"] = os.devnull
    try:
        yield
    finally:
        del os.environ["HOME"]


def average_runs(runs: Sequence[RougeRows]) -> RougeRows:
    """The mean of several runs (seeds) of one system, row by row."""
    return rows_of_matrix(np.mean([run.matrix() for run in runs], axis=0))


def summarise(rows: RougeRows) -> dict[str, Any]:
    """`{"rouge1": mean, "rouge1_interval": [low, high], ..., "count": N}`, the intervals of 95 %, by bootstrap."""
    summary: dict[str, Any] = {}
    for (metric, mean), interval in zip(rows.means().items(), bootstrap_intervals(rows.matrix()), strict=True):
        summary[metric] = mean
        summary[f"{metric}_interval"] = list(interval)
    return {**summary, "count": rows.count}
