"""How often: "b.i.d.", "twice a day", "every twelve hours", "q.4-6h", "nightly", "60 a day". Values: times a day."""

from __future__ import annotations

import re
from functools import lru_cache

from medsum_core.grounding.facts.after_number import Reading
from medsum_core.grounding.facts.mention import Scan
from medsum_core.grounding.facts.tokens import bag
from medsum_core.grounding.facts.words import PERIODS, units

ABBREVIATIONS = {
    "bid": 2.0, "tid": 3.0, "qid": 4.0, "qd": 1.0, "qday": 1.0, "qdaily": 1.0, "qhs": 1.0, "qam": 1.0, "qpm": 1.0,
    "qod": 0.5, "qweek": 1 / 7, "qweekly": 1 / 7, "qmonth": 12 / 365.25, "qmonthly": 12 / 365.25, "qnight": 1.0,
    "qnightly": 1.0, "qhour": 24.0,
}  # fmt: skip
ADVERBS = bag("daily nightly weekly monthly yearly annually hourly everyday")
NOT_RATES = bag("living life activities activity routine function functioning chores stress basis use")
PER = frozenset(("a", "an", "per", "each", "every", "/", "p"))
NIGHT = bag("night nightly bedtime bed evening qhs qpm qnight supper dinner")
TIMES_OF_DAY = bag("morning mornings bedtime bed night nights evening evenings meals meal breakfast dinner supper")
MORNING = bag("morning mornings qam breakfast")
LOOK_AHEAD = 25  # tokens searched for the answer to "how many times a day?"


def rate_at(scan: Scan, i: int) -> Reading | None:
    """The rate that begins at token i; None if there is none."""
    token = scan.tokens[i]
    if token.kind == "rate":
        return _abbreviated(scan, i)
    if i in scan.numbers:
        return _counted(scan, i)
    if token.text == "biweekly":
        return _rate(scan, i, i + 1, [2 / 7, 1 / 14])
    if token.text in ADVERBS:
        if scan.word(i + 1) in NOT_RATES or scan.word(i - 1) == "of":
            return None
        return _rate(scan, i, i + 1, [1 / PERIODS[token.text]])
    if token.text in ("every", "each", "q") or (token.text == "per" and i + 1 in scan.numbers):
        return _every(scan, i)
    if token.text == "ppd" or token.text in ("per", "a", "an", "/"):
        return _per(scan, i)
    if scan.spoken and token.text in TIMES_OF_DAY:
        return _time_of_day(scan, i)
    return None


def _rate(
    scan: Scan, first: int, last: int, values: list[float], *, raw: tuple[float, ...] = (), noun: str = ""
) -> Reading:
    words = {scan.word(k).replace(".", "") for k in range(first, last)}
    marks = frozenset(name for name, bag_of in (("night", NIGHT), ("morning", MORNING)) if words & bag_of)
    return [scan.mention(first, last, "frequency", "rate", values, raw=raw, noun=noun, marks=marks)], last


@lru_cache(maxsize=1)
def _digits() -> re.Pattern[str]:
    return re.compile(r"\d+")


def _abbreviated(scan: Scan, i: int) -> Reading | None:
    text = scan.tokens[i].text
    letters = "".join(char for char in text if char.isalpha())
    if letters in ABBREVIATIONS:
        return _rate(scan, i, i + 1, [ABBREVIATIONS[letters]])
    hours = [float(digits) for digits in _digits().findall(text)]
    return _rate(scan, i, i + 1, [24 / hour for hour in hours if hour]) if any(hours) else None


def _counted(scan: Scan, i: int) -> Reading | None:
    """ "three times a day", "twice daily", "3x/day", "once in a week", "60 a day"."""
    number = scan.numbers[i]
    j = number.last
    times = scan.word(number.last - 1) in ("once", "twice", "thrice")
    if scan.word(j) in ("times", "time", "x"):
        times, j = True, j + 1
    if scan.word(j) == "in" and scan.word(j + 1) == "a":
        j += 1
    if scan.word(j) in ("day", "days", "nights") and (period := _out_of(scan, j + 1)):
        return _rate(
            scan, i, period, [v / PERIODS[scan.word(period - 1)] for v in (1.0, *number.values)], raw=number.values
        )
    if times and scan.word(j) in ADVERBS | {"nightly"}:
        return _rate(scan, i, j + 1, [v / PERIODS[scan.word(j)] for v in number.values], raw=number.values, noun="time")
    if scan.word(j) not in PER or scan.word(j + 1) not in PERIODS or number.values[0] < 1:
        if times and scan.word(j) in PERIODS and scan.word(j) not in ("morning", "night", "evening"):
            return _rate(
                scan, i, j + 1, [v / PERIODS[scan.word(j)] for v in number.values], raw=number.values, noun="time"
            )
        return None
    values = [v / PERIODS[scan.word(j + 1)] for v in number.values]
    if not times:
        values.append(1 / PERIODS[scan.word(j + 1)])
    noun = "time" if times else ""
    return _rate(scan, i, j + 2, values, raw=number.values, noun=noun) if times or scan.word(j) != "/" else None


