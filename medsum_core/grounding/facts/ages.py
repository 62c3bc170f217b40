"""Ages: "34-year-old", "67 y/o", "age 34", "in his 60s", "5-year, 8-month-old"."""

from __future__ import annotations

from medsum_core.grounding.facts.after_number import Reading, counted_noun, unit_at
from medsum_core.grounding.facts.anatomy import KIN, stem
from medsum_core.grounding.facts.mention import Mention, Scan
from medsum_core.grounding.facts.spoken_numbers import Number
from medsum_core.grounding.facts.tokens import bag
from medsum_core.grounding.facts.words import DAYS_PER_YEAR

THEN, PAST = bag("since when until till at"), bag("was were age")  # "I have smoked since I was [ten years old]"
THEN_REACH = 5
POSSESSIVES = bag("his her their my your our early mid late the s")


def age_end(scan: Scan, j: int) -> int | None:
    """The token after "old" or "of age" that follows a time unit; None if neither follows."""
    if scan.word(j) in ("old", "olds", "young"):
        return j + 1
    return j + 2 if scan.word(j) == "of" and scan.word(j + 1) == "age" else None


def compound_age(scan: Scan, j: int) -> bool:
    """Whether months "old" follow years: "5-year, 8-month-old"."""
    k = j + 1 if scan.word(j) in (",", "and") else j
    months = scan.numbers.get(k)
    found = unit_at(scan, months.last) if months is not None else None
    return found is not None and found[0].name == "month" and age_end(scan, found[1]) is not None


def after_age_word(scan: Scan, i: int) -> bool:
    """Whether token i follows "age", "aged", "age of", "ages 60 and"."""
    k = i - 1
    for _ in range(4):
        if (
            scan.word(k) in ("of", ":", ",", "and", "about", "at", "approximately", "around", "was", "is")
            or k in scan.numbers
        ):
            k -= 1
    return scan.word(k) in ("age", "aged", "ages")


def bare_age(scan: Scan, number: Number) -> Reading | None:
    """ "age 34", "67 y/o", "67yo", "in his 60s"."""
    j = number.last
    last = None
    if scan.word(j) in ("yo", "y") and not number.ordinal:
        words = [scan.word(j + k) for k in range(1, 3)]
        last = j + 1 if scan.word(j) == "yo" else (j + 3 if words[0] in ("/", ".") and words[1] == "o" else None)
    in_decade = number.decade and number.values[0] < 120 and scan.word(number.first - 1) in POSSESSIVES
    if last is None and not in_decade and not (after_age_word(scan, number.first) and not number.ordinal):
        return None
    counts = counted_noun(scan, j, small=False) or stem(scan.word(j)) in KIN  # "died at age 53, 2 brothers are well"
    if number.values[0] > 120 or (last is None and counts):
        return None
    last = last or j
    values = tuple(value * DAYS_PER_YEAR for value in number.values if value <= 120)
    marks = frozenset({"age", "decade"} if number.decade else {"age"})
    mention = scan.mention(number.first, last, "age", "time", values, raw=number.values, unit="year", marks=marks)
    return [mention], last


def is_of_then(scan: Scan, mention: Mention) -> bool:
    """Whether an age is of an earlier time: "since I was ten years old", "when I was thirty"."""
    before: set[str] = set()
    for k in range(mention.first - 1, max(mention.first - 1 - THEN_REACH, -1), -1):
        if scan.tokens[k].kind == "punct":
            break
        before.add(scan.word(k))
    return not THEN.isdisjoint(before) and not PAST.isdisjoint(before)


def is_current(note: Scan, mention: Mention) -> bool:
    """Whether a note gives somebody's age as of now: "is a 34-year-old", but not "as a 10-year-old"."""
    article = mention.first - 1
    begins = note.word(article) in ("a", "an", "this", "the") and note.word(article - 1) not in ("as", "when", "by")
    return begins and note.word(mention.last - 1) == "old" and not is_of_then(note, mention)
