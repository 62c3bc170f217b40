"""Numbers with what they measure: ages, durations, doses, measurements, pressures, scores, counts of things."""

from __future__ import annotations

from medsum_core.grounding.facts.after_number import Reading, counted_noun, half_after, unit_at
from medsum_core.grounding.facts.ages import after_age_word, age_end, bare_age, compound_age
from medsum_core.grounding.facts.mention import Scan
from medsum_core.grounding.facts.spoken_numbers import Number
from medsum_core.grounding.facts.tokens import bag

FORMS = bag("tablet tablets tab tabs pill pills capsule capsules dose doses patch patches")
BEFORE_DURATION = bag("for past last within these previous next another during")
AFTER_DURATION = bag("ago history later prior before duration earlier course h worth back apart")
ORDERED = bag("trimester pregnancy degree grade toe finger digit metatarsal metacarpal rib intercostal cranial cycle")
RANGE_WORDS = frozenset(("to", "or", "through", "and"))


def quantity_at(scan: Scan, i: int) -> Reading | None:
    """The mentions of the number at token i and the token to continue from; None where no number begins."""
    number = scan.numbers.get(i)
    if number is None:
        return None
    for reader in (_pair, _measured, bare_age):
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
    if scan.spoken and number.values[0] == 1 and scan.word(j) == "to":
        return _titre(scan, number, scan.numbers.get(j + 1))
    if scan.word(j) == "out" and scan.word(j + 1) == "of" and (whole := scan.numbers.get(j + 2)) is not None:
        return pair_mentions(scan, number.first, whole.last, number.values, whole.values)
    return None


def _titre(scan: Scan, number: Number, other: Number | None) -> Reading | None:
    """ "one to forty" as a dilution: too wide for a range."""
    if other is None or other.values[0] < 10 or unit_at(scan, other.last) is not None:
        return None
    return [scan.mention(number.first, other.last, "number", "ratio", [(1.0, v) for v in other.values])], other.last


def pair_mentions(scan: Scan, first: int, last: int, tops: tuple[float, ...], bottoms: tuple[float, ...]) -> Reading:
    """A pressure where the values are plausible, otherwise a score ("3 out of 10")."""
    pressures = [(top, bottom) for top in tops for bottom in bottoms if 50 <= top <= 300 and 20 <= bottom < top]
    if pressures:
        return [scan.mention(first, last, "pressure", "pressure", pressures, raw=(*tops, *bottoms))], last
    pairs = [(top, bottom) for top in tops for bottom in bottoms]
    return [scan.mention(first, last, "number", "ratio", pairs, raw=tops)], last


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
        if scan.word(end.first - 1) == "and" and end.values[0] < number.values[0]:
            found = None  # "twenty eight [weeks] and three days"
            break
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
    age_last = age_end(scan, max(own_last, last)) if unit.dim == "time" else None
    compound = unit.name == "year" and age_last is None and compound_age(scan, last)
    kind = unit.kind
    if age_last is not None or compound or (unit.name == "year" and after_age_word(scan, number.first)):
        kind = "age"
        marks.add("age")
        marks.update(["whole years"] if compound else [])
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
    """The readings with a unit: "one fifty milligrams" is 150, "one fifty milligram tablet" may be 150, or 1 of 50."""
    if len(number.groups) == 1:
        return number.values
    joint = number.values[: len(number.values) - len(number.groups)] or number.values
    pronoun = len(number.groups) == 2 and number.groups[0] == 1 and number.groups[1] < 10  # "the last one two years"
    return (*joint, number.groups[-1]) if pronoun or scan.word(after_unit) in FORMS else joint


def _before(scan: Scan, i: int) -> str:
    """The word before token i, skipping "about", "the" and the like."""
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


def plain_at(scan: Scan, number: Number) -> Reading:
    """The mention of a number without unit, with the noun that it counts."""
    marks = set()
    if number.decade:
        marks.add("decade")
    if number.ordinal:
        marks.add("ordinal")
    small = number.values[0] <= 1 and scan.word(number.first) not in ("point", "zero", "no")
    ordered = scan.word(number.last) if scan.word(number.last) in ORDERED else ""
    noun = ordered if number.ordinal else counted_noun(scan, number.last, small=small)
    if scan.word(number.last) == "times" or scan.word(number.last - 1) in ("once", "twice", "thrice"):
        noun = "time"
    if scan.spoken and scan.word(number.first - 1) in ("be", "turning", "turn"):
        marks.add("upcoming")
    mention = scan.mention(
        number.first, number.last, "number", "", number.values, raw=number.values, noun=noun, marks=frozenset(marks)
    )
    return [mention], number.last
