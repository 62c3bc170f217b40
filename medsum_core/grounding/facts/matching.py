"""Does the dialogue say what a note states? By meaning: 14 days are two weeks, b.i.d. is every twelve hours.

`supports` compares two mentions; `ValueIndex` finds those worth comparing, so that time is linear in the text.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from medsum_core.grounding.facts.anatomy import body_parts
from medsum_core.grounding.facts.mention import Mention
from medsum_core.grounding.facts.tokens import bag
from medsum_core.grounding.facts.words import SCALAR_DIMS

EXACT = 1e-6
ACROSS_CALENDAR = 0.085  # people say four weeks for a month
ACROSS_SYSTEMS = 0.012  # pounds and kilograms, inches and centimetres
ACROSS_RATES = 0.03
SHORT_UNITS = bag("second minute hour day night week fortnight")
UNLIKE_NUMBERS = ("date", "rate", "weekday", "pressure", "height")  # facts that no number without unit supports
LIKE_NUMBERS = ("", "ratio", "pressure", "height", "clock", "rate")  # what is said in numbers without unit
FEW = 100  # mentions; so few are all compared
MOST = 100  # mentions of one value that are compared, the first ones
FINE = 10 * EXACT  # numbers that are the same differ by less, as a share
COARSE = 0.1  # so do those in other units (ACROSS_CALENDAR) and rates
CONVERTED = ("time", "weight", "length", "rate")
WRITTEN = ("ratio", "clock", "code", "height")  # compared with all that do not convert
OWN_DIM = ("side", "weekday", "rate", "pressure")  # no other dimension supports these
PECULIAR = frozenset(("few", "decade", "upcoming", "couple"))

Key = tuple[str, float]


def supports(fact: Mention, said: Mention) -> bool:
    """Whether `said` (dialogue) says what `fact` (note) states."""
    if "scale" in said.marks:
        return False
    if "few" in said.marks:
        return "couple" in fact.marks and fact.unit == said.unit
    if fact.dim == "clock" and said.dim == "ratio":  # the ratio 1:40 is written like a time
        return any(100 * value[0] + value[1] in fact.values for value in said.values if isinstance(value, tuple))
    if fact.dim == said.dim and _SAME_DIM.get(fact.dim, _same_scalar)(fact, said):
        return True
    if fact.kind == "age" and "upcoming" in said.marks and fact.raw[0] == said.raw[0] - 1:
        return True  # "I'll be ninety this month"
    return _same_number(fact, said)


def _close(some: Iterable[object], others: Iterable[object], tolerance: float) -> bool:
    pairs = ((a, b) for a in some for b in others if isinstance(a, float) and isinstance(b, float))
    return any(abs(a - b) <= tolerance * max(abs(a), abs(b)) for a, b in pairs)


def _same_scalar(fact: Mention, said: Mention) -> bool:
    if {"age", "duration"} <= fact.marks | said.marks:
        return False  # one is an age, the other a duration; "Thirty years." alone may be either
    if "decade" in fact.marks or "decade" in said.marks:
        return _same_decade(fact, said)
    tolerance = EXACT
    if fact.dim == "time" and (fact.unit in SHORT_UNITS) != (said.unit in SHORT_UNITS):
        tolerance = ACROSS_CALENDAR
    elif fact.dim in ("weight", "length") and fact.unit != said.unit:
        tolerance = ACROSS_SYSTEMS
    return _close(fact.values, said.values, tolerance)


def _same_decade(fact: Mention, said: Mention) -> bool:
    return "decade" in fact.marks and any(a <= b < a + 10 for a in fact.raw for b in said.raw)


def _same_plain(fact: Mention, said: Mention) -> bool:
    if "decade" in fact.marks or "decade" in said.marks:
        return _same_decade(fact, said)
    return _close(fact.raw, said.raw, EXACT)


def _same_value(fact: Mention, said: Mention) -> bool:
    return not set(fact.values).isdisjoint(said.values)


def _same_rate(fact: Mention, said: Mention) -> bool:
    if fact.marks and said.marks and fact.marks.isdisjoint(said.marks):  # nightly is not every morning
        return False
    return _close(fact.values, said.values, ACROSS_RATES)


def _same_side(fact: Mention, said: Mention) -> bool:
    if said.values == ("both",):
        return near_part(fact.noun, said.noun)
    return fact.values == said.values


def near_part(a: str, b: str) -> bool:
    """Whether two words may mean the same body part: calf and leg, but not eye and ear."""
    if not a or not b or a == b:
        return True
    one, other = body_parts().get(a), body_parts().get(b)
    return one == other or "whole" in (one, other)


def _same_number(fact: Mention, said: Mention) -> bool:
    """Whether the numbers agree where one side has no unit or noun, and nothing else contradicts."""
    if not fact.raw or not said.raw or fact.dim in UNLIKE_NUMBERS or said.dim in ("date", "weekday"):
        return False
    if not fact.dim:
        return not (fact.noun and said.dim in SCALAR_DIMS) and _same_plain(fact, said)
    if said.dim not in LIKE_NUMBERS:
        return False
    if fact.dim == "ratio":
        is_like = said.dim != "rate" if said.dim else _is_score(fact)
    elif fact.dim == "clock":
        is_like = True
    else:
        is_like = (fact.dim == "code" or not said.noun) and (bool(said.dim) or not _of_another_role(fact, said))
    return is_like and _same_plain(fact, said)


def _is_score(fact: Mention) -> bool:
    """Whether a ratio is out of ten or less, so that its first number suffices; or a pair of years, "1991/92"."""
    return any(isinstance(value, tuple) and (value[1] <= 10 or value[0] >= 1850) for value in fact.values)


def _of_another_role(fact: Mention, said: Mention) -> bool:
    """Whether the dialogue's number is a time of day, an age, a rank or a count, while the note's has a unit."""
    if fact.kind == "age" or fact.dim == "code":
        return "clock" in said.marks
    return not said.marks.isdisjoint(("clock", "age", "ordinal", "counting"))


_SAME_DIM = {
    "": _same_plain,
    **dict.fromkeys(("pressure", "ratio", "weekday", "code", "clock"), _same_value),
    "rate": _same_rate,
    "side": _same_side,
}


class ValueIndex:
    """The mentions of a text, in order, by their numbers."""

    def __init__(self, mentions: Sequence[Mention]) -> None:
        self._mentions = mentions
        self._places: dict[Key, list[int]] = {}
        for k, mention in enumerate(mentions):
            for key in dict.fromkeys(_keys(mention)):
                self._places.setdefault(key, []).append(k)

    def near(self, fact: Mention) -> list[Mention]:
        """The mentions that `supports` may find to say a fact or, the other way round, to be said by it.

        In order; of one value the first `MOST`.
        """
        if len(self._mentions) < FEW:
            return list(self._mentions)
        if fact.marks & PECULIAR:
            return list(self._mentions[:MOST])
        places = {k for key in _wanted(fact) for k in self._places.get(key, ())[:MOST]}
        return [self._mentions[k] for k in sorted(places)]


def _keys(mention: Mention) -> Iterable[Key]:
    """Where a mention is found."""
    if mention.marks & PECULIAR:
        yield "peculiar", 0
    yield from (("", size) for size in _sizes((*mention.values, *mention.raw), FINE))
    if mention.dim in CONVERTED:
        yield from ((mention.dim, size) for size in _sizes(mention.values, COARSE))
    if mention.dim not in SCALAR_DIMS:
        yield f"all {mention.dim}", 0
        if mention.dim:
            yield "all that do not convert", 0


def _wanted(fact: Mention) -> Iterable[Key]:
    """Where those that may support a fact are found."""
    yield "peculiar", 0
    if fact.dim not in OWN_DIM:
        sizes = _sizes((*fact.values, *fact.raw), FINE)
        yield from (("", size + step) for size in sizes for step in (-1, 0, 1))
    if fact.dim in CONVERTED:
        yield from ((fact.dim, size + step) for size in _sizes(fact.values, COARSE) for step in (-1, 0, 1))
    if fact.dim in WRITTEN:
        yield "all that do not convert", 0
    elif fact.dim and fact.dim not in SCALAR_DIMS:
        yield f"all {fact.dim}", 0


def _sizes(values: Iterable[object], share: float) -> set[float]:
    """The powers of 1 + `share` that the numbers have, rounded down; of zero and negative ones the numbers."""
    numbers = [value for value in values if isinstance(value, float)]
    return {math.log(value) // math.log1p(share) if value > 0 else value - 1e9 for value in numbers}
