"""Numeric facts of notes looked up in dialogues: the labelled set in two halves, equal values in other words, offsets."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled_facts import Case, numeric_facts, outcomes, read_cases

from medsum_core.grounding.check import count_unsupported, unsupported_spans

REAL = Path(__file__).parents[3] / "shared" / "data" / "mts-dialog" / "MTS-Dialog-TrainingSet.csv"
KINDS = [
    "age", "code", "date", "dose", "duration", "frequency", "laterality", "measurement", "number", "percent",
    "pressure", "temperature",
]  # fmt: skip


def verdicts(note: str, dialogue: str) -> list[tuple[str, str, str]]:
    return [(note[fact.start : fact.end], fact.kind, fact.verdict) for fact in numeric_facts(note, dialogue)]


def verdict(note: str, dialogue: str) -> str:
    """The worst verdict of the note's facts; "no fact" without any."""
    found = {fact.verdict for fact in numeric_facts(note, dialogue)}
    return next((name for name in ("contradicted", "not_found", "supported") if name in found), "no fact")


def score(cases: list[Case]) -> tuple[float, float, Counter[tuple[str, str]]]:
    counts: Counter[tuple[str, str]] = Counter()
    for case in cases:
        counts.update((kind, outcome) for kind, outcome, _, _ in outcomes(case))
    total = Counter(outcome for (_, outcome), n in counts.items() for _ in range(n))
    return total["hit"] / (total["hit"] + total["false"]), total["hit"] / (total["hit"] + total["missed"]), counts


@pytest.mark.parametrize("half", ["tuned on", "scored"])
def test_labelled_facts_precision_and_recall_of_unsupported(half: str, capsys: pytest.CaptureFixture[str]) -> None:
    cases = [case for case in read_cases() if (case.number % 2 == 0) == (half == "tuned on")]
    precision, recall, counts = score(cases)
    with capsys.disabled():
        print(f"\ncases {half}: precision {precision:.3f}, recall {recall:.3f} of unsupported")
        for kind in sorted({kind for kind, _ in counts}):
            print(f"  {kind:<12}", {name: counts[kind, name] for name in ("hit", "missed", "false", "passed")})
    assert precision >= 0.95
    assert recall >= 0.95


def test_labelled_set_is_large_and_of_every_kind() -> None:
    cases = read_cases()
    labels = [label for case in cases for label in case.facts]
    assert len(labels) >= 300
    assert {label.kind for label in labels} == set(KINDS)
    assert min(Counter(label.unsupported for label in labels).values()) >= 100


@pytest.mark.parametrize(
    ("note", "dialogue"),
    [
        ("for two weeks", "It has been fourteen days."),
        ("for 14 days", "It has been two weeks."),
        ("for 18 months", "About a year and a half."),
        ("for 48 hours", "Two days now."),
        ("for one month", "Four weeks or so."),
        ("1 week ago", "It was last week."),
        ("metformin b.i.d.", "I take the metformin every twelve hours."),
        ("metformin twice daily", "One with breakfast, that is, in the morning and at night."),
        ("q.8h", "Three times a day."),
        ("vomited x2", "He threw up twice."),
        ("76-year-old", "I'm seventy six."),
        ("76 y/o", "I turned seventy-six years old."),
        ("Grandmother died at age 70", "My grandmother passed at seventy."),
        ("5'10\"", "I'm five ten."),
        ("0.5 g", "Five hundred milligrams."),
        ("1/2 pack per day", "Half a pack a day."),
        ("1 1/2 packs", "A pack and a half."),
        ("Temp 98.6", "It was ninety eight point six."),
        ("in his 50s", "My dad was in his fifties."),
        ("in 1984", "That was in nineteen eighty four."),
        ("06/30/04", "June thirtieth two thousand four."),
        ("3/20/99", "In March of ninety nine, the twentieth I think."),
        ("bilateral knees", "My knees hurt."),
        ("RHF", "I'm right handed."),
        ("left leg", "Both of my legs."),
        ("C3 through C7", "A fusion of C three through C seven."),
        ("type II diabetes", "Type two diabetes."),
        ("A1c of 7.5", "The A one C was seven and a half."),
        ("Lasix 40 mg", "I take forty of Lasix."),
    ],
)
def test_equal_values_in_other_words_are_supported(note: str, dialogue: str) -> None:
    assert verdict(note, f"Patient: {dialogue}") == "supported"


@pytest.mark.parametrize(
    ("note", "dialogue", "expected"),
    [
        ("Lasix 15 mg", "I take fifty milligrams of Lasix.", "contradicted"),
        ("Synthroid 75 mg", "Synthroid, seventy five micrograms.", "contradicted"),
        ("left knee pain", "My right knee hurts.", "contradicted"),
        ("120/80", "One thirty over eighty.", "contradicted"),
        ("b.i.d.", "Three times a day.", "contradicted"),
        ("15-year-old", "I'm fifty years old.", "contradicted"),
        ("15-year-old", "I smoked for fifteen years.", "not_found"),
        ("5 mg", "I have five cats.", "not_found"),
        ("left shoulder pain", "He left the room. That's right, my shoulder.", "not_found"),
        ("in 2006", "It was some time ago.", "not_found"),
        ("Trazodone 50 mg", "It's one fifty milligrams of trazodone.", "contradicted"),
        ("right-handed", "I'm left handed.", "contradicted"),
    ],
)
def test_similar_but_different_values(note: str, dialogue: str, expected: str) -> None:
    assert verdict(note, f"Patient: {dialogue}") == expected


