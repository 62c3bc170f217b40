"""Allergies: is the note's "allergic to penicillin" or "NKDA" what the dialogue says?

A substance that the patient takes without trouble is none, though it is named: "I had a Z-Pak and no problem."
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from medsum_core.grounding.facts.tokens import bag
from medsum_core.grounding.findings.finding import Finding, FindingScan
from medsum_core.grounding.findings.heard import Heard
from medsum_core.grounding.findings.reading import REACTIONS
from medsum_core.grounding.findings.scope import Sentence
from medsum_core.grounding.findings.stems import stem

Allergy = Literal["supported", "not_found", "contradicted"]
TO = bag("to : include including of with both and , ( either")
REACTED = bag(
    "hives rash swelling swollen itch itchy itching anaphylaxis throat wheeze allergy allergic reacted reaction broke "
    "blisters puffed closed tight cramps vomited problem "
    "trouble skin sick"
)
CAUSING = bag("cause caused causes causing provoke provoked provokes")
TOO_WIDE = bag("medication allergen food allergy")
TOLERATED = (
    ("no", "problem"), ("no", "problems"), ("no", "trouble"), ("no", "bother"), ("no", "reaction"),
    ("without", "problem"), ("don't", "bother"), ("doesn't", "bother"), ("didn't", "bother"),
    ("is", "fine"), ("are", "fine"), ("every", "day"),
    ("every", "week"), ("bother", "me", "no"), ("is", "okay"), ("not", "bother"),
)  # fmt: skip
SOURCES = ("medication", "allergen")


def names_allergen(finding: Finding, note: FindingScan) -> bool:
    """Whether a note says that someone is allergic to a finding, or is not: "allergic to X", "X allergy"."""
    if finding.kind not in SOURCES:
        return False
    words = note.words
    sentence = next(s for s in note.sentences if s.first <= finding.first < s.last)
    if finding.kind == "medication" and any(words[i].text in CAUSING for i in range(finding.last, sentence.last)):
        return True
    if not finding.allergy:
        return False
    if finding.last < sentence.last and words[finding.last].stem in REACTIONS:
        return True
    before = [i for i in range(sentence.first, finding.first) if words[i].stem in REACTIONS]
    if not before:
        return False
    after = words[before[-1] + 1].text if before[-1] + 1 < finding.first else ":"
    between = {words[i].text for i in range(before[-1], finding.first)}
    return after in TO and not between & {"for", "takes", "uses", "on", "but", "with"}


def judge_allergen(finding: Finding, heard: Heard) -> tuple[Allergy, int | None]:
    """The verdict on an allergen of a note, and the turn that says it or the opposite."""
    wider = {up for name in finding.names for up in heard.lexicon.ancestors[name]} - TOO_WIDE
    said = heard.named(finding.names) or heard.exact(wider)
    if not said:
        loose = heard.loosely(finding.names, "")
        return ("supported", loose[0][0]) if loose else ("not_found", None)
    allergic = [other for other in said if not _is_tolerated(other, heard)]
    if finding.assertion == "denied":
        return "supported", said[0].turn
    if allergic:
        return "supported", allergic[0].turn
    return "contradicted", said[-1].turn


def judge_no_allergies(heard: Heard) -> tuple[Allergy, int | None]:
    """The verdict on "NKDA", "no drug allergies"."""
    named = [other for other in heard.scan.findings if other.kind in SOURCES and not _is_tolerated(other, heard)]
    for other in named:
        own = _sentences(other, heard)
        stems = {heard.scan.words[i].stem for s in own for i in range(s.first, s.last)}
        by_patient = not heard.turns[other.turn].is_clinician
        if (
            by_patient
            and other.assertion == "present"
            and other.reply is None
            and stems & {stem(word) for word in REACTED}
        ):
            return "contradicted", other.turn
    about = heard.exact(("allergy",))
    if about:
        return "supported", about[0].turn
    stems_known = any(word in heard.turns_of for word in REACTIONS)
    return ("supported", None) if stems_known else ("not_found", None)


def _sentences(finding: Finding, heard: Heard) -> list[Sentence]:
    """The sentence of a finding and the one after it, or the answer to it."""
    own = heard.sentences_of[finding.turn]
    k = next(k for k, s in enumerate(own) if s.first <= finding.first < s.last)
    found = own[k : k + 2]
    last_said = k == len(own) - 1 and heard.turns[finding.turn].is_clinician
    if own[k].asks or finding.reply is not None or last_said:
        found = [own[k], *heard.sentences_of.get(finding.turn + 1, [])[:2]]
    return found


def _is_tolerated(finding: Finding, heard: Heard) -> bool:
    """Whether the dialogue denies an allergy to it, or says that it does no harm."""
    if finding.inverted:
        return finding.tolerated is True
    if finding.assertion == "denied":
        return True
    words = heard.scan.words
    texts = [words[i].text for s in _sentences(finding, heard) for i in range(s.first, s.last) if words[i].text != ","]
    return any(_has(texts, phrase) for phrase in TOLERATED)


def _has(texts: Sequence[str], phrase: Sequence[str]) -> bool:
    return any(tuple(texts[k : k + len(phrase)]) == tuple(phrase) for k in range(len(texts)))
