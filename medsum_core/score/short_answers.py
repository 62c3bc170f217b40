"""Short answers to questions: accuracy where the reference is yes or no, F1 of words elsewhere.

Answers are compared as SQuAD's official evaluate-v1.1.py does (Rajpurkar et al. 2016): lower case, without punctuation
and articles. A closed question is one whose reference is then `yes` or `no`; its answer counts by its first word.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medsum_core.score.bootstrap import Estimate, mean_estimate

CLOSED = ("yes", "no")
PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True, kw_only=True)
class ShortAnswers:
    """A score from 0 to 1 per row: for closed questions 0 or 1, for open ones the F1 of words."""

    scores: tuple[float, ...]
    is_closed: tuple[bool, ...]

    @property
    def closed_accuracy(self) -> Estimate:
        """Over the closed questions; NaN where there is none."""
        return mean_estimate([score for score, closed in zip(self.scores, self.is_closed, strict=True) if closed])

    @property
    def open_f1(self) -> Estimate:
        """Over the open questions; NaN where there is none."""
        return mean_estimate([score for score, closed in zip(self.scores, self.is_closed, strict=True) if not closed])


def short_answers(references: Sequence[str], answers: Sequence[str]) -> ShortAnswers:
    """Each answer against its reference, in order. Raises ValueError when the lengths differ."""
    wanted = [answer_words(reference) for reference in references]
    closed = tuple(words in ([option] for option in CLOSED) for words in wanted)
    scores = [
        float(words[:1] == right) if is_closed else word_f1(right, words)
        for right, words, is_closed in zip(wanted, map(answer_words, answers), closed, strict=True)
    ]
    return ShortAnswers(scores=tuple(scores), is_closed=closed)


def short_answer_summary(references: Sequence[str], runs: Sequence[Sequence[str]]) -> dict[str, Any]:
    """`closed_accuracy` and `open_f1`, each with `_interval` and `_count`: means over runs; left out for no row."""
    by_run = [short_answers(references, run) for run in runs]
    scores = tuple(np.mean([run.scores for run in by_run], axis=0).tolist())
    mean = ShortAnswers(scores=scores, is_closed=by_run[0].is_closed)
    counts = {"closed_accuracy": sum(mean.is_closed), "open_f1": len(scores) - sum(mean.is_closed)}
    figures: dict[str, Any] = {}
    for name, count in counts.items():
        if count:
            value = getattr(mean, name)
            figures |= {name: value.value, f"{name}_interval": [value.low, value.high], f"{name}_count": count}
    return figures


def answer_words(text: str) -> list[str]:
    """The words of an answer as they are compared."""
    return re.sub(r"\b(a|an|the)\b", " ", text.lower().translate(PUNCTUATION)).split()


def word_f1(right: Sequence[str], given: Sequence[str]) -> float:
    """The harmonic mean of precision and recall of words, each as often as it occurs; two empty answers are equal."""
    common = sum((Counter(right) & Counter(given)).values())
    return 2 * common / (len(right) + len(given)) if right or given else 1.0
