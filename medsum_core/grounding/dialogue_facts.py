"""The facts that a dialogue states and a note could contain, each once, with the first turn that states it.

Answers count, questions do not; a question that is answered with yes or no counts together with its answer. Excluded
are numbers of small talk (times of the day, minutes and seconds, bare numbers that count nothing) and uncertain
findings. In a dialogue with fewer than `FEW` facts its other sentences count too, see `statements`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile

from medsum_core.data.turns import Turn, read_turns
from medsum_core.grounding.facts.mention import Date, Mention, Value
from medsum_core.grounding.facts.mention_index import MentionIndex, index_mentions
from medsum_core.grounding.facts.reading import SINGLES, is_fact
from medsum_core.grounding.facts.tokens import word_set
from medsum_core.grounding.facts.words import units
from medsum_core.grounding.findings.finding import ROOTS, Finding, FindingScan
from medsum_core.grounding.findings.lexicon import Lexicon
from medsum_core.grounding.findings.reading import scan_findings
from medsum_core.grounding.findings.relatives import PATIENT, UNKNOWN
from medsum_core.grounding.findings.replies import is_question
from medsum_core.grounding.findings.verdicts import KIND_OF
from medsum_core.grounding.statements import Statement, read_statements, reply_to

STATEMENT_KIND = "statement"
FEW = 3  # numeric facts and findings; with fewer, one of them would decide the whole rate
READINGS = 3  # most readings of one value
SHORT = 6  # most words of a sentence that may follow a question in its turn: "Any fever? Or chills?"
EXCLUDED_UNITS = word_set("second minute")  # waiting times
EXCLUDED_DIMS = ("clock", "weekday")  # appointments
EXCLUDED_WORDS = word_set("bed bedtime morning evening night meals meal breakfast lunch dinner supper")
EXCLUDED_MARKS = frozenset(("scale", "few", "clock"))


@dataclass(frozen=True, kw_only=True)
class DialogueFact:
    """A fact at characters `[start, end)` of a dialogue: a `finding`, a value, or a `statement`.

    `readings`: what the value can mean ("a week" is a duration or a frequency); a note needs to contain one of them.
    """

    turn: int
    start: int
    end: int
    kind: str
    readings: tuple[Mention, ...] = ()
    finding: Finding | None = None
    statement: Statement | None = None


@dataclass(frozen=True)
class DialogueFacts:
    """The facts of a dialogue in order, with the indexes to look their words up."""

    index: MentionIndex
    scan: FindingScan
    found: Sequence[DialogueFact]


def read_dialogue_facts(dialogue: str, lexicon: Lexicon) -> DialogueFacts:
    """Read the facts of a dialogue, once for any number of notes."""
    turns = read_turns(dialogue)
    sentences = _Sentences(turns, scan_findings(dialogue, turns, lexicon))
    index = index_mentions(dialogue)
    found = [*_numeric(index, sentences), *_findings(sentences.scan.findings, lexicon)]
    for statement in read_statements(turns, sentences.scan) if len(found) < FEW else ():
        start, end = sentences.scan.words[statement.first].start, sentences.scan.words[statement.last - 1].end
        if not any(start < one.end and one.start < end for one in found if one.statement is None):
            found.append(
                DialogueFact(turn=statement.turn, start=start, end=end, kind=STATEMENT_KIND, statement=statement)
            )
    return DialogueFacts(index, sentences.scan, sorted(found, key=lambda one: (one.start, one.end)))


@dataclass(frozen=True)
class _Sentences:
    """The sentences of a dialogue by character."""

    turns: Sequence[Turn]
    scan: FindingScan

    @cached_property
    def _begins(self) -> list[int]:
        return [self.scan.words[sentence.first].start for sentence in self.scan.sentences]

    def is_stated(self, start: int, *, has_answer: bool) -> bool:
        """Whether the sentence at a character of the dialogue is a statement, or a question answered with yes.

        `has_answer`: the next turn gives a value of its own, so the one in the question is not stated.
        """
        number = bisect_right(self._begins, start) - 1
        if number < 0:
            return False
        sentence = self.scan.sentences[number]
        if not is_question(self.scan.words, sentence, is_clinician=self.turns[sentence.turn].is_clinician):
            return True
        later = takewhile(lambda one: one.turn == sentence.turn, self.scan.sentences[number + 1 :])
        is_last = all(one.asks or one.last - one.first <= SHORT for one in later)
        return not has_answer and is_last and reply_to(self.scan, sentence) == "yes"


def _numeric(index: MentionIndex, sentences: _Sentences) -> list[DialogueFact]:
    plain = {mention.first for mention in index.mentions if not mention.dim}
    counted = sorted(
        (mention for mention in index.mentions if _is_countable(index, mention, plain)), key=lambda one: one.start
    )
    valued = {(index.turn(mention.start), mention.dim) for mention in counted}
    found: list[DialogueFact] = []
    known: set[tuple[str, str, Value | Date]] = set()
    end = 0
    for number, mention in enumerate(counted):
        turn = index.turn(mention.start)
        shift = _shift(index, turn, sentences.turns[turn])
        start = mention.start + shift
        if mention.start < end or start < sentences.turns[turn].text_start:
            continue
        if not sentences.is_stated(start, has_answer=(turn + 1, mention.dim) in valued):
            continue
        end = mention.end
        readings = tuple(other for other in counted[number : number + READINGS] if other.start < end)
        keys = {(one.kind, one.noun, value) for one in readings for value in (*one.values, *one.dates)}
        if not keys & known:
            found.append(DialogueFact(turn=turn, start=start, end=end + shift, kind=mention.kind, readings=readings))
        known |= keys
    return found


def _shift(index: MentionIndex, number: int, turn: Turn) -> int:
    """Added to an offset in the index's text, gives the offset in the dialogue: their speaker tags differ."""
    last = index.turn_starts[number + 1] - 1 if number + 1 < len(index.turn_starts) else len(index.scan.text)
    return turn.end - last


