"""Compares the subjects of findings: "Father had diabetes" is contradicted if only the mother has it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from medsum_core.grounding.facts.tokens import word_set
from medsum_core.grounding.findings.finding import Finding, FindingScan, Judged, JudgedFact, Verdict, turn_of
from medsum_core.grounding.findings.finding_index import FindingIndex
from medsum_core.grounding.findings.kinship import AND, FAMILY, same_person, split_side
from medsum_core.grounding.findings.relatives import (
    PATIENT,
    PATIENT_OR_UNKNOWN,
    REPORTING_WORDS,
    UNKNOWN,
    possible_subjects,
)
from medsum_core.grounding.findings.scope import Sentence

PATIENT_TERMS = word_set("patient pt he she his her")
SPOUSES = word_set("husband wife spouse partner")
MARRIAGE_WORDS = word_set("married marriage marri wed wedding divorced widowed")
INFORMANT_WORDS = word_set(  # a relative with one of these may only be present
    "accompanied presents presented present per historian informant obtained told according"
)
ANYONE_WORDS = word_set("someone somebody anyone anybody family")
EVERYONE_WORDS = word_set("everyone everybody all")
COMPANIONS = word_set("parent child spouse partner friend neighbor coworker roommate")
MAY_BE_PATIENT = word_set(  # the patient, if a parent speaks
    "son daughter child baby infant grandson granddaughter grandchild twin family"
)


def judge_relatives(note: FindingScan, index: FindingIndex) -> list[JudgedFact]:
    """The verdicts on the relatives whom a note describes: supported if the dialogue names one who may be the same.

    None if a relative takes part in the dialogue, because the speaker tag may not say which relative it is, or if the
    dialogue speaks only of the family: "Does it run in the family?" "Everyone has it.".
    """
    if index.has_family_speaker or (not index.kin and index.has_word(ANYONE_WORDS)):
        return []
    facts = []
    described = {i for s in note.sentences for i in _described_relatives(note, s)}
    for i, name in note.kin:
        if (
            name == FAMILY
            or i not in described
            or name in COMPANIONS
            or (name in SPOUSES and index.has_word(MARRIAGE_WORDS))
        ):
            continue
        matching = [other for other in index.kin if same_person(name, other)]
        verdict: Verdict = "supported" if matching and not _is_on_other_side(name, index.kin) else "contradicted"
        has_side = i > 0 and note.words[i - 1].text in ("maternal", "paternal")
        facts.append(JudgedFact(note.words[i - has_side].start, note.words[i].end, "relative", verdict, None))
    return facts


def _described_relatives(note: FindingScan, sentence: Sentence) -> set[int]:
    """The relatives whom a note's sentence describes, not those who only report or accompany the patient."""
    kin = note.kin_between(sentence.first, sentence.last)
    if INFORMANT_WORDS.isdisjoint(word.text for word in note.words[sentence.first : sentence.last]):
        return {i for i, _ in kin if i + 1 == sentence.last or note.words[i + 1].text not in REPORTING_WORDS}
    return {i for i, _ in possible_subjects(note.words, sentence, kin)}


def _is_on_other_side(name: str, others: Iterable[str]) -> bool:
    """Whether the dialogue names a relative only of the other side: "My granddad." "Which side?" "Mom's dad."."""
    side, relative = split_side(name)
    sides = {other_side for other_side, other in map(split_side, others) if other == relative != FAMILY} - {""}
    return bool(side and sides) and side not in sides


def is_of_family(named: Sequence[Finding], note: FindingScan, index: FindingIndex) -> bool:
    """Whether all findings of a note are of relatives in the dialogue: a family history without a heading."""
    if any(word.text in PATIENT_TERMS for word in note.words):
        return False
    names = dict.fromkeys(finding.names for finding in named)
    evidence = (other for of_one in names for other in index.named(of_one) if other.assertion != "denied")
    return all(
        other.subject not in PATIENT_OR_UNKNOWN or index.has_word_near(ANYONE_WORDS, other) for other in evidence
    )


def is_named_near(finding: Finding, evidence: Sequence[Finding], index: FindingIndex) -> bool:
    """Whether the dialogue names the relative of a note's finding near its `evidence` in the dialogue."""
    asked = [other for other in evidence if other.reply is not None or other.assertion != "denied"]
    named = any(same_person(finding.subject, kin) for other in evidence for kin in index.kin_near(other))
    return named and len(asked) == len(evidence)  # not "No colon cancer, but my brother has Crohn's."


def judge_subject(
    finding: Finding, affirmed: Sequence[Finding], denied: Sequence[Finding], index: FindingIndex
) -> Judged:
    """Supported if the subject may be that of a mention in `affirmed`; contradicted if only others have the finding,
    or if "everybody" does and a mention in `denied` excepts the subject: "And you?" "No."."""
    excepted = [other for other in denied if other.elided and other.subject == finding.subject != FAMILY]
    if excepted and all(other.subject == FAMILY for other in affirmed):
        return Judged("contradicted", excepted[0].turn)
    judged = _judge_named_subject(finding, affirmed, index)
    if judged.verdict != "contradicted" or finding.subject != PATIENT:
        return judged
    named_in = {turn for other in affirmed for turn in (other.turn - 1, other.turn)}
    for turn, _ in index.in_paraphrase(finding.names, finding.part):
        if turn not in named_in and not index.scan.kin_between(*index.scan.turns[turn]):
            return Judged("supported", turn)  # "How's your mood?" "Mostly down.", and an uncle's depression
    return judged


def _judge_named_subject(finding: Finding, affirmed: Sequence[Finding], index: FindingIndex) -> Judged:
    statements = [other for other in affirmed if other.assertion != "asked"] or list(affirmed)
    subject = finding.subject
    if subject in (UNKNOWN, FAMILY):
        return Judged("supported", turn_of(statements))
    if subject == PATIENT:
        own = [other for other in statements if {*other.subject.split(AND)} & {*PATIENT_OR_UNKNOWN, *MAY_BE_PATIENT}]
        return Judged("supported", turn_of(own)) if own else Judged("contradicted", statements[0].turn)
    own = [other for other in statements if same_person(subject, other.subject)]
    if index.has_family_speaker and not own:
        own = [other for other in statements if other.subject in (*PATIENT_OR_UNKNOWN, FAMILY)]
    own = own or [
        other for other in statements if other.subject == FAMILY and index.has_word_near(EVERYONE_WORDS, other)
    ]
    if own:
        return Judged("supported", turn_of(own))
    if not any(set(other.names) & set(finding.names) for other in statements):
        return Judged("supported", turn_of(statements))  # each relative may have another disease of a broader concept
    others = [other for other in statements if other.subject not in (UNKNOWN, FAMILY)]
    if any(same_person(subject, kin) for other in statements for kin in index.kin_near(other)):
        others = [other for other in others if other.subject != PATIENT]
    return Judged("contradicted", others[0].turn) if others else Judged("supported", turn_of(statements))


def span_with_person(finding: Finding, note: FindingScan) -> tuple[int, int]:
    """The characters of a finding and of the word for its subject: "[mother had asthma]"."""
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
    has_side = place > sentence.first and note.words[place - 1].text in ("maternal", "paternal")
    return min(finding.start, note.words[place - has_side].start), max(finding.end, note.words[place].end)
