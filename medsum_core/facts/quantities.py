"""Numbers with what they measure: ages, durations, doses, measurements, pressures, scores, counts of things."""

from __future__ import annotations

from medsum_core.facts.anatomy import KIN, NOT_COUNTED, STOPWORDS, stem
from medsum_core.facts.mention import Mention, Scan
from medsum_core.facts.spoken_numbers import FRACTIONS, Number
from medsum_core.facts.tokens import bag
from medsum_core.facts.words import DAYS_PER_YEAR, PERIODS, SPELLED_UNITS, Unit, units

FILLERS = bag("more full whole straight additional long solid consecutive extra good or so and some")
FORMS = bag("tablet tablets tab tabs pill pills capsule capsules dose doses patch patches")
BEFORE_DURATION = bag("for past last within these previous next another during")
AFTER_DURATION = bag("ago history later prior before duration earlier course h worth back apart")
RANGE_WORDS = frozenset(("to", "or", "through", "and"))
POSSESSIVES = bag("his her their my your our early mid late the s")
Reading = tuple[list[Mention], int]
NO_NOUNS = frozenset((*PERIODS, *FRACTIONS))
YEAR = Unit("time", DAYS_PER_YEAR, "age", "year")


def quantity_at(scan: Scan, i: int) -> Reading | None:
    """The mentions of the number at token i and the token to go on from; None where no number begins."""
    number = scan.numbers.get(i)
    if number is None:
        return None
    for reader in (_pair, _measured, _bare_age):
        reading = reader(scan, number)
        if reading is not None:
            return reading
    return plain_at(scan, number)


def _pair(scan: Scan, number: Number) -> Reading | None:
    """ "one thirty over eighty", "three out of ten"."""
    j = number.last
    if scan.word(j) in ("over", "by", "on") and (lower := scan.numbers.get(j + 1)) is not None:
        pair = pair_mentions(scan, number.first, lower.last, number.values, lower.values)
        return pair if scan.word(j) == "over" or pair[0][0].kind == "pressure" else None
    if scan.word(j) == "out" and scan.word(j + 1) == "of" and (whole := scan.numbers.get(j + 2)) is not None:
        return pair_mentions(scan, number.first, whole.last, number.values, whole.values)
    return None


def pair_mentions(scan: Scan, first: int, last: int, tops: tuple[float, ...], bottoms: tuple[float, ...]) -> Reading:
    """A pressure where the values can be one, otherwise a score ("3 out of 10")."""
    pressures = [(top, bottom) for top in tops for bottom in bottoms if 50 <= top <= 300 and 20 <= bottom < top]
    if pressures:
        return [scan.mention(first, last, "pressure", "pressure", pressures, raw=(*tops, *bottoms))], last
    pairs = [(top, bottom) for top in tops for bottom in bottoms]
    return [scan.mention(first, last, "number", "ratio", pairs, raw=tops)], last


def unit_at(scan: Scan, j: int, *, fraction: bool = False) -> tuple[Unit, int] | None:
    """The unit that the number ending before token j has, and the token after it.

    Words such as "more", "full" may stand between; `fraction`: also "a", "an", "of an" ("half an hour"). A range gives
    its unit to both ends: "two to three weeks".
    """
    for _ in range(3):
        if scan.word(j) in FILLERS or (fraction and scan.word(j) in ("a", "an", "of", "the")):
            j += 1
    word = scan.word(j)
    if (unit := units().get(word)) is not None:
        return unit, j + 1
    for size in (2, 3):
        spelled = tuple(scan.word(j + k) for k in range(size))
        if spelled in SPELLED_UNITS:
            return units()[SPELLED_UNITS[spelled]], j + size
    return None


def _range_end(scan: Scan, number: Number) -> Number | None:
    """The other end of a range or an enumeration that begins with `number`: "2-3", "two or three"."""
    j = number.last
    if scan.word(j) in RANGE_WORDS:
        return scan.numbers.get(j + 1)
    other = scan.numbers.get(j)
    return other if other is not None and scan.tokens[j].gap.strip(" ") in ("-", "–") else None


def _measured(scan: Scan, number: Number) -> Reading | None:
    small = number.values[0] < 1
    found = unit_at(scan, number.last, fraction=small)
    end = number
    while found is None and (other := _range_end(scan, end)) is not None:
        end = other
        found = unit_at(scan, end.last)
        if scan.word(end.first - 1) == "and" and not (found and found[0].dim == "time" and scan.spoken):
            break
    if found is None or number.ordinal:
        return None
    unit, last = found
    own_last = last if end is number else number.last
    values = _with_unit(scan, number, last)
    marks: set[str] = set()
    if unit.dim == "time" and end is number:
        half, own_last = half_after(scan, last)
        values = tuple(value + half for value in values)
    if "couple" in (scan.word(number.first), scan.word(number.first + 1)):
        marks.add("couple")
    age_last = _age_end(scan, max(own_last, last)) if unit.dim == "time" else None
    compound = unit.name == "year" and age_last is None and _compound_age(scan, last)
    kind = unit.kind
    if age_last is not None or compound or (unit.name == "year" and _after_age_word(scan, number.first)):
        kind = "age"
        marks.add("age")
        own_last = age_last if age_last is not None and end is number else own_last
    elif unit.dim == "time" and (
        _before(scan, number.first) in BEFORE_DURATION or scan.word(own_last) in AFTER_DURATION
    ):
        marks.add("duration")
    mention = scan.mention(
        number.first,
        own_last,
        kind,
        unit.dim,
        tuple(value * unit.factor for value in values),
        raw=values,
        unit=unit.name,
        marks=frozenset(marks),
    )
    return [mention], own_last


