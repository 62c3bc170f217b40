"""Is a condition as certain in the dialogue as in the note? Not "pneumonia" where "it could be pneumonia" is all."""

from __future__ import annotations

from collections.abc import Sequence

from medsum_core.grounding.facts.tokens import bag
from medsum_core.grounding.findings.finding import Finding, FindingScan
from medsum_core.grounding.findings.finding_index import FindingIndex
from medsum_core.grounding.findings.scope import Sentence

SURE = bag("diagnosed diagnosis known confirmed definite proven established documented")
PROVED = bag("confirmed shows showed definitely proved proves positive came biopsy diagnosed")
NEAR, AFTER = 4, 2  # words of a note before a finding and after it


def other_certainty(finding: Finding, said: Sequence[Finding], note: FindingScan, index: FindingIndex) -> int | None:
    """The turn that leaves open what the note is sure of, or settles what the note leaves open; None if none does."""
    if finding.kind != "condition" or not said:
        return None
    if finding.assertion == "present" and _around(note, finding) & SURE:
        told = [other for other in said if index.turns[other.turn].is_clinician] or said  # whose word it is
        return told[0].turn if all(other.assertion == "uncertain" for other in told) else None
    if finding.assertion != "uncertain":
        return None
    told = [other for other in said if other.reply is None and index.turns[other.turn].is_clinician]
    if len(told) < len(said):
        return None
    if all(other.assertion == "denied" for other in told):
        return told[0].turn
    proved = all(other.assertion == "present" and _texts(index, other) & PROVED for other in told)
    return told[0].turn if proved else None


def _around(note: FindingScan, finding: Finding) -> set[str]:
    first = max(note.sentence_of(finding).first, finding.first - NEAR)
    return {word.text for word in (*note.words[first : finding.first], *note.after(finding, AFTER))}


def _texts(index: FindingIndex, finding: Finding) -> set[str]:
    sentence: Sentence = index.scan.sentence_of(finding)
    return {word.text for word in index.scan.words[sentence.first : sentence.last]}
