"""Numbers of clinical speech and writing. text2num turns one cardinal into its value; the grammar over it is ours.

What speech leaves open stays open: "one fifty" may be 150, or 1 and 50; "twenty twenty" 2020, or 20 and 20.
`Number.values` lists the readings, the likeliest first; `groups` are the cardinals as they were said.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from medsum_core.facts.tokens import Token
from medsum_core.facts.words import units


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
}
DECADES = {
    **{f"{w[:-1]}ies": value for w, value in TENS.items()},
    **{f"{w}{end}": value for w, value in TENS.items() for end in ("s", "'s", "’s")},
}
FRACTIONS = {"half": 0.5, "quarter": 0.25, "quarters": 0.25, "halves": 0.5, "thirds": 1 / 3}
GLYPHS = {"½": 0.5, "¼": 0.25, "¾": 0.75}
ZEROS = {"oh", "o"}


class Number(NamedTuple):
    """A number at tokens `[first, last)`. `decade` is 10 for "sixties", else 0."""

    first: int
    last: int
    values: tuple[float, ...]
    groups: tuple[float, ...]
    spelled: bool
    ordinal: bool = False
    decade: int = 0


class _Group(NamedTuple):
    first: int
    last: int
    value: float
    ordinal: bool = False


def read_numbers(tokens: Sequence[Token]) -> dict[int, Number]:
    """Every number of the text by the index of its first token, digits and words alike; they do not overlap."""
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
    singles = {"point", "a", "dozen", "couple", "once", "twice", "thrice", "half", "quarter"}
    return frozenset({*DIGITS, *TEENS, *TENS, *MISSPELT, *SCALES, *ORDINALS, *DECADES, *ZEROS, *singles})


def _written(tokens: Sequence[Token], i: int) -> Number:
    text = tokens[i].text
    if text in GLYPHS:
        return Number(i, i + 1, (GLYPHS[text],), (GLYPHS[text],), False)
    digits = text.rstrip("stndrh'’")
    value = float(digits.replace(",", ""))
    decade = 10 if text.endswith("s") and value % 10 == 0 else 0
    ordinal = text[-2:] in ("st", "nd", "rd", "th")
    last = i + 1
    if not ordinal and not decade and tokens[last].text in SCALES:
        value, last = value * SCALES[tokens[last].text], last + 1
    if not ordinal and not decade:
        fraction, last = _and_a_fraction(tokens, last)
        value += fraction
    return Number(i, last, (value,), (value,), False, ordinal, decade)


def _spoken(tokens: Sequence[Token], i: int) -> list[Number]:
    """The numbers of the run of number words that begins at token i; none if these words count nothing."""
    special = _special(tokens, i)
    if special is not None:
        return special
    groups: list[_Group] = []
    last = i
    while (group := _group(tokens, last)) is not None and (not groups or tokens[last].gap.strip(" -") == ""):
        groups.append(group)
        last = group.last
    if not groups or _is_pronoun(tokens, i, groups):
        return []
    numbers = _combine(groups)
    decimals, last = _decimals(tokens, last)
    fraction, last = _and_a_fraction(tokens, last) if not decimals else (0.0, last)
    if decimals or fraction:
        whole = numbers[-1].values[0]
        numbers[-1] = Number(
            numbers[-1].first, last, (whole + decimals + fraction,), (whole + decimals + fraction,), True
        )
    return numbers


def _special(tokens: Sequence[Token], i: int) -> list[Number] | None:
    """Words with a fixed reading, and words that only look like numbers ([]); None: an ordinary run begins here."""
    word, after = tokens[i].text, tokens[i + 1].text
    if word in DECADES:
        return [Number(i, i + 1, (DECADES[word],), (DECADES[word],), True, False, 10)]
    if word in ("once", "twice", "thrice"):
        return [_single(i, i + 1, {"once": 1, "twice": 2, "thrice": 3}[word])]
    if word == "point":
        decimals, last = _decimals(tokens, i)
        return [_single(i, last, decimals)] if decimals else []
    if word == "a":
        return _after_article(tokens, i)
    if word in ("half", "quarter", "dozen", "couple"):
        return _fraction_word(tokens, i, i)
    if word in ZEROS and not _is_small(after):
        return []
    if word == "no" or (word == "zero" and after == "point"):
        decimals, last = _decimals(tokens, i + 1)
        return [_single(i, last, decimals)] if decimals else None
    if _counts_fraction(word, after) and tokens[i + 1].gap.strip(" -") == "" and not _is_half_kin(tokens[i + 2].text):
        return [_single(i, i + 2, DIGITS[word] * FRACTIONS[after])]
    if word in DIGITS and after == "dozen":
        return [_single(i, i + 2, DIGITS[word] * 12)]
    return None


def _counts_fraction(word: str, after: str) -> bool:
    """ "one half", "three quarters"; "two half brothers" are two."""
    return word in DIGITS and after in FRACTIONS and (after.endswith("s") == (word != "one"))


def _is_half_kin(word: str) -> bool:
    return word.startswith(("brother", "sister", "sibling"))


def _after_article(tokens: Sequence[Token], i: int) -> list[Number]:
    after = tokens[i + 1].text
    if after in ("half", "quarter", "dozen", "couple"):
        return _fraction_word(tokens, i, i + 1)
    if after in SCALES and (group := _group(tokens, i + 1)) is not None:
        return [_single(i, group.last, group.value)]
    return []


def _fraction_word(tokens: Sequence[Token], first: int, i: int) -> list[Number]:
    """ "half a dozen", "a couple of", "a quarter"; `i` is the word, `first` the article before it or `i`."""
    word, after = tokens[i].text, tokens[i + 1].text
    if word == "half" and after in ("a", "of") and tokens[i + 2].text in ("dozen",):
        return [_single(first, i + 3, 6)]
    if word == "couple" and first == i and after not in ("of", "more") and after not in units():
        return []
    if word == "half" and (_is_half_kin(after) or after == "way"):
        return []
    value = {"half": 0.5, "quarter": 0.25, "dozen": 12, "couple": 2}[word]
    last = i + 2 if word in ("couple", "dozen") and after == "of" else i + 1
    return [_single(first, last, value)]


def _single(first: int, last: int, value: float) -> Number:
    return Number(first, last, (float(value),), (float(value),), True)


def _is_small(word: str) -> bool:
    return word in DIGITS or word in TEENS or word in TENS or word in ZEROS or word in MISSPELT


def _is_pronoun(tokens: Sequence[Token], i: int, groups: Sequence[_Group]) -> bool:
    """ "no one", "one of", "each one": no count is said."""
    if len(groups) > 1 or tokens[i].text != "one":
        return False
    before, after = tokens[i - 1].text if i else "", tokens[i + 1]
    if before in ("no", "any", "every", "some", "another", "each", "which"):
        return before == "no" or after.kind != "word" or not (after.text in units() or after.text in ("or", "to"))
    return after.text == "of"


def _group(tokens: Sequence[Token], i: int) -> _Group | None:
    """One cardinal or ordinal at token i, as long as it can be read as one: "one hundred and eighty three"."""
    words: list[str] = []
    last, ordinal = i, False
    ceiling = 10**9  # the next part must be smaller than this
    if tokens[i].text in SCALES:  # "hundred and five", said without its "one"
        last, ceiling = _scales(tokens, i, words, ceiling)
    while not ordinal:
        joined = last == i or tokens[last].gap.strip(" -") == ""
        part = _small(tokens, last) if joined else None
        if part is None and words and words[-1] in SCALES and tokens[last].text == "and" and tokens[last].gap == " ":
            part = _small(tokens, last + 1)
        if part is None or part.value >= ceiling:
            break
        words += _cardinal_words(tokens, part)
        last, ordinal = part.last, part.ordinal
        last, ceiling = _scales(tokens, last, words, ceiling)
        if words[-1] not in SCALES:
            break
    return _Group(i, last, float(_value(tuple(words))), ordinal) if words else None


def _scales(tokens: Sequence[Token], last: int, words: list[str], ceiling: int) -> tuple[int, int]:
    """Take "hundred", "thousand" after a part; what may follow is below the scale taken."""
    while tokens[last].text in SCALES and SCALES[tokens[last].text] < ceiling and tokens[last].gap.strip(" -") == "":
        scale = SCALES[tokens[last].text]
        if words and words[-1] in SCALES and scale <= SCALES[words[-1]]:
            break
        words.append(tokens[last].text)
        last += 1
    return last, min(ceiling, SCALES[words[-1]]) if words and words[-1] in SCALES else 1


def _small(tokens: Sequence[Token], i: int) -> _Group | None:
    """0 to 99 at token i: "seventy six", "nineteen", "twenty first"."""
    word = MISSPELT.get(tokens[i].text, tokens[i].text)
    if word in ZEROS:
        return _Group(i, i + 1, 0.0)
    if word in ORDINALS:
        return _Group(i, i + 1, float(_value((ORDINALS[word],))), True)
    if word in DIGITS or word in TEENS:
        return _Group(i, i + 1, float(_value((word,))))
    if word not in TENS:
        return None
    after = tokens[i + 1]
    if after.gap.strip(" -") == "" and after.text != "zero":
        unit = ORDINALS.get(after.text, after.text)
        if unit in DIGITS:
            return _Group(i, i + 2, float(_value((word, unit))), after.text in ORDINALS)
    return _Group(i, i + 1, float(_value((word,))))


def _cardinal_words(tokens: Sequence[Token], part: _Group) -> list[str]:
    words = [MISSPELT.get(t.text, t.text) for t in tokens[part.first : part.last]]
    return ["zero" if w in ZEROS else ORDINALS.get(w, w) for w in words]


@lru_cache(maxsize=4096)
def _value(words: tuple[str, ...]) -> int:
    from text_to_num import text2num

    return text2num(" ".join(words), "en")


def _combine(groups: Sequence[_Group]) -> list[Number]:
    """Neighbouring cardinals as speech joins them; each joint reading keeps its parts as further readings."""
    numbers = []
    k = 0
    while k < len(groups):
        size, values = _joint(groups[k:])
        chosen = groups[k : k + size]
        parts = tuple(g.value for g in chosen)
        ordinal = size == 1 and chosen[0].ordinal
        numbers.append(Number(chosen[0].first, chosen[-1].last, (*values, *parts), parts, True, ordinal))
        k += size
    return numbers


def _joint(groups: Sequence[_Group]) -> tuple[int, tuple[float, ...]]:
    """How many of the first groups are said as one number, and its readings (none for a single cardinal)."""
    plain = 0
    while plain < len(groups) and not groups[plain].ordinal and groups[plain].value < 100:
        plain += 1
    values = [int(group.value) for group in groups[:plain]]
    digits = 0
    while digits < plain and values[digits] < 10:
        digits += 1
    if plain >= 3 and values[0] in (18, 19, 20) and values[1] == 0 and values[2] < 10:  # nineteen oh five
        return 3, (values[0] * 100.0 + values[2],)
    if digits >= 2 and values[0] == 0 and digits == 2:  # oh eight
        return 2, (2000.0 + values[1], 1900.0 + values[1])
    if digits >= 2:  # five oh four
        return digits, (float("".join(map(str, values[:digits]))),)
    if plain < 2 or values[1] < 10:
        if plain >= 2 and 90 <= values[0] <= 110:  # ninety eight six
            return 2, (values[0] + values[1] / 10,)
        return 1, ()
    if values[0] == 0:
        return 1, ()
    return 2, (values[0] * 100.0 + values[1],)  # one fifty; nineteen eighty four; seven thirty


def _decimals(tokens: Sequence[Token], i: int) -> tuple[float, int]:
    """ "point six", "point one twenty five" at token i -> (0.6 or 0.125, the token after); (0.0, i) if none."""
    if tokens[i].text not in ("point", "dot") or tokens[i].kind != "word":
        return 0.0, i
    digits, last = "", i + 1
    while tokens[last].gap.strip(" -") == "" and (part := _small(tokens, last)) is not None and not part.ordinal:
        digits += str(int(part.value))
        last = part.last
    return (float(f"0.{digits}"), last) if digits else (0.0, i)


def _and_a_fraction(tokens: Sequence[Token], i: int) -> tuple[float, int]:
    """ "and a half", "and one quarter", "and three quarters", " 1/2" at token i -> its value and the token after."""
    if tokens[i].kind == "slash" and tokens[i].text in ("1/2", "1/4", "3/4", "1/3", "2/3"):
        top, bottom = tokens[i].text.split("/")
        return int(top) / int(bottom), i + 1
    if tokens[i].text in GLYPHS:
        return GLYPHS[tokens[i].text], i + 1
    if tokens[i].text not in ("and", "n"):
        return 0.0, i
    counts = {"a": 1, "one": 1, "two": 2, "three": 3}
    if tokens[i + 1].text in counts and tokens[i + 2].text in FRACTIONS:
        return counts[tokens[i + 1].text] * FRACTIONS[tokens[i + 2].text], i + 3
    if tokens[i + 1].text == "half":
        return 0.5, i + 2
    return 0.0, i
