"""The records of this package: a finding with its assertion and subject, a scanned text, a verdict."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

from medsum_core.grounding.facts.tokens import word_set
from medsum_core.grounding.findings.scope import Sentence
from medsum_core.grounding.findings.stems import Word

Verdict = Literal["supported", "not_found", "contradicted"]
Assertion = Literal["present", "denied", "uncertain", "past_or_stopped", "planned", "asked"]
# Concepts so broad that they name a kind ("medication"), not a finding.
ROOTS = word_set(
    "medication symptom condition procedure surgery substance allergy allergen food vitamin injection imaging referral "
    "diet exercise topical"
) | {"laboratory tests", "sign", "pet dander", "over the counter", "physical examination", "general anesthesia"}
ACTIONABLE = ("medication", "procedure")  # kinds of which a text says that they are planned


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One mention of a finding: characters `[start, end)`, words `[first, last)`.

    `names`: the concepts of the lexicon that its words can mean. `part`: its body part, "" if none. `assertion`:
    "asked" if it is in a question whose answer is neither yes nor no. `subject`: who has it: "patient", a relative,
    "family", or "" if unclear. `turn`: from 0. `reply`: the turn that answers the question, None for statements.
    """

    start: int
    end: int
    first: int
    last: int
    kind: str
    names: tuple[str, ...]
    part: str
    assertion: Assertion
    subject: str
    turn: int
    reply: int | None = None
    allergy: bool = False  # its sentence has a word such as "allergic" or "reaction"
    phrase: bool = True  # a phrase of the lexicon; False for a quality and a body part put together
    elided: bool = False  # not named: "And your sister?" asks about the finding of the question before


class Place(NamedTuple):
    """A mention of a body part at words `[first, last)`; `name`: the narrowest concept for them."""

    first: int
    last: int
    name: str
    turn: int  # from 0


@dataclass(frozen=True, kw_only=True)
class FindingScan:
    """A text with its findings, sentences and turns; a turn is its words `[first, last)`.

    `normal_parts`: the body parts that are called normal, each with the turn: "my neck is fine". `kin`: the index of
    each word that names a relative, with the relative. `parts`: the body parts that are named on their own, not within
    the name of a finding ("chest x-ray").
    """

    words: Sequence[Word]
    sentences: Sequence[Sentence]
    turns: Sequence[tuple[int, int]]
    findings: Sequence[Finding]
    normal_parts: Sequence[tuple[str, int]]
    kin: Sequence[tuple[int, str]] = ()
    parts: Sequence[Place] = ()

    @cached_property
    def _sentence_firsts(self) -> list[int]:
        return [sentence.first for sentence in self.sentences]

    def sentence_of(self, finding: Finding) -> Sentence:
        """The sentence that a finding begins in."""
        return self.sentence_at(finding.first)

    def sentence_at(self, i: int) -> Sentence:
        """The sentence of word i; the one before it if word i is between sentences."""
        return self.sentences[bisect_right(self._sentence_firsts, i) - 1]

    @cached_property
    def sentences_of(self) -> dict[int, list[Sentence]]:
        """The sentences of each turn."""
        found: dict[int, list[Sentence]] = {}
        for sentence in self.sentences:
            found.setdefault(sentence.turn, []).append(sentence)
        return found

    def kin_between(self, first: int, last: int) -> Sequence[tuple[int, str]]:
        """The part of `kin` at words `[first, last)`."""
        return self.kin[bisect_left(self.kin, (first, "")) : bisect_left(self.kin, (last, ""))]

    @cached_property
    def _finding_firsts(self) -> list[int]:
        return [finding.first for finding in self.findings]

    def between(self, first: int, last: int) -> Sequence[Finding]:
        """The findings that begin at words `[first, last)`."""
        return self.findings[bisect_left(self._finding_firsts, first) : bisect_left(self._finding_firsts, last)]

    def after(self, finding: Finding, most: int) -> Sequence[Word]:
        """The words after a finding in its sentence, at most `most` of them."""
        sentence = self.sentence_of(finding)
        return self.words[finding.last : min(finding.last + most, sentence.last)]


class Judged(NamedTuple):
    """The verdict on a finding of the note; `turn`: the turn of the dialogue that decides it, None if no single one."""

    verdict: Verdict
    turn: int | None


class JudgedFact(NamedTuple):
    """A checked fact at characters `[start, end)` of the note; `kind`: one of the kinds of facts.

    The span includes the action or the person if that is what the dialogue contradicts: "continue lisinopril".
    """

    start: int
    end: int
    kind: str
    verdict: Verdict
    turn: int | None


SUPPORTED = Judged("supported", None)
NOT_FOUND = Judged("not_found", None)


def turn_of(findings: Sequence[Finding]) -> int:
    """The turn of the first of the findings that is a statement; if all are in questions, of the first."""
    return min(findings, key=lambda other: (other.reply is not None, other.turn)).turn
