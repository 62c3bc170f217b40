"""How many of a thing: packs, pillows, children, doses. A note may count what its dialogue only tells one by one."""

from __future__ import annotations

from collections.abc import Sequence

from medsum_core.grounding.facts.anatomy import stem
from medsum_core.grounding.facts.mention import Mention, Scan
from medsum_core.grounding.facts.talk import Talk
from medsum_core.grounding.facts.tokens import bag

TOLD_SINGLY = bag("dos dose pregnancy episode occasion event")  # as `anatomy.stem` folds them
AMOUNT_REACH = 6  # tokens between "four cups" and its "daily"


def as_answered(fact: Mention, pairs: Sequence[Mention], talk: Talk) -> list[Mention]:
    """The mentions among `pairs` that may count what `fact` counts: of nothing else, where a question asks for it.

    "Two miscarriages" is not "thirty-four with the second", where "any miscarriages?" is answered "One.".
    """
    asked = talk.answered.get(fact.noun) if not fact.dim and fact.noun else None
    if not asked or fact.raw[0] in asked:
        return list(pairs)
    return [mention for mention in pairs if mention.noun == fact.noun]


def is_formed(fact: Mention, talk: Talk) -> bool:
    """Whether a note counts what a dialogue tells one by one, without a number of it: "at eight and again at one"."""
    return not fact.dim and fact.noun in TOLD_SINGLY and not talk.counting(fact.noun)


def is_daily_amount(fact: Mention, note: Scan, talk: Talk) -> bool:
    """Whether "daily" only completes an amount of which nobody says how often: "Lots of coffee?" "Four cups."."""
    if fact.dim != "rate" or fact.values != (1.0,):
        return False
    near = range(max(fact.first - AMOUNT_REACH, 0), fact.first)
    amounts = {value for k in near if k in note.numbers for value in note.numbers[k].values}
    said = (one for k in near for one in talk.counting(stem(note.word(k))))
    return any(not amounts.isdisjoint(one.raw) and talk.turn(one.start) not in talk.rated for one in said)
