"""Values that a dialogue gives only indirectly: sums, "a teaspoon" for one, "eleven three" for 11.3."""

from __future__ import annotations

from collections.abc import Sequence

from medsum_core.grounding.facts.anatomy import body_parts, stem
from medsum_core.grounding.facts.matching import near_part
from medsum_core.grounding.facts.mention import Mention, Scan
from medsum_core.grounding.facts.mention_index import MentionIndex
from medsum_core.grounding.facts.quantities import unit_at
from medsum_core.grounding.facts.sides import OPPOSITE
from medsum_core.grounding.facts.subject_matching import NoteFacts
from medsum_core.grounding.facts.tokens import word_set

ABOUT = word_set("about approximately around roughly nearly almost approx")
NEARLY = 0.05  # relative tolerance of a value that the note calls approximate
MEALS = word_set("breakfast lunch supper dinner tea morning noon evening night bedtime")
SINCE = word_set("ago since later")  # words for a time that has passed since an age
AT_TERM = word_set("late early term overdue")  # of a birth
TERM = 36  # weeks; from then on the length of a pregnancy is given relative to its due date
PAIRED = word_set("both pair each either")  # of the dialogue, for a note's "bilateral"
OTHER_SIDE = word_set("remaining other contralateral opposite unaffected")
BABY_ASPIRIN, SMALL = 81.0, word_set("baby low little small junior")  # mg
CHANGE, CHANGE_REACH = word_set("loss lost gain gained down up decrease increase dropped drop"), 4
WEEKLY, CLOSE = 1 / 7, 0.01  # times per day; tolerance


def implied_at(fact: Mention, note: Scan, index: MentionIndex, note_facts: NoteFacts) -> int | None:
    """Offset in the dialogue of the text that implies a fact without a supporting mention; None if nothing does."""
    if fact.dim == "side":
        return _side_implied(fact, note, index)
    if fact.dim == "rate":
        return 0 if _is_implied_frequency(fact, note, index) else None
    if fact.dim in ("height", "ratio"):
        place = _height_mention(fact, index.mentions) if fact.dim == "height" else _ratio_mention(fact, index)
        return None if place is None else place.start
    if fact.raw and (_is_computed(fact, note, index) or _is_pack_years(fact, note, index)):
        return 0
    return _implied_one(fact, index, note_facts)


def _implied_one(fact: Mention, index: MentionIndex, note_facts: NoteFacts) -> int | None:
    """ "a teaspoon", "a scar": one, if the dialogue does not count them or the note gives another count of them too."""
    if fact.raw[:1] != (1.0,):
        return None
    if fact.unit:
        articles = [k for k, token in enumerate(index.scan.tokens) if token.text in ("a", "an")]
        named = ((k, unit_at(index.scan, k + 1)) for k in articles)
        return next((index.scan.tokens[k].start for k, unit in named if unit and unit[0].name == fact.unit), None)
    if fact.dim:
        return None
    is_counted = fact.noun != "" and fact.noun in index.attributes
    others = (other for other, _ in note_facts if other is not fact and other.noun == fact.noun)
    return 0 if not is_counted or any(other.raw != fact.raw for other in others) else None


def _side_implied(fact: Mention, note: Scan, index: MentionIndex) -> int | None:
    """ "my knees hurt" for both; "the remaining left breast" if the dialogue has only the right one."""
    sides = {str(mention.values[0]) for mention in index.mentions if mention.dim == "side"}
    if fact.values == ("both",):
        start = _plural_mention(fact, index)
        return 0 if start is None and not sides and PAIRED & index.words else start
    is_other = not OTHER_SIDE.isdisjoint(note.words(fact.first - 2, fact.first))
    return 0 if is_other and OPPOSITE.get(str(fact.values[0])) in sides else None


def _plural_mention(fact: Mention, index: MentionIndex) -> int | None:
    """Offset of a plural that means both of a pair ("my knees hurt"), unless the answer limits it to one; or None."""
    for k, token in enumerate(index.scan.tokens):
        part = stem(token.text)
        is_plural = part != token.text and part in body_parts()
        if is_plural and near_part(part, fact.noun) and not index.answered_by_one_side(k):
            return token.start
    return None


def _is_implied_frequency(fact: Mention, note: Scan, index: MentionIndex) -> bool:
    """Whether the dialogue implies a frequency: "one at breakfast, one at supper", "on a Saturday", "half a pack"."""
    values = [value for value in fact.values if isinstance(value, float)]
    if any(abs(value - 2.0) < CLOSE for value in values):
        return len(MEALS & index.words) >= 2
    if any(abs(value - WEEKLY) < CLOSE for value in values):
        return bool(index.calendar.weekdays)
    packs = ("pack", "packs")
    return not index.words.isdisjoint(packs) and any(word in packs for word in note.words(fact.first - 3, fact.first))


