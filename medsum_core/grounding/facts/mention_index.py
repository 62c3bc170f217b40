"""The index of a dialogue's mentions: each with its turn and subject, after questions and answers were resolved."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise

from medsum_core.data.turns import Turn, read_turns
from medsum_core.grounding.facts.anatomy import body_parts, stem
from medsum_core.grounding.facts.answers import TurnTokens, with_roles
from medsum_core.grounding.facts.corrections import REACH, is_correction
from medsum_core.grounding.facts.date_matching import Calendar, calendar_of
from medsum_core.grounding.facts.directions import Direction, read_dialogue_directions
from medsum_core.grounding.facts.matching import MOST, ValueIndex
from medsum_core.grounding.facts.mention import SENTENCE_ENDS, Mention, Scan
from medsum_core.grounding.facts.reading import read_mentions
from medsum_core.grounding.facts.side_matching import SideIndex, is_standard_of_comparison, read_side
from medsum_core.grounding.facts.sides import other_sides
from medsum_core.grounding.facts.subjects import SubjectFinder, attribute, fold, subject_finder
from medsum_core.grounding.facts.tokens import word_set

DENIALS = frozenset(("no", "nope", "nah", "actually"))
CORRECTING = 5  # tokens after a turn's opening "no" that can hold the corrected value: "no the right"
OPEN_QUESTIONS = word_set("how what when which where who why any what's how's did do does have has")
NO_SPEAKER = "speaker"


@dataclass(frozen=True)
class MentionIndex:
    """A dialogue, read once: its mentions with their subjects, its turns, its dates.

    Offsets are into `scan.text`, the dialogue with uniform speaker tags. There turn k begins at character
    `turn_starts[k]`, and its first token after the tag is `turn_first_tokens[k]`. `attributes`: as in
    `subjects.attribute`, one per mention.
    """

    scan: Scan
    mentions: Sequence[Mention]
    attributes: Sequence[str]
    turn_starts: Sequence[int]
    calendar: Calendar
    subjects: SubjectFinder
    turn_first_tokens: Sequence[int]

    def turn(self, offset: int) -> int:
        """The turn, from 0, of a character of the scan."""
        return max(bisect_right(self.turn_starts, offset) - 1, 0)

    @cached_property
    def kinds(self) -> set[tuple[str, float | None]]:
        """The kinds that occur, each with None and with its numbers."""
        numbers = {(mention.kind, mention.raw[0]) for mention in self.mentions if mention.raw}
        return numbers | {(mention.kind, None) for mention in self.mentions}

    @cached_property
    def words(self) -> frozenset[str]:
        """The words in lower case."""
        return frozenset(token.text for token in self.scan.tokens)

    @cached_property
    def numbers(self) -> frozenset[float]:
        """The numbers as written or spoken, without units."""
        return frozenset(value for mention in self.mentions for value in mention.raw)

    @cached_property
    def adjacent_cardinals(self) -> list[tuple[float, float]]:
        """Adjacent cardinals of numbers without unit: "eleven three" is (11, 3)."""
        spans = [(mention.first, mention.last, self.cardinals(mention)) for mention in self.mentions]
        inside = [pair for _, _, cardinals in spans for pair in pairwise(cardinals)]
        across = [(a[-1], b[0]) for (_, end, a), (begin, _, b) in pairwise(spans) if end == begin and a and b]
        return inside + across

    def cardinals(self, mention: Mention) -> Sequence[float]:
        """The cardinals of which a number without unit consists; empty for other mentions."""
        plain = not mention.dim and mention.first in self.scan.numbers
        return self.scan.numbers[mention.first].cardinals if plain else ()

    @cached_property
    def sides(self) -> SideIndex:
        """The sides of body parts."""
        of_parts = [mention for mention in self.mentions if mention.dim == "side" and mention.noun != "handed"]
        of_parts = [one for one in of_parts if one.values[0] != "both" or not self.answered_by_one_side(one.first)]
        of_parts = [one for one in of_parts if not is_standard_of_comparison(self.scan, one)]
        parts = frozenset(word for word in map(stem, self.words) if word in body_parts())
        return SideIndex([read_side(self.scan, mention) for mention in of_parts], parts)

    @cached_property
    def directions(self) -> list[Direction]:
        """The directional terms: upper or lower, inner or outer."""
        return read_dialogue_directions(self.scan)

    @cached_property
    def short_years(self) -> dict[float, Mention]:
        """The first mention of each number that may be a year by its last two digits."""
        found: dict[float, Mention] = {}
        for mention in self.mentions:
            for value in mention.raw if len(self.cardinals(mention)) == 1 else ():
                found.setdefault(value, mention)
        return found

    @cached_property
    def by_attribute(self) -> dict[str, list[Mention]]:
        """The mentions by attribute; of each kind, dimension and presence of a noun the first."""
        found: dict[str, dict[tuple[str, str, bool], Mention]] = {}
        for mention, about in zip(self.mentions, self.attributes, strict=True):
            found.setdefault(about, {}).setdefault((mention.kind, mention.dim, bool(mention.noun)), mention)
        return {about: list(first_of.values()) for about, first_of in found.items()}

    @cached_property
    def side_attributes(self) -> frozenset[str]:
        """The attributes of the mentioned sides."""
        pairs = zip(self.mentions, self.attributes, strict=True)
        return frozenset(about for mention, about in pairs if mention.dim == "side")

    @cached_property
    def _index(self) -> ValueIndex:
        return ValueIndex(self.mentions)

    def candidates(self, fact: Mention) -> list[Mention]:
        """The mentions that may support a fact, in order."""
        return self._index.candidates(fact)

    def mentions_of(self, subjects: frozenset[str]) -> list[Mention]:
        """The first `MOST` mentions that may belong to one of these subjects, in order.

        They are in a turn that names it, in the turn after that, or count it.
        """
        if subjects not in self._mentions_of:
            turns = set().union(*(self.subjects.turns_of.get(word, set()) for word in subjects))
            places = {k for turn in turns for near in (turn, turn + 1) for k in self._of_turn.get(near, ())}
            places.update(k for word in subjects for k in self._of_noun.get(word, ()))
            self._mentions_of[subjects] = [self.mentions[k] for k in sorted(places)[:MOST]]
        return self._mentions_of[subjects]

    @cached_property
    def _mentions_of(self) -> dict[frozenset[str], list[Mention]]:
        return {}

    @cached_property
    def _of_turn(self) -> dict[int, list[int]]:
        found: dict[int, list[int]] = {}
        for k, mention in enumerate(self.mentions):
            found.setdefault(self.subjects.turn_of[mention.first], []).append(k)
        return found

    @cached_property
    def _of_noun(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for k, mention in enumerate(self.mentions):
            for word in {mention.noun, fold(mention.noun)} - {""}:
                found.setdefault(word, []).append(k)
        return found

    def answered_by_one_side(self, k: int) -> bool:
        """Whether the next turn answers the turn that token k ends with one side: "Both ears?" "No, the right."."""
        turn = bisect_right(self.turn_first_tokens, k)
        if turn >= len(self.turn_first_tokens) or not _ends_turn(self.scan, k):
            return False
        begin = self.turn_first_tokens[turn]
        inside = [self.mentions[k] for k in self._of_turn.get(turn, ()) if self.mentions[k].dim == "side"]
        denied = self.scan.word(begin) in DENIALS or self.scan.word(begin) in ("just", "only")
        one = "one" in self.scan.words(begin + 1, begin + 3)  # "Just the one."
        return denied and (bool(inside) or one) and all(mention.values[0] != "both" for mention in inside)


@lru_cache(maxsize=16)  # decoding checks a growing note against one dialogue
def index_mentions(dialogue: str) -> MentionIndex:
    """Index a dialogue, without values that an answer denies: "Was it three weeks?" "No, four."."""
    text, starts, begins = _with_uniform_tags(read_turns(dialogue))
    scan, mentions = read_mentions(text, spoken=True)
    turns = _turns(scan, starts, begins)
    first_tokens = turns.begins
    mentions = with_roles(scan, [*mentions, *other_sides(scan, mentions)], turns)
    by_token = _ByToken(mentions)
    kept = [mention for mention in mentions if not _denied(scan, mention, by_token, first_tokens)]
    attributes = [attribute(scan, mention) for mention in kept]
    calendar = calendar_of(scan, kept)
    subjects = subject_finder(scan, turns)
    return MentionIndex(scan, kept, attributes, starts, calendar, subjects, first_tokens)


def _with_uniform_tags(turns: Sequence[Turn]) -> tuple[str, list[int], list[int]]:
    """The turns as lines "Speaker: text", and the offsets at which each line and its text begin.

    The readers rely on this format: a newline ends a turn, and a colon ends its speaker tag.
    """
    lines, starts, begins = [], [], []
    offset = 0
    for turn in turns:
        tag = " ".join(re.sub(r"[\W\d_]+", " ", turn.speaker).split()) or NO_SPEAKER
        lines.append(f"{tag}: {turn.text}")
        starts.append(offset)
        begins.append(offset + len(tag) + 1)
        offset += len(lines[-1]) + 1
    return "\n".join(lines), starts, begins


def _turns(scan: Scan, starts: Sequence[int], begins: Sequence[int]) -> TurnTokens:
    """The tokens of each turn, after the speaker's tag."""
    offsets = [token.start for token in scan.tokens]
    firsts = [bisect_left(offsets, start) for start in starts]
    return TurnTokens(begins=[bisect_left(offsets, begin) for begin in begins], ends=[*firsts[1:], len(scan.tokens)])


