"""Numbers in speech and writing. text2num converts single cardinals; this module combines them.

Ambiguous speech has several readings: "one fifty" may be 150, or 1 and 50; "twenty twenty" 2020, or 20 and 20.
`Number.values` lists the readings, the likeliest first; `Number.cardinals` the cardinals in their order.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from medsum_core.grounding.facts.cardinals import (
    DIGITS,
    MAX_SPOKEN_DIGITS,
    MISSPELT,
    ORDINALS,
    SCALES,
    TEENS,
    TENS,
    ZEROS,
    Cardinal,
    cardinal_at,
    joint_reading,
    small_at,
)  # fmt: skip
from medsum_core.grounding.facts.tokens import Token
from medsum_core.grounding.facts.words import units

DECADES = {
    **{f"{w[:-1]}ies": value for w, value in TENS.items()},
    **{f"{w}{end}": value for w, value in TENS.items() for end in ("s", "'s", "’s")},
}
CENTURIES = {"eighteen": 1800, "nineteen": 1900, "twenty": 2000}
TIMES = {"once": 1, "twice": 2, "thrice": 3}
PARTS = {"half": 0.5, "quarter": 0.25, "dozen": 12, "couple": 2}
FRACTIONS = {"half": 0.5, "quarter": 0.25, "quarters": 0.25, "halves": 0.5, "thirds": 1 / 3}
WRITTEN_FRACTIONS = {"1/2": 0.5, "1/4": 0.25, "3/4": 0.75, "1/3": 1 / 3, "2/3": 2 / 3, "½": 0.5, "¼": 0.25, "¾": 0.75}


class Number(NamedTuple):
    """A number at tokens `[first, last)`. `spelled`: in words; `decade`: 10 for "sixties", else 0."""

    first: int
    last: int
    values: tuple[float, ...]
    cardinals: tuple[float, ...]
    spelled: bool
    ordinal: bool = False
    decade: int = 0


def read_numbers(tokens: Sequence[Token]) -> dict[int, Number]:
    """Every number of the text, in digits or words, by the index of its first token; they do not overlap."""
    numbers: dict[int, Number] = {}
    starts = _starts()
    i = 0
    while i < len(tokens):
        token = tokens[i]
        if token.kind == "num":
            found = [_written(tokens, i)]
        elif token.kind == "word" and token.text in starts:
            found = _spoken(tokens, i)
        else:
            found = []
        for number in found:
            numbers[number.first] = number
        i = found[-1].last if found else i + 1
    return numbers


@lru_cache(maxsize=1)
def _starts() -> frozenset[str]:
    cardinals = {*DIGITS, *TEENS, *TENS, *MISSPELT, *SCALES, *ORDINALS, *DECADES, *ZEROS}
    return frozenset(cardinals | {"point", "a", *TIMES, *PARTS})


def _written(tokens: Sequence[Token], i: int) -> Number:
    text = tokens[i].text
    if text in WRITTEN_FRACTIONS:
        return _single(i, i + 1, WRITTEN_FRACTIONS[text])._replace(spelled=False)
    value = float(text.rstrip("stndrh'’").replace(",", ""))
    decade = 10 if text.endswith("s") and value % 10 == 0 else 0
    ordinal = text[-2:] in ("st", "nd", "rd", "th")
    last = i + 1
    if not ordinal and not decade:
        if tokens[last].text in SCALES:
            value, last = value * SCALES[tokens[last].text], last + 1
        fraction, last = _and_a_fraction(tokens, last)
        value += fraction
    return Number(i, last, (value,), (value,), False, ordinal, decade)


def _spoken(tokens: Sequence[Token], i: int) -> list[Number]:
    """The numbers in the run of number words that begins at token i; empty if they are not numbers ("no one")."""
    special = _special(tokens, i)
    if special is not None:
        return special
    cardinals: list[Cardinal] = []
    last = i
    while (cardinal := cardinal_at(tokens, last)) is not None and (not cardinals or _joined(tokens, last)):
        cardinals.append(cardinal)
        last = cardinal.last
    if not cardinals or _is_pronoun(tokens, i, cardinals):
        return []
    *before, number = _combine(_in_pairs(cardinals))
    whole = number.values[0]
    part, end = _decimals(tokens, last)
    if not part:
        part, end = _and_a_fraction(tokens, last)
    if part:
        return [*before, _single(number.first, end, whole + part)]
    if (detached := _detached_decimal(tokens, last)) is not None:
        readings = (float(f"{int(whole)}.{int(detached.value)}"), *number.values, detached.value)
        return [*before, Number(number.first, detached.last, readings, readings[:1], True)]
    return [*before, number]


def _in_pairs(cardinals: Sequence[Cardinal]) -> Sequence[Cardinal]:
    """Regroups the range "one thirty one forty" from 1, 31, 40 into 1, 30, 1, 40; other cardinals stay."""
    if len(cardinals) != 3:
        return cardinals
    first, middle, last = cardinals
    if not (first.value < 10 and 20 < middle.value < 100 and 10 <= last.value < 100):
        return cardinals
    tens, unit = divmod(int(middle.value), 10)
    low, high = 100 * first.value + 10 * tens, 100 * unit + last.value
    if not unit or not low < high <= low + 100:
        return cardinals
    thirty = Cardinal(middle.first, middle.first + 1, 10 * tens)
    return [first, thirty, Cardinal(middle.first + 1, middle.last, unit), last]


def _joined(tokens: Sequence[Token], i: int) -> bool:
    """Whether only blanks or a hyphen separate token i from the one before."""
    return not tokens[i].gap.strip(" -")


def _special(tokens: Sequence[Token], i: int) -> list[Number] | None:
    """Numbers with a fixed reading; [] for words that only look like numbers; None for an ordinary run of numbers."""
    word, after = tokens[i].text, tokens[i + 1].text
    if word in CENTURIES and after in DECADES and _joined(tokens, i + 1):
        return [_single(i, i + 2, CENTURIES[word] + DECADES[after])._replace(decade=10)]
    if word in DECADES:
        return [_single(i, i + 1, DECADES[word])._replace(decade=10)]
    if word in TIMES:
        return [_single(i, i + 1, TIMES[word])]
    if word == "point":
        decimals, last = _decimals(tokens, i)
        return [_single(i, last, decimals)] if decimals else []
    if word == "a" and after in SCALES:
        numbers = _spoken(tokens, i + 1)  # "a hundred and two point four"
        return [numbers[0]._replace(first=i), *numbers[1:]] if numbers else []
    if word == "a":
        return _part_word(tokens, i, i + 1) if after in PARTS else []
    if word in PARTS:
        return _part_word(tokens, i, i)
    if word in ZEROS:
        small = small_at(tokens, i + 1)
        return [] if small is None or small.ordinal else None
    if word in DIGITS and after in FRACTIONS and after.endswith("s") == (word != "one") and _joined(tokens, i + 1):
        return [_single(i, i + 2, DIGITS[word] * FRACTIONS[after])]  # "three quarters"; "two half brothers" are two
    if word in DIGITS and after == "dozen":
        return [_single(i, i + 2, DIGITS[word] * 12)]
    return None


def _part_word(tokens: Sequence[Token], first: int, i: int) -> list[Number]:
    """ "half a dozen", "a couple of", "a quarter"; `i` is the word, `first` the article before it or `i`."""
    word, after = tokens[i].text, tokens[i + 1].text
    if word == "half" and after in ("a", "of") and tokens[i + 2].text == "dozen":
        return [_single(first, i + 3, 6)]
    if word == "couple" and first == i and after not in ("of", "more") and after not in units():
        return []
    if word == "half" and after.startswith(("brother", "sister", "sibling", "way")):
        return []
    return [_single(first, i + 1 + (word in ("couple", "dozen") and after == "of"), PARTS[word])]


def _single(first: int, last: int, value: float) -> Number:
    return Number(first, last, (float(value),), (float(value),), True)


def _is_pronoun(tokens: Sequence[Token], i: int, cardinals: Sequence[Cardinal]) -> bool:
    """ "no one", "one of", "each one": "one" is no number."""
    if len(cardinals) > 1 or tokens[i].text != "one":
        return False
    before, after = tokens[i - 1].text if i else "", tokens[i + 1]
    if before in ("no", "any", "every", "some", "another", "each", "which"):
        return before == "no" or after.kind != "word" or not (after.text in units() or after.text in ("or", "to"))
    return after.text == "of"


def _combine(cardinals: Sequence[Cardinal]) -> list[Number]:
    """Combine adjacent cardinals as in speech; the parts of a combined number are further readings of it."""
    numbers = []
    k = 0
    while k < len(cardinals):
        size, values = joint_reading(cardinals[k : k + MAX_SPOKEN_DIGITS])
        chosen = cardinals[k : k + size]
        parts = tuple(g.value for g in chosen)
        ordinal = size == 1 and chosen[0].ordinal
        decimal = len(parts) == 2 and values == (parts[0] + parts[1] / 10,)  # "ninety eight six" is neither 98 nor 6
        readings = values if decimal else (*values, *parts)
        numbers.append(Number(chosen[0].first, chosen[-1].last, readings, parts, True, ordinal))
        k += size
    return numbers


def _detached_decimal(tokens: Sequence[Token], i: int) -> Cardinal | None:
    """The number after a detached point at token i, as some transcripts have it: "two [. five] milligrams".

    The point may also end a sentence, so the numbers on both sides stay readings: "I am thirty . two years ago ...".
    """
    is_detached = tokens[i].text == "." and tokens[i].gap == " " and tokens[i + 1].gap == " "
    part = small_at(tokens, i + 1) if is_detached else None
    return part if part is not None and not part.ordinal else None


def _decimals(tokens: Sequence[Token], i: int) -> tuple[float, int]:
    """ "point six", "point one twenty five" at token i -> (0.6 or 0.125, the token after); (0.0, i) if none."""
    if tokens[i].text not in ("point", "dot"):
        return 0.0, i
    digits, last = "", i + 1
    while _joined(tokens, last) and (part := small_at(tokens, last)) is not None and not part.ordinal:
        digits += str(int(part.value))
        last = part.last
    return (float(f"0.{digits}"), last) if digits else (0.0, i)


def _and_a_fraction(tokens: Sequence[Token], i: int) -> tuple[float, int]:
    """ "and a half", "and one quarter", "and three quarters", " 1/2" at token i -> its value and the token after."""
    if tokens[i].text in WRITTEN_FRACTIONS:
        return WRITTEN_FRACTIONS[tokens[i].text], i + 1
    if tokens[i].text not in ("and", "n"):
        return 0.0, i
    counts = {"a": 1, "one": 1, "two": 2, "three": 3}
    if tokens[i + 1].text in counts and tokens[i + 2].text in FRACTIONS:
        return counts[tokens[i + 1].text] * FRACTIONS[tokens[i + 2].text], i + 3
    return (0.5, i + 2) if tokens[i + 1].text == "half" else (0.0, i)