@pytest.mark.parametrize(
    "note",
    [
        "1. Cancer. 2.  Coronary artery disease. 3) Gout.",
        "No one in the family. One of them is well.",
        "He left against advice. She is all right, right now.",
        "On a scale of 1 to 10.",
        "O2 by cannula. Activities of daily living.",
        "First visit. None. Noncontributory.",
    ],
)
def test_numbers_that_are_not_facts(note: str) -> None:
    assert numeric_facts(note, "Patient: Hello.") == []


def test_an_unsupported_year_is_flagged_alone() -> None:
    note = "Seen on 04/14/2004 and June 3, 2005."
    dialogue = "Patient: I came on April fourteenth and then June third."
    assert [(text, v) for text, _, v in verdicts(note, dialogue)] == [
        ("04/14/", "supported"),
        ("2004", "not_found"),
        ("June 3, ", "supported"),
        ("2005", "not_found"),
    ]


def test_a_denied_question_and_an_alternative_support_nothing() -> None:
    assert verdict("for 3 weeks", "Doctor: Was it three weeks?\nPatient: No, four.") != "supported"
    assert verdict("Right-handed", "Doctor: Are you left or right handed?\nPatient: Left.") != "supported"
    assert verdict("Right-handed", "Doctor: Are you left or right handed?\nPatient: Right.") == "supported"
    assert verdict("Bilateral ear pain", "Doctor: One ear or both?\nPatient: The right ear.") != "supported"


def test_the_turn_is_the_supporting_one() -> None:
    dialogue = "Doctor: Hello.\nDoctor: How old are you?\nPatient: Sixty.\nPatient: My left knee hurts."
    facts = numeric_facts("60-year-old with left knee pain", dialogue)
    assert [fact.turn for fact in facts] == [2, 3]
    assert all(fact.turn is None for fact in numeric_facts("70-year-old", dialogue))


def test_spans_are_of_the_unsupported_facts_in_order_without_overlap() -> None:
    note = "A 34-year-old with 3 days of left hip pain since 04/14/2004."
    spans = unsupported_spans(note, "Patient: My hip has hurt for three days, since April fourteenth.")
    assert [note[start:end] for start, end in spans] == ["34-year-old", "left", "2004"]


WORDS = st.sampled_from([
    "patient", "left", "right", "knee", "both", "one", "two", "fifteen", "fifty", "mg", "of", "Lasix", "5", "mg.",
    "twice", "a", "day", "years", "old", "ago", "over", "eighty", "3/10", "06/30/04", "June", "1998", "half", "pack",
    "L4", "b.i.d.", "and", "or", ".", "?", "\n", "Doctor:", "q.6h", "bilateral", "couple", "week", "½", "5'10\"",
    "point", "oh",
])  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(st.lists(WORDS, max_size=25), st.lists(WORDS, max_size=25))
def test_offsets_point_at_the_facts_in_order(note_words: list[str], dialogue_words: list[str]) -> None:
    note, dialogue = " ".join(note_words), "\n".join(dialogue_words)
    facts = numeric_facts(note, dialogue)
    assert facts == numeric_facts(note, dialogue)
    for fact in facts:
        assert 0 <= fact.start < fact.end <= len(note)
        assert fact.kind in KINDS
        assert (fact.turn is not None) == (fact.verdict == "supported")
    assert [fact.start for fact in facts] == sorted(fact.start for fact in facts)
    spans = unsupported_spans(note, dialogue)
    assert all(a[1] <= b[0] for a, b in pairwise(spans))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_supported_fact_copied_from_the_dialogue_is_supported(data: st.DataObject) -> None:
    case = data.draw(st.sampled_from(read_cases()))
    supported = [fact for fact in numeric_facts(case.dialogue, case.dialogue) if fact.verdict == "supported"]
    for fact in supported:
        copy = case.dialogue[fact.start : fact.end]
        assert all(f.verdict == "supported" for f in numeric_facts(copy, case.dialogue)), copy


def test_most_facts_of_a_dialogue_are_supported_by_itself() -> None:
    for case in read_cases():
        unsupported = [f for f in numeric_facts(case.dialogue, case.dialogue) if f.verdict != "supported"]
        taken_back = any(words in case.dialogue for words in ("No, ", " or both?", "zero to ten?"))
        assert not unsupported or taken_back, case.number


def test_empty_texts() -> None:
    assert numeric_facts("", "") == []
    assert numeric_facts("", "Patient: I'm fifty.") == []
    assert [fact.verdict for fact in numeric_facts("50 mg", "")] == ["not_found"]


def test_import_does_no_work() -> None:
    code = (
        "import sys, medsum_core.grounding.facts.tokens as t, medsum_core.grounding.facts.words as w, medsum_core.grounding.check\n"
        "assert t._token_pattern.cache_info().currsize == 0 and w.units.cache_info().currsize == 0\n"
        "assert 'text_to_num' not in sys.modules and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


@pytest.mark.skipif(not REAL.exists(), reason="needs ../shared/data/mts-dialog")
def test_few_facts_of_real_targets_are_flagged() -> None:
    from medsum_core.data.records import read_records

    records = read_records(REAL)
    facts = [fact for record in records for fact in numeric_facts(record.note, record.source_text)]
    assert len(facts) > 1500
    assert 0.04 < count_unsupported(facts) / len(facts) < 0.12
