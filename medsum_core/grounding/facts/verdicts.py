"""The verdict on each fact of a note: its value and its subject looked up in the dialogue."""

from __future__ import annotations

from typing import Literal

from medsum_core.grounding.facts.anatomy import body_parts, stem
from medsum_core.grounding.facts.date_matching import date_finding
from medsum_core.grounding.facts.dates import written_ratio
from medsum_core.grounding.facts.implied import counts_pack_years, implied_at
from medsum_core.grounding.facts.matching import supports
from medsum_core.grounding.facts.mention import Mention, Scan
from medsum_core.grounding.facts.quantities import is_current, is_of_then
from medsum_core.grounding.facts.roles import HANDED, Claims, comparable, supporting_mention
from medsum_core.grounding.facts.sides import LOOK_AHEAD
from medsum_core.grounding.facts.subjects import attribute
from medsum_core.grounding.facts.talk import Talk
from medsum_core.grounding.facts.tokens import bag

Verdict = Literal["supported", "not_found", "contradicted", "not_checked"]
Judged = tuple[int, int, Verdict, int | None]  # start, end, verdict, turn
OF_PRESSURE, NEAR = bag("systolic diastolic pressure systolics diastolics"), 7
TOLD_SINGLY = bag("dos dose pregnancy episode occasion event")  # as `anatomy.stem` folds them
ONE_OF_ITS_KIND = frozenset(("pressure", "temperature", "age", "frequency"))  # another value of these contradicts


def judge(fact: Mention, note: Scan, talk: Talk, claims: Claims) -> list[Judged]:
    """The verdict on a fact; two for a date without its year. `claims`: the note's facts, each with its subject."""
    if "shorthand" in fact.marks:
        return _judge_shorthand(fact, note, talk, claims)
    if fact.dim == "date":
        return _judge_date(fact, talk)
    if fact.dim == "side" and fact.noun != HANDED and (judged := talk.sides.judge(fact, note)) is not None:
        turn = talk.turn(judged.mention.start) if judged.verdict == "supported" else None
        end = _part_end(fact, note) if judged.of_part else fact.end
        return [(fact.start, end, judged.verdict, turn)]
    pairs = [mention for mention in talk.near(fact) if supports(fact, mention)]
    if fact.dim == "weekday" and fact.values[0] in talk.calendar.weekdays:
        pairs = [talk.calendar.weekdays[int(fact.values[0])]]
    if fact.dim == "" and OF_PRESSURE.isdisjoint(note.words(fact.first - NEAR, fact.last + NEAR)):
        pairs = [mention for mention in pairs if mention.dim != "pressure"]
    if counts_pack_years(fact, note):
        pairs = [mention for mention in pairs if mention.unit != "year"]  # forty years of half a pack are twenty
    if fact.kind == "age" and is_current(note, fact):
        pairs = [mention for mention in pairs if not is_of_then(talk.scan, mention)]
    if not pairs:
        unsupported = (fact.start, fact.end, _unsupported(fact, note, talk), None)
        start = implied_at(fact, note, talk, claims)
        return [unsupported if start is None else (fact.start, fact.end, "supported", talk.turn(start))]
    subject = claims.subjects[id(fact)]
    place = supporting_mention(fact, subject, pairs, talk, claims) if subject else pairs[0]
    if place is None:
        return [(fact.start, fact.end, "contradicted", None)]
    return [(fact.start, fact.end, "supported", talk.turn(place.start))]


def _part_end(fact: Mention, note: Scan) -> int:
    """The end of the body part after a side: "left [great toe]"."""
    ends = [note.tokens[k].end for k in range(fact.last, fact.last + LOOK_AHEAD) if stem(note.word(k)) in body_parts()]
    return max(ends, default=fact.end)


def goes_without_saying(fact: Mention, talk: Talk) -> bool:
    """Whether a note may say so unsaid: daily, where nothing is said of how often; a count of what is told singly."""
    if fact.noun in TOLD_SINGLY and not fact.dim:
        return not any(one.noun == fact.noun for one in talk.said)
    return fact.dim == "rate" and fact.values == (1.0,) and not any(one.dim == "rate" for one in talk.said)


def _judge_shorthand(fact: Mention, note: Scan, talk: Talk, claims: Claims) -> list[Judged]:
    """The verdict on "6/12" as six months; where that is not supported, as the date or the score that it may be."""
    subject = claims.subjects[id(fact)]
    as_time = fact._replace(marks=fact.marks - {"shorthand"})
    judged = judge(as_time, note, talk, Claims([*claims, (as_time, subject)]))
    (written,), _ = written_ratio(note, fact.first)
    other = judge(written, note, talk, Claims([*claims, (written, "")]))
    supported = all(verdict == "supported" for _, _, verdict, _ in other)
    return other if supported and judged[0][2] != "supported" else judged


def _judge_date(fact: Mention, talk: Talk) -> list[Judged]:
    finding, place = date_finding(fact, talk.calendar)
    if finding == "year_not_found" and place is not None and fact.year_start > fact.start:
        return [
            (fact.start, fact.year_start, "supported", talk.turn(place.start)),
            (fact.year_start, fact.end, "not_found", None),
        ]
    if finding in ("not_found", "year_not_found"):
        place = _short_year_said(fact, talk)
    if place is not None:
        return [(fact.start, fact.end, "supported", talk.turn(place.start))]
    return [(fact.start, fact.end, "contradicted" if finding == "contradicted" else "not_found", None)]


def _short_year_said(fact: Mention, talk: Talk) -> Mention | None:
    """The mention that gives a year alone by its last two digits: "ninety-eight"."""
    years = {year % 100 for year, month, _ in fact.dates if year is not None and month is None} - set(range(10))
    found = [talk.short_years[year] for year in years if year in talk.short_years]
    return min(found, key=lambda mention: mention.start, default=None)


def _unsupported(fact: Mention, note: Scan, talk: Talk) -> Literal["not_found", "contradicted"]:
    """Contradicted where the dialogue has another value of the kind, of the unit, or of what the value is of."""
    about, kinds = attribute(note, fact), talk.kinds
    if fact.kind in ONE_OF_ITS_KIND and (fact.kind, None) in kinds:
        return "contradicted"
    if fact.raw and (fact.kind, fact.raw[0]) in kinds:
        return "contradicted"
    if about and any(comparable(fact, mention) for mention in talk.of_attribute.get(about, ())):
        return "contradicted"
    regions = {body_parts().get(said) for said in talk.sided} if fact.dim == "side" else set()
    is_sided = regions and (not about or None in regions or body_parts().get(about) in regions)
    return "contradicted" if is_sided else "not_found"
