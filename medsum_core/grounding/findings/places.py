"""Checks the body parts of a note's findings against the dialogue: "pain going to the [elbow]", "a cut [finger]"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set

from medsum_core.grounding.facts.tokens import word_set
from medsum_core.grounding.findings.finding import NOT_FOUND, SUPPORTED, Finding, FindingScan, Judged, JudgedFact, Place
from medsum_core.grounding.findings.finding_index import FindingIndex
from medsum_core.grounding.findings.replies import asks_openly, read_reply
from medsum_core.grounding.findings.scope import is_denied_or_normal, read_scopes

LOCATED_KINDS = ("symptom", "condition", "allergen")
UNSPECIFIC = frozenset(("body", "side", "skin", "joint", "muscle", "bone", "extremity"))  # too general to check
SEPARATORS = word_set(  # between a finding and a body part they show that the part is not its place
    "; : no not without denies sparing spares spared excluding except"
)
GENERAL_AREAS = ("side", "body")
NOT_LOCATIONS = word_set("oral nasal rectal vaginal handed quadrant")  # routes of drugs, "left-handed"
LINK_WORDS = word_set(
    "in on of to at over around under behind down into along across near both left right bilateral bilaterally upper "
    "lower dorsal medial lateral anterior posterior distal proximal inner outer the his her"
)
LIST_WORDS = word_set(", and or")
SHORT_QUESTION = 5  # most words of a question about a part
REACH = 14  # words from a finding to the last body part of a list


def judge_places(note: FindingScan, index: FindingIndex, unsupported: Sequence[tuple[int, int]]) -> list[JudgedFact]:
    """The verdicts on the body parts of a note's findings, without those that overlap the spans `unsupported`."""
    facts = []
    for place in note.parts:
        if place.name in UNSPECIFIC or note.words[place.first].text in NOT_LOCATIONS:
            continue
        start, end = note.words[place.first].start, note.words[place.last - 1].end
        owner = _owner(place, note)
        if (
            owner is None
            or is_denied_or_normal(note.words, place.last, note.sentence_of(owner).last, "symptom")
            or any(a < end and start < b for a, b in unsupported)
        ):
            continue
        facts.append(JudgedFact(start, end, owner.kind, *_cached_judgement(place.name, index)))
    return facts


def _cached_judgement(name: str, index: FindingIndex) -> Judged:
    return index.cached(("place", name), lambda: judge_place(name, index))


def judge_place(name: str, index: FindingIndex) -> Judged:
    """Supported if the dialogue names the part, a wider or a narrower one; contradicted if it calls the part normal."""
    turn = _turn_naming(name, index)
    if turn is None:
        vague = any(place.name in GENERAL_AREAS for place in index.scan.parts)  # "weakness on the right side"
        said = any(words <= index.turns_of.keys() for words in index.lexicon.concepts[name].paraphrases)
        return SUPPORTED if vague or said else NOT_FOUND
    good = {turn for part, turn in index.scan.normal_parts if part == name}
    places = [place for place in index.scan.parts if place.name == name]
    denied = [place.turn for place in places if place.turn in good or _is_denied(place, good, index)]
    return Judged("contradicted", denied[0]) if denied and len(denied) == len(places) else Judged("supported", turn)


def _turn_naming(name: str, index: FindingIndex) -> int | None:
    """The first turn that names a part, a wider or a narrower one; None if none does."""
    answers: dict[int, set[str]] = {}
    for place in index.scan.parts:
        answers.setdefault(place.turn - 1, set()).add(place.name)
    named = ((one.turn, one.name) for one in index.scan.parts if not _is_asked_openly(one, answers, index))
    of_findings = ((one.turn, part) for one in index.scan.findings for part in index.implied_parts(one))
    return min((turn for turn, part in (*named, *of_findings) if index.lexicon.related(name, part)), default=None)


def _is_asked_openly(place: Place, answers: Mapping[int, set[str]], index: FindingIndex) -> bool:
    """Whether an open question names a part and the answer a narrower one: "Which finger?" "My thumb."."""
    sentence = index.scan.sentence_at(place.first)
    if not (sentence.asks and asks_openly(index.scan.words, sentence)):
        return False
    return any(place.name in index.lexicon.ancestors[name] for name in answers.get(place.turn, ()))


def _is_denied(place: Place, good: Set[int], index: FindingIndex) -> bool:
    """Whether a part is denied to be affected: "The thumb?" "The thumb's fine.", "not the arm"."""
    words, sentence = index.scan.words, index.scan.sentence_at(place.first)
    if not sentence.asks:
        return place.first in read_scopes(words, sentence, spoken=True).denied
    if place.turn + 1 >= len(index.turns) or sentence.last - sentence.first > SHORT_QUESTION:
        return False
    return place.turn + 1 in good or read_reply(words, *index.scan.turns[place.turn + 1])[0] == "no"


def _owner(place: Place, note: FindingScan) -> Finding | None:
    """The finding, present in the patient, that a body part is the place of; None if there is none."""
    near = [one for one in note.between(max(place.first - REACH, 0), place.last) if one.kind in LOCATED_KINDS]
    owner = near[-1] if near else None
    if owner is None or owner.assertion != "present" or owner.subject not in ("patient", ""):
        return None
    if note.sentence_of(owner).last <= place.first:
        return None
    if owner.first <= place.first < owner.last:
        return owner if owner.part else None
    k = place.first - 1
    while k > owner.last and note.words[k].text in LINK_WORDS:
        k -= 1
    linked = note.words[place.first - 1].text in LINK_WORDS or note.words[k].text in LIST_WORDS
    between = note.words[owner.last : place.first]
    return owner if linked and not any(word.text in SEPARATORS for word in between) else None
