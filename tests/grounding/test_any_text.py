"""The check accepts any text that a model writes: digits and number words of any length and order raise no error."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medsum_core.grounding.check import check_note
from medsum_core.grounding.evidence import evidence
from medsum_core.grounding.omissions import check_omissions

WORDS = [
    "nine", "oh", "zero", "million", "thousand", "hundred", "point", "and", "a", "half", "twenty", "billion", "dozen",
    "0", "9", "1/", "2.", "x", "mg", "years", "no",
]  # fmt: skip
TALK = [
    "years", "since", "them", "hundreds", "about", "allergic", "to", "mother", "denies", "left", "knee", "pain",
    "aspirin", "started", "stopped", "not", "any", "or", "but", "pack", "smoked", "half", "two", "3", "mg", "daily",
    "insulin", "cancer", "his", "sister's", "never", "Yes", "was", "in", "1998", "last", "week", "old", "40", "fever",
    "?", ".", ",", "and", "no", "\nDoctor: ", "\nPatient: ",
]  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(WORDS), min_size=1, max_size=60), st.booleans())
def test_number_words_in_any_order_are_read(words: list[str], glued: bool) -> None:
    text = ("" if glued else " ").join(words)
    for note, dialogue in ((text, f"Doctor: {text}"), ("It is 5 mg.", f"Doctor: {text}"), (text, "Doctor: No.")):
        assert all(0 <= fact.start < fact.end <= len(note) for fact in check_note(note, dialogue))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(TALK), max_size=30), st.lists(st.sampled_from(TALK), max_size=60))
def test_findings_in_any_order_are_read(note_words: list[str], dialogue_words: list[str]) -> None:
    note, dialogue = " ".join(note_words), "Doctor: " + " ".join(dialogue_words)
    assert all(0 <= fact.start < fact.end <= len(note) for fact in check_note(note, dialogue))
    assert all(omission.turn >= 0 for omission in check_omissions(note, dialogue).omitted)
    evidence(note, dialogue)


@pytest.mark.parametrize("word", ["9", "nine ", "nine", "1,000", "0.", "oh ", "million ", "hundred ", "point "])
def test_runs_of_any_length_are_read(word: str) -> None:
    """A degenerate model output had 300 digits, which overflow a float."""
    text = word * 500
    for note, dialogue in (
        (text, f"Doctor: {text}"),
        (f"{text} mg in {text}.", "Doctor: No."),
        ("5 mg.", f"Dr: {text}"),
    ):
        check_note(note, dialogue)


def test_years_without_a_number_are_read() -> None:
    assert [fact.verdict for fact in check_note("She is 50 years old.", "Patient: For a few years.")] == ["not_found"]
