"""A verdict on a finding of a note, and the turn of the dialogue that gives it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from medsum_core.grounding.findings.finding import Finding

Verdict = Literal["supported", "not_found", "contradicted"]


class Judged(NamedTuple):
    """The verdict on a note's finding and the turn that supports or contradicts it, None if no one turn does."""

    verdict: Verdict
    turn: int | None


class JudgedFact(NamedTuple):
    """A checked finding of a note at `[start, end)`; `kind`: as facts name it.

    What is done otherwise, or had by another person, includes the word for it: "continue lisinopril".
    """

    start: int
    end: int
    kind: str
    verdict: Verdict
    turn: int | None


SUPPORTED = Judged("supported", None)
NOT_FOUND = Judged("not_found", None)


def turn_of(said: Sequence[Finding]) -> int:
    """The turn of the first statement among the findings, else of the first question."""
    return min(said, key=lambda other: (other.reply is not None, other.turn)).turn
