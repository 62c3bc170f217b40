"""A finding named in a text with what is said of it, a text read for findings, a verdict on one."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

from medsum_core.grounding.facts.tokens import bag
from medsum_core.grounding.findings.scope import Sentence
from medsum_core.grounding.findings.stems import Word

Verdict = Literal["supported", "not_found", "contradicted"]
Assertion = Literal["present", "denied", "uncertain", "past_or_stopped", "planned", "asked"]
# Names of whole kinds, which are no findings.
ROOTS = bag(
    "medication symptom condition procedure surgery substance allergy allergen food vitamin injection imaging referral "
    "diet exercise topical"
) | {"laboratory tests", "sign", "pet dander", "over the counter", "physical examination", "general anesthesia"}
ACTED = ("medication", "procedure")  # only these are planned


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A finding at characters `[start, end)`, words `[first, last)`; `names`: the concepts that its words can mean.

    `part`: the body part, "" if none. `assertion`: "asked" for a question whose answer says neither yes nor no.
    `subject`: "patient", a relative, "family", or "" where the text does not tell. `turn`: from 0; `reply`: the turn
    that answers the question, None for statements.
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
    allergy: bool = False
    phrase: bool = True  # as the lexicon has it, not a quality with its body part
    elided: bool = False  # "And your sister?": what was asked for before is meant


class Place(NamedTuple):
    """A body part at words `[first, last)`; `name`: the narrowest concept that they name; `turn`: from 0."""

    first: int
    last: int
    name: str
    turn: int


@dataclass(frozen=True, kw_only=True)
class FindingScan:
    """A text read for findings: its words, sentences and turns (as words `[first, last)`), findings and good parts.

    `good`: body parts that are said to be fine, with their turn: "my neck is fine". `kin`: the words that name
    relatives, with who they are. `parts`: the body parts named by themselves, not in a name like "chest x-ray".
    """

    words: Sequence[Word]
    sentences: Sequence[Sentence]
    turns: Sequence[tuple[int, int]]
    findings: Sequence[Finding]
    good: Sequence[tuple[str, int]]
    kin: Sequence[tuple[int, str]] = ()
    parts: Sequence[Place] = ()

    @cached_property
    def _begins(self) -> list[int]:
        return [sentence.first for sentence in self.sentences]

    def sentence_of(self, finding: Finding) -> Sentence:
        """The sentence of a finding."""
        return self.sentence_at(finding.first)

    def sentence_at(self, i: int) -> Sentence:
        """The sentence of word i, or the one before it."""
        return self.sentences[bisect_right(self._begins, i) - 1]

    @cached_property
    def sentences_of(self) -> dict[int, list[Sentence]]:
        """The sentences of each turn."""
        found: dict[int, list[Sentence]] = {}
        for sentence in self.sentences:
            found.setdefault(sentence.turn, []).append(sentence)
        return found

    def kin_between(self, first: int, last: int) -> Sequence[tuple[int, str]]:
        """The relatives named among words `[first, last)`."""
        return self.kin[bisect_left(self.kin, (first, "")) : bisect_left(self.kin, (last, ""))]

    @cached_property
    def _firsts(self) -> list[int]:
        return [finding.first for finding in self.findings]

    def between(self, first: int, last: int) -> Sequence[Finding]:
        """The findings that begin at words `[first, last)`."""
        return self.findings[bisect_left(self._firsts, first) : bisect_left(self._firsts, last)]

    def after(self, finding: Finding, most: int) -> Sequence[Word]:
        """The words after a finding in its sentence, `most` at most."""
        sentence = self.sentence_of(finding)
        return self.words[finding.last : min(finding.last + most, sentence.last)]


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