def _is_computed(fact: Mention, note: Scan, index: MentionIndex) -> bool:
    """Whether a value follows from the dialogue's numbers: a sum of ages, a multiple of a dose, two cardinals."""
    numbers, value = index.numbers, fact.raw[0]
    is_change = not CHANGE.isdisjoint(note.words(fact.first - CHANGE_REACH, fact.last + CHANGE_REACH))
    if fact.dim == "weight" and is_change and any(value + other in numbers for other in numbers):
        return True  # "two forty at Christmas, two eighteen now"
    if fact.kind == "dose" and value == BABY_ASPIRIN and SMALL & index.words:
        return True
    if not ABOUT.isdisjoint(note.words(fact.first - 3, fact.first)):
        return any(abs(other - value) <= NEARLY * value for other in numbers)
    if fact.kind == "age":
        spans = {one.raw[0] for one in index.mentions if one.unit == "year" and one.raw and "age" not in one.marks}
        return bool(SINCE & index.words) and any(value - span in numbers for span in spans)
    if fact.kind == "dose":  # "two of them", "two hundreds"
        singles = {100 * one for one in numbers} if "hundreds" in index.words else numbers
        return "them" in index.words and any(value / count in singles for count in numbers & {2.0, 3.0, 4.0})
    if fact.dim == "time":
        return _is_implied_time(fact, index)
    return any(value in (a + b / 10, a + b / 100) for a, b in index.adjacent_cardinals)


def _is_implied_time(fact: Mention, index: MentionIndex) -> bool:
    """Whether the dialogue implies a time: "a week late", "till she's one", "every twenty-eight days"."""
    value = fact.raw[0]
    if fact.unit == "week" and value >= TERM:
        return bool(AT_TERM & index.words)
    if fact.unit == "month" and value % 12 == 0 and value / 12 in index.numbers:
        return True
    rates = [rate for mention in index.mentions if mention.dim == "rate" for rate in mention.values]
    return any(
        isinstance(days, float) and isinstance(rate, float) and abs(days * rate - 1) < CLOSE
        for days in fact.values
        for rate in rates
    )


def _height_mention(fact: Mention, mentions: Sequence[Mention]) -> Mention | None:
    """The mention of a height in feet and inches ("five ten", "five foot ten") or in inches."""
    feet, inches = fact.raw
    for mention in mentions:
        if mention.dim == "length" and fact.values[0] in mention.values:
            return mention
        others = (one for one in mentions if mention.first <= one.first <= mention.last + 2 and one is not mention)
        near = [mention.raw[1:], *(one.raw for one in others)]
        if mention.dim in ("length", "") and feet in mention.raw and any(inches in raw for raw in near):
            return mention
    return None


def _ratio_mention(fact: Mention, index: MentionIndex) -> Mention | None:
    """The mention that gives both numbers of a ratio in a row: "five three twenty five" for 5/325, "twenty forty"."""
    spoken = [(one, one.raw[:1] if one.kind == "dose" else index.cardinals(one)) for one in index.mentions]
    cardinals = [(value, mention) for mention, values in spoken for value in values]
    for k, (top, mention) in enumerate(cardinals):
        after = [value for value, _ in cardinals[k + 1 : k + 3]]
        bottoms = [*after[:1], *([100 * after[0] + after[1]] if len(after) == 2 and after[0] < 10 else [])]
        if any((top, bottom) in fact.values for bottom in bottoms):
            return mention
    return None


def counts_pack_years(fact: Mention, note: Scan) -> bool:
    """Whether a note's number counts pack-years."""
    pack, year = note.words(fact.last, fact.last + 2)
    return not fact.dim and pack in ("pack", "pk") and year in ("year", "years", "yr", "yrs")


def _is_pack_years(fact: Mention, note: Scan, index: MentionIndex) -> bool:
    """Whether the dialogue's packs per day times years are the pack-years of the note."""
    if not counts_pack_years(fact, note):
        return False
    packs = [value for mention in index.mentions if mention.noun == "pack" for value in mention.raw] or [1.0]
    spans = {fact.raw[0] / count for count in packs if count}
    return any(span in index.numbers or span + begun in index.numbers for span in spans for begun in index.numbers)
