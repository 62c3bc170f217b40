"""The meaning that a question gives to the bare number that answers it: "How many pillows?" "Three." counts pillows.

A number with such a role, or with one from the words around it ("at four a.m.", "she's ninety"), supports no fact of
another role.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from medsum_core.grounding.facts.anatomy import KIN, NOT_COUNTED, STOPWORDS, stem
from medsum_core.grounding.facts.mention import Mention, Scan
from medsum_core.grounding.facts.tokens import bag
from medsum_core.grounding.facts.words import PERIODS, units

SENTENCE_ENDS = frozenset((".", "?", "!", "\n", ""))
AGE_LEADS = bag("i'm he's she's she'll he'll i'll you're turned turning age aged")
HALF_DAYS = bag("am pm o'clock oclock noon")
TIMED = bag("wake wakes woke woken up bed came come started starts start began begins dinner lunch work")
OLDEST = 110.0
JOINED = 5  # the second of two joined numbers follows within so many tokens
QUESTION_REACH = 40  # tokens at the end of the turn before that are searched for its question


@dataclass(frozen=True, kw_only=True)
class Turns:
    """The turns of a dialogue as tokens `[begin, end)` without the speaker's tag."""

    begins: Sequence[int]
    ends: Sequence[int]


def with_roles(scan: Scan, mentions: Sequence[Mention], turns: Turns) -> list[Mention]:
    """The mentions, with noun, unit or marks for bare numbers whose question or neighbouring words give them a role."""
    roles = [mention if mention.dim or mention.noun else _spoken_role(scan, mention) for mention in mentions]
    bare = {
        mention.first: k
        for k, mention in enumerate(roles)
        if mention.dim == "" and not mention.noun and not mention.marks - {"upcoming", "counting"}
    }
    for number in range(1, len(turns.begins)):
        answers = _answers(scan, turns.begins[number], turns.ends[number], bare)
        if answers:
            asked = _question(scan, turns.begins[number - 1], turns.ends[number - 1])
            for k in answers if asked else ():
                roles[k] = _as_asked(scan, roles[k], asked)
    return roles


def _spoken_role(scan: Scan, mention: Mention) -> Mention:
    """ "at four a.m.", "he's ninety", "two level surgery": a time of day, an age, a number that goes with a noun."""
    after = scan.word(mention.last)
    if _ends_scale(scan, mention, after):
        return mention._replace(marks=mention.marks | {"scale"})
    split = after in ("a", "p") and (scan.word(mention.last + 1) == "m" or scan.word(mention.last + 2) == "m")
    if after in HALF_DAYS or split:
        return mention._replace(marks=mention.marks | {"clock"})
    before = scan.word(mention.first - 1)
    hour = 1 <= mention.raw[0] <= 12
    part_of_day = after == "in" and scan.word(mention.last + 2) in ("morning", "afternoon", "evening")
    woken = before == "at" and _wakes(scan, mention.first)
    if hour and (woken or (part_of_day and before in ("at", "around", "about"))):
        return mention._replace(marks=mention.marks | {"clock"})
    ends = scan.tokens[mention.last].kind != "word" or after in ("and", "now", "years", "or", "but")
    whole = all(value == int(value) and value <= OLDEST for value in mention.raw)
    led = before in AGE_LEADS or (before in ("is", "was", "at") and _of_kin(scan, mention.first))
    if led and ends and whole and "ordinal" not in mention.marks:
        return mention._replace(marks=mention.marks | {"age"})
    follower = scan.tokens[mention.last]
    names = follower.kind == "word" and not follower.capital and scan.glued(mention.last)
    names = names and mention.last not in scan.numbers  # "seventy five once a day"
    if names and after not in STOPWORDS and after not in PERIODS:
        return mention._replace(marks=mention.marks | {"counting"})
    return mention


def _ends_scale(scan: Scan, mention: Mention, after: str) -> bool:
    """Whether a number is an end of a scale: "zero to ten", "with ten being the worst"."""
    value = mention.raw[0]
    if after == "being":
        return value in (0, 1, 10)
    if value in (0, 1) and after in ("to", "through"):
        other = scan.numbers.get(mention.last + 1)
        return other is not None and other.values[0] == 10 and _counts_nothing(scan, other.last)
    lower = next((scan.numbers[k] for k in (mention.first - 2, mention.first - 3) if k in scan.numbers), None)
    joined = lower is not None and lower.values[0] in (0, 1) and scan.word(mention.first - 1) in ("to", "through")
    return value == 10 and joined and _counts_nothing(scan, mention.last)


def _counts_nothing(scan: Scan, k: int) -> bool:
    return scan.tokens[k].kind != "word" or scan.word(k) in STOPWORDS


def _of_kin(scan: Scan, first: int) -> bool:
    """Whether a relative is named in the clause before token `first`: "my son is [nine]"."""
    for k in range(first - 2, first - 7, -1):
        if scan.tokens[k].kind != "word" or k < 0:
            return False
        if stem(scan.word(k)) in KIN:
            return True
    return False


def _wakes(scan: Scan, first: int) -> bool:
    """Whether someone wakes, rises, comes "at [four]"."""
    return any(scan.word(k) in TIMED for k in range(first - 6, first))


def _answers(scan: Scan, begin: int, end: int, bare: dict[int, int]) -> list[int]:
    """Positions of the first bare number of a turn and of one joined to it: "Five or six."."""
    k = next((k for k in range(begin, end) if k in bare), end)
    joined = next((j for j in range(k + 1, min(k + JOINED, end)) if j in bare), end)
    links = {scan.word(j) for j in range(k, joined)} & {"or", "to", ","}
    return [bare[j] for j in (k, joined if links else end) if j < end]


def _question(scan: Scan, begin: int, end: int) -> tuple[str, str]:
    """What the last question of a turn asks for: ("noun", word), ("unit", word) or ("age", ""); else ("", "")."""
    last = end - 1
    while last > begin and scan.word(last) != "?":
        last -= 1
    for k in range(last, max(begin, last - QUESTION_REACH) - 1, -1):
        if k < last and scan.word(k) in SENTENCE_ENDS:
            break
        if scan.word(k) != "how":
            continue
        if scan.word(k + 1) == "old":
            return "age", ""
        if scan.word(k + 1) == "many":
            return _counted(scan, k + 2)
    return "", ""


def _counted(scan: Scan, k: int) -> tuple[str, str]:
    """The first plural after "how many": "how many grown children" asks for children."""
    for word in (scan.word(j) for j in range(k, k + 3)):
        if word in units():
            return "unit", word
        if word == "times" or word in PERIODS:
            return ("noun", "time") if word == "times" else ("", "")
        if stem(word) != word and word not in NOT_COUNTED and word not in STOPWORDS:
            return "noun", stem(word)
    return "", ""


def _as_asked(scan: Scan, mention: Mention, asked: tuple[str, str]) -> Mention:
    role, word = asked
    if role == "age":
        return mention._replace(marks=mention.marks | {"age"})
    if role == "noun":
        return mention._replace(noun=word)
    if role == "unit":
        unit = units()[word]
        values = tuple(value * unit.factor for value in mention.raw)
        return mention._replace(kind=unit.kind, dim=unit.dim, values=values, unit=unit.name)
    return mention
