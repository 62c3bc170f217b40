"""The verdict on each finding of a note: is it said in the dialogue, and with the same assertion, of the same person?

Precision comes first. A finding is not found only where neither its concept, nor a synonym, nor a narrower name, nor
words like its own occur; contradicted only where everything that the dialogue says of it is the opposite.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from medsum_core.grounding.facts.tokens import bag
from medsum_core.grounding.findings import allergies, changes, wording
from medsum_core.grounding.findings.actions import as_of_now
from medsum_core.grounding.findings.finding import (
    ACTED,
    NOT_FOUND,
    ROOTS,
    SUPPORTED,
    Finding,
    FindingScan,
    Judged,
    JudgedFact,
    turn_of,
)
from medsum_core.grounding.findings.finding_index import DENIES, FindingIndex, index_findings
from medsum_core.grounding.findings.identity import judge_identity
from medsum_core.grounding.findings.lexicon import Lexicon
from medsum_core.grounding.findings.persons import is_named_near, is_of_family, judge_relatives, of_person, with_person
from medsum_core.grounding.findings.places import judge_places
from medsum_core.grounding.findings.qualities import other_certainty, other_course, other_result
from medsum_core.grounding.findings.relatives import PATIENT, UNKNOWN
from medsum_core.grounding.findings.stems import texts_of

STOPPED = bag(
    "quit stopped discontinued resolved former formerly ex gone weaned completed finished subsided cessation stop off "
    "avoid avoided avoids hardly rarely seldom longer held no not misplaced"
)
EARLIER = bag("last previously prior past history previous")
CLAUSES = bag(". ; but")
NEAR, REACH = 8, 25  # words
ALLERGEN = 3  # words at most in the name of what one is allergic to
LIMITING = bag(  # a denial that leaves room: "no gross hematuria", "no chills except for the last week"
    "prolonged significant severe frequent persistent major serious excessive substantial marked profuse gross "
    "prescription except only elsewhere unless besides otherwise se other else additional further"
)
HISTORY = bag("history hx ever prior previous past")
LIMITED = bag("since prior previous previously before")
BORNE = bag("tolerated tolerates tolerating resolved outgrown outgrew removed error erroneous")
HARM = frozenset(("pain", "side effect"))  # what any hurt is called
OF_NOW = bag("now currently moment")  # "Are you suicidal right now?"
PLACE = "place of care"
VAGUE = frozenset(("side",))  # parts that leave open which: "weakness on the right side"


KIND_OF = {"allergen": "allergy"}


def judge_findings(note: FindingScan, dialogue: str, lexicon: Lexicon) -> list[JudgedFact]:
    """The verdicts on the findings of a note, in order. Names of whole kinds ("medication") are no facts."""
    named = [finding for finding in note.findings if _is_fact(finding, note)]
    index = index_findings(dialogue, lexicon)
    facts = [*judge_relatives(note, index), *judge_identity(note, index)]
    if is_of_family(named, note, index):
        named = [replace(finding, subject=UNKNOWN) if finding.subject == PATIENT else finding for finding in named]
    facts += [_fact(finding, note, index) for finding in named]
    unsupported = [(fact.start, fact.end) for fact in facts if fact.verdict != "supported"]
    facts += judge_places(note, index, unsupported)
    return [fact for fact in facts if fact.kind != "relative" or not _is_inside(fact, facts)]


def _fact(finding: Finding, note: FindingScan, index: FindingIndex) -> JudgedFact:
    if finding.names == ("allergy",) or allergies.names_allergen(finding, note):
        none = finding.names == ("allergy",)
        allergy = (
            allergies.judge_no_allergies(finding, note, index) if none else allergies.judge_allergen(finding, index)
        )
        if allergy[0] == "contradicted" and (_is_borne(finding, note) or allergies.is_adverse_effect(finding, note)):
            allergy = SUPPORTED
        action = changes.action_in_note(finding, note) if finding.kind == "medication" else None
        if action and action.action != "use" and _by_action(finding, note, index, Judged(*allergy))[1]:
            return JudgedFact(*changes.with_action(finding, note), "allergy", "contradicted", allergy[1])
        return JudgedFact(finding.start, finding.end, "allergy", *allergy)
    judged = judge_finding(finding, note, index)
    if judged.verdict == "contradicted" and finding.kind == "medication" and _is_borne(finding, note):
        judged = SUPPORTED
    (verdict, turn), changed = _by_action(finding, note, index, judged)
    if finding.kind == "procedure" and verdict == "supported":
        said = index.named(finding.names)
        if other_result(finding, said, note, index):
            verdict, turn = "contradicted", said[0].turn
    start, end = finding.start, finding.end
    if changed:
        start, end = changes.with_action(finding, note)
    elif verdict == "contradicted" and finding.subject != UNKNOWN and finding.assertion != "denied":
        start, end = with_person(finding, note)
    return JudgedFact(start, end, KIND_OF.get(finding.kind, finding.kind), verdict, turn)


def _is_inside(fact: JudgedFact, facts: Sequence[JudgedFact]) -> bool:
    """Whether another fact that is not supported names the relative with what he has: "[father had gout]"."""
    unsupported = (one for one in facts if one is not fact and one.verdict != "supported")
    return any(one.start <= fact.start and fact.end <= one.end for one in unsupported)


def _is_borne(finding: Finding, note: FindingScan) -> bool:
    """Whether the note says after a finding that it does no harm: "cephalexin was [tolerated]"."""
    return bool(BORNE.intersection(word.text for word in note.after(finding, NEAR)))


def _is_fact(finding: Finding, note: FindingScan) -> bool:
    """Whether a finding can be checked: no name of a whole kind ("medication"), but for "no known allergies"."""
    if finding.names == ("allergy",):
        before = note.words[finding.first - 1].text if finding.first else ""
        own = note.between(finding.first - ALLERGEN, finding.first)
        if any(one.last == finding.first and not ROOTS.issuperset(one.names) for one in own):
            return False  # "no latex allergy"
        if note.words[finding.last : finding.last + 1] and note.words[finding.last].text == "to":
            return False  # "no allergy to eggs"
        return finding.assertion == "denied" and before not in ("for", "of", "with")
    if ROOTS.issuperset(finding.names):
        return False
    return finding.kind != "allergen" or allergies.names_allergen(finding, note)


def _by_action(finding: Finding, note: FindingScan, index: FindingIndex, judged: Judged) -> tuple[Judged, bool]:
    """The verdict with what note and dialogue do with a drug, a test or a habit; and whether that alone contradicts."""
    if finding.kind not in changes.CHANGED or finding.subject not in (PATIENT, UNKNOWN):
        return judged, False
    action = None if _is_place(finding, index) else changes.action_in_note(finding, note)
    if action is None or finding.assertion == "uncertain":
        return judged, False
    said = changes.said_of(finding, index)
    if finding.assertion == "denied" and any(other.assertion == "denied" for other in said):
        return judged, False
    actions = as_of_now(action.action, changes.actions_in_talk(finding, index))
    if not (said or actions) or changes.is_open(said, action.action, actions, index):
        return judged, False
    if judged.verdict == "contradicted" and changes.agrees(action, actions):
        return Judged("supported", judged.turn), False
    once = any("surgery" in index.lexicon.ancestors[name] for name in finding.names)
    told = finding.kind != "procedure" and not _gives_dose(finding, note)
    opposed = judged.verdict != "not_found" and changes.is_opposed(action, actions, once=once, told=told)
    return (Judged("contradicted", said[0].turn if said else judged.turn), True) if opposed else (judged, False)


def _is_place(finding: Finding, index: FindingIndex) -> bool:
    """Whether it is where one is cared for, to which nothing is done: "drove me to the [ER]"."""
    return any(PLACE in index.lexicon.ancestors[name] for name in finding.names)


def _gives_dose(finding: Finding, note: FindingScan) -> bool:
    """Whether the note says to what a dose is changed, which is checked as a number: "increase X to 20 mg"."""
    after = [word.text for word in note.after(finding, NEAR)]
    return any(text == "to" and further[:1].isdigit() for text, further in pairwise(after))


def judge_finding(finding: Finding, note: FindingScan, index: FindingIndex) -> Judged:
    """Look one finding of the note up in the dialogue."""
    said = _of_part(finding, index.named(finding.names), index)
    if said:
        return _by_assertion(finding, said, note, index)
    wider = _of_part(finding, index.exact(index.broader(finding.names)), index)
    denied = finding.assertion == "denied"
    doubtful = finding.assertion == "uncertain"
    if wider:
        agreeing = [other for other in wider if (other.assertion == "denied") == denied]
        statements = [other for other in agreeing if other.assertion != "asked"]
        if finding.kind == "symptom" and not denied:
            statements = statements or agreeing
        if statements and (denied or finding.kind in ("symptom", "condition")):
            return Judged("supported", turn_of(statements))
        if not denied and not doubtful and all(other.assertion == "denied" for other in wider):
            return Judged("contradicted", wider[0].turn)
    return _judge_paraphrases(finding, note, index)


def _affirmed_in_paraphrase(finding: Finding, index: FindingIndex) -> int | None:
    """The turn that affirms a finding in other words, where none denies it: "melena" and "they're black as tar"."""
    if finding.kind not in ("symptom", "condition"):
        return None
    places = index.in_paraphrase(finding.names, finding.part, least=2)
    opposed = any(polarity in DENIES for _, polarity in places)
    return next((turn for turn, polarity in places if polarity == "yes" and not opposed), None)


def _of_part(finding: Finding, said: Sequence[Finding], index: FindingIndex) -> list[Finding]:
    """The findings of the same body part, or, where there are none, of no named part."""
    if not finding.part:
        return list(said)
    ancestors = index.lexicon.ancestors
    vague = frozenset() if finding.assertion == "denied" else VAGUE
    parts = {id(s): {s.part} - vague if s.part else index.implied_parts(s) for s in said}
    near = [s for s in said if any(p in ancestors[finding.part] or finding.part in ancestors[p] for p in parts[id(s)])]
    of_none = [s for s in said if not parts[id(s)]]
    if finding.assertion == "denied":  # pain somewhere is no pain of this part
        of_none = [s for s in of_none if s.assertion == "denied"]
        return [*near, *of_none]
    return near or of_none


def _by_assertion(finding: Finding, said: Sequence[Finding], note: FindingScan, index: FindingIndex) -> Judged:
    for other in (other_certainty, other_course):
        if (turn := other(finding, said, note, index)) is not None:
            return Judged("contradicted", turn)
    denied = [other for other in said if other.assertion == "denied"]
    if finding.assertion == "denied":
        return _denied(finding, said, denied, note, index)
    affirmed = [other for other in said if other.assertion != "denied"]
    if not affirmed and finding.assertion == "uncertain":
        return Judged("supported", denied[0].turn)
    asked = {turn for other in denied for turn in range(other.turn, other.reply or other.turn + 1)}
    paraphrases = () if affirmed else index.in_paraphrase(finding.names, finding.part)
    if any(polarity == "yes" and turn not in asked for turn, polarity in paraphrases):
        return Judged("supported", denied[0].turn)
    of_relative = finding.subject not in (PATIENT, UNKNOWN)
    if not affirmed and of_relative and is_named_near(finding, denied, index):
        return Judged("supported", denied[0].turn)  # "Any swelling?" "No, that was my sister."
    if not affirmed:
        return Judged("supported" if _is_over(finding, note) else "contradicted", denied[-1].turn)
    return Judged("supported", turn_of(affirmed)) if _is_place(finding, index) else of_person(finding, affirmed, index)


def _is_over(finding: Finding, note: FindingScan) -> bool:
    """Whether the note says that it stopped: "quit smoking", "the pain has resolved"."""
    begin, end = max(finding.first - NEAR, 0), min(finding.last + NEAR, len(note.words))
    begin = next((i + 1 for i in range(finding.first - 1, begin - 1, -1) if note.words[i].text in CLAUSES), begin)
    end = next((i for i in range(finding.last, end) if note.words[i].text in CLAUSES), end)
    acted = finding.kind in ACTED  # "takes aspirin, no anticoagulant"; "last course of prednisone"
    before, after = (STOPPED | EARLIER, STOPPED - {"no", "not"}) if acted else (STOPPED, STOPPED)
    return any(note.words[i].text in (before if i < finding.first else after) for i in range(begin, end))


def _denied(
    finding: Finding, said: Sequence[Finding], denied: Sequence[Finding], note: FindingScan, index: FindingIndex
) -> Judged:
    near = texts_of(note.words, max(finding.first - NEAR, 0), finding.first)
    history = not HISTORY.isdisjoint(near)
    if denied and not (history and all(index.tells_of(OF_NOW, other) for other in denied)):
        return Judged("supported", turn_of(denied))
    about = [*note.words[max(finding.first - 1, 0) : finding.last], *note.after(finding, NEAR)]
    if any(word.text in LIMITING for word in about):
        return Judged("supported", turn_of(said))  # "no prolonged stiffness" leaves room for some
    if (
        all(other.assertion == "asked" for other in said)
        and (turn := _affirmed_in_paraphrase(finding, index)) is not None
    ):
        return Judged("contradicted", turn)
    strong = ("present", "past_or_stopped") if history else ("present",)
    told = [other for other in said if other.reply is not None or not index.turns[other.turn].is_clinician]
    of_patient = [other for other in told if other.subject in (PATIENT, UNKNOWN) and other.assertion in strong]
    limited = not LIMITED.isdisjoint(texts_of(note.words, max(finding.first - REACH, 0), finding.first))
    if (limited or any(other.assertion == "past_or_stopped" for other in said)) and not history:
        return Judged("supported", turn_of(said))
    if of_patient and finding.subject in (PATIENT, UNKNOWN):
        return Judged("contradicted", of_patient[0].turn)
    return Judged("supported", turn_of(said))


def _judge_paraphrases(finding: Finding, note: FindingScan, index: FindingIndex) -> Judged:
    denied = finding.assertion == "denied"
    places = index.in_paraphrase(finding.names, finding.part)
    if places:
        lack = all(index.lexicon.concepts[name].lack for name in finding.names)
        opposed = ("yes",) if denied and not lack else () if denied else ("well",) if lack else DENIES
        agreeing = [turn for turn, polarity in places if polarity not in opposed]
        if agreeing:
            return Judged("supported", agreeing[0])
        if denied and (turn := _affirmed_in_paraphrase(finding, index)) is not None:
            return Judged("contradicted", turn)
        if finding.assertion == "uncertain" and finding.kind == "condition" and index.turns[places[0][0]].is_clinician:
            return Judged("contradicted", places[0][0])  # "We've ruled out a clot."
        if finding.assertion in ("denied", "uncertain") or finding.kind not in ("symptom", "condition", "substance"):
            return SUPPORTED
    text = " ".join(texts_of(note.words, finding.first, finding.last))
    if finding.kind == "medication" and wording.has_misspelt(index, text):
        return SUPPORTED
    if finding.kind != "medication" and wording.has_words_like(index, text, with_part=bool(finding.part)):
        return SUPPORTED
    if finding.assertion in ("denied", "uncertain") and wording.generic_denial(finding, index):
        return SUPPORTED
    if denied and wording.denies_word_of(finding.names, index):
        return SUPPORTED  # "Blood?" "No.": no hematuria
    if denied and finding.part and index.parts_named(finding.part):
        return SUPPORTED  # "Any knee, ankle or foot pain?": of which part is left open
    if HARM.intersection(finding.names) and wording.hurts(finding.part, index):
        return SUPPORTED
    if finding.kind == "symptom" and not places and any(map(index.has_trouble_with, wording.parts_of(finding, index))):
        return SUPPORTED  # "How is the knee?": what is wrong with it may be said in any words
    affirmed = finding.assertion == "present" and finding.kind in ("symptom", "condition")
    if not places and (
        wording.is_generic(finding, index) or index.hints_at(finding.names, finding.part, affirmed=affirmed)
    ):
        return SUPPORTED
    return Judged("contradicted", places[0][0]) if places else NOT_FOUND
