"""Is something affirmed or denied of a side? "The left one hurts. The right is fine." means no pain on the right."""

from __future__ import annotations

from collections.abc import Container

from medsum_core.grounding.facts.answers import SENTENCE_ENDS
from medsum_core.grounding.facts.mention import Mention, Scan
from medsum_core.grounding.facts.tokens import bag

DENYING = bag(
    "no not never none nothing without denies denied denying negative normal fine good okay ok unremarkable intact "
    "healthy unaffected perfect clear clean spared waiting wait asymptomatic recovered resolved isn't doesn't don't "
    "didn't wasn't hasn't can't cannot"
)
GOOD = bag("normal fine good okay ok intact healthy perfect clear clean")
AGREEING = bag("yes yeah yep yup right mm mhm")
BREAKS = SENTENCE_ENDS | {",", ";", "and", "but", ":"}
SHORT = 4  # tokens
ANSWERS_NO = bag("no nope nah none not nothing never")


def denied(scan: Scan, mention: Mention) -> bool | None:
    """Whether a side is denied, in its clause or by the answer "No."; None where only its sentence has a denial.

    A turn's opening "No," may only correct the question ("No, the right one."): it is ignored.
    """
    clause, sentence = (_around(scan, mention, ends) for ends in (BREAKS, SENTENCE_ENDS | {":", ";"}))
    asks = scan.spoken and scan.word(sentence.stop) == "?"
    said = {scan.word(k) for k in clause} & DENYING
    if said and not (asks and said <= GOOD):
        return True
    opening = scan.word(sentence.start) == "no" and scan.word(sentence.start + 1) == ","
    if any(scan.word(k) in DENYING for k in sentence[opening:]):
        return _agreed(scan, sentence) if asks and said else None
    if not scan.spoken or scan.word(sentence.stop) != "?" or scan.word(sentence.stop + 1) != "\n":
        return False
    answer = next((k for k in range(sentence.stop + 2, sentence.stop + 10) if scan.word(k) == ":"), sentence.stop)
    if sentence.stop - sentence.start <= SHORT and any(scan.word(answer + k) in DENYING for k in range(1, SHORT)):
        return True  # "And the right?" "Clear."
    return scan.word(answer + 1) in ANSWERS_NO


def _agreed(scan: Scan, question: range) -> bool | None:
    """Whether the answer to "The other one's okay?" agrees; None if it says something else."""
    begin = next((k for k in range(question.stop + 2, question.stop + 10) if scan.word(k) == ":"), question.stop)
    return True if scan.word(begin + 1) in GOOD | AGREEING else None


def _around(scan: Scan, mention: Mention, ends: Container[str]) -> range:
    first, last = mention.first, mention.last
    while first > 0 and scan.word(first - 1) not in ends:
        first -= 1
    while scan.word(last) not in ends:
        last += 1
    return range(first, last)