def _out_of(scan: Scan, j: int) -> int:
    """The token after "(out) of the week" at token j; 0 if that does not follow."""
    while scan.word(j) in ("out", "outta", "of", "the", "each"):
        j += 1
    return j + 1 if scan.word(j - 1) in ("the", "each") and scan.word(j) in ("week", "month") else 0


def _every(scan: Scan, i: int) -> Reading | None:
    """ "every day", "every 4 to 6 hours", "every other day", "each night"."""
    j = i + 1
    if scan.word(j) in ("single", "few"):
        j += 1
    if scan.word(j) == "other" and scan.word(j + 1) in PERIODS:
        return _rate(scan, i, j + 2, [0.5 / PERIODS[scan.word(j + 1)]])
    number = scan.numbers.get(j)
    if number is None:
        if scan.word(j) in ("morning", "day", "noon") and (night := _and_night(scan, j + 1)):
            return _rate(scan, i, night, [2.0])
        return _rate(scan, i, j + 1, [1 / PERIODS[scan.word(j)]]) if scan.word(j) in PERIODS else None
    values = list(number.values)
    j = number.last
    if scan.word(i) == "per" and scan.word(j) not in PERIODS:
        return None
    if scan.word(j) in ("to", "or"):
        j += 1
    if (other := scan.numbers.get(j)) is not None:
        values += other.values
        j = other.last
    if scan.word(j) not in PERIODS:
        return None
    counts = _counts_before(scan, i) if scan.word(i) == "per" else []
    periods = [v * PERIODS[scan.word(j)] for v in values if v]
    return _rate(scan, i, j + 1, [count / period for period in periods for count in (1.0, *counts)])


def _per(scan: Scan, i: int) -> Reading | None:
    """ "[two packs] a day", "per week", "ppd": once in the period, or as often as the count before it."""
    word = scan.word(i)
    if word == "ppd" and not any(k in scan.numbers or scan.tokens[k].kind == "slash" for k in range(max(i - 3, 0), i)):
        return None
    if word == "ppd":
        return _rate(scan, i, i + 1, [1.0, *_counts_before(scan, i)])
    if scan.word(i + 1) not in PERIODS or (word in ("a", "an") and len(scan.word(i + 1)) == 1):  # letters: "A D A diet"
        return None
    period = PERIODS[scan.word(i + 1)]
    if scan.word(i - 1) == "times" and scan.word(i - 2) == "many":
        answers = [v for k in range(i, i + LOOK_AHEAD) if k in scan.numbers for v in scan.numbers[k].values]
        return _rate(scan, i, i + 2, [answer / period for answer in answers])
    counts = _counts_before(scan, i)
    if word in ("a", "an") and not counts and not scan.spoken:
        return None
    return _rate(scan, i, i + 2, [1 / period, *(count / period for count in counts)])


def _counts_before(scan: Scan, i: int) -> list[float]:
    """The number that "a day" at token i refers to; empty if other words come between."""
    for k in range(i - 1, max(i - 5, -1), -1):
        if scan.tokens[k].kind == "punct" and scan.word(k) not in ("/", "-"):
            return []
        if k in scan.numbers:
            return list(scan.numbers[k].values)
        if scan.tokens[k].kind == "slash":
            return [0.5]
        if scan.word(k) in ("for", "in", "about", "within", "after", "over", "with"):
            return []
    return [1.0] if scan.word(i - 1) in units() or scan.word(i - 2) in ("a", "an", "one") else []


def _and_night(scan: Scan, j: int) -> int:
    """The token after "and (every) night", "and at bedtime" at token j; 0 if that does not follow."""
    if scan.word(j) != "and":
        return 0
    return next((j + k + 1 for k in (1, 2, 3) if scan.word(j + k) in ("night", "evening", "bedtime", "dinner")), 0)


def _time_of_day(scan: Scan, i: int) -> Reading | None:
    """ "in the morning", "at bedtime", "with dinner": once a day; "morning and night": twice."""
    if scan.word(i) in ("meals", "meal"):
        return _rate(scan, i, i + 1, [3.0])
    if night := _and_night(scan, i + 1):
        return _rate(scan, i, night, [2.0, 1.0])
    return _rate(scan, i, i + 1, [1.0])