def _is_countable(index: MentionIndex, mention: Mention, plain: Collection[int]) -> bool:
    """Whether a note could contain a mention of the dialogue. `plain`: the tokens where bare numbers begin."""
    if mention.dim in EXCLUDED_DIMS or mention.unit in EXCLUDED_UNITS or mention.marks & EXCLUDED_MARKS:
        return False
    word = index.scan.word(mention.first)
    if word in EXCLUDED_WORDS or (mention.dim == "time" and (word in units() or word in SINGLES)):
        return False  # "last week", "yesterday", "good morning"
    if mention.dim in ("", "length") and (mention.raw[:1] == (1.0,) or word == "both"):
        return False  # "one of them", "one foot is worse", "both my parents"
    if mention.dim == "date" and mention.first in plain:
        return False  # "from twenty six to thirty"
    counts = bool(mention.dim or mention.noun or "age" in mention.marks)
    return counts and is_fact(index.scan, mention)


def _findings(findings: Sequence[Finding], lexicon: Lexicon) -> list[DialogueFact]:
    kept: list[Finding] = []
    for finding in filter(_is_countable_finding, findings):
        if not any(_entails(other, finding, lexicon) for other in kept):
            kept = [*(other for other in kept if not _entails(finding, other, lexicon)), finding]
    return [
        DialogueFact(turn=one.turn, start=one.start, end=one.end, kind=KIND_OF.get(one.kind, one.kind), finding=one)
        for one in kept
    ]


def _is_countable_finding(finding: Finding) -> bool:
    if finding.elided or finding.assertion in ("asked", "uncertain") or ROOTS.issuperset(finding.names):
        return False
    return finding.kind != "allergen" or finding.allergy


def _entails(one: Finding, other: Finding, lexicon: Lexicon) -> bool:
    """Whether a finding entails another one of the same person; a denied finding never entails an affirmed one."""
    if _person(one) != _person(other) or (one.assertion == "denied" and other.assertion != "denied"):
        return False
    names = frozenset().union(*(lexicon.ancestors[name] for name in one.names)) - ROOTS
    return (not other.part or one.part == other.part) and not names.isdisjoint(other.names)


def _person(finding: Finding) -> str:
    return PATIENT if finding.subject == UNKNOWN else finding.subject
