"""Spoken cardinals: where each ends, and adjacent ones that form one number ("nineteen eighty four").

text2num converts the words of one cardinal into its value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from medsum_core.grounding.facts.tokens import Token


def _numbered(words: str, start: int, *, step: int = 1) -> dict[str, int]:
    return {word: start + step * k for k, word in enumerate(words.split())}


DIGITS = _numbered("zero one two three four five six seven eight nine", 0)
TEENS = _numbered("ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen", 10)
TENS = _numbered("twenty thirty forty fifty sixty seventy eighty ninety", 20, step=10)
MISSPELT = {"fourty": "forty", "ninty": "ninety", "fourtheen": "fourteen", "fifthteen": "fifteen"}
SCALES = {"hundred": 100, "thousand": 1000, "million": 1000000}
_ORDINAL_DIGITS = _numbered("first second third fourth fifth sixth seventh eighth ninth", 1)
ORDINALS = {
    **{word: list(DIGITS)[value] for word, value in _ORDINAL_DIGITS.items()},
    **{("twelfth" if w == "twelve" else f"{w}th"): w for w in TEENS},
    **{f"{w[:-1]}ieth": w for w in TENS},
    "nineth": "nine",
}
ZEROS = {"oh", "o"}
MAX_SPOKEN_DIGITS = 15  # of one number spoken digit by digit; longer ones are telephone numbers


class Cardinal(NamedTuple):
    """One cardinal or ordinal at tokens `[first, last)`."""

    first: int
    last: int
    value: float
    ordinal: bool = False


def cardinal_at(tokens: Sequence[Token], i: int) -> Cardinal | None:
    """The longest cardinal or ordinal that begins at token i: "one hundred and eighty three"."""
    words: list[str] = []
    last, ordinal = _scales(tokens, i, words, 10**9), False  # "hundred and five" without "one"
    while not ordinal and (not words or words[-1] in SCALES):
        part = small_at(tokens, last) if last == i or not tokens[last].gap.strip(" -") else None
        if part is None and words and tokens[last].text == "and":
            part = small_at(tokens, last + 1)
        if part is None:
            break
        ceiling = SCALES[words[-1]] if words else 10**9
        words += _cardinal_words(tokens, part)
        ordinal = part.ordinal
        last = _scales(tokens, part.last, words, ceiling)
    value = _value(tuple(words)) if words else math.nan
    return None if math.isnan(value) else Cardinal(i, last, value, ordinal)


def _scales(tokens: Sequence[Token], last: int, words: list[str], ceiling: int) -> int:
    """Append "hundred", "thousand", each below `ceiling`, to `words`; returns the token after them."""
    while SCALES.get(tokens[last].text, ceiling) < ceiling and not (words and tokens[last].gap.strip(" -")):
        words.append(tokens[last].text)
        last += 1
    return last


def small_at(tokens: Sequence[Token], i: int) -> Cardinal | None:
    """0 to 99 at token i: "seventy six", "nineteen", "twenty first"."""
    word = MISSPELT.get(tokens[i].text, tokens[i].text)
    if word in ZEROS:
        return Cardinal(i, i + 1, 0.0)
    if word in ORDINALS:
        return Cardinal(i, i + 1, _value((ORDINALS[word],)), True)
    if word in DIGITS or word in TEENS:
        return Cardinal(i, i + 1, _value((word,)))
    if word not in TENS:
        return None
    after = tokens[i + 1]
    if not after.gap.strip(" -") and after.text != "zero":
        unit = ORDINALS.get(after.text, after.text)
        if unit in DIGITS:
            return Cardinal(i, i + 2, _value((word, unit)), after.text in ORDINALS)
    return Cardinal(i, i + 1, _value((word,)))


def _cardinal_words(tokens: Sequence[Token], part: Cardinal) -> list[str]:
    words = [MISSPELT.get(t.text, t.text) for t in tokens[part.first : part.last]]
    return ["zero" if w in ZEROS else ORDINALS.get(w, w) for w in words]


@lru_cache(maxsize=4096)
def _value(words: tuple[str, ...]) -> float:
    """The value of number words; NaN if they form no number ("million zero")."""
    from text_to_num import text2num

    try:
        return float(text2num(" ".join(words), "en"))
    except (ValueError, OverflowError):
        return math.nan


def joint_reading(cardinals: Sequence[Cardinal]) -> tuple[int, tuple[float, ...]]:
    """How many of the first cardinals form one number, and its readings (none for a single cardinal)."""
    plain = 0
    while plain < len(cardinals) and not cardinals[plain].ordinal and cardinals[plain].value < 100:
        plain += 1
    values = [int(cardinal.value) for cardinal in cardinals[:plain]]
    digits = 0
    while digits < min(plain, MAX_SPOKEN_DIGITS) and values[digits] < 10:
        digits += 1
    if plain >= 3 and values[0] in (18, 19, 20) and values[1] == 0 and values[2] < 10:  # nineteen oh five
        return 3, (values[0] * 100.0 + values[2],)
    if digits == 2 and values[0] == 0:  # oh eight
        return 2, (2000.0 + values[1], 1900.0 + values[1])
    if digits >= 2:  # five oh four
        return digits, (float("".join(map(str, values[:digits]))),)
    if plain < 2 or values[1] < 10:
        if plain >= 2 and 90 <= values[0] <= 110:  # ninety eight six
            return 2, (values[0] + values[1] / 10,)
        return 1, ()
    return 2, (values[0] * 100.0 + values[1],)  # one fifty; nineteen eighty four; seven thirty
