"""Facts that a dialogue does not say in so many words: sums, "a teaspoon" for one, "eleven three" for 11.3."""

from __future__ import annotations

from collections.abc import Sequence

from medsum_core.grounding.facts.after_number import unit_at
from medsum_core.grounding.facts.anatomy import body_parts, stem
from medsum_core.grounding.facts.matching import near_part
from medsum_core.grounding.facts.mention import Mention, Scan
from medsum_core.grounding.facts.roles import Claims
from medsum_core.grounding.facts.talk import Talk
from medsum_core.grounding.facts.tokens import bag

ABOUT = bag("about approximately around roughly nearly almost approx")
NEARLY = 0.05  # of a value that the note calls approximate
MEALS = bag("breakfast lunch supper dinner tea morning noon evening night bedtime")
SINCE = bag("ago since later")
AT_TERM = bag("late early term overdue")
TERM = 36  # weeks; a pregnancy's length is then told from its due date
PAIRED = bag("both pair each either")
OTHER_SIDE = bag("remaining other contralateral opposite unaffected")
OPPOSITE = {"left": "right", "right": "left"}
CHANGE, CHANGE_REACH = bag("loss lost gain gained down up decrease increase dropped drop"), 4
BABY_ASPIRIN, SMALL = 81.0, bag("baby low little small junior")
WEEKLY, CLOSE = 1 / 7, 0.01


def implied_at(fact: Mention, note: Scan, talk: Talk, claims: Claims) -> int | None:
    """Offset in the dialogue of what implies a fact that no mention supports; None if nothing does."""
    if fact.dim == "side":
        return _side_implied(fact, note, talk)
    if fact.dim == "height":
        place = _height_said(fact, talk.said)
    else:
        place = _ratio_said(fact, talk) if fact.dim == "ratio" else None
    if place is not None:
        return place.start
    if fact.dim == "rate":
        return 0 if _is_implied_rate(fact, note, talk) else None
    if _is_worked_out(fact, note, talk) or (fact.dim == "" and _is_pack_years(fact, note, talk)):
        return 0
    return _one_said(fact, talk, claims)


def _one_said(fact: Mention, talk: Talk, claims: Claims) -> int | None:
    """ "a teaspoon", "a scar": one, where the note does not count other ones."""
    if not fact.raw or fact.raw[0] != 1.0:
        return None
    if fact.unit:
        return next(
            (
                token.start
                for k, token in enumerate(talk.scan.tokens)
                if token.text in ("a", "an") and (unit := unit_at(talk.scan, k + 1)) and unit[0].name == fact.unit
            ),
            None,
        )
    if fact.dim:
        return None
    one_of_them = any(other is not fact and other.noun == fact.noun and other.raw != fact.raw for other, _ in claims)
    return 0 if one_of_them or not any(about == fact.noun for about in talk.attributes if about) else None


def _side_implied(fact: Mention, note: Scan, talk: Talk) -> int | None:
    side = str(fact.values[0])
    said = {str(mention.values[0]) for mention in talk.said if mention.dim == "side"}
    if side == "both":
        start = _plural_said(fact, talk)
        return 0 if start is None and not said and PAIRED & talk.words else start
    others = {note.word(k) for k in range(max(fact.first - 2, 0), fact.first)} & OTHER_SIDE
    if (others and OPPOSITE.get(side) in said) or (fact.noun == "handed" and side in said):
        return 0
    return None


def _is_implied_rate(fact: Mention, note: Scan, talk: Talk) -> bool:
    """Whether "one with breakfast, one with supper", "on a Saturday", "half a pack" give a note's rate."""
    values = [value for value in fact.values if isinstance(value, float)]
    if any(abs(value - 2.0) < CLOSE for value in values):
        return len(MEALS & talk.words) >= 2
    if any(abs(value - WEEKLY) < CLOSE for value in values):
        return bool(talk.calendar.weekdays)
    before = {stem(note.word(k)) for k in range(max(fact.first - 3, 0), fact.first)}
    return "pack" in before and not talk.words.isdisjoint(("pack", "packs"))


def _is_worked_out(fact: Mention, note: Scan, talk: Talk) -> bool:
    """Whether numbers of the dialogue make a note's: a sum of ages, a multiple of a dose, two groups of digits."""
    numbers = talk.numbers
    if not fact.raw:
        return False
    value = fact.raw[0]
    near = {note.word(k) for k in range(max(fact.first - CHANGE_REACH, 0), fact.last + CHANGE_REACH)}
    if fact.dim == "weight" and CHANGE & near and any(value + other in numbers for other in numbers):
        return True  # "two forty at Christmas, two eighteen now"
    if fact.kind == "dose" and value == BABY_ASPIRIN and SMALL & talk.words:
        return True
    if ABOUT & {note.word(k) for k in range(max(fact.first - 3, 0), fact.first)}:
        return any(abs(other - value) <= NEARLY * value for other in numbers)
    if fact.kind == "age":
        said = [mention for mention in talk.said if mention.unit == "year" and "age" not in mention.marks]
        years = {mention.raw[0] for mention in said if mention.raw}
        return bool(SINCE & talk.words) and any(value - span in numbers for span in years)
    if fact.kind == "dose":
        singles = {100 * one for one in numbers} if "hundreds" in talk.words else numbers
        return "them" in talk.words and any(value / count in singles for count in numbers & {2.0, 3.0, 4.0})
    if fact.dim == "time":
        return _is_implied_time(fact, talk)
    return any(value in (a + b / 10, a + b / 100) for a, b in talk.groups_in_row)


def _is_implied_time(fact: Mention, talk: Talk) -> bool:
    """Whether "a week late" or "till she's one" or "every twenty-eight days" gives a note's time."""
    value = fact.raw[0]
    if fact.unit == "week" and value >= TERM:
        return bool(AT_TERM & talk.words)
    if fact.unit == "month" and value % 12 == 0 and value / 12 in talk.numbers:
        return True
    days = [float(one) for one in fact.values if isinstance(one, float)]
    rates = [one for mention in talk.said if mention.dim == "rate" for one in mention.values if isinstance(one, float)]
    return any(rate and abs(1 / rate - one) < CLOSE for rate in rates for one in days)


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
    groups = [(value, mention) for mention in talk.said for value in talk.groups(mention)]
    for k, (top, mention) in enumerate(groups):
        after = [value for value, _ in groups[k + 1 : k + 3]]
        bottoms = [*after[:1], *([100 * after[0] + after[1]] if len(after) == 2 and after[0] < 10 else [])]
        if any((top, bottom) in fact.values for bottom in bottoms):
            return mention
    return None


def counts_pack_years(fact: Mention, note: Scan) -> bool:
    """Whether a note's number is one of pack-years."""
    words = note.word(fact.last), note.word(fact.last + 1)
    return words[0] in ("pack", "pk") and words[1] in ("year", "years", "yr", "yrs")


def _is_pack_years(fact: Mention, note: Scan, talk: Talk) -> bool:
    """Whether packs a day times years, as said, make the pack-years stated."""
    if not counts_pack_years(fact, note):
        return False
    packs = [value for mention in talk.said if mention.noun == "pack" for value in mention.raw]
    packs = packs or [0.5 if "half" in talk.words else 1.0]
    spans = {fact.raw[0] / count for count in packs if count}
    years = {value for mention in talk.said if mention.unit == "year" for value in mention.raw}
    return bool(spans & years) or any(span + since in talk.numbers for span in spans for since in talk.numbers)


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
