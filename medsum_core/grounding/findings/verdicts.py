"""The verdict on each finding of a note: does the dialogue have it, with the same assertion and of the same person?

Precision comes first. A finding is not found only if neither its concept, a synonym, a narrower concept, a paraphrase
nor similar words occur; it is contradicted only if all evidence in the dialogue is against it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from medsum_core.grounding.facts.tokens import word_set
from medsum_core.grounding.findings import allergies, changes, wording
from medsum_core.grounding.findings.actions import without_ended_start
from medsum_core.grounding.findings.finding import (
    ACTIONABLE,
    NOT_FOUND,
    ROOTS,
    SUPPORTED,
    Finding,
    FindingScan,
    Judged,
    JudgedFact,
    turn_of,
)
from medsum_core.grounding.findings.finding_index import NEGATIVE, FindingIndex, index_findings
from medsum_core.grounding.findings.identity import judge_identity
from medsum_core.grounding.findings.lexicon import Lexicon
from medsum_core.grounding.findings.persons import (
    is_named_near,
    is_of_family,
    judge_relatives,
    judge_subject,
    span_with_person,
)
from medsum_core.grounding.findings.places import judge_places
from medsum_core.grounding.findings.qualities import contradicting_certainty, contradicting_course, contradicting_result
from medsum_core.grounding.findings.relatives import PATIENT, PATIENT_OR_UNKNOWN, UNKNOWN
from medsum_core.grounding.findings.stems import texts_of

STOPPED = word_set(  # near a finding: the note agrees that it is over or absent
    "quit stopped discontinued resolved former formerly ex gone weaned completed finished subsided cessation stop off "
    "avoid avoided avoids hardly rarely seldom longer held no not misplaced"
)
EARLIER = word_set(  # before a drug or procedure, for which "no" and "not" do not count after it
    "last previously prior past history previous"
)
CLAUSE_ENDS = word_set(". ; but because due")
NEAR, REACH = 8, 25  # words
MAX_ALLERGEN = 3  # words of the name of an allergen
# A denial with one excludes only some: "no gross hematuria", "no chills except for the last week".
QUALIFIERS = word_set(
    "prolonged significant severe frequent persistent major serious excessive substantial marked profuse gross "
    "prescription except only elsewhere unless besides otherwise se other else additional further"
)
HISTORY = word_set("history hx ever prior previous past")  # the denial includes the past: "no history of falls"
TIME_LIMITS = word_set("since prior previous previously before")  # of a denial: "no falls since March"
TIMES_OF_REST = word_set("rest night")  # a denial for these leaves the finding open for others: "no chest pain at rest"
TOLERATED = word_set(  # after a substance: it does no harm, or no longer, or was recorded in error
    "tolerated tolerates tolerating resolved outgrown outgrew removed error erroneous excluded ruled"
)
UNSPECIFIC_HARM = frozenset(("pain", "side effect"))  # may summarize any complaint
CURRENT = word_set("now currently moment")  # "Are you suicidal right now?" does not ask about the past
PLACE_OF_CARE = "place of care"
UNSPECIFIC_PARTS = frozenset(("side",))  # "weakness on the right side" names no body part
KIND_OF = {"allergen": "allergy"}  # the kinds of facts that are not called as those of findings


def judge_findings(note: FindingScan, dialogue: str, lexicon: Lexicon) -> list[JudgedFact]:
    """The verdicts on the findings of a note, and on its relatives, identity and body parts."""
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
    """A finding of the note as a fact, with its verdict and the span that the verdict is about."""
    if finding.names == ("allergy",) or allergies.names_allergen(finding, note):
        denies_all = finding.names == ("allergy",)
        judged = (
            allergies.judge_no_allergies(finding, note, index)
            if denies_all
            else allergies.judge_allergen(finding, index)
        )
        if judged.verdict == "contradicted" and (
            _is_tolerated(finding, note) or allergies.is_adverse_effect(finding, note)
        ):
            judged = SUPPORTED
        action = changes.action_in_note(finding, note) if finding.kind == "medication" else None
        if action and action.action != "use" and _judge_action(finding, note, index, judged)[1]:
            return JudgedFact(*changes.span_with_action(finding, note), "allergy", "contradicted", judged.turn)
        return JudgedFact(finding.start, finding.end, "allergy", *judged)
    if ROOTS.issuperset(finding.names):  # "denies any other medical conditions"
        denied = wording.denies_kind(finding, index) or wording.denies_some(index)
        return JudgedFact(finding.start, finding.end, finding.kind, *(SUPPORTED if denied else NOT_FOUND))
    judged = judge_finding(finding, note, index)
    if judged.verdict == "contradicted" and finding.kind == "medication" and _is_tolerated(finding, note):
        judged = SUPPORTED
    (verdict, turn), changed = _judge_action(finding, note, index, judged)
    if verdict == "supported" and allergies.is_other_reaction(finding, note, index):
        verdict = "contradicted"
    if finding.kind == "procedure" and verdict == "supported":
        evidence = index.named(finding.names)
        if contradicting_result(finding, evidence, note, index):
            verdict, turn = "contradicted", evidence[0].turn
    start, end = finding.start, finding.end
    if changed:
        start, end = changes.span_with_action(finding, note)
    elif verdict == "contradicted" and finding.subject != UNKNOWN and finding.assertion != "denied":
        start, end = span_with_person(finding, note)
    return JudgedFact(start, end, KIND_OF.get(finding.kind, finding.kind), verdict, turn)


def _is_inside(fact: JudgedFact, facts: Sequence[JudgedFact]) -> bool:
    """Whether a fact is within another one that is not supported: "father" in "[father had gout]"."""
    unsupported = (one for one in facts if one is not fact and one.verdict != "supported")
    return any(one.start <= fact.start and fact.end <= one.end for one in unsupported)


def _is_tolerated(finding: Finding, note: FindingScan) -> bool:
    """Whether the note says after a substance that it is tolerated: "cephalexin was [tolerated]"."""
    return bool(TOLERATED.intersection(word.text for word in note.after(finding, NEAR)))


def _is_fact(finding: Finding, note: FindingScan) -> bool:
    """Whether a finding is checked: the name of a kind ("medication") is not, except in "no known allergies"."""
    if finding.names == ("allergy",):
        before = note.words[finding.first - 1].text if finding.first else ""
        own = note.between(finding.first - MAX_ALLERGEN, finding.first)
        if any(one.last == finding.first and not ROOTS.issuperset(one.names) for one in own):
            return False  # "no latex allergy": the latex is checked
        if note.words[finding.last : finding.last + 1] and note.words[finding.last].text == "to":
            return False  # "no allergy to eggs": the eggs are checked
        return finding.assertion == "denied" and before not in ("for", "of", "with", "a", "an", "true", "real")
    if ROOTS.issuperset(finding.names):
        return wording.denies_others(finding, note)
    return finding.kind != "allergen" or allergies.names_allergen(finding, note)


def _judge_action(finding: Finding, note: FindingScan, index: FindingIndex, judged: Judged) -> tuple[Judged, bool]:
    """The verdict that takes the action on a drug, test or habit into account, and whether the action contradicts."""
    if finding.kind not in changes.CHANGED or finding.subject not in PATIENT_OR_UNKNOWN:
        return judged, False
    action = None if _is_place_of_care(finding, index) else changes.action_in_note(finding, note)
    if action is None or finding.assertion == "uncertain":
        return judged, False
    evidence = changes.evidence_for(finding, index)
    if finding.assertion == "denied" and any(other.assertion == "denied" for other in evidence):
        return judged, False
    actions = without_ended_start(action.action, changes.actions_in_dialogue(finding, index))
    if not (evidence or actions) or changes.is_open(evidence, action.action, actions, index):
        return judged, False
    if judged.verdict == "contradicted" and changes.agrees(action, actions):
        return Judged("supported", judged.turn), False
    once = any("surgery" in index.lexicon.ancestors[name] for name in finding.names)
    must_be_stated = finding.kind != "procedure" and not _gives_dose(finding, note)
    opposed = judged.verdict != "not_found" and changes.is_opposed(
        action, actions, once=once, must_be_stated=must_be_stated
    )
    return (Judged("contradicted", evidence[0].turn if evidence else judged.turn), True) if opposed else (judged, False)


def _is_place_of_care(finding: Finding, index: FindingIndex) -> bool:
    """Whether a procedure is only a place of care, which has no action: "drove me to the [ER]"."""
    return any(PLACE_OF_CARE in index.lexicon.ancestors[name] for name in finding.names)


def _gives_dose(finding: Finding, note: FindingScan) -> bool:
    """Whether the note gives the new dose, which is checked as a number: "increase lisinopril to 20 mg"."""
    after = [word.text for word in note.after(finding, NEAR)]
    return any(text == "to" and further[:1].isdigit() for text, further in pairwise(after))


def judge_finding(finding: Finding, note: FindingScan, index: FindingIndex) -> Judged:
    """The verdict on one finding of the note.

    It is looked up by its concept and narrower ones, then by broader ones, then by paraphrases and weaker evidence.
    """
    evidence = _of_same_part(finding, index.named(finding.names), index)
    if evidence:
        return _judge_assertion(finding, evidence, note, index)
    broader = _of_same_part(finding, index.exact(index.broader(finding.names)), index)
    denied = finding.assertion == "denied"
    if broader:
        agreeing = [other for other in broader if (other.assertion == "denied") == denied]
        statements = [other for other in agreeing if other.assertion != "asked"]
        if finding.kind == "symptom" and not denied:
            statements = statements or agreeing
        if statements and (denied or finding.kind in ("symptom", "condition")):
            return Judged("supported", turn_of(statements))
        if finding.assertion not in ("denied", "uncertain") and all(other.assertion == "denied" for other in broader):
            return Judged("contradicted", broader[0].turn)
    return _judge_paraphrases(finding, note, index)


def _affirmed_in_paraphrase(finding: Finding, index: FindingIndex, *, least: int = 2) -> int | None:
    """The turn that affirms a symptom or condition in a paraphrase of `least` content words, if none denies it:
    "melena" and "they're black as tar"."""
    if finding.kind not in ("symptom", "condition"):
        return None
    paraphrases = index.in_paraphrase(finding.names, finding.part, least=least)
    opposed = any(polarity in NEGATIVE for _, polarity in paraphrases)
    return next((turn for turn, polarity in paraphrases if polarity == "affirmed" and not opposed), None)


def _of_same_part(finding: Finding, evidence: Sequence[Finding], index: FindingIndex) -> list[Finding]:
    """The evidence of the same body part, a wider or a narrower one; if there is none, that without a body part."""
    if not finding.part:
        return list(evidence)
    unspecific = frozenset() if finding.assertion == "denied" else UNSPECIFIC_PARTS
    parts = {id(s): {s.part} - unspecific if s.part else index.implied_parts(s) for s in evidence}
    same = [s for s in evidence if any(index.lexicon.related(finding.part, p) for p in parts[id(s)])]
    of_none = [s for s in evidence if not parts[id(s)]]
    if finding.assertion == "denied":  # "no hip pain" is not contradicted by pain without a body part
        of_none = [s for s in of_none if s.assertion == "denied"]
        return [*same, *of_none]
    return same or of_none


def _judge_assertion(finding: Finding, evidence: Sequence[Finding], note: FindingScan, index: FindingIndex) -> Judged:
    """The verdict on a finding whose concept the dialogue names, by the assertions there."""
    for contradicting_turn in (contradicting_certainty, contradicting_course):
        if (turn := contradicting_turn(finding, evidence, note, index)) is not None:
            return Judged("contradicted", turn)
    denied = [other for other in evidence if other.assertion == "denied"]
    if finding.assertion == "denied":
        return _judge_denied(finding, evidence, denied, note, index)
    affirmed = [other for other in evidence if other.assertion != "denied"]
    if not affirmed and finding.assertion == "uncertain":
        return Judged("supported", denied[0].turn)
    turns_of_denials = {turn for other in denied for turn in range(other.turn, other.reply or other.turn + 1)}
    paraphrases = () if affirmed else index.in_paraphrase(finding.names, finding.part)
    affirming = ({turn, turn + 1} for turn, polarity in paraphrases if polarity == "affirmed")
    if any(map(turns_of_denials.isdisjoint, affirming)):
        return Judged("supported", denied[0].turn)
    of_relative = finding.subject not in PATIENT_OR_UNKNOWN
    if not affirmed and of_relative and is_named_near(finding, denied, index):
        return Judged("supported", denied[0].turn)  # "Any swelling?" "No, that was my sister."
    if not affirmed:
        return Judged("supported" if _has_stopped(finding, note) else "contradicted", denied[-1].turn)
    if _is_place_of_care(finding, index):
        return Judged("supported", turn_of(affirmed))
    return judge_subject(finding, affirmed, denied, index)


def _has_stopped(finding: Finding, note: FindingScan) -> bool:
    """Whether the note says that a finding is over: "quit smoking", "the pain has resolved"."""
    begin, end = max(finding.first - NEAR, 0), min(finding.last + NEAR, len(note.words))
    begin = next((i + 1 for i in range(finding.first - 1, begin - 1, -1) if note.words[i].text in CLAUSE_ENDS), begin)
    end = next((i for i in range(finding.last, end) if note.words[i].text in CLAUSE_ENDS), end)
    before = after = STOPPED
    if finding.kind in ACTIONABLE:  # "last course of prednisone"; "takes aspirin, no anticoagulant"
        before, after = STOPPED | EARLIER, STOPPED - {"no", "not"}
    return any(note.words[i].text in (before if i < finding.first else after) for i in range(begin, end))


def _denies_some_times_only(
    finding: Finding, evidence: Sequence[Finding], note: FindingScan, index: FindingIndex
) -> bool:
    """Whether the note denies a finding "at rest" or "night pain", and the dialogue does not place it there."""
    after = [word.text for word in note.after(finding, 2)]
    before = note.words[finding.first - 1].text if finding.first else ""
    limited = before in TIMES_OF_REST or (len(after) == 2 and after[0] == "at" and after[1] in TIMES_OF_REST)
    return limited and not any(index.has_word_near(TIMES_OF_REST, other) for other in evidence)


def _judge_denied(
    finding: Finding, evidence: Sequence[Finding], denied: Sequence[Finding], note: FindingScan, index: FindingIndex
) -> Judged:
    """The verdict on a finding that the note denies, while the dialogue names its concept."""
    near = texts_of(note.words, max(finding.first - NEAR, 0), finding.first)
    history = not HISTORY.isdisjoint(near)
    if denied and not (history and all(index.has_word_near(CURRENT, other) for other in denied)):
        return Judged("supported", turn_of(denied))
    around = [*note.words[max(finding.first - 1, 0) : finding.last], *note.after(finding, NEAR)]
    if any(word.text in QUALIFIERS for word in around) or _denies_some_times_only(finding, evidence, note, index):
        return Judged("supported", turn_of(evidence))  # "no prolonged stiffness" does not exclude some
    if (
        all(other.assertion == "asked" for other in evidence)
        and (turn := _affirmed_in_paraphrase(finding, index)) is not None
    ):
        return Judged("contradicted", turn)
    contradicting = ("present", "past_or_stopped") if history else ("present",)
    stated = [other for other in evidence if other.reply is not None or not index.turns[other.turn].is_clinician]
    own = [other for other in stated if other.subject in PATIENT_OR_UNKNOWN and other.assertion in contradicting]
    limited = not TIME_LIMITS.isdisjoint(texts_of(note.words, max(finding.first - REACH, 0), finding.first))
    if (limited or any(other.assertion == "past_or_stopped" for other in evidence)) and not history:
        return Judged("supported", turn_of(evidence))
    if own and finding.subject in PATIENT_OR_UNKNOWN:
        return Judged("contradicted", own[0].turn)
    return Judged("supported", turn_of(evidence))


def _judge_paraphrases(finding: Finding, note: FindingScan, index: FindingIndex) -> Judged:
    """The verdict on a finding whose concept the dialogue does not name, by paraphrases, hints and similar words."""
    denied = finding.assertion == "denied"
    paraphrases = index.in_paraphrase(finding.names, finding.part)
    if paraphrases:
        lack = all(index.lexicon.concepts[name].lack for name in finding.names)
        opposed = ("affirmed",) if denied and not lack else () if denied else ("normal",) if lack else NEGATIVE
        agreeing = [turn for turn, polarity in paraphrases if polarity not in opposed]
        if agreeing:
            return Judged("supported", agreeing[0])
        least = 1 if finding.kind == "symptom" and not finding.part else 2
        if denied and (turn := _affirmed_in_paraphrase(finding, index, least=least)) is not None:
            return Judged("contradicted", turn)
        first_turn = paraphrases[0][0]
        doubtful_condition = finding.assertion == "uncertain" and finding.kind == "condition"
        if doubtful_condition and index.turns[first_turn].is_clinician:
            return Judged("contradicted", first_turn)  # "We've ruled out a clot."
        if finding.assertion in ("denied", "uncertain") or finding.kind not in ("symptom", "condition", "substance"):
            return SUPPORTED
    text = " ".join(texts_of(note.words, finding.first, finding.last))
    if finding.kind == "medication" and wording.has_misspelling(index, text):
        return SUPPORTED
    denied_use = finding.kind == "substance" and bool(paraphrases) and not denied  # "Any drugs?" "No."
    similar = finding.kind != "medication" and not denied_use
    if similar and wording.has_similar_words(index, text, with_part=bool(finding.part)):
        return SUPPORTED
    if finding.assertion in ("denied", "uncertain") and wording.denies_kind(finding, index):
        return SUPPORTED
    if denied and wording.denies_word_of(finding.names, index):
        return SUPPORTED  # "Blood?" "No." denies hematuria
    if denied and finding.part and index.named_part_stems(finding.part):
        return SUPPORTED  # "Any knee, ankle or foot pain?": the pain may be matched with one part only
    if UNSPECIFIC_HARM.intersection(finding.names) and wording.implies_pain(finding.part, index):
        return SUPPORTED
    parts = wording.parts_of(finding, index) if finding.kind == "symptom" and not paraphrases else ()
    if any(map(index.has_problem_with, parts)):
        return SUPPORTED  # "How is the knee?": the answer may describe the symptom in any words
    must_be_affirmed = finding.assertion == "present" and finding.kind in ("symptom", "condition")
    if not paraphrases and (
        wording.has_kind_only(finding, index) or index.hints_at(finding.names, finding.part, affirmed=must_be_affirmed)
    ):
        return SUPPORTED
    return Judged("contradicted", paraphrases[0][0]) if paraphrases else NOT_FOUND
