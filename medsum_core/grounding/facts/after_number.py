"""What follows a number: its unit, "and a half", the noun that it counts."""

from __future__ import annotations

from medsum_core.grounding.facts.anatomy import NOT_COUNTED, STOPWORDS, stem
from medsum_core.grounding.facts.mention import Mention, Scan
from medsum_core.grounding.facts.spoken_numbers import FRACTIONS
from medsum_core.grounding.facts.tokens import bag
from medsum_core.grounding.facts.words import PERIODS, SPELLED_UNITS, Unit, units

Reading = tuple[list[Mention], int]  # the mentions that begin at a token, and the token to continue from
FILLERS = bag("more full whole straight additional long solid consecutive extra good or so and some")


def unit_at(scan: Scan, j: int, *, fraction: bool = False) -> tuple[Unit, int] | None:
    """The unit that the number ending before token j has, and the token after it.

    Words such as "more", "full" may come between; `fraction`: also "a", "an", "of an" ("half an hour").
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


def half_after(scan: Scan, j: int) -> tuple[float, int]:
    """ "a year [and a half]": the amount to add, 0 if none, and the token after it."""
    if (
        scan.word(j) == "and"
        and scan.word(j + 1) in ("a", "half", "one")
        and "half" in (scan.word(j + 1), scan.word(j + 2))
    ):
        return 0.5, j + 2 if scan.word(j + 1) == "half" else j + 3
    return 0.0, j


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
