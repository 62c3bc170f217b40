"""The check's work grows with the text, not with its square; and what is skipped would have supported nothing."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable

import pytest

from medsum_core.grounding.check import check_note
from medsum_core.grounding.facts import matching
from medsum_core.grounding.facts.matching import ValueIndex, supports
from medsum_core.grounding.facts.reading import read_mentions
from medsum_core.grounding.facts.talk import read_talk
from medsum_core.grounding.findings import finding_index
from medsum_core.grounding.omissions import check_omissions

SIZES = (150, 300)
UNITS = ("mg", "months", "weeks", "pounds", "kg", "percent", "degrees", "times a day", "inches", "cm", "tablets")
FORMS = ("{n} {unit}", "{n}/80", "{n}'s", "a few {unit}", "{n} point 5 {unit}", "every {n} hours", "L{n}", "the {n}th")
NAMES = ("headache", "a cough", "knee pain", "asthma", "a colonoscopy", "lisinopril", "penicillin", "back pain")


def numbers(count: int) -> str:
    return " ".join(f"It was {k * 3 % 97 + 1} {UNITS[k % 11]} on the {('left', 'right')[k % 2]}." for k in range(count))


def dates(count: int) -> str:
    return " ".join(f"On {k % 12 + 1}/{k % 28 + 1}/19{k % 90 + 10}, 3 days after surgery." for k in range(count))


def findings(count: int) -> str:
    return " ".join(f"She has {NAMES[k % 8]} and no {NAMES[(3 * k + 1) % 8]}." for k in range(count))


def as_talk(text: str) -> str:
    sentences = text.split(". ")
    return "\n".join(f"{('Doctor', 'Patient')[k % 2]}: {sentence}." for k, sentence in enumerate(sentences))


def calls_of(function: Callable[[], object]) -> int:
    """How many functions of Python are called."""
    count = 0

    def see(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(see)
    try:
        function()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("check", [check_note, check_omissions])
@pytest.mark.parametrize("make", [numbers, dates, findings])
@pytest.mark.parametrize("told", [as_talk, str])
def test_twice_the_text_is_twice_the_work(
    check: Callable[[str, str], object],
    make: Callable[[int], str],
    told: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(finding_index, "MOST", 10)
    monkeypatch.setattr(matching, "MOST", 10)
    check("No fever.", "Doctor: Fever?\nPatient: No.")  # tables are read once
    texts = [(make(size), told(make(size + 1))) for size in SIZES]
    small, large = (calls_of(lambda pair=pair: check(*pair)) for pair in texts)  # type: ignore[misc]
    assert large < 2.5 * small


def test_the_index_leaves_out_no_mention_that_supports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matching, "FEW", 0)
    monkeypatch.setattr(matching, "MOST", 10**6)
    told = [
        form.format(n=n, unit=unit) for form, unit, n in itertools.product(FORMS, UNITS, (1, 2, 4, 7, 12, 28, 30, 66))
    ]
    said = read_talk("\n".join(f"Patient: I had {value}." for value in told)).said
    index = ValueIndex(said)
    facts = read_mentions(" ".join(f"Had {value}." for value in told), spoken=False)[1]
    assert len(facts) > 200
    for fact in facts:
        assert [one for one in index.near(fact) if supports(fact, one)] == [one for one in said if supports(fact, one)]
