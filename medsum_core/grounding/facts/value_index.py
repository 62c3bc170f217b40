"""Mentions by value: a fact is compared only with those that may support it, so that time is linear in the text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from medsum_core.grounding.facts.matching import EXACT, SHORT_UNITS
from medsum_core.grounding.facts.mention import Mention
from medsum_core.grounding.facts.words import SCALAR_DIMS

FEW = 100  # mentions; so few are all compared
MOST = 100  # mentions of one value that are compared, the first ones
FINE = 10 * EXACT  # numbers that are the same differ by less, as a share
COARSE = 0.1  # so do those in other units (`matching.ACROSS_CALENDAR`) and rates
CONVERTED = ("time", "weight", "length", "rate")
WRITTEN = ("ratio", "clock", "code", "height")  # `matching.supports` compares these with all that do not convert
OWN_DIM = ("side", "weekday", "rate", "pressure")  # no other dimension supports these
PECULIAR = frozenset(("few", "decade", "upcoming", "couple"))

Key = tuple[str, float]


class ValueIndex:
    """The mentions of a text, in order, by their numbers."""

    def __init__(self, mentions: Sequence[Mention]) -> None:
        self._mentions = mentions
        self._places: dict[Key, list[int]] = {}
        for k, mention in enumerate(mentions):
            for key in dict.fromkeys(_keys(mention)):
                self._places.setdefault(key, []).append(k)

    def near(self, fact: Mention) -> list[Mention]:
        """The mentions that `matching.supports` may find to say a fact or, the other way round, to be said by it.

        In order; of one value the first `MOST`.
        """
        if len(self._mentions) < FEW:
            return list(self._mentions)
        if fact.marks & PECULIAR or "whole years" in fact.marks:
            return list(self._mentions[:MOST])
        places: set[int] = set()
        for key in _wanted(fact):
            places.update(self._places.get(key, ())[:MOST])
        return [self._mentions[k] for k in sorted(places)]


def _keys(mention: Mention) -> Iterable[Key]:
    """Where a mention is found."""
    if mention.marks & PECULIAR or "whole years" in mention.marks:
        yield "peculiar", 0
    for size in _sizes((*mention.values, *mention.raw), FINE):
        yield "", size
    if mention.dim in CONVERTED:
        for size in _sizes(mention.values, COARSE):
            yield _sort(mention), size
    if mention.dim not in SCALAR_DIMS:
        yield f"all {mention.dim}", 0
        if mention.dim:
            yield "all that do not convert", 0


def _wanted(fact: Mention) -> Iterable[Key]:
    """Where those that may support a fact are found."""
    yield "peculiar", 0
    if fact.dim not in OWN_DIM:
        for size in _sizes((*fact.values, *fact.raw), FINE):
            yield from (("", size + step) for step in (-1, 0, 1))
    if fact.dim in CONVERTED:
        for size in _sizes(fact.values, COARSE):
            yield from ((_sort(fact, of_others=True), size + step) for step in (-1, 0, 1))
    if fact.dim in WRITTEN:
        yield "all that do not convert", 0
    elif fact.dim and fact.dim not in SCALAR_DIMS:
        yield f"all {fact.dim}", 0


def _sort(mention: Mention, *, of_others: bool = False) -> str:
    """What is compared with a tolerance: all of a dimension, of times the short ones with the long ones."""
    return f"time {(mention.unit in SHORT_UNITS) != of_others}" if mention.dim == "time" else mention.dim


def _sizes(values: Iterable[object], share: float) -> set[float]:
    """The powers of 1 + `share` that the numbers have, rounded down; of zero and negative ones the numbers."""
    numbers = [value for value in values if isinstance(value, float)]
    return {math.log(value) // math.log1p(share) if value > 0 else value - 1e9 for value in numbers}
