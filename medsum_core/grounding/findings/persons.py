"""Does the dialogue say a finding of the same person? Not "Father had diabetes" where only the mother has it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from medsum_core.grounding.facts.tokens import bag
from medsum_core.grounding.findings.finding import Finding, FindingScan, Judged, JudgedFact, Verdict, turn_of
from medsum_core.grounding.findings.finding_index import FindingIndex
from medsum_core.grounding.findings.kinship import AND, FAMILY, parted, same_person
from medsum_core.grounding.findings.relatives import PATIENT, TELLING, UNKNOWN, bearers
from medsum_core.grounding.findings.scope import Sentence

PATIENT_WORDS = bag("patient pt he she his her")
SPOUSES, MARRIED = bag("husband wife spouse partner"), bag("married marriage marri wed wedding divorced widowed")
PRESENT = bag("accompanied presents presented present per historian informant obtained told according")
SOMEONE = bag("someone somebody anyone anybody family")
EVERYONE = bag("everyone everybody all")
COMPANIONS = bag("parent child spouse partner friend neighbor coworker roommate")
CHILDLIKE = bag("son daughter child baby infant grandson granddaughter grandchild twin family")


def judge_relatives(note: FindingScan, index: FindingIndex) -> list[JudgedFact]:
    """The verdicts on the relatives of whom a note says something: does the dialogue name them, or who may be the same?

    Not where a relative is present, whose tag may not tell who she is.
    """
    facts = []
    told_of = {i for s in note.sentences for i in _told_of(note, s)}
    for i, name in note.kin if index.kin and not index.has_family_speaker else ():
        if name == FAMILY or i not in told_of or name in COMPANIONS or (name in SPOUSES and index.has_word(MARRIED)):
            continue
        told = [other for other in index.kin if same_person(name, other)]
        verdict: Verdict = "supported" if told and not _is_of_other_side(name, index.kin) else "contradicted"
        sided = i > 0 and note.words[i - 1].text in ("maternal", "paternal")
        facts.append(JudgedFact(note.words[i - sided].start, note.words[i].end, "relative", verdict, None))
    return facts


def _told_of(note: FindingScan, sentence: Sentence) -> set[int]:
    """The relatives of a note's sentence but for those who may be present: who tell, or come with the patient."""
    kin = note.kin_between(sentence.first, sentence.last)
    if PRESENT.isdisjoint(word.text for word in note.words[sentence.first : sentence.last]):
        return {i for i, _ in kin if i + 1 == sentence.last or note.words[i + 1].text not in TELLING}
    return {i for i, _ in bearers(note.words, sentence, kin)}


def _is_of_other_side(name: str, said: Iterable[str]) -> bool:
    """Whether a relative is named with the other side of the family only: "My granddad." "Which side?" "Mom's dad."."""
    side, relative = parted(name)
    sides = {other_side for other_side, other in map(parted, said) if other == relative != FAMILY} - {""}
    return bool(side and sides) and side not in sides


def is_of_family(named: Sequence[Finding], note: FindingScan, index: FindingIndex) -> bool:
    """Whether all findings of a note are of relatives in the dialogue: it is a family history without saying so."""
    if any(word.text in PATIENT_WORDS for word in note.words):
        return False
    names = dict.fromkeys(finding.names for finding in named)
    said = (other for of_one in names for other in index.named(of_one) if other.assertion != "denied")
    return all(other.subject not in (PATIENT, UNKNOWN) or index.has_word_near(SOMEONE, other) for other in said)


def is_named_near(finding: Finding, said: Sequence[Finding], index: FindingIndex) -> bool:
    """Whether the relative of a note's finding is named where the dialogue speaks of it."""
    asked = [other for other in said if other.reply is not None or other.assertion != "denied"]
    named = any(same_person(finding.subject, kin) for other in said for kin in index.kin_near(other))
    return named and len(asked) == len(said)  # not "No colon cancer, but my brother has Crohn's."


def of_person(finding: Finding, affirmed: Sequence[Finding], index: FindingIndex) -> Judged:
    """Supported if the person may be the same; "Father had diabetes" is not where only the mother has it."""
    statements = [other for other in affirmed if other.assertion != "asked"] or list(affirmed)
    subject = finding.subject
    if subject in (UNKNOWN, FAMILY):
        return Judged("supported", turn_of(statements))
    if subject == PATIENT:
        own = [other for other in statements if {*other.subject.split(AND)} & {PATIENT, UNKNOWN, *CHILDLIKE}]
        return Judged("supported", turn_of(own)) if own else Judged("contradicted", statements[0].turn)
    own = [other for other in statements if same_person(subject, other.subject)]
    if index.has_family_speaker and not own:
        own = [other for other in statements if other.subject in (PATIENT, UNKNOWN, FAMILY)]
    own = own or [other for other in statements if other.subject == FAMILY and index.has_word_near(EVERYONE, other)]
    if own:
        return Judged("supported", turn_of(own))
    if not any(set(other.names) & set(finding.names) for other in statements):
        return Judged("supported", turn_of(statements))  # of a wider kind each may have his own
    others = [other for other in statements if other.subject not in (UNKNOWN, FAMILY)]
    if any(same_person(subject, kin) for other in statements for kin in index.kin_near(other)):
        others = [other for other in others if other.subject != PATIENT]
    return Judged("contradicted", others[0].turn) if others else Judged("supported", turn_of(statements))


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
