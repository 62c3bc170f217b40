"""Numbers with their unit or counted noun: ages, durations, doses, pressures, scores, counts.

Units are in `words.units`; the words after a number decide ("five [tablets]", "a year [and a half]", "34-year-[old]"),
then the word before ("age 34", "for three weeks").
"""

from __future__ import annotations

from medsum_core.grounding.facts.anatomy import NOT_COUNTED, STOPWORDS, stem
from medsum_core.grounding.facts.mention import Mention, ReaderResult, Scan
from medsum_core.grounding.facts.spoken_numbers import FRACTIONS, Number
from medsum_core.grounding.facts.tokens import word_set
from medsum_core.grounding.facts.words import PERIODS, SPELLED_UNITS, Unit, units

FILLERS = word_set("more full whole straight additional long solid consecutive extra good or so and some")
ARTICLES = word_set("a an of the")
BEFORE_DURATION = word_set("for past last within these previous next another during")
AFTER_DURATION = word_set("ago history later prior before duration earlier course h worth back apart")
ORDERED = word_set(
    "trimester pregnancy degree grade toe finger digit metatarsal metacarpal rib intercostal cranial cycle"
)
RANGE_WORDS = word_set("to or through and")
RANGE_NUMBERS = 5  # after the first: "one, two or three weeks"; a page of numbers would take quadratic time
HALVES = (("and", "a", "half"), ("and", "one", "half"), ("and", "half"))
AGE_LINKS = word_set("of : , and about at approximately around was is")
POSSESSIVES = word_set("his her their my our your early mid late the s")
OLDEST = 120
SINCE_WORDS = word_set("since when until till at")  # "I have smoked since I was [ten years old]"
PAST = word_set("was were age")
SINCE_REACH = 5


def quantity_at(scan: Scan, i: int) -> ReaderResult | None:
    """The mentions of the number at token i and the token to continue from; None where no number begins."""
    number = scan.numbers.get(i)
    if number is None:
        return None
    for reader in (_pair, _measured, _bare_age):
        reading = reader(scan, number)
        if reading is not None:
            return reading
    return plain_at(scan, number)


def unit_at(scan: Scan, j: int, *, fraction: bool = False) -> tuple[Unit, int] | None:
    """The unit of the number that ends before token j, and the token after the unit.

    Words such as "more" and "full" may come between; `fraction`: also "a", "an", "of an" ("half an hour").
    """
    for _ in range(3):
        if scan.word(j) in FILLERS or (fraction and scan.word(j) in ARTICLES):
            j += 1
    if (unit := units().get(scan.word(j))) is not None:
        return unit, j + 1
    for size in (2, 3):
        spelled = SPELLED_UNITS.get(tuple(scan.words(j, j + size)))
        if spelled:
            return units()[spelled], j + size
    return None


def half_after(scan: Scan, j: int) -> tuple[float, int]:
    """ "a year [and a half]": the amount to add, 0 if none, and the token after it."""
    last = next((j + len(words) for words in HALVES if tuple(scan.words(j, j + len(words))) == words), None)
    return (0.0, j) if last is None else (0.5, last)


def counted_noun(scan: Scan, j: int, *, small: bool) -> str:
    """The stem of the plural that the number before token j counts: "three grown children" -> "child"; "" if none.

    `small`: one or less, so that a singular right after it counts too ("half a pack").
    """
    for k in range(j, j + 3):
        word = scan.word(k)
        if small and word in ARTICLES:
            continue
        if not scan.is_word(k) or not scan.adjoins(k) or word in STOPWORDS or word in PERIODS or word in FRACTIONS:
            return ""
        singular = stem(word)
        compound = k == j and "-" in scan.tokens[k].gap  # "four-pillow orthopnea"
        if small or compound or (singular != word and word not in NOT_COUNTED and "'" not in word):
            return singular
    return ""


def _pair(scan: Scan, number: Number) -> ReaderResult | None:
    """ "one thirty over eighty", "three out of ten", "one to forty"."""
    link = scan.word(number.last)
    lower = scan.numbers.get(number.last + 1 + (link == "out"))
    if lower is None:
        return None
    if scan.spoken and link == "to" and number.values[0] == 1:  # a titre: too wide for a range
        is_titre = lower.values[0] >= 10 and unit_at(scan, lower.last) is None
        pairs = [(1.0, value) for value in lower.values]
        return ([scan.mention(number.first, lower.last, "number", "ratio", pairs)], lower.last) if is_titre else None
    if link not in ("over", "by", "on", "out"):
        return None
    reading = pair_mentions(scan, number.first, lower.last, number.values, lower.values)
    return reading if link in ("over", "out") or reading[0][0].kind == "pressure" else None


def pair_mentions(
    scan: Scan, first: int, last: int, tops: tuple[float, ...], bottoms: tuple[float, ...]
) -> ReaderResult:
    """A pressure where the values are plausible, otherwise a score ("3 out of 10")."""
    pairs = [(top, bottom) for top in tops for bottom in bottoms]
    pressures = [(top, bottom) for top, bottom in pairs if 50 <= top <= 300 and 20 <= bottom < top]
    if pressures:
        return [scan.mention(first, last, "pressure", "pressure", pressures, raw=(*tops, *bottoms))], last
    return [scan.mention(first, last, "number", "ratio", pairs, raw=tops)], last


