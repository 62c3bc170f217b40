"""Is a symptom gone, better, the same or worse? Not "numbness has resolved" where "if anything it's spread"."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from medsum_core.grounding.facts.tokens import bag
from medsum_core.grounding.findings.finding import Finding, FindingScan
from medsum_core.grounding.findings.finding_index import FindingIndex
from medsum_core.grounding.findings.replies import asks_openly, read_reply
from medsum_core.grounding.findings.scope import NEGATIONS

Course = Literal["gone", "better", "lasting", "worse"]
NOTE: dict[Course, frozenset[str]] = {
    "gone": bag("resolved gone subsided disappeared"),
    "better": bag("improved improving better"),
    "lasting": bag("persists persistent persisting persist ongoing unchanged"),
    "worse": bag("worse worsened worsening progressing"),
}
TALK: dict[Course, frozenset[str]] = {
    "gone": bag("gone quit stopped resolved vanished disappeared completely"),
    "better": bag("better improved improving easing eased"),
    "lasting": bag("still same persists constant constantly"),
    "worse": bag("worse spread spreading spreads worsening"),
}
OPPOSED: dict[Course, frozenset[Course]] = {
    "gone": frozenset({"lasting", "worse"}),
    "better": frozenset({"worse"}),
    "lasting": frozenset({"gone"}),
    "worse": frozenset({"better", "gone"}),
}
OVER: dict[Course, Course] = {"gone": "lasting", "lasting": "gone", "better": "worse", "worse": "better"}
LEAVING_OPEN = bag("when after with if at by during until sometimes usually night morning")  # "worse at night"
CONTINUING = bag("continues ongoing still persistent")  # before a finding
NEAR = 3  # words of a note before and after a finding


def other_course(finding: Finding, said: Sequence[Finding], note: FindingScan, index: FindingIndex) -> int | None:
    """The turn that gives a note's symptom the opposite course only; None if none does."""
    if finding.kind not in ("symptom", "substance") or finding.assertion == "denied":
        return None
    after = [word.text for word in note.after(finding, NEAR)]
    stated = None if LEAVING_OPEN & set(after) else next(iter(_courses(after, NOTE)), None)
    before = note.words[max(note.sentence_of(finding).first, finding.first - NEAR) : finding.first]
    if stated is None and not CONTINUING.isdisjoint(word.text for word in before):
        stated = "lasting"
    if stated is None:
        return None
    told = [(course, other.turn) for other in said for course in _told(other, index)]
    opposed = [turn for course, turn in told if course in OPPOSED[stated]]
    return opposed[0] if opposed and len(opposed) == len(told) else None


def _courses(texts: Iterable[str], table: dict[Course, frozenset[str]]) -> list[Course]:
    return [course for text in texts for course, words in table.items() if text in words]


def _told(finding: Finding, index: FindingIndex) -> list[Course]:
    """What a sentence of the dialogue, with the answer to it, says of a finding's course."""
    sentence = index.scan.sentence_of(finding)
    texts = _texts(index, sentence.first, sentence.last)
    if not sentence.asks and finding.reply is None:
        return [] if LEAVING_OPEN & set(texts) else _denied_or_not(texts)
    if sentence.turn + 1 >= len(index.turns) or asks_openly(index.scan.words, sentence):
        return []
    first, last = index.scan.turns[sentence.turn + 1]
    answer = index.sentences_of[sentence.turn + 1][0]
    asked = _courses(texts, TALK)
    told = _courses(_texts(index, first, answer.last), TALK)
    reply = read_reply(index.scan.words, first, last)[0]
    if told or not asked or reply not in ("yes", "no"):
        return told
    return asked if reply == "yes" else [OVER[course] for course in asked]


def _denied_or_not(texts: Sequence[str]) -> list[Course]:
    return [] if NEGATIONS & set(texts) else _courses(texts, TALK)


def _texts(index: FindingIndex, first: int, last: int) -> list[str]:
    return [word.text for word in index.scan.words[first:last]]