def _with_unit(scan: Scan, number: Number, after_unit: int) -> tuple[float, ...]:
    """A unit settles "one fifty milligrams" as 150; "one fifty milligram tablet" stays open."""
    if len(number.groups) == 1:
        return number.values
    joint = number.values[: len(number.values) - len(number.groups)]
    return (*joint, number.groups[-1]) if scan.word(after_unit) in FORMS else joint


def half_after(scan: Scan, j: int) -> tuple[float, int]:
    """ "a year [and a half]": what is added and the token after."""
    if (
        scan.word(j) == "and"
        and scan.word(j + 1) in ("a", "half", "one")
        and "half" in (scan.word(j + 1), scan.word(j + 2))
    ):
        return 0.5, j + 2 if scan.word(j + 1) == "half" else j + 3
    return 0.0, j


def _age_end(scan: Scan, j: int) -> int | None:
    """Where "old", "of age" after a time unit end; None if they do not follow."""
    if scan.word(j) in ("old", "olds", "young"):
        return j + 1
    return j + 2 if scan.word(j) == "of" and scan.word(j + 1) == "age" else None


def _compound_age(scan: Scan, j: int) -> bool:
    """Whether months "old" follow years: "5-year, 8-month-old"."""
    k = j + 1 if scan.word(j) in (",", "and") else j
    months = scan.numbers.get(k)
    found = unit_at(scan, months.last) if months is not None else None
    return found is not None and found[0].name == "month" and _age_end(scan, found[1]) is not None


def _before(scan: Scan, i: int) -> str:
    """The word before token i, past "about", "the" and the like."""
    while scan.word(i - 1) in (
        "about",
        "approximately",
        "the",
        "over",
        "roughly",
        "almost",
        "nearly",
        "around",
        "least",
        "at",
    ):
        i -= 1
    return scan.word(i - 1)


def _after_age_word(scan: Scan, i: int) -> bool:
    """Whether token i follows "age", "aged", "age of", "ages 60 and"."""
    k = i - 1
    for _ in range(4):
        if (
            scan.word(k) in ("of", ":", ",", "and", "about", "at", "approximately", "around", "was", "is")
            or k in scan.numbers
        ):
            k -= 1
    return scan.word(k) in ("age", "aged", "ages")


def _bare_age(scan: Scan, number: Number) -> Reading | None:
    """ "age 34", "67 y/o", "67yo", "in his 60s"."""
    j = number.last
    last = None
    if scan.word(j) in ("yo", "y") and not number.ordinal:
        words = [scan.word(j + k) for k in range(1, 3)]
        last = j + 1 if scan.word(j) == "yo" else (j + 3 if words[0] in ("/", ".") and words[1] == "o" else None)
    in_decade = number.decade and number.values[0] < 120 and scan.word(number.first - 1) in POSSESSIVES
    if last is None and not in_decade and not (_after_age_word(scan, number.first) and not number.ordinal):
        return None
    counts = counted_noun(scan, j, small=False) or stem(scan.word(j)) in KIN  # "died at age 53, 2 brothers are well"
    if number.values[0] > 120 or (last is None and counts):
        return None
    last = last or j
    values = tuple(value * DAYS_PER_YEAR for value in number.values if value <= 120)
    marks = frozenset({"age", "decade"} if number.decade else {"age"})
    mention = scan.mention(number.first, last, "age", "time", values, raw=number.values, unit="year", marks=marks)
    return [mention], last


def plain_at(scan: Scan, number: Number) -> Reading:
    marks = set()
    if number.decade:
        marks.add("decade")
    if number.ordinal:
        marks.add("ordinal")
    noun = "" if number.ordinal else counted_noun(scan, number.last, small=number.values[0] <= 1)
    if scan.word(number.last) == "times" or scan.word(number.last - 1) in ("twice", "thrice"):
        noun = "time"
    if scan.spoken and scan.word(number.first - 1) in ("be", "turning", "turn"):
        marks.add("upcoming")
    mention = scan.mention(
        number.first, number.last, "number", "", number.values, raw=number.values, noun=noun, marks=frozenset(marks)
    )
    return [mention], number.last


def counted_noun(scan: Scan, j: int, *, small: bool) -> str:
    """The stem of the plural that the number before token j counts: "three grown children" -> "child"; "" if none.

    `small`: one or less, so that a singular right after it counts too ("half a pack").
    """
    for k in range(j, j + 3):
        token = scan.tokens[min(k, len(scan.tokens) - 1)]
        if small and token.text in ("a", "an", "of", "the"):
            continue
        if (
            token.kind != "word"
            or token.text in STOPWORDS
            or token.text in PERIODS
            or not scan.glued(k)
            or token.text in FRACTIONS
        ):
            return ""
        singular = stem(token.text)
        compound = k == j and "-" in token.gap  # "four-pillow orthopnea"
        if small or compound or (singular != token.text and token.text not in NOT_COUNTED and "'" not in token.text):
            return singular
    return ""
