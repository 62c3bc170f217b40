"""Does the dialogue give a value to the same subject as the note? Not for "Lisinopril 50 mg" if metoprolol is at 50."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache

from medsum_core.grounding.facts.anatomy import KIN, body_parts
from medsum_core.grounding.facts.matching import ValueIndex, supports
from medsum_core.grounding.facts.mention import Mention
from medsum_core.grounding.facts.subjects import CLAUSE, FAR, RELATED, Scope, fold, same_subject, same_subjects
from medsum_core.grounding.facts.talk import Talk

Claim = tuple[Mention, str]  # a fact of the note, and its subject


class Claims(list[Claim]):
    """The facts of a note with their subjects, which are looked up once for all of them."""

    @cached_property
    def subjects(self) -> dict[int, str]:
        """The subject of each fact, by the fact's identity."""
        return {id(mention): word for mention, word in self}

    @cached_property
    def by_value(self) -> ValueIndex:
        """The facts by value."""
        return ValueIndex([mention for mention, _ in self])

    @cached_property
    def topics(self) -> dict[str, frozenset[str]]:
        """The subjects of the facts of each sort."""
        found: dict[str, set[str]] = {}
        for other, word in self:
            found.setdefault(SORTS.get(other.kind, "value"), set()).add(word)
        return {sort: frozenset(words) for sort, words in found.items()}


SORTS = {"dose": "drug", "frequency": "drug", "duration": "time", "date": "time"}
OLDEST = 110.0
HANDED = "handed"


def supporting_mention(
    fact: Mention, subject: str, pairs: Sequence[Mention], talk: Talk, claims: Claims
) -> Mention | None:
    """The mention among `pairs` (those with its value) that supports `fact`; None if they all belong to other subjects.

    They do if none belongs to the fact's subject and either the subject has another value in the dialogue, or each of
    them is stated by another fact of the note. For mentions without a clear subject both must hold.
    """
    pairs = [mention for mention in pairs if not _better_said_by(fact, mention, claims)]
    scoped = [(mention, _scope_of(fact, mention, talk, subject, claims)) for mention in pairs]
    for mention, scope in scoped:
        if _is_of(scope, subject):
            return mention
    valued = any(
        mention not in pairs and _another_value(fact, mention) and _is_of(near, subject) and near.level != FAR
        for mention in talk.about(same_subjects(subject))
        for near in [_scope_of(fact, mention, talk, subject, claims)]
    )
    for mention, scope in scoped:
        if (not scope.words or scope.level == FAR) and not (valued and _claimed(fact, mention, scope, claims)):
            return mention
    if not pairs or valued or subject == HANDED or _is_bare_of_others(fact, scoped):
        return None
    claimed = fact.kind == "dose" and all(_claimed(fact, mention, scope, claims) for mention, scope in scoped)
    return None if claimed else pairs[0]


def comparable(fact: Mention, said: Mention) -> bool:
    """Whether two mentions are values of the same sort, so that different values contradict."""
    is_bare = said.dim in ("", "ratio") and not said.noun and fact.dim not in ("side", "rate", "code")
    return is_bare or fact.dim == said.dim or fact.kind == said.kind


def _another_value(fact: Mention, said: Mention) -> bool:
    if fact.kind == "age" and said.dim == "":
        return not said.noun and all(1 <= value <= OLDEST for value in said.raw)
    if fact.values[:1] == ("both",):
        return False  # a value for one side does not contradict "both"
    if fact.noun not in ("", "time") and not fact.dim:
        return said.noun == fact.noun
    return "age" in said.marks if fact.kind == "age" else comparable(fact, said)


def _claimed(fact: Mention, said: Mention, scope: Scope, claims: Claims) -> bool:
    """Whether another fact of the note, with the subject of `said` (or a possible one), states the same value."""
    rivals = (
        (other, of) for other in claims.by_value.near(said) if (of := claims.subjects[id(other)]) and other is not fact
    )
    return any((_is_of(scope, of) or not scope.words) and supports(other, said) for other, of in rivals)


def _better_said_by(fact: Mention, said: Mention, claims: Claims) -> bool:
    """Whether another fact of the note has this dose in the unit said, while `fact` equals it only after conversion."""
    converted = fact.kind == "dose" and said.unit not in ("", fact.unit)
    return converted and any(other.unit == said.unit and supports(other, said) for other in claims.by_value.near(said))


def _is_bare_of_others(fact: Mention, scoped: Sequence[tuple[Mention, Scope]]) -> bool:
    """Whether a dose is supported only by numbers without a unit, each in a clause with other drugs."""
    return fact.kind == "dose" and all(
        not mention.dim and scope.words and scope.level == CLAUSE for mention, scope in scoped
    )


def _is_of(scope: Scope, subject: str) -> bool:
    return any(same_subject(subject, word) for word in scope.words)


def _scope_of(fact: Mention, said: Mention, talk: Talk, subject: str, claims: Claims) -> Scope:
    """The subject of a mention of the dialogue, among the subjects of the note's facts of the same sort."""
    if fact.dim == "side":
        named = said.noun if body_parts().get(said.noun) != "whole" or subject == HANDED else ""
        return Scope(frozenset({named}), CLAUSE) if named else talk.subjects.of(said, _parts(), "part")
    if fact.kind == "age" or (subject in KIN and not fact.noun):
        return talk.subjects.of(said, RELATED, "kin")
    sort = SORTS.get(fact.kind, "value")
    scope = talk.subjects.of(said, claims.topics.get(sort, frozenset()), sort)
    counted = said.noun and (said.noun != "time" or fact.noun not in ("", "time"))
    if counted and not (scope.level == CLAUSE and subject in scope.words):
        return Scope(frozenset({fold(said.noun)}), CLAUSE)
    return scope


@lru_cache(maxsize=1)
def _parts() -> frozenset[str]:
    return frozenset(part for part, region in body_parts().items() if region != "whole")
