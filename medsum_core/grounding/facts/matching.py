"""Whether two mentions have the same value by meaning: 14 days are two weeks, b.i.d. is every twelve hours.

`supports` compares two mentions; `ValueIndex` selects the candidates to compare, so that time is linear in the text.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from medsum_core.grounding.facts.anatomy import body_parts
from medsum_core.grounding.facts.mention import Mention
from medsum_core.grounding.facts.tokens import word_set
from medsum_core.grounding.facts.words import SCALAR_DIMS

EXACT = 1e-6  # relative tolerance, as the three below
ACROSS_CALENDAR = 0.085  # people say four weeks for a month
ACROSS_SYSTEMS = 0.012  # pounds and kilograms, inches and centimetres
ACROSS_RATES = 0.03
SHORT_UNITS = word_set("second minute hour day night week fortnight")
UNLIKE_NUMBERS = ("date", "rate", "weekday", "pressure", "height")  # a number without unit supports none of these
LIKE_NUMBERS = ("", "ratio", "pressure", "height", "clock", "rate")  # expressed by numbers without unit
FEW = 100  # fewer mentions are all compared
MOST = 100  # at most so many mentions of one value are compared, the first ones
FINE = 10 * EXACT  # relative width of the bins for numbers without conversion
COARSE = 0.1  # for numbers in other units and rates; more than ACROSS_CALENDAR
CONVERTED = ("time", "weight", "length", "rate")
WRITTEN = ("ratio", "clock", "code", "height")  # compared with all mentions that are not converted
OWN_DIM = ("side", "weekday", "rate", "pressure")  # no other dimension supports these
SPECIAL_MARKS = frozenset(("few", "decade", "upcoming", "couple"))

Key = tuple[str, float]


def supports(fact: Mention, evidence: Mention) -> bool:
    """Whether `evidence`, a mention of the dialogue, supports `fact`, a mention of the note."""
    if "scale" in evidence.marks:
        return False
    if "few" in evidence.marks:
        return "couple" in fact.marks and fact.unit == evidence.unit
    if fact.dim == "clock" and evidence.dim == "ratio":  # the ratio 1:40 is written like a time
        return any(100 * value[0] + value[1] in fact.values for value in evidence.values if isinstance(value, tuple))
    if fact.dim == evidence.dim and _SAME_DIM.get(fact.dim, _same_scalar)(fact, evidence):
        return True
    if fact.kind == "age" and "upcoming" in evidence.marks and fact.raw[0] == evidence.raw[0] - 1:
        return True  # "I'll be ninety this month"
    return _same_number(fact, evidence)


def _close(some: Iterable[object], others: Iterable[object], tolerance: float) -> bool:
    pairs = ((a, b) for a in some for b in others if isinstance(a, float) and isinstance(b, float))
    return any(abs(a - b) <= tolerance * max(abs(a), abs(b)) for a, b in pairs)


def _same_scalar(fact: Mention, evidence: Mention) -> bool:
    if {"age", "duration"} <= fact.marks | evidence.marks:
        return False  # one is an age, the other a duration; "Thirty years." alone may be either
    if "decade" in fact.marks or "decade" in evidence.marks:
        return _same_decade(fact, evidence)
    tolerance = EXACT
    if fact.dim == "time" and (fact.unit in SHORT_UNITS) != (evidence.unit in SHORT_UNITS):
        tolerance = ACROSS_CALENDAR
    elif fact.dim in ("weight", "length") and fact.unit != evidence.unit:
        tolerance = ACROSS_SYSTEMS
    return _close(fact.values, evidence.values, tolerance)


def _same_decade(fact: Mention, evidence: Mention) -> bool:
    return "decade" in fact.marks and any(a <= b < a + 10 for a in fact.raw for b in evidence.raw)


def _same_plain(fact: Mention, evidence: Mention) -> bool:
    if "decade" in fact.marks or "decade" in evidence.marks:
        return _same_decade(fact, evidence)
    return _close(fact.raw, evidence.raw, EXACT)


def _same_value(fact: Mention, evidence: Mention) -> bool:
    return not set(fact.values).isdisjoint(evidence.values)


def _same_rate(fact: Mention, evidence: Mention) -> bool:
    if fact.marks and evidence.marks and fact.marks.isdisjoint(evidence.marks):  # nightly is not every morning
        return False
    return _close(fact.values, evidence.values, ACROSS_RATES)


def _same_side(fact: Mention, evidence: Mention) -> bool:
    if evidence.values == ("both",):
        return near_part(fact.noun, evidence.noun)
    return fact.values == evidence.values


def near_part(a: str, b: str) -> bool:
    """Whether two words may mean the same body part: calf and leg, but not eye and ear."""
    if not a or not b or a == b:
        return True
    one, other = body_parts().get(a), body_parts().get(b)
    return one == other or "whole" in (one, other)


def _same_number(fact: Mention, evidence: Mention) -> bool:
    """Whether the numbers agree where one of the two has no unit or noun, and nothing else contradicts."""
    if not fact.raw or not evidence.raw or fact.dim in UNLIKE_NUMBERS or evidence.dim in ("date", "weekday"):
        return False
    if not fact.dim:
        return not (fact.noun and evidence.dim in SCALAR_DIMS) and _same_plain(fact, evidence)
    if evidence.dim not in LIKE_NUMBERS:
        return False
    if fact.dim == "ratio":
        is_like = evidence.dim != "rate" if evidence.dim else _is_score(fact)
    elif fact.dim == "clock":
        is_like = True
    else:
        is_like = (fact.dim == "code" or not evidence.noun) and (
            bool(evidence.dim) or not _of_another_role(fact, evidence)
        )
    return is_like and _same_plain(fact, evidence)


def _is_score(fact: Mention) -> bool:
    """Whether a ratio is out of ten or less, so that its first number suffices; or a pair of years, "1991/92"."""
    return any(isinstance(value, tuple) and (value[1] <= 10 or value[0] >= 1850) for value in fact.values)


def _of_another_role(fact: Mention, evidence: Mention) -> bool:
    """Whether the dialogue's number is a time of day, an age, an ordinal or a count, while the note's has a unit."""
    if fact.kind == "age" or fact.dim == "code":
        return "clock" in evidence.marks
    return not evidence.marks.isdisjoint(("clock", "age", "ordinal", "counting"))


_SAME_DIM = {
    "": _same_plain,
    **dict.fromkeys(("pressure", "ratio", "weekday", "code", "clock"), _same_value),
    "rate": _same_rate,
    "side": _same_side,
}


class ValueIndex:
    """The mentions of a text by value: each value falls into a bin, and only the bins near a value are searched."""

    def __init__(self, mentions: Sequence[Mention]) -> None:
        self._mentions = mentions
        self._places: dict[Key, list[int]] = {}
        for k, mention in enumerate(mentions):
            for key in dict.fromkeys(_bins(mention)):
                self._places.setdefault(key, []).append(k)

    def candidates(self, fact: Mention) -> list[Mention]:
        """The mentions in order that may support `fact` or be supported by it; of one value the first `MOST`."""
        if len(self._mentions) < FEW:
            return list(self._mentions)
        if fact.marks & SPECIAL_MARKS:
            return list(self._mentions[:MOST])
        places = {k for key in _bins_to_search(fact) for k in self._places.get(key, ())[:MOST]}
        return [self._mentions[k] for k in sorted(places)]


def _bins(mention: Mention) -> Iterable[Key]:
    """The bins of a mention."""
    if mention.marks & SPECIAL_MARKS:
        yield "special marks", 0
    yield from (("", size) for size in _bin_numbers((*mention.values, *mention.raw), FINE))
    if mention.dim in CONVERTED:
        yield from ((mention.dim, size) for size in _bin_numbers(mention.values, COARSE))
    if mention.dim not in SCALAR_DIMS:
        yield f"all {mention.dim}", 0
        if mention.dim:
            yield "all not converted", 0


def _bins_to_search(fact: Mention) -> Iterable[Key]:
    """The bins to search for mentions that may support a fact."""
    yield "special marks", 0
    if fact.dim not in OWN_DIM:
        sizes = _bin_numbers((*fact.values, *fact.raw), FINE)
        yield from (("", size + step) for size in sizes for step in (-1, 0, 1))
    if fact.dim in CONVERTED:
        yield from ((fact.dim, size + step) for size in _bin_numbers(fact.values, COARSE) for step in (-1, 0, 1))
    if fact.dim in WRITTEN:
        yield "all not converted", 0
    elif fact.dim and fact.dim not in SCALAR_DIMS:
        yield f"all {fact.dim}", 0


def _bin_numbers(values: Iterable[object], share: float) -> set[float]:
    """The bin of each number: its logarithm to base 1 + `share`, rounded down; zero and negatives have their own."""
    numbers = [value for value in values if isinstance(value, float)]
    return {math.log(value) // math.log1p(share) if value > 0 else value - 1e9 for value in numbers}