class _ByToken:
    """Mentions by their first token."""

    def __init__(self, mentions: Sequence[Mention]) -> None:
        self._mentions = sorted(mentions, key=lambda mention: mention.first)
        self._firsts = [mention.first for mention in self._mentions]

    def between(self, begin: int, end: int) -> Sequence[Mention]:
        """The mentions that begin at tokens `[begin, end)`."""
        return self._mentions[bisect_left(self._firsts, begin) : bisect_left(self._firsts, end)]


def _denied(scan: Scan, mention: Mention, by_token: _ByToken, first_tokens: Sequence[int]) -> bool:
    """Whether a value is denied or corrected: "Was it three?" answered "No, four." or "Four."; "six, I mean ten"."""
    dims = (mention.dim,) if mention.dim == "side" else (mention.dim, "")
    after = by_token.between(mention.last, mention.last + REACH + 1)
    if any(_corrects(scan, mention, other) for other in after if other.dim in dims):
        return True
    turn = bisect_right(first_tokens, mention.first)
    if turn >= len(first_tokens) or not _ends_turn(scan, mention.last):
        return False
    end = first_tokens[turn + 1] if turn + 1 < len(first_tokens) else len(scan.tokens)
    if scan.word(scan.around(mention.last, mention.last).stop) != "?":
        end = min(end, first_tokens[turn] + CORRECTING) if mention.dim == "side" else first_tokens[turn]
    answers = [other for other in by_token.between(first_tokens[turn], end) if other.dim in dims]
    bare = any(other.first == first_tokens[turn] for other in answers) and not _asks_openly(scan, mention.first)
    if scan.word(first_tokens[turn]) not in DENIALS and not bare:
        return False
    return bool(answers) and not any(_share_a_reading(mention, other) for other in answers)


