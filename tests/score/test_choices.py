"""Accuracy and macro F1 by their definitions, computed here row by row; all answers are fictional."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from medsum_core.score.choices import choice_scores, commonest_choice, header_scores

OPTIONS = ("yes", "no", "maybe")
TRUTH = ["yes", "yes", "yes", "no", "no", "maybe"]
GIVEN = ["yes", "yes", "no", "no", "perhaps", "yes"]


def macro_f1(truth: Sequence[str], given: Sequence[str]) -> float:
    """The mean over the options that occur of the harmonic mean of precision and recall."""
    scores = []
    for option in {*truth, *given} & {*OPTIONS}:
        right = sum(a == b == option for a, b in zip(truth, given, strict=True))
        precision = right / given.count(option) if option in given else 0.0
        recall = right / truth.count(option) if option in truth else 0.0
        scores.append(2 * precision * recall / (precision + recall) if right else 0.0)
    return sum(scores) / len(scores) if scores else 0.0


def test_accuracy_and_macro_f1_by_hand() -> None:
    scores = choice_scores(TRUTH, GIVEN, options=OPTIONS)
    assert scores.accuracy.value == pytest.approx(3 / 6)
    # yes: 2 right of 3 given, of 3 wanted; no: 1 of 2, of 2; maybe: never given. "perhaps" is no class.
    assert scores.macro_f1.value == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)
    assert (scores.count, scores.num_invalid) == (6, 1)


def test_an_option_in_neither_truth_nor_prediction_is_no_class() -> None:
    assert choice_scores(["yes", "no"], ["yes", "no"], options=OPTIONS).macro_f1.value == 1.0
    assert choice_scores(["yes", "no"], ["yes", "maybe"], options=OPTIONS).macro_f1.value == pytest.approx(1 / 3)


def test_scores_equal_those_of_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    generator = np.random.default_rng(3)
    for _ in range(20):
        truth, given = (generator.choice(OPTIONS, size=9).tolist() for _ in range(2))
        scores = choice_scores(truth, given, options=OPTIONS)
        assert scores.accuracy.value == pytest.approx(metrics.accuracy_score(truth, given))
        assert scores.macro_f1.value == pytest.approx(metrics.f1_score(truth, given, average="macro"))


def test_the_intervals_are_percentiles_over_resampled_rows() -> None:
    """10,000 resamples with seed 0, each scored by the definition."""
    rows = np.random.default_rng(0).integers(0, 6, size=(10_000, 6)).tolist()
    by_draw = [([TRUTH[row] for row in draw], [GIVEN[row] for row in draw]) for draw in rows]
    scores = choice_scores(TRUTH, GIVEN, options=OPTIONS)
    expected = np.percentile([macro_f1(truth, given) for truth, given in by_draw], [2.5, 97.5])
    assert (scores.macro_f1.low, scores.macro_f1.high) == pytest.approx(tuple(expected))
    right = [np.mean([a == b for a, b in zip(truth, given, strict=True)]) for truth, given in by_draw]
    assert (scores.accuracy.low, scores.accuracy.high) == pytest.approx(tuple(np.percentile(right, [2.5, 97.5])))


def test_rows_that_cannot_be_scored_are_refused() -> None:
    with pytest.raises(ValueError, match="no rows"):
        choice_scores([], [], options=OPTIONS)
    with pytest.raises(ValueError, match="2 references and 1 predictions"):
        choice_scores(["yes", "no"], ["yes"], options=OPTIONS)
    with pytest.raises(ValueError, match="1 references are none of yes, no, maybe"):
        choice_scores(["yes", "Yes"], ["yes", "yes"], options=OPTIONS)


def test_of_equally_common_choices_the_first_is_taken() -> None:
    assert commonest_choice(["no", "yes", "yes", "no"]) == "no"


def test_headers_match_by_code_or_by_name() -> None:
    references = ["CC", "Review of systems", "EXAM", "My own"]
    good = ["chief complaint", "ros", "Physical Examination", "my OWN"]
    half = ["CC", "ROS", "", "EXAM"]
    assert header_scores(references, [good]) == {
        "header_accuracy": 1.0,
        "header_accuracy_interval": [1.0, 1.0],
        "header_floor": 0.25,
    }
    scores = header_scores(["CC", "ROS", "Chief complaint", "x"], [good, half])
    assert scores["header_accuracy"] == pytest.approx(0.5)  # right in both runs: the first two rows
    assert scores["header_accuracy_interval"] == [0.0, 1.0]
    assert scores["header_floor"] == 0.5
