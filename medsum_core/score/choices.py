"""Answers that are one of a few options: accuracy and macro F1, as PubMedQA's official `evaluation.py` computes them.

That script calls scikit-learn's `accuracy_score` and `f1_score(average="macro")`: the mean over classes of
2 TP / (class in truth + class in prediction), the classes being those that occur in the truth or in the prediction.
An answer that is no option counts as wrong and is no class of its own (scikit-learn would make one of each such text).
Letters: N rows, R resamples, K options.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medsum_core.score.bootstrap import Estimate, Floats, mean_estimate, sums_estimate
from medsum_core.tasks.section_names import section_name


@dataclass(frozen=True, kw_only=True)
class ChoiceScores:
    """Both metrics from 0 to 1 with their 95 % intervals over the same resamples of the rows.

    `num_invalid`: predictions that are no option, all of them wrong.
    """

    accuracy: Estimate
    macro_f1: Estimate
    count: int
    num_invalid: int

    def summary(self) -> dict[str, Any]:
        """`{"accuracy": value, "accuracy_interval": [low, high], "macro_f1": ..., "count": N, "invalid": n}`."""
        figures: dict[str, Any] = {}
        for name, estimate in (("accuracy", self.accuracy), ("macro_f1", self.macro_f1)):
            figures |= {name: estimate.value, f"{name}_interval": [estimate.low, estimate.high]}
        return {**figures, "count": self.count, "invalid": self.num_invalid}


def choice_scores(references: Sequence[str], predictions: Sequence[str], *, options: Sequence[str]) -> ChoiceScores:
    """Each prediction against its reference, compared without any normalisation.

    Raises ValueError when the lengths differ, there is no row, or a reference is no option.
    """
    if not references:
        raise ValueError("no rows to score")
    if len(references) != len(predictions):
        raise ValueError(f"{len(references)} references and {len(predictions)} predictions cannot be paired")
    if unknown := len([reference for reference in references if reference not in options]):
        raise ValueError(f"{unknown} references are none of {', '.join(options)}")
    truth_NK = np.array([[reference == option for option in options] for reference in references], dtype=np.float64)
    given_NK = np.array([[prediction == option for option in options] for prediction in predictions], dtype=np.float64)
    right_NK = truth_NK * given_NK
    return ChoiceScores(
        accuracy=mean_estimate(right_NK.sum(axis=1).tolist()),
        macro_f1=sums_estimate(np.hstack([right_NK, truth_NK + given_NK]), _macro_f1),
        count=len(references),
        num_invalid=int(len(predictions) - given_NK.sum()),
    )


def commonest_choice(references: Sequence[str]) -> str:
    """The most frequent reference, as a baseline without a model; of equally frequent ones the first in order."""
    return Counter(references).most_common(1)[0][0]


def header_scores(references: Sequence[str], runs: Sequence[Sequence[str]]) -> dict[str, Any]:
    """`header_accuracy` with its interval: the share of rows whose section header is the reference's, mean over runs.

    MTS-Dialog's codes and full names are the same header, in any case (`section_name`); `header_floor` is the accuracy
    of giving every row the references' commonest header.
    """
    wanted = [_folded(header) for header in references]
    right_RN = [[_folded(header) == name for header, name in zip(run, wanted, strict=True)] for run in runs]
    accuracy = mean_estimate(np.mean(right_RN, axis=0).tolist())
    return {
        "header_accuracy": accuracy.value,
        "header_accuracy_interval": [accuracy.low, accuracy.high],
        "header_floor": wanted.count(commonest_choice(wanted)) / len(wanted),
    }


def _folded(header: str) -> str:
    return section_name(header).casefold()


def _macro_f1(sums_R2K: Floats) -> Floats:
    """[R] from the sums over rows of (right, truth + given) by option; an option in neither is no class."""
    right_RK, both_RK = np.hsplit(sums_R2K, 2)
    f1_RK = 2 * right_RK / np.maximum(both_RK, 1)
    return f1_RK.sum(axis=1) / np.maximum((both_RK > 0).sum(axis=1), 1)