def _share_a_reading(mention: Mention, other: Mention) -> bool:
    """Whether two mentions have a reading in common; a year may be given by its last two digits."""
    if mention.dim == "date":
        years = {part for year, _, _ in mention.dates if year for part in (year, year % 100)}
        return bool(set(other.dates) & set(mention.dates)) or bool(years & set(other.raw))
    return bool(set(other.values) & set(mention.values))


def _corrects(scan: Scan, mention: Mention, other: Mention) -> bool:
    """Whether `other` corrects `mention` right after it: "two thousand five, I mean two thousand six"."""
    if not 0 < other.first - mention.last <= REACH or _share_a_reading(mention, other):
        return False
    return is_correction(scan.word(k) for k in range(mention.last, other.first) if stem(scan.word(k)) != mention.noun)


def _asks_openly(scan: Scan, k: int) -> bool:
    """Whether the sentence of token k is an open question (how, what, when): its numbers are not proposed answers."""
    before = range(scan.around(k, k, SENTENCE_ENDS | {":"}).start, k)
    return any(scan.word(j) in OPEN_QUESTIONS and scan.word(j + 1) != "," for j in before)  # not "what, five hundred?"


def _ends_turn(scan: Scan, k: int) -> bool:
    """Whether the sentence of token k is the last one of its turn."""
    end = scan.around(k, k).stop
    return scan.word(end) == "\n" or scan.word(end + 1) in ("\n", "")
