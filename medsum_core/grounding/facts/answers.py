"""The role of a bare number, from the question that it answers: "How many pillows?" "Three." counts pillows.

Adjacent words can also give a role ("at four a.m.", "she's ninety"). A number with a role supports no fact of another
role.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from medsum_core.grounding.facts.anatomy import KIN, NOT_COUNTED, STOPWORDS, stem
from medsum_core.grounding.facts.mention import SENTENCE_ENDS, Mention, Scan
from medsum_core.grounding.facts.tokens import word_set
from medsum_core.grounding.facts.words import PERIODS, units

AGE_LEADS = word_set("i'm he's she's she'll he'll i'll you're turned turning age aged")
HALF_DAYS = word_set("am pm o'clock oclock noon")  # after a time of day
TIMED_EVENTS = word_set(
    "wake wakes woke woken up bed came come comes started starts start began begins dinner lunch work"
)
PARTS_OF_DAY = word_set("morning afternoon evening")
OLDEST = 110.0
JOINED = 5  # most tokens between two joined numbers: "five or six"
QUESTION_REACH = 40  # tokens at the end of the turn before that are searched for a question


@dataclass(frozen=True, kw_only=True)
class TurnTokens:
    """The turns of a dialogue as tokens `[begin, end)` without the speaker's tag."""

    begins: Sequence[int]
    ends: Sequence[int]


def with_roles(scan: Scan, mentions: Sequence[Mention], turns: TurnTokens) -> list[Mention]:
    """The mentions; bare numbers get noun, unit or marks if their question or adjacent words give them a role."""
    roles = [mention if mention.dim or mention.noun else _role_from_context(scan, mention) for mention in mentions]
    bare = {
        mention.first: k
        for k, mention in enumerate(roles)
        if mention.dim == "" and not mention.noun and not mention.marks - {"upcoming", "counting"}
    }
    for number in range(1, len(turns.begins)):
        answers = _answer_positions(scan, turns.begins[number], turns.ends[number], bare)
        if answers:
            asked = _asked_role(scan, turns.begins[number - 1], turns.ends[number - 1])
            for k in answers if asked[0] else ():
                roles[k] = _with_question_role(roles[k], asked)
    return roles


def _role_from_context(scan: Scan, mention: Mention) -> Mention:
    """ "at four a.m.", "he's ninety", "two level surgery": a time of day, an age, a number that goes with a noun."""
    if _is_scale_end(scan, mention):
        return _marked(mention, "scale")
    first, last = mention.first, mention.last
    before, after = scan.word(first - 1), scan.word(last)
    spelled = after in ("a", "p") and "m" in scan.words(last + 1, last + 3)
    is_hour = 1 <= mention.raw[0] <= 12 and before in ("at", "around", "about")
    in_morning = after == "in" and scan.word(last + 2) in PARTS_OF_DAY
    is_timed = before == "at" and not TIMED_EVENTS.isdisjoint(scan.words(first - 6, first))  # "woke up at four"
    if after in HALF_DAYS or spelled or (is_hour and (in_morning or is_timed)):
        return _marked(mention, "clock")
    ends = not scan.is_word(last) or after in ("and", "now", "years", "or", "but")
    whole = all(value == int(value) and value <= OLDEST for value in mention.raw)
    if ends and whole and (before in AGE_LEADS or (before in ("is", "was", "at") and _follows_relative(scan, first))):
        return _marked(mention, "age")
    names = scan.is_word(last) and not scan.tokens[last].capital and last not in scan.numbers
    return _marked(mention, "counting") if names and after not in STOPWORDS and after not in PERIODS else mention


def _marked(mention: Mention, mark: str) -> Mention:
    return mention._replace(marks=mention.marks | {mark})


def _is_scale_end(scan: Scan, mention: Mention) -> bool:
    """Whether a number is the end of a scale: "zero to ten", "with ten being the worst"."""
    value, first, last = mention.raw[0], mention.first, mention.last
    if scan.word(last) == "being":
        return value in (0, 1, 10)
    if value == 10 and scan.word(first - 1) in ("to", "through"):
        lower, last = first - 2, last
    elif value in (0, 1) and scan.word(last) in ("to", "through") and scan.word(last + 1) in ("ten", "10"):
        lower, last = first, last + 2
    else:
        return False
    is_low = scan.word(lower) in ("zero", "one", "0", "1")
    return is_low and (not scan.is_word(last) or scan.word(last) in STOPWORDS)


def _follows_relative(scan: Scan, first: int) -> bool:
    """Whether a relative is named in the clause before token `first`: "my son is [nine]"."""
    clause = scan.around(first, first, SENTENCE_ENDS | {",", ":", ";"})
    return any(stem(scan.word(k)) in KIN for k in range(max(clause.start, first - 6), first - 1))


def _answer_positions(scan: Scan, begin: int, end: int, bare: dict[int, int]) -> list[int]:
    """Positions of the first bare number of a turn and of one joined to it: "Five or six."."""
    k = next((k for k in range(begin, end) if k in bare), end)
    joined = next((j for j in range(k + 1, min(k + JOINED, end)) if j in bare), end)
    links = {scan.word(j) for j in range(k, joined)} & {"or", "to", ","}
    return [bare[j] for j in (k, joined if links else end) if j < end]


def _asked_role(scan: Scan, begin: int, end: int) -> tuple[str, str]:
    """What the last question of a turn asks for: ("noun", word), ("unit", word) or ("age", ""); else ("", "")."""
    last = next((k for k in range(end - 1, begin, -1) if scan.word(k) == "?"), begin)
    first = max(scan.around(last, last).start, begin, last - QUESTION_REACH)
    for k in range(last, first - 1, -1):
        if scan.words(k, k + 2) == ["how", "old"]:
            return "age", ""
        if scan.words(k, k + 2) == ["how", "many"]:
            return _counted(scan, k + 2)
    return "", ""


def _counted(scan: Scan, k: int) -> tuple[str, str]:
    """The first plural after "how many": "how many grown children" asks for children."""
    for word in scan.words(k, k + 3):
        if word in units():
            return "unit", word
        if word == "times":
            return "noun", "time"
        if stem(word) != word and word not in NOT_COUNTED:
            return "noun", stem(word)
    return "", ""


def _with_question_role(mention: Mention, asked: tuple[str, str]) -> Mention:
    role, word = asked
    if role == "age":
        return _marked(mention, "age")
    if role == "noun":
        return mention._replace(noun=word)
    unit = units()[word]
    values = tuple(value * unit.factor for value in mention.raw)
    return mention._replace(kind=unit.kind, dim=unit.dim, values=values, unit=unit.name)
