"""Spoken numbers: phrases that text2num alone misreads, and that digits and words agree."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medsum_core.grounding.facts.reading import read_mentions
from medsum_core.grounding.facts.spoken_numbers import read_numbers
from medsum_core.grounding.facts.tokens import tokenize

ONES = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
]  # fmt: skip
TENS = ["", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]


def readings(text: str) -> list[tuple[float, ...]]:
    return [number.values for number in read_numbers(tokenize(text)).values()]


def best(text: str) -> list[float]:
    return [values[0] for values in readings(text)]


def spell_out(value: int) -> str:
    """0 to 9999 in words, independently of the code under test."""
    if value < 20:
        return ONES[value]
    if value < 100:
        return TENS[value // 10] + (f" {ONES[value % 10]}" if value % 10 else "")
    scale, name = (1000, "thousand") if value >= 1000 else (100, "hundred")
    rest = f" {spell_out(value % scale)}" if value % scale else ""
    return f"{spell_out(value // scale)} {name}{rest}"


@given(st.integers(0, 9999))
def test_every_cardinal_is_one_number(value: int) -> None:
    assert best(spell_out(value)) == [value]
    assert best(spell_out(value).replace(" ", "-")) == [value]


@given(st.integers(101, 999))
def test_hundred_with_and_or_without_one(value: int) -> None:
    if value % 100:
        assert best(f"{spell_out(value // 100)} hundred and {spell_out(value % 100)}") == [value]
    if value < 200 and value % 100:
        assert best(f"a hundred and {spell_out(value % 100)}") == [value]


@pytest.mark.parametrize(
    ("phrase", "value"),
    [
        ("ninety eight point six", 98.6),
        ("one oh one point four", 101.4),
        ("one O one point four", 101.4),
        ("point two five", 0.25),
        ("zero point five", 0.5),
        ("point one twenty five", 0.125),
        ("two and a half", 2.5),
        ("one and one half", 1.5),
        ("three and three quarters", 3.75),
        ("half a pack", 0.5),
        ("a half hour", 0.5),
        ("three quarters of a tablet", 0.75),
        ("a couple of days", 2),
        ("a dozen eggs", 12),
        ("two dozen", 24),
        ("half a dozen", 6),
        ("twice", 2),
        ("nineteen hundred and eighty four", 1984),
        ("two thousand and four", 2004),
        ("twenty-first", 21),
        ("the thirtieth", 30),
        ("twenty six thousand", 26000),
        ("12,000", 12000),
        ("1-1/2", 1.5),
        ("2½", 2.5),
        ("1.5 million", 1.5e6),
        ("forty's", 40),
        ("sixties", 60),
    ],
)
def test_phrases_with_one_reading(phrase: str, value: float) -> None:
    assert best(phrase) == [value]


@pytest.mark.parametrize(
    ("phrase", "expected"),
    [
        ("one fifty", {150, 1, 50}),
        ("two thirty three", {233, 2, 33}),
        ("nineteen eighty four", {1984, 19, 84}),
        ("twenty twenty", {2020, 20}),
        ("seven thirty", {730, 7, 30}),
        ("five ten", {510, 5, 10}),
        ("nineteen oh five", {1905, 19, 0, 5}),
        ("O eight", {2008, 1908, 0, 8}),
        ("oh five", {2005, 1905, 0, 5}),
        ("ninety eight six", {98.6}),  # a temperature is neither 98 nor 6 of anything
        ("nine one one", {911, 9, 1}),
    ],
)
def test_ambiguous_speech_keeps_its_readings(phrase: str, expected: set[float]) -> None:
    assert [set(values) for values in readings(phrase)] == [expected]


@pytest.mark.parametrize(
    "phrase", ["no one", "one of them", "each one", "a half brother", "halfway", "oh dear", "someone", "half way up"]
)
def test_words_that_are_no_numbers(phrase: str) -> None:
    assert readings(phrase) == []


def test_adjacent_cardinals_that_are_two_numbers() -> None:
    assert best("thirty first two thousand and four") == [31, 2004]
    assert best("nineteen ninety one nineteen ninety two") == [1991, 1992]
    assert best("six or seven") == [6, 7]
    assert best("two half brothers") == [2]
    assert best("fifteen, fifty") == [15, 50]


@pytest.mark.parametrize(
    ("phrase", "kind", "value"),
    [
        ("one thirty over eighty", "pressure", (130.0, 80.0)),
        ("one ninety five by eighty three", "pressure", (195.0, 83.0)),
        ("one hundred and thirty over eighty", "pressure", (130.0, 80.0)),
        ("130/80", "pressure", (130.0, 80.0)),
        ("one fifty milligrams", "dose", 150.0),
        ("two hundred M G", "dose", 200.0),
        ("fifty micrograms", "dose", 0.05),
        ("a seventy-six-year-old", "age", 76 * 365.25),
        ("67 y/o", "age", 67 * 365.25),
        ("18-month-old", "age", 18 * 365.25 / 12),
        ("a year and a half", "duration", 1.5 * 365.25),
        ("two weeks", "duration", 14.0),
        ("half an hour", "duration", 0.5 / 24),
        ("b.i.d.", "frequency", 2.0),
        ("BID", "frequency", 2.0),
        ("twice a day", "frequency", 2.0),
        ("every twelve hours", "frequency", 2.0),
        ("every morning and every night", "frequency", 2.0),
        ("q.8h", "frequency", 3.0),
        ("every other day", "frequency", 0.5),
        ("three times a week", "frequency", 3 / 7),
        ("nightly", "frequency", 1.0),
        ("left knee", "laterality", "left"),
        ("both of my knees", "laterality", "both"),
        ("three out of ten", "number", (3.0, 10.0)),
        ("ninety seven percent", "percent", 97.0),
    ],
)
def test_clinical_compounds(phrase: str, kind: str, value: object) -> None:
    found = [mention for mention in read_mentions(phrase, spoken=True)[1] if mention.kind == kind]
    assert found and any(value == pytest.approx(reading) for reading in found[0].values), found


@pytest.mark.parametrize(
    ("phrase", "date"),
    [
        ("06/30/04", (2004, 6, 30)),
        ("2004-06-30", (2004, 6, 30)),
        ("June 30, 2004", (2004, 6, 30)),
        ("June thirty first two thousand and four", (2004, 6, 31)),
        ("June thirty two thousand and four", (2004, 6, 30)),
        ("the 3rd of July", (None, 7, 3)),
        ("in nineteen eighty four", (1984, None, None)),
        ("in O eight", (2008, None, None)),
        ("September of ninety three", (1993, 9, None)),
        ("in ninety six", (1996, None, None)),
        ("12/1999", (1999, 12, None)),
    ],
)
def test_dates(phrase: str, date: tuple[int | None, int | None, int | None]) -> None:
    dates = [reading for mention in read_mentions(phrase, spoken=True)[1] for reading in mention.dates]
    assert date in dates


@given(st.text(max_size=200))
def test_any_text_is_read_with_valid_offsets(text: str) -> None:
    for spoken in (False, True):
        for mention in read_mentions(text, spoken=spoken)[1]:
            assert 0 <= mention.start < mention.end <= len(text)
            assert text[mention.start : mention.end].strip() == text[mention.start : mention.end]