def _range_end(scan: Scan, number: Number) -> Number | None:
    """The next number of a range or enumeration that begins with `number`: "2-3", "two or three"."""
    j = number.last
    if scan.word(j) in RANGE_WORDS:
        return scan.numbers.get(j + 1)
    other = scan.numbers.get(j)
    return other if other is not None and scan.tokens[j].gap.strip(" ") in ("-", "–") else None


def _measured(scan: Scan, number: Number) -> ReaderResult | None:
    """A number with its own unit or that of the range that it begins: "two or three weeks"."""
    found, end = unit_at(scan, number.last, fraction=number.values[0] < 1), number
    for _ in range(RANGE_NUMBERS):
        if found is not None or (other := _range_end(scan, end)) is None:
            break
        if scan.word(other.first - 1) == "and" and other.values[0] < number.values[0]:
            break  # "twenty eight [weeks] and three days"
        end, found = other, unit_at(scan, other.last)
    if found is None or number.ordinal:
        return None
    unit, last = found
    is_single = end is number
    half, last = half_after(scan, last) if unit.dim == "time" and is_single else (0.0, last)
    amounts = tuple(value + half for value in _with_unit(number))
    marks = {"couple"} if "couple" in scan.words(number.first, number.first + 2) else set()
    own_last = last if is_single else number.last
    kind = unit.kind
    if unit.dim == "time":
        old = _old_end(scan, last)
        of_year = unit.name == "year" and (_months_old(scan, last) or _after_age_word(scan, number.first))
        if old is not None or of_year:
            kind = "age"
            marks.add("age")
            own_last = old if old is not None and is_single else own_last
        elif scan.word(number.first - 1) in BEFORE_DURATION or scan.word(own_last) in AFTER_DURATION:
            marks.add("duration")
    mention = scan.measure(number.first, own_last, unit, amounts, kind=kind, marks=frozenset(marks))
    return [mention], own_last


def _with_unit(number: Number) -> tuple[float, ...]:
    """The readings of a number with a unit: "one fifty milligrams" is 150, "the last one two years ago" 2."""
    parts = len(number.cardinals)
    joint = number.values if parts == 1 else number.values[:-parts] or number.values
    pronoun = parts == 2 and number.cardinals[0] == 1 and number.cardinals[1] < 10
    return (*joint, number.cardinals[1]) if pronoun else joint


def _old_end(scan: Scan, j: int) -> int | None:
    """The token after "old" or "of age" that follows a time unit; None if neither follows."""
    if scan.word(j) in ("old", "olds", "young"):
        return j + 1
    return j + 2 if scan.words(j, j + 2) == ["of", "age"] else None


def _months_old(scan: Scan, j: int) -> bool:
    """Whether months "old" follow years: "5-year, [8-month-old]"."""
    months = scan.numbers.get(j + (scan.word(j) in (",", "and")))
    found = unit_at(scan, months.last) if months is not None else None
    return found is not None and _old_end(scan, found[1]) is not None


def _after_age_word(scan: Scan, i: int) -> bool:
    """Whether token i follows "age", "aged", "age of", "ages 60 and"."""
    k = i - 1
    while k >= i - 4 and (scan.word(k) in AGE_LINKS or k in scan.numbers):
        k -= 1
    return scan.word(k) in ("age", "aged", "ages")


def _bare_age(scan: Scan, number: Number) -> ReaderResult | None:
    """ "age 34", "67 y/o", "67yo", "in his 60s"; not the two of "died at age 53, 2 brothers are well"."""
    j = last = number.last
    if scan.word(j) == "yo":
        last = j + 1
    elif scan.words(j, j + 3) in (["y", "/", "o"], ["y", ".", "o"]):
        last = j + 3
    else:
        in_decade = number.decade and scan.word(number.first - 1) in POSSESSIVES
        if not (in_decade or _after_age_word(scan, number.first)) or counted_noun(scan, j, small=False):
            return None
    if number.ordinal or number.values[0] > OLDEST:
        return None
    marks = frozenset({"age", "decade"} if number.decade else {"age"})
    return [scan.measure(number.first, last, units()["year"], number.values, kind="age", marks=marks)], last


def is_past_age(scan: Scan, age: Mention) -> bool:
    """Whether an age belongs to an earlier time: "since I was ten years old", "when I was thirty"."""
    before = set(scan.words(age.first - SINCE_REACH, age.first))
    return not SINCE_WORDS.isdisjoint(before) and not PAST.isdisjoint(before)


def is_current_age(note: Scan, age: Mention) -> bool:
    """Whether a note gives somebody's present age: "is a 34-year-old", but not "as a 10-year-old"."""
    article = age.first - 1
    begins = note.word(article) in ("a", "an", "this", "the") and note.word(article - 1) not in ("as", "when", "by")
    return begins and note.word(age.last - 1) == "old"


def plain_at(scan: Scan, number: Number) -> ReaderResult:
    """The mention of a number without unit, with the noun that it counts."""
    marks = {name for name, holds in (("decade", number.decade), ("ordinal", number.ordinal)) if holds}
    follower = scan.word(number.last)
    if follower == "times" or scan.word(number.last - 1) in ("once", "twice", "thrice"):
        noun = "time"
    elif number.ordinal:
        noun = follower if follower in ORDERED else ""
    else:
        small = number.values[0] <= 1 and scan.word(number.first) not in ("point", "zero", "no")
        noun = counted_noun(scan, number.last, small=small)
    if scan.spoken and scan.word(number.first - 1) in ("be", "turning", "turn"):
        marks.add("upcoming")
    return [scan.plain(number.first, number.last, number.values, noun=noun, marks=frozenset(marks))], number.last
