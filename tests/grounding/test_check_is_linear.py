"""The time of the check is linear in the text, and the mentions that it skips would support nothing."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable

import pytest

from medsum_core.grounding.check import check_note
from medsum_core.grounding.facts import matching, mention
from medsum_core.grounding.facts.matching import ValueIndex, supports
from medsum_core.grounding.facts.mention_index import index_mentions
from medsum_core.grounding.facts.reading import read_mentions
from medsum_core.grounding.findings import answering, finding_index, scope
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


def one_sentence(count: int) -> str:
    return "left knee, aspirin, two or three of my mother's, " * (count // 3)


def a_chain_of_numbers(count: int) -> str:
    return "1-" * count + "twenty " * 6 * count


def ones(count: int) -> str:
    return "1, " * 6 * count


def questions(count: int) -> str:
    return "pain? " * 5 * count


def as_dialogue(text: str) -> str:
    sentences = text.split(". ")
    return "\n".join(f"{('Doctor', 'Patient')[k % 2]}: {sentence}." for k, sentence in enumerate(sentences))


def unrelated(_: str) -> str:
    return "Doctor: Any pain?\nPatient: No."


def num_calls(function: Callable[[], object]) -> int:
    """The number of calls of functions, Python's own too."""
    count = 0

    def see(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(see)
    try:
        function()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("check", [check_note, check_omissions])
@pytest.mark.parametrize("make", [numbers, dates, findings, one_sentence, a_chain_of_numbers, ones, questions])
@pytest.mark.parametrize("as_source", [as_dialogue, str, unrelated])
def test_time_is_linear_in_the_text(
    check: Callable[[str, str], object],
    make: Callable[[int], str],
    as_source: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(finding_index, "MOST", 10)
    monkeypatch.setattr(matching, "MOST", 10)
    monkeypatch.setattr(scope, "LONGEST_SENTENCE", 30)
    monkeypatch.setattr(mention, "REACH", 10)
    monkeypatch.setattr(answering, "MOST_BETWEEN", 5)
    check("No fever.", "Doctor: Fever?\nPatient: No.")  # tables are read once
    texts = [(make(size), as_source(make(size + 1))) for size in SIZES]
    small, large = (num_calls(lambda pair=pair: check(*pair)) for pair in texts)  # type: ignore[misc]
    assert large < 2.5 * small


def test_the_index_finds_every_supporting_mention(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matching, "FEW", 0)
    monkeypatch.setattr(matching, "MOST", 10**6)
    values = [
        form.format(n=n, unit=unit) for form, unit, n in itertools.product(FORMS, UNITS, (1, 2, 4, 7, 12, 28, 30, 66))
    ]
    mentions = index_mentions("\n".join(f"Patient: I had {value}." for value in values)).mentions
    index = ValueIndex(mentions)
    facts = read_mentions(" ".join(f"Had {value}." for value in values), spoken=False)[1]
    assert len(facts) > 200
    for fact in facts:
        assert [one for one in index.candidates(fact) if supports(fact, one)] == [
            one for one in mentions if supports(fact, one)
        ]
