"""The verdict on a numeric fact of a note: its value and its subject are looked up in the dialogue."""

from __future__ import annotations

from typing import Literal

from medsum_core.grounding.facts.anatomy import body_parts, stem
from medsum_core.grounding.facts.date_matching import match_date
from medsum_core.grounding.facts.dates import written_ratio
from medsum_core.grounding.facts.implied import counts_pack_years, implied_at
from medsum_core.grounding.facts.matching import supports
from medsum_core.grounding.facts.mention import Mention, Scan
from medsum_core.grounding.facts.mention_index import MentionIndex
from medsum_core.grounding.facts.quantities import is_current_age, is_past_age
from medsum_core.grounding.facts.sides import LOOK_AHEAD
from medsum_core.grounding.facts.subject_matching import HANDEDNESS, NoteFacts, comparable, supporting_mention
from medsum_core.grounding.facts.subjects import attribute
from medsum_core.grounding.facts.tokens import word_set

Verdict = Literal["supported", "not_found", "contradicted", "not_checked"]
Judged = tuple[int, int, Verdict, int | None]  # start, end, verdict, turn
OF_PRESSURE, NEAR = word_set("systolic diastolic pressure systolics diastolics"), 7
SINGLE_BY_DEFAULT = word_set("dos dose pregnancy episode occasion event")  # as `anatomy.stem` folds them
SINGLE_VALUED_KINDS = frozenset(("pressure", "temperature", "age", "frequency"))  # another value contradicts


def judge(fact: Mention, note: Scan, index: MentionIndex, note_facts: NoteFacts) -> list[Judged]:
    """The verdict on a fact; for a date whose year alone is unsupported two verdicts, by span.

    `note_facts`: all facts of the note, each with its subject.
    """
    if "shorthand" in fact.marks:
        return _judge_shorthand(fact, note, index, note_facts)
    if fact.dim == "date":
        return _judge_date(fact, index)
    if fact.dim == "side" and fact.noun != HANDEDNESS and (judged := index.sides.judge(fact, note)) is not None:
        turn = index.turn(judged.mention.start) if judged.verdict == "supported" else None
        end = _part_end(fact, note) if judged.of_part else fact.end
        return [(fact.start, end, judged.verdict, turn)]
    same_value = [mention for mention in index.candidates(fact) if supports(fact, mention)]
    if fact.dim == "weekday" and fact.values[0] in index.calendar.weekdays:
        same_value = [index.calendar.weekdays[int(fact.values[0])]]
    if fact.dim == "" and OF_PRESSURE.isdisjoint(note.words(fact.first - NEAR, fact.last + NEAR)):
        same_value = [mention for mention in same_value if mention.dim != "pressure"]
    if counts_pack_years(fact, note):
        same_value = [one for one in same_value if one.unit != "year"]  # forty years of half a pack are 20 pack-years
    if fact.kind == "age" and is_current_age(note, fact):
        same_value = [mention for mention in same_value if not is_past_age(index.scan, mention)]
    if not same_value:
        unsupported = (fact.start, fact.end, _unsupported(fact, note, index), None)
        start = implied_at(fact, note, index, note_facts)
        return [unsupported if start is None else (fact.start, fact.end, "supported", index.turn(start))]
    subject = note_facts.subjects[id(fact)]
    place = supporting_mention(fact, subject, same_value, index, note_facts) if subject else same_value[0]
    if place is None:
        return [(fact.start, fact.end, "contradicted", None)]
    return [(fact.start, fact.end, "supported", index.turn(place.start))]


def _part_end(fact: Mention, note: Scan) -> int:
    """The end of the body part after a side: "left [great toe]"."""
    ends = [note.tokens[k].end for k in range(fact.last, fact.last + LOOK_AHEAD) if stem(note.word(k)) in body_parts()]
    return max(ends, default=fact.end)


def supported_by_default(fact: Mention, index: MentionIndex) -> bool:
    """Whether a fact is supported unless the dialogue says otherwise: once daily, or a count such as "one episode"."""
    if fact.noun in SINGLE_BY_DEFAULT and not fact.dim:
        return not any(one.noun == fact.noun for one in index.mentions)
    return fact.dim == "rate" and fact.values == (1.0,) and not any(one.dim == "rate" for one in index.mentions)


def _judge_shorthand(fact: Mention, note: Scan, index: MentionIndex, note_facts: NoteFacts) -> list[Judged]:
    """The verdict on "6/12" read as six months; if that is not supported, read as a date or score."""
    subject = note_facts.subjects[id(fact)]
    as_time = fact._replace(marks=fact.marks - {"shorthand"})
    judged = judge(as_time, note, index, NoteFacts([*note_facts, (as_time, subject)]))
    (written,), _ = written_ratio(note, fact.first)
    other = judge(written, note, index, NoteFacts([*note_facts, (written, "")]))
    supported = all(verdict == "supported" for _, _, verdict, _ in other)
    return other if supported and judged[0][2] != "supported" else judged


def _judge_date(fact: Mention, index: MentionIndex) -> list[Judged]:
    verdict, place = match_date(fact, index.calendar)
    if verdict == "year_not_found" and place is not None and fact.year_start > fact.start:
        return [
            (fact.start, fact.year_start, "supported", index.turn(place.start)),
            (fact.year_start, fact.end, "not_found", None),
        ]
    if verdict in ("not_found", "year_not_found"):
        place = _two_digit_year_mention(fact, index)
    if place is not None:
        return [(fact.start, fact.end, "supported", index.turn(place.start))]
    return [(fact.start, fact.end, "contradicted" if verdict == "contradicted" else "not_found", None)]


def _two_digit_year_mention(fact: Mention, index: MentionIndex) -> Mention | None:
    """The mention that gives a year by its last two digits: "ninety-eight"."""
    years = {year % 100 for year, month, _ in fact.dates if year is not None and month is None} - set(range(10))
    found = [index.short_years[year] for year in years if year in index.short_years]
    return min(found, key=lambda mention: mention.start, default=None)


def _unsupported(fact: Mention, note: Scan, index: MentionIndex) -> Literal["not_found", "contradicted"]:
    """Contradicted if the dialogue has another value of the same kind, the same unit or the same attribute."""
    about, kinds = attribute(note, fact), index.kinds
    if fact.kind in SINGLE_VALUED_KINDS and (fact.kind, None) in kinds:
        return "contradicted"
    if fact.raw and (fact.kind, fact.raw[0]) in kinds:
        return "contradicted"
    if about and any(comparable(fact, mention) for mention in index.by_attribute.get(about, ())):
        return "contradicted"
    regions = {body_parts().get(part) for part in index.side_attributes} if fact.dim == "side" else set()
    has_side = regions and (not about or None in regions or body_parts().get(about) in regions)
    return "contradicted" if has_side else "not_found"
