"""Whether the dialogue gives a value to the same subject as the note: the drug of a dose, the relative of an age.

"Lisinopril 50 mg" is not supported by "the metoprolol is at fifty".
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache

from medsum_core.grounding.facts.anatomy import KIN, body_parts
from medsum_core.grounding.facts.matching import ValueIndex, supports
from medsum_core.grounding.facts.mention import Mention
from medsum_core.grounding.facts.mention_index import MentionIndex
from medsum_core.grounding.facts.subjects import (
    CLAUSE,
    FAR,
    RELATED,
    SubjectCandidates,
    fold,
    same_subject,
    same_subjects,
)

FactWithSubject = tuple[Mention, str]  # a fact of the note, and its subject


class NoteFacts(list[FactWithSubject]):
    """The facts of a note with their subjects; computes what depends on all of them once."""

    @cached_property
    def subjects(self) -> dict[int, str]:
        """The subject of each fact, by the fact's identity."""
        return {id(mention): word for mention, word in self}

    @cached_property
    def by_value(self) -> ValueIndex:
        """An index of the facts by value."""
        return ValueIndex([mention for mention, _ in self])

    @cached_property
    def subjects_by_type(self) -> dict[str, frozenset[str]]:
        """The subjects of the facts, by the type of subject."""
        found: dict[str, set[str]] = {}
        for other, word in self:
            found.setdefault(SUBJECT_TYPES.get(other.kind, "value"), set()).add(word)
        return {subject_type: frozenset(words) for subject_type, words in found.items()}


SUBJECT_TYPES = {"dose": "drug", "frequency": "drug", "duration": "time", "date": "time"}
OLDEST = 110.0
HANDEDNESS = "handed"


def supporting_mention(
    fact: Mention, subject: str, same_value: Sequence[Mention], index: MentionIndex, facts: NoteFacts
) -> Mention | None:
    """The mention that supports `fact` among `same_value`, the mentions of the dialogue with its value.

    None if all of them belong to other subjects: none of them belongs to the fact's subject, and either that subject
    has another value in the dialogue, or each of them is stated by another fact of the note. For mentions without a
    clear subject both conditions must be true.
    """
    same_value = [mention for mention in same_value if not _fits_other_fact_better(fact, mention, facts)]
    with_candidates = [(mention, _candidates_of(fact, mention, index, subject, facts)) for mention in same_value]
    for mention, candidates in with_candidates:
        if _is_of(candidates, subject):
            return mention
    has_other_value = any(
        mention not in same_value and _another_value(fact, mention) and _is_of(near, subject) and near.level != FAR
        for mention in index.mentions_of(same_subjects(subject))
        for near in [_candidates_of(fact, mention, index, subject, facts)]
    )
    for mention, candidates in with_candidates:
        if (not candidates.words or candidates.level == FAR) and not (
            has_other_value and _belongs_to_other_fact(fact, mention, candidates, facts)
        ):
            return mention
    if not same_value or has_other_value or subject == HANDEDNESS or _is_number_of_other_drugs(fact, with_candidates):
        return None
    all_belong_to_others = fact.kind == "dose" and all(
        _belongs_to_other_fact(fact, mention, candidates, facts) for mention, candidates in with_candidates
    )
    return None if all_belong_to_others else same_value[0]


def comparable(fact: Mention, evidence: Mention) -> bool:
    """Whether two mentions are values of the same type, so that different values contradict."""
    is_bare = evidence.dim in ("", "ratio") and not evidence.noun and fact.dim not in ("side", "rate", "code")
    return is_bare or fact.dim == evidence.dim or fact.kind == evidence.kind


def _another_value(fact: Mention, evidence: Mention) -> bool:
    if fact.kind == "age" and evidence.dim == "":
        return not evidence.noun and all(1 <= value <= OLDEST for value in evidence.raw)
    if fact.values[:1] == ("both",):
        return False  # a value for one side does not contradict "both"
    if fact.noun not in ("", "time") and not fact.dim:
        return evidence.noun == fact.noun
    return "age" in evidence.marks if fact.kind == "age" else comparable(fact, evidence)


def _belongs_to_other_fact(fact: Mention, evidence: Mention, candidates: SubjectCandidates, facts: NoteFacts) -> bool:
    """Whether another fact of the note, with the subject of `evidence` (or a possible one), states the same value."""
    rivals = (
        (other, of)
        for other in facts.by_value.candidates(evidence)
        if (of := facts.subjects[id(other)]) and other is not fact
    )
    return any((_is_of(candidates, of) or not candidates.words) and supports(other, evidence) for other, of in rivals)


def _fits_other_fact_better(fact: Mention, evidence: Mention, facts: NoteFacts) -> bool:
    """Whether another fact of the note has this dose in the same unit, while `fact` equals it only after conversion."""
    converted = fact.kind == "dose" and evidence.unit not in ("", fact.unit)
    return converted and any(
        other.unit == evidence.unit and supports(other, evidence) for other in facts.by_value.candidates(evidence)
    )


def _is_number_of_other_drugs(fact: Mention, with_candidates: Sequence[tuple[Mention, SubjectCandidates]]) -> bool:
    """Whether a dose is supported only by numbers without a unit, each in a clause that names other drugs."""
    return fact.kind == "dose" and all(
        not mention.dim and candidates.words and candidates.level == CLAUSE for mention, candidates in with_candidates
    )


def _is_of(candidates: SubjectCandidates, subject: str) -> bool:
    return any(same_subject(subject, word) for word in candidates.words)


def _candidates_of(
    fact: Mention, evidence: Mention, index: MentionIndex, subject: str, facts: NoteFacts
) -> SubjectCandidates:
    """The subject of a mention of the dialogue, among the subjects of the note's facts of the same type."""
    if fact.dim == "side":
        named = evidence.noun if body_parts().get(evidence.noun) != "whole" or subject == HANDEDNESS else ""
        return SubjectCandidates(frozenset({named}), CLAUSE) if named else index.subjects.of(evidence, _parts(), "part")
    if fact.kind == "age" or (subject in KIN and not fact.noun):
        return index.subjects.of(evidence, RELATED, "kin")
    subject_type = SUBJECT_TYPES.get(fact.kind, "value")
    candidates = index.subjects.of(evidence, facts.subjects_by_type.get(subject_type, frozenset()), subject_type)
    counted = evidence.noun and (evidence.noun != "time" or fact.noun not in ("", "time"))
    if counted and not (candidates.level == CLAUSE and subject in candidates.words):
        return SubjectCandidates(frozenset({fold(evidence.noun)}), CLAUSE)
    return candidates


@lru_cache(maxsize=1)
def _parts() -> frozenset[str]:
    return frozenset(part for part, region in body_parts().items() if region != "whole")
