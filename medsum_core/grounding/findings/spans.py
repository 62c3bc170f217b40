"""The characters of a finding with the word that makes it wrong: what is done with it, or who has it."""

from __future__ import annotations

from medsum_core.grounding.facts.tokens import bag
from medsum_core.grounding.findings.actions import is_action
from medsum_core.grounding.findings.finding import Finding, FindingScan
from medsum_core.grounding.findings.kinship import AND
from medsum_core.grounding.findings.relatives import PATIENT

NEAR = 8  # words
LEADING = bag("will be been to")  # "[simvastatin will be continued]"


def with_action(finding: Finding, note: FindingScan) -> tuple[int, int]:
    """The characters of a finding with the word that says what is done with it: "[continue lisinopril]"."""
    near = range(max(finding.first - NEAR, 0), min(finding.last + NEAR, len(note.words)))
    places = [i for i in near if is_action(note.words[i].text)]
    if not places:
        return finding.start, finding.end
    first = last = min(places, key=lambda i: min(abs(i - finding.first), abs(i - finding.last)))
    while note.words[last].text in LEADING and last + 1 < len(note.words):
        last += 1
    return min(finding.start, note.words[first].start), max(finding.end, note.words[last].end)


def with_person(finding: Finding, note: FindingScan) -> tuple[int, int]:
    """The characters of a finding with the person who is said to have it: "[mother had asthma]"."""
    sentence = note.sentence_of(finding)
    if finding.subject == PATIENT:
        named = [i for i in range(sentence.first, finding.first) if note.words[i].text in ("patient", "pt")]
        start = note.words[max(named[-1] - 1, sentence.first)].start if named else finding.start
        return start, finding.end
    owners = finding.subject.split(AND)
    kin = [i for i, name in note.kin_between(sentence.first, sentence.last) if name in owners]
    if not kin:
        return finding.start, finding.end
    place = min(kin, key=lambda i: abs(i - finding.first))
    sided = place > sentence.first and note.words[place - 1].text in ("maternal", "paternal")
    return min(finding.start, note.words[place - sided].start), max(finding.end, note.words[place].end)
