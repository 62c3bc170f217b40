"""What a dialogue states: its facts and findings that a note could hold, each once, with the turn that says it first.

Answers count, questions do not; a question that is answered with yes or no counts with its answer. Left out are numbers
of small talk: times of the day, minutes and seconds, bare numbers that count nothing, and what somebody only supposes.
A dialogue with fewer than `FEW` of them also states its other sentences, see `telling`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile

from medsum_core.data.turns import Turn, read_turns
from medsum_core.grounding.facts.mention import Date, Mention, Value
from medsum_core.grounding.facts.reading import SINGLES, is_fact
from medsum_core.grounding.facts.talk import Talk, read_talk
from medsum_core.grounding.facts.tokens import bag
from medsum_core.grounding.facts.words import units
from medsum_core.grounding.findings.finding import ROOTS, Finding, FindingScan
from medsum_core.grounding.findings.lexicon import Lexicon
from medsum_core.grounding.findings.reading import scan_findings
from medsum_core.grounding.findings.relatives import PATIENT, UNKNOWN
from medsum_core.grounding.findings.replies import is_question
from medsum_core.grounding.findings.verdicts import KIND_OF
from medsum_core.grounding.telling import Told, read_told, reply_to

TOLD_KIND = "statement"
FEW = 3  # facts and findings; with fewer, one that is left out or held would make the whole rate
READINGS = 3  # most readings that one value has
SHORT = 6  # words that may follow a question in its turn: "Any fever? Or chills?"
UNTOLD_UNITS = bag("second minute")  # how long one waits in a queue
UNTOLD_DIMS = ("clock", "weekday")  # when one comes
UNTOLD_WORDS = bag("bed bedtime morning evening night meals meal breakfast lunch dinner supper")
UNTOLD_MARKS = frozenset(("scale", "few", "clock"))


@dataclass(frozen=True, kw_only=True)
class Statement:
    """A fact of a dialogue at its characters `[start, end)`: a finding, or a value with its readings, of which a note
    needs to hold one ("a week" is how long, or how often), or what a sentence has `told`."""

    turn: int
    start: int
    end: int
    kind: str
    readings: tuple[Mention, ...] = ()
    finding: Finding | None = None
    told: Told | None = None


@dataclass(frozen=True)
class Statements:
    """A dialogue with what it states, in order."""

    talk: Talk
    scan: FindingScan
    found: Sequence[Statement]


def read_statements(dialogue: str, lexicon: Lexicon) -> Statements:
    """Read a dialogue once, for any number of notes about it."""
    turns = read_turns(dialogue)
    spoken = _Spoken(turns, scan_findings(dialogue, turns, lexicon))
    talk = read_talk(dialogue)
    found = [*_numeric(talk, spoken), *_findings(spoken.scan.findings, lexicon)]
    for told in read_told(turns, spoken.scan) if len(found) < FEW else ():
        start, end = spoken.scan.words[told.first].start, spoken.scan.words[told.last - 1].end
        if not any(start < one.end and one.start < end for one in found if one.told is None):
            found.append(Statement(turn=told.turn, start=start, end=end, kind=TOLD_KIND, told=told))
    return Statements(talk, spoken.scan, sorted(found, key=lambda one: (one.start, one.end)))


@dataclass(frozen=True)
class _Spoken:
    """The sentences of a dialogue, by character."""

    turns: Sequence[Turn]
    scan: FindingScan

    @cached_property
    def _begins(self) -> list[int]:
        return [self.scan.words[sentence.first].start for sentence in self.scan.sentences]

    def is_stated(self, start: int, *, has_answer: bool) -> bool:
        """Whether the sentence at a character of the dialogue tells, or is a question that is answered with yes.

        `has_answer`: the next turn has a value of its own, which the question only asked for.
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


def _numeric(talk: Talk, spoken: _Spoken) -> list[Statement]:
    plain = {mention.first for mention in talk.said if not mention.dim}
    told = sorted((mention for mention in talk.said if _is_told(talk, mention, plain)), key=lambda one: one.start)
    valued = {(talk.turn(mention.start), mention.dim) for mention in told}
    found: list[Statement] = []
    known: set[tuple[str, str, Value | Date]] = set()
    end = 0
    for number, mention in enumerate(told):
        turn = talk.turn(mention.start)
        shift = _shift(talk, turn, spoken.turns[turn])
        start = mention.start + shift
        if mention.start < end or start < spoken.turns[turn].text_start:
            continue
        if not spoken.is_stated(start, has_answer=(turn + 1, mention.dim) in valued):
            continue
        end = mention.end
        readings = tuple(other for other in told[number : number + READINGS] if other.start < end)
        keys = {(one.kind, one.noun, value) for one in readings for value in (*one.values, *one.dates)}
        if not keys & known:
            found.append(Statement(turn=turn, start=start, end=end + shift, kind=mention.kind, readings=readings))
        known |= keys
    return found


def _shift(talk: Talk, number: int, turn: Turn) -> int:
    """What makes a character of the talk one of the dialogue: both have the turn's words, behind other tags."""
    last = talk.starts[number + 1] - 1 if number + 1 < len(talk.starts) else len(talk.scan.text)
    return turn.end - last


def _is_told(talk: Talk, mention: Mention, plain: Collection[int]) -> bool:
    """Whether a mention of speech is one that a note would write down. `plain`: where bare numbers begin."""
    if mention.dim in UNTOLD_DIMS or mention.unit in UNTOLD_UNITS or mention.marks & UNTOLD_MARKS:
        return False
    word = talk.scan.word(mention.first)
    if word in UNTOLD_WORDS or (mention.dim == "time" and (word in units() or word in SINGLES)):
        return False  # "last week", "yesterday", "good morning"
    if mention.dim in ("", "length") and (mention.raw[:1] == (1.0,) or word == "both"):
        return False  # "one of them", "one foot is worse", "both my parents"
    if mention.dim == "date" and mention.first in plain:
        return False  # "from twenty six to thirty"
    counts = bool(mention.dim or mention.noun or "age" in mention.marks)
    return counts and is_fact(talk.scan, mention)


def _findings(findings: Sequence[Finding], lexicon: Lexicon) -> list[Statement]:
    kept: list[Finding] = []
    for finding in filter(_is_told_of, findings):
        if not any(_covers(other, finding, lexicon) for other in kept):
            kept = [*(other for other in kept if not _covers(finding, other, lexicon)), finding]
    return [
        Statement(turn=one.turn, start=one.start, end=one.end, kind=KIND_OF.get(one.kind, one.kind), finding=one)
        for one in kept
    ]


def _is_told_of(finding: Finding) -> bool:
    if finding.elided or finding.assertion in ("asked", "uncertain") or ROOTS.issuperset(finding.names):
        return False
    return finding.kind != "allergen" or finding.allergy


def _covers(one: Finding, other: Finding, lexicon: Lexicon) -> bool:
    """Whether a finding says all that another one does, of the same person; what is also affirmed is not denied."""
    if _person(one) != _person(other) or (one.assertion == "denied" and other.assertion != "denied"):
        return False
    names = frozenset().union(*(lexicon.ancestors[name] for name in one.names)) - ROOTS
    return (not other.part or one.part == other.part) and not names.isdisjoint(other.names)


def _person(finding: Finding) -> str:
    return PATIENT if finding.subject == UNKNOWN else finding.subject
