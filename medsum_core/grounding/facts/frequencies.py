"""Frequencies: "b.i.d.", "twice a day", "every twelve hours", "q.4-6h", "nightly", "60 a day". Unit: times per day."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from medsum_core.grounding.facts.mention import ReaderResult, Scan
from medsum_core.grounding.facts.tokens import word_set
from medsum_core.grounding.facts.words import PERIODS, units

ABBREVIATIONS = {
    "bid": 2.0, "tid": 3.0, "qid": 4.0, "qd": 1.0, "qday": 1.0, "qdaily": 1.0, "qhs": 1.0, "qam": 1.0, "qpm": 1.0,
    "qod": 0.5, "qweek": 1 / 7, "qweekly": 1 / 7, "qmonth": 12 / 365.25, "qmonthly": 12 / 365.25, "qnight": 1.0,
    "qnightly": 1.0, "qhour": 24.0,
}  # fmt: skip
ADVERBS = word_set("daily nightly weekly monthly yearly annually hourly everyday")
NOT_FREQUENCIES = word_set(  # after an adverb: "daily life"
    "living life activities activity routine function functioning chores stress basis use"
)
PER = frozenset(("a", "an", "per", "each", "every", "/", "p"))
NIGHT = word_set("night nightly bedtime bed evening qhs qpm qnight supper dinner")
TIMES_OF_DAY = word_set("morning mornings bedtime bed night nights evening evenings meals meal breakfast dinner supper")
MORNING = word_set("morning mornings qam breakfast")
NOT_OF_PERIOD = word_set("for in about within after over with")  # "[two pills] for a day" are not two a day
OUT_OF_WEEK = (("out", "of", "the", "week"), ("outta", "the", "week"), ("of", "the", "week"), ("each", "week"))


def frequency_at(scan: Scan, i: int) -> ReaderResult | None:
    """The frequency that begins at token i; None if there is none."""
    token = scan.tokens[i]
    if token.kind == "rate":
        return _abbreviated(scan, i)
    if i in scan.numbers:
        return _counted(scan, i)
    if token.text == "biweekly":
        return _frequency(scan, i, i + 1, [2 / 7, 1 / 14])
    if token.text in ADVERBS:
        is_frequency = scan.word(i + 1) not in NOT_FREQUENCIES
        return _frequency(scan, i, i + 1, [1 / PERIODS[token.text]]) if is_frequency else None
    if token.text in ("every", "each", "q") or (token.text == "per" and i + 1 in scan.numbers):
        return _every(scan, i)
    if token.text in ("ppd", "per", "a", "an", "/"):
        return _per(scan, i)
    if scan.spoken and token.text in TIMES_OF_DAY:
        return _time_of_day(scan, i)
    return None


def _frequency(
    scan: Scan, first: int, last: int, values: Sequence[float], *, raw: tuple[float, ...] = (), noun: str = ""
) -> ReaderResult:
    words = {word.replace(".", "") for word in scan.words(first, last)}
    marks = frozenset(name for name, known in (("night", NIGHT), ("morning", MORNING)) if words & known)
    return [scan.mention(first, last, "frequency", "rate", values, raw=raw, noun=noun, marks=marks)], last


@lru_cache(maxsize=1)
def _digits() -> re.Pattern[str]:
    return re.compile(r"\d+")


def _abbreviated(scan: Scan, i: int) -> ReaderResult | None:
    text = scan.tokens[i].text
    letters = "".join(char for char in text if char.isalpha())
    if letters in ABBREVIATIONS:
        return _frequency(scan, i, i + 1, [ABBREVIATIONS[letters]])
    hours = [24 / float(digits) for digits in _digits().findall(text) if float(digits)]
    return _frequency(scan, i, i + 1, hours) if hours else None


def _counted(scan: Scan, i: int) -> ReaderResult | None:
    """ "three times a day", "twice daily", "3x/day", "once in a week", "60 a day", "five days out of the week"."""
    number = scan.numbers[i]
    j = number.last
    times = scan.word(j - 1) in ("once", "twice", "thrice")
    if scan.word(j) in ("times", "time", "x"):
        times, j = True, j + 1
    if scan.words(j, j + 2) == ["in", "a"]:
        j += 1
    if scan.word(j) in ("day", "days", "nights"):
        for words in OUT_OF_WEEK:
            if tuple(scan.words(j + 1, j + 1 + len(words))) == words:
                return _frequency(
                    scan, i, j + 1 + len(words), [v / 7 for v in (1.0, *number.values)], raw=number.values
                )
    if times and (scan.word(j) in ADVERBS or scan.word(j) in ("day", "week")):
        period = PERIODS[scan.word(j)]
        return _frequency(scan, i, j + 1, [v / period for v in number.values], raw=number.values, noun="time")
    period = PERIODS.get(scan.word(j + 1), 0.0)
    if scan.word(j) not in PER or not period or number.values[0] < 1 or (scan.word(j) == "/" and not times):
        return None
    values = [v / period for v in number.values]
    if times:
        return _frequency(scan, i, j + 2, values, raw=number.values, noun="time")
    return _frequency(scan, i, j + 2, [*values, 1 / period], raw=number.values)


def _every(scan: Scan, i: int) -> ReaderResult | None:
    """ "every day", "every 4 to 6 hours", "every other day", "each night", "every morning and night"."""
    j = i + 1
    period = PERIODS.get(scan.word(j + 1), 0.0)
    if scan.word(j) == "other" and period:
        return _frequency(scan, i, j + 2, [0.5 / period])
    number = scan.numbers.get(j)
    if number is None:
        if scan.word(j) in ("morning", "day") and (night := _and_night(scan, j + 1)):
            return _frequency(scan, i, night, [2.0])
        return _frequency(scan, i, j + 1, [1 / PERIODS[scan.word(j)]]) if scan.word(j) in PERIODS else None
    values = number.values
    j = number.last
    other = scan.numbers.get(j + (scan.word(j) in ("to", "or")))
    if other is not None:
        values, j = (*values, *other.values), other.last
    if scan.word(j) not in PERIODS:
        return None
    counts = (1.0, *(_counts_before(scan, i) if scan.word(i) == "per" else ()))
    periods = [value * PERIODS[scan.word(j)] for value in values if value]
    return _frequency(scan, i, j + 1, [count / period for period in periods for count in counts])


def _per(scan: Scan, i: int) -> ReaderResult | None:
    """ "[two packs] a day", "per week", "ppd": once per period, or as often as the count before it."""
    word, after = scan.word(i), scan.word(i + 1)
    if word == "ppd":
        is_counted = any(k in scan.numbers or scan.tokens[k].kind == "slash" for k in range(max(i - 3, 0), i))
        return _frequency(scan, i, i + 1, [1.0, *_counts_before(scan, i)]) if is_counted else None  # else a skin test
    if after not in PERIODS or (word in ("a", "an") and len(after) == 1):  # letters: "A D A diet"
        return None
    counts = _counts_before(scan, i)
    if word in ("a", "an") and not counts and not scan.spoken:
        return None
    return _frequency(scan, i, i + 2, [count / PERIODS[after] for count in (1.0, *counts)])


def _counts_before(scan: Scan, i: int) -> Sequence[float]:
    """The number that "a day" at token i refers to; empty if other words come between."""
    for k in range(i - 1, max(i - 5, -1), -1):
        if k in scan.numbers:
            return scan.numbers[k].values
        if scan.tokens[k].kind == "slash":
            return (0.5,)
        if (scan.tokens[k].kind == "punct" and scan.word(k) not in ("/", "-")) or scan.word(k) in NOT_OF_PERIOD:
            return ()
    return (1.0,) if scan.word(i - 1) in units() or scan.word(i - 2) in ("a", "an", "one") else ()


def _and_night(scan: Scan, j: int) -> int:
    """The token after "and (every) night", "and at bedtime" at token j; 0 if that does not follow."""
    if scan.word(j) != "and":
        return 0
    return next((j + k + 1 for k in (1, 2, 3) if scan.word(j + k) in NIGHT), 0)


def _time_of_day(scan: Scan, i: int) -> ReaderResult | None:
    """ "in the morning", "at bedtime", "with dinner": once a day; "morning and night": twice."""
    if scan.word(i) in ("meals", "meal"):
        return _frequency(scan, i, i + 1, [3.0])
    night = _and_night(scan, i + 1)
    return _frequency(scan, i, night, [2.0, 1.0]) if night else _frequency(scan, i, i + 1, [1.0])
