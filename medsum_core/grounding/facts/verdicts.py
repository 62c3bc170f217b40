"""The verdict on each fact of a note: its value and its subject looked up in the dialogue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from medsum_core.grounding.facts.anatomy import body_parts, stem
from medsum_core.grounding.facts.attributes import attribute, context
from medsum_core.grounding.facts.date_matching import date_finding
from medsum_core.grounding.facts.dates import written_ratio
from medsum_core.grounding.facts.matching import near_part, supports
from medsum_core.grounding.facts.mention import Mention, Scan
from medsum_core.grounding.facts.polarity import denied_there
from medsum_core.grounding.facts.roles import Claims, comparable, supporting_mention
from medsum_core.grounding.facts.talk import Talk
from medsum_core.grounding.facts.tokens import bag

Verdict = Literal["supported", "not_found", "contradicted", "not_checked"]
Judged = tuple[int, int, Verdict, int | None]  # start, end, verdict, turn
OF_PRESSURE = bag("systolic diastolic pressure systolics diastolics")
ONE_OF_ITS_KIND = frozenset(("pressure", "temperature", "age", "frequency"))  # another value of these contradicts


def judge(fact: Mention, note: Scan, talk: Talk, claims: Claims) -> list[Judged]:
    """The verdict on a fact; two for a date without its year. `claims`: the note's facts, each with its subject."""
    if "shorthand" in fact.marks:
        return _judge_shorthand(fact, note, talk, claims)
    if fact.dim == "date":
        return _judge_date(fact, note, talk)
    pairs = [mention for mention in talk.near(fact) if supports(fact, mention)]
    if fact.dim == "weekday" and not pairs and fact.values[0] in talk.calendar.weekdays:
        pairs = [talk.calendar.weekdays[int(fact.values[0])]]
    if fact.dim == "" and not context(note, fact) & OF_PRESSURE:
        pairs = [mention for mention in pairs if mention.dim != "pressure"]
    if not pairs:
        unsupported = (fact.start, fact.end, _unsupported(fact, note, talk), None)
        return [_implied(fact, note, talk, claims) or unsupported]
    subject = claims.subjects[id(fact)]
    place = supporting_mention(fact, subject, pairs, talk, claims) if subject else pairs[0]
    if place is None or (fact.dim == "side" and denied_there(fact, note, pairs, talk.scan, talk.said)):
        return [(fact.start, fact.end, "contradicted", None)]
    return [(fact.start, fact.end, "supported", talk.turn(place.start))]


def _judge_shorthand(fact: Mention, note: Scan, talk: Talk, claims: Claims) -> list[Judged]:
    """The verdict on "6/12" as six months; where that is not supported, as the date or the score that it may be."""
    subject = claims.subjects[id(fact)]
    as_time = fact._replace(marks=fact.marks - {"shorthand"})
    judged = judge(as_time, note, talk, Claims([*claims, (as_time, subject)]))
    (written,), _ = written_ratio(note, fact.first)
    other = judge(written, note, talk, Claims([*claims, (written, "")]))
    supported = all(verdict == "supported" for _, _, verdict, _ in other)
    return other if supported and judged[0][2] != "supported" else judged


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


def _height_said(fact: Mention, said: Sequence[Mention]) -> Mention | None:
    """The mention of a height in feet and inches ("five ten", "five foot ten") or in inches."""
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


def _ratio_said(fact: Mention, talk: Talk) -> Mention | None:
    """The mention that says both numbers of a ratio in a row: "five three twenty five" for 5/325, "twenty forty"."""
    groups = [(value, mention) for mention in talk.said for value in _groups(mention, talk)]
    for k, (top, mention) in enumerate(groups):
        after = [value for value, _ in groups[k + 1 : k + 3]]
        bottoms = [*after[:1], *([100 * after[0] + after[1]] if len(after) == 2 and after[0] < 10 else [])]
        if any((top, bottom) in fact.values for bottom in bottoms):
            return mention
    return None


def _groups(mention: Mention, talk: Talk) -> Sequence[float]:
    """The cardinals of a number without unit, as they were said."""
    return () if mention.dim or mention.first not in talk.scan.numbers else talk.scan.numbers[mention.first].groups


def _is_pack_years(fact: Mention, note: Scan, talk: Talk) -> bool:
    """Whether packs a day times years, as said, make the pack-years stated."""
    if note.word(fact.last) not in ("pack", "pk") or note.word(fact.last + 1) not in ("year", "years", "yr", "yrs"):
        return False
    packs = [value for mention in talk.said if mention.noun == "pack" for value in mention.raw] + [1.0]
    years = [value for mention in talk.said if mention.unit == "year" for value in mention.raw]
    return any(count * span == fact.raw[0] for count in packs for span in years)


def _plural_said(fact: Mention, talk: Talk) -> int | None:
    """Offset of a plural that means both of a pair ("my knees hurt"), unless the answer narrows it to one; or None."""
    parts = body_parts()
    for k, token in enumerate(talk.scan.tokens):
        singular = stem(token.text) if token.kind == "word" else ""
        if singular == token.text or singular not in parts or talk.one_side_only(k):
            continue
        if near_part(singular, fact.noun):
            return token.start
    return None


def _implied(fact: Mention, note: Scan, talk: Talk, claims: Claims) -> Judged | None:
    """The verdict on a fact that speech implies: one of something, both knees as "my knees"; None if it does not."""
    if fact.dim == "side" and fact.values[0] == "both" and (start := _plural_said(fact, talk)) is not None:
        return (fact.start, fact.end, "supported", talk.turn(start))
    if fact.dim == "height" and (place := _height_said(fact, talk.said)) is not None:
        return (fact.start, fact.end, "supported", talk.turn(place.start))
    if fact.dim == "ratio" and (place := _ratio_said(fact, talk)) is not None:
        return (fact.start, fact.end, "supported", talk.turn(place.start))
    if fact.dim == "" and _is_pack_years(fact, note, talk):
        return (fact.start, fact.end, "supported", 0)
    one = fact.dim == "" and fact.raw[0] == 1.0
    if not one:
        return None
    one_of_them = any(other is not fact and other.noun == fact.noun and other.raw != fact.raw for other, _ in claims)
    if one_of_them or not any(about == fact.noun for about in talk.attributes if about):
        return (fact.start, fact.end, "supported", 0)
    return None


def _unsupported(fact: Mention, note: Scan, talk: Talk) -> Literal["not_found", "contradicted"]:
    about = attribute(note, fact)
    kinds = talk.kinds
    if (fact.kind in ONE_OF_ITS_KIND and (fact.kind, None) in kinds) or (
        fact.raw and (fact.kind, fact.raw[0]) in kinds
    ):
        return "contradicted"
    if about and any(comparable(fact, mention) for mention in talk.of_attribute.get(about, ())):
        return "contradicted"
    for mention, said_of in zip(talk.said, talk.attributes, strict=True) if fact.dim == "side" else ():
        if comparable(fact, mention):
            parts = body_parts()
            if not about or not said_of or parts.get(about) == parts.get(said_of):
                return "contradicted"
    return "contradicted" if _same_context(fact, note, talk) else "not_found"


def _same_context(fact: Mention, note: Scan, talk: Talk) -> bool:
    """Whether the dialogue has a value of the same sort with a content word in common around it."""
    return bool(context(note, fact) & talk.contexts.get((fact.kind, fact.dim), set()))
