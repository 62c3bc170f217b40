"""The verdict on each fact of a note: looked up in all that a dialogue says, with what it is said of."""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Literal

from medsum_core.facts.anatomy import KIN, body_parts, stem
from medsum_core.facts.attributes import attribute, context
from medsum_core.facts.date_matching import date_finding
from medsum_core.facts.matching import supports
from medsum_core.facts.mention import Mention, Scan
from medsum_core.facts.talk import Talk

Verdict = Literal["supported", "not_found", "contradicted"]
Judged = tuple[int, int, Verdict, int | None]  # start, end, verdict, turn
ONE_OF_ITS_KIND = frozenset(("pressure", "temperature", "age", "frequency"))  # another value of these contradicts


def judge(fact: Mention, note: Scan, talk: Talk, known: Set[str]) -> list[Judged]:
    """The verdict on a fact; two for a date without its year. `known`: what the facts of the note are about."""
    if fact.dim == "date":
        return _judge_date(fact, note, talk)
    about = attribute(note, fact)
    around = {about, *(context(note, fact) - known)} if about else set()
    pairs = [(m, said_of) for m, said_of in zip(talk.said, talk.attributes, strict=True) if supports(fact, m)]
    if not pairs:
        return [_implied(fact, note, talk) or (fact.start, fact.end, _unsupported(fact, note, talk, about), None)]
    same = [mention for mention, said_of in pairs if said_of in around]
    if about and not same and _said_otherwise(fact, about, pairs, talk, known):
        return [(fact.start, fact.end, "contradicted", None)]
    best = same[0] if same else pairs[0][0]
    return [(fact.start, fact.end, "supported", talk.turn(best.start))]


def _judge_date(fact: Mention, note: Scan, talk: Talk) -> list[Judged]:
    finding, place = date_finding(fact, talk.calendar)
    if finding == "supported" and place is not None:
        return [(fact.start, fact.end, "supported", talk.turn(place.start))]
    if finding == "year_not_found" and place is not None and fact.year_start > fact.start:
        return [
            (fact.start, fact.year_start, "supported", talk.turn(place.start)),
            (fact.year_start, fact.end, "not_found", None),
        ]
    if finding == "contradicted" or _same_context(fact, note, talk):
        return [(fact.start, fact.end, "contradicted", None)]
    return [(fact.start, fact.end, "not_found", None)]


def _said_otherwise(
    fact: Mention, about: str, pairs: Sequence[tuple[Mention, str]], talk: Talk, known: Set[str]
) -> bool:
    """Whether the value is said only of other things, while the thing meant has another value."""
    if any(not said_of or not (said_of in known or said_of in KIN or mention.noun) for mention, said_of in pairs):
        return False
    return any(
        said_of == about and _comparable(fact, mention)
        for mention, said_of in zip(talk.said, talk.attributes, strict=True)
    )


def _comparable(fact: Mention, said: Mention) -> bool:
    """Whether two mentions give a value of one sort, so that different ones contradict."""
    if fact.dim == said.dim:
        return True
    plain = {"", "ratio"}
    return fact.kind == said.kind or (said.dim in plain and not said.noun and fact.dim not in ("side", "rate", "code"))


def _height_said(fact: Mention, said: Sequence[Mention]) -> Mention | None:
    """Who says feet and inches of a height, together ("five ten", "five foot ten") or as inches."""
    feet, inches = fact.raw
    for mention in said:
        if mention.dim == "length" and fact.values[0] in mention.values:
            return mention
        if feet not in mention.raw or mention.dim not in ("length", "", "height"):
            continue
        near = [other for other in said if mention.first <= other.first <= mention.last + 2]
        if inches in mention.raw[1:] or any(inches in other.raw for other in near if other is not mention):
            return mention
    return None


def _is_pack_years(fact: Mention, note: Scan, talk: Talk) -> bool:
    """Whether packs a day times years, as said, make the pack-years stated."""
    if note.word(fact.last) not in ("pack", "pk") or note.word(fact.last + 1) not in ("year", "years", "yr", "yrs"):
        return False
    packs = [value for mention in talk.said if mention.noun == "pack" for value in mention.raw] + [1.0]
    years = [value for mention in talk.said if mention.unit == "year" for value in mention.raw]
    return any(count * span == fact.raw[0] for count in packs for span in years)


def _implied(fact: Mention, note: Scan, talk: Talk) -> Judged | None:
    """What speech says without a number: one of something, both knees as "my knees"."""
    scan = talk.scan
    if fact.dim == "side" and fact.values[0] == "both":
        parts = body_parts()
        for token in scan.tokens:
            singular = stem(token.text) if token.kind == "word" else ""
            plural = singular != token.text and singular in parts
            if plural and (not fact.noun or singular == fact.noun or parts[singular] == parts.get(fact.noun)):
                return (fact.start, fact.end, "supported", talk.turn(token.start))
    if fact.dim == "height" and (place := _height_said(fact, talk.said)) is not None:
        return (fact.start, fact.end, "supported", talk.turn(place.start))
    if fact.dim == "" and _is_pack_years(fact, note, talk):
        return (fact.start, fact.end, "supported", 0)
    one = fact.dim == "" and fact.raw[0] == 1.0
    if one and not any(about == fact.noun for about in talk.attributes if about):
        return (fact.start, fact.end, "supported", 0)
    return None


def _unsupported(fact: Mention, note: Scan, talk: Talk, about: str) -> Literal["not_found", "contradicted"]:
    for mention, said_of in zip(talk.said, talk.attributes, strict=True):
        if not _comparable(fact, mention):
            continue
        same_number = bool(fact.raw) and bool(mention.raw) and fact.raw[0] == mention.raw[0]
        alike = mention.kind == fact.kind and (fact.kind in ONE_OF_ITS_KIND or same_number)
        if alike or (about and said_of == about):
            return "contradicted"
        if fact.dim == "side":
            parts = body_parts()
            if not about or not said_of or parts.get(about) == parts.get(said_of):
                return "contradicted"
    return "contradicted" if _same_context(fact, note, talk) else "not_found"


def _same_context(fact: Mention, note: Scan, talk: Talk) -> bool:
    """Whether the dialogue gives a value of the same sort among the same words."""
    around = context(note, fact)
    sort = [mention for mention in talk.said if mention.kind == fact.kind and mention.dim == fact.dim]
    return bool(around) and any(around & context(talk.scan, mention) for mention in sort)
