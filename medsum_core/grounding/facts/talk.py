"""A dialogue prepared for looking facts up: its mentions, by turn, with what questions and answers change in them."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise

from medsum_core.data.turns import Turn, read_turns
from medsum_core.grounding.facts.anatomy import body_parts, stem
from medsum_core.grounding.facts.answers import Turns, with_roles
from medsum_core.grounding.facts.corrections import REACH, is_correction
from medsum_core.grounding.facts.date_matching import Calendar, calendar_of
from medsum_core.grounding.facts.directions import End, read_ends
from medsum_core.grounding.facts.matching import MOST, ValueIndex
from medsum_core.grounding.facts.mention import SENTENCE_ENDS, Mention, Scan
from medsum_core.grounding.facts.reading import read_mentions
from medsum_core.grounding.facts.side_claims import SideClaims, is_measure, read_claim
from medsum_core.grounding.facts.sides import other_sides
from medsum_core.grounding.facts.subjects import Subjects, attribute, fold, subjects_of_talk
from medsum_core.grounding.facts.tokens import bag

DENIALS = frozenset(("no", "nope", "nah", "actually"))
CORRECTING = 5  # tokens of a turn that begins "no" in which the right value comes: "no the right"
OPEN_QUESTIONS = bag("how what when which where who why any what's how's did do does have has")
NO_SPEAKER = "speaker"


@dataclass(frozen=True)
class Talk:
    """A dialogue, read once: its mentions with their subjects, its turns, its dates.

    `scan` and the mentions are of its text with one style of tags, in which turn k begins at `starts[k]`.
    """

    scan: Scan
    said: Sequence[Mention]
    attributes: Sequence[str]
    starts: Sequence[int]
    calendar: Calendar
    subjects: Subjects
    openings: Sequence[int]

    def turn(self, offset: int) -> int:
        """The turn, from 0, of a character of the scan."""
        return max(bisect_right(self.starts, offset) - 1, 0)

    @cached_property
    def kinds(self) -> set[tuple[str, float | None]]:
        """The kinds that are said, alone and with their numbers."""
        numbers = {(mention.kind, mention.raw[0]) for mention in self.said if mention.raw}
        return numbers | {(mention.kind, None) for mention in self.said}

    @cached_property
    def words(self) -> frozenset[str]:
        """The words, in small letters."""
        return frozenset(token.text for token in self.scan.tokens)

    @cached_property
    def numbers(self) -> frozenset[float]:
        """The numbers as said, without units."""
        return frozenset(value for mention in self.said for value in mention.raw)

    @cached_property
    def groups_in_row(self) -> list[tuple[float, float]]:
        """Cardinals of plain numbers said one right after the other: "eleven three" is (11, 3)."""
        cardinals = [(mention.first, mention.last, self.groups(mention)) for mention in self.said]
        inside = [pair for _, _, groups in cardinals for pair in pairwise(groups)]
        across = [(a[-1], b[0]) for (_, end, a), (begin, _, b) in pairwise(cardinals) if end == begin and a and b]
        return inside + across

    def groups(self, mention: Mention) -> Sequence[float]:
        """The cardinals of a number without unit, as they were said."""
        plain = not mention.dim and mention.first in self.scan.numbers
        return self.scan.numbers[mention.first].groups if plain else ()

    @cached_property
    def sides(self) -> SideClaims:
        """The sides that are said of body parts."""
        of_parts = [mention for mention in self.said if mention.dim == "side" and mention.noun != "handed"]
        of_parts = [one for one in of_parts if one.values[0] != "both" or not self.one_side_only(one.first)]
        of_parts = [one for one in of_parts if not is_measure(self.scan, one)]
        parts = frozenset(word for word in map(stem, self.words) if word in body_parts())
        return SideClaims([read_claim(self.scan, mention) for mention in of_parts], parts)

    @cached_property
    def ends(self) -> list[End]:
        """The ends of axes that are named: upper or lower, inner or outer."""
        return read_ends(self.scan)

    @cached_property
    def short_years(self) -> dict[float, Mention]:
        """The first mention of each number that may be a year by its last two digits."""
        found: dict[float, Mention] = {}
        for mention in self.said:
            for value in mention.raw if len(self.groups(mention)) == 1 else ():
                found.setdefault(value, mention)
        return found

    @cached_property
    def of_attribute(self) -> dict[str, list[Mention]]:
        """The mentions of each attribute, of each sort one."""
        found: dict[str, dict[tuple[str, str, bool], Mention]] = {}
        for mention, about in zip(self.said, self.attributes, strict=True):
            found.setdefault(about, {}).setdefault((mention.kind, mention.dim, bool(mention.noun)), mention)
        return {about: list(of_sort.values()) for about, of_sort in found.items()}

    @cached_property
    def sided(self) -> frozenset[str]:
        """What sides are said of."""
        pairs = zip(self.said, self.attributes, strict=True)
        return frozenset(about for mention, about in pairs if mention.dim == "side")

    @cached_property
    def _index(self) -> ValueIndex:
        return ValueIndex(self.said)

    def near(self, fact: Mention) -> list[Mention]:
        """The mentions that may support a fact, in order."""
        return self._index.near(fact)

    def about(self, subjects: frozenset[str]) -> list[Mention]:
        """The mentions that may be of one of these subjects, in order: those near its word, or counted by it.

        The first `MOST`.
        """
        if subjects not in self._about:
            turns = set().union(*(self.subjects.turns_of.get(word, set()) for word in subjects))
            places = {k for turn in turns for near in (turn, turn + 1) for k in self._of_turn.get(near, ())}
            places.update(k for word in subjects for k in self._of_noun.get(word, ()))
            self._about[subjects] = [self.said[k] for k in sorted(places)[:MOST]]
        return self._about[subjects]

    @cached_property
    def _about(self) -> dict[frozenset[str], list[Mention]]:
        return {}

    @cached_property
    def _of_turn(self) -> dict[int, list[int]]:
        found: dict[int, list[int]] = {}
        for k, mention in enumerate(self.said):
            found.setdefault(self.subjects.turn_of[mention.first], []).append(k)
        return found

    @cached_property
    def _of_noun(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for k, mention in enumerate(self.said):
            for word in {mention.noun, fold(mention.noun)} - {""}:
                found.setdefault(word, []).append(k)
        return found

    def one_side_only(self, k: int) -> bool:
        """Whether token k ends a turn that the next one answers with one side: "Both ears?" "No, the right."."""
        turn = bisect_right(self.openings, k)
        if turn >= len(self.openings) or not _ends_turn(self.scan, k):
            return False
        begin = self.openings[turn]
        inside = [self.said[k] for k in self._of_turn.get(turn, ()) if self.said[k].dim == "side"]
        denied = self.scan.word(begin) in DENIALS or self.scan.word(begin) in ("just", "only")
        one = "one" in self.scan.words(begin + 1, begin + 3)  # "Just the one."
        return denied and (bool(inside) or one) and all(mention.values[0] != "both" for mention in inside)


@lru_cache(maxsize=16)  # decoding checks a growing note against one dialogue
def read_talk(dialogue: str) -> Talk:
    """Read a dialogue. What a question offers and its answer denies ("Was it three weeks?" "No, four.") is left out."""
    text, starts, begins = _retagged(read_turns(dialogue))
    scan, mentions = read_mentions(text, spoken=True)
    turns = _turns(scan, starts, begins)
    openings = turns.begins
    mentions = with_roles(scan, [*mentions, *other_sides(scan, mentions)], turns)
    ordered = _Ordered(mentions)
    said = [mention for mention in mentions if not _denied(scan, mention, ordered, openings)]
    attributes = [attribute(scan, mention) for mention in said]
    calendar = calendar_of(scan, said)
    subjects = subjects_of_talk(scan, turns)
    return Talk(scan, said, attributes, starts, calendar, subjects, openings)


def _retagged(turns: Sequence[Turn]) -> tuple[str, list[int], list[int]]:
    """The text of the turns as lines "Speaker: text", where each begins, and where its words do.

    The readers of facts then see one style only, in which a newline ends a turn and a colon a tag.
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


def _turns(scan: Scan, starts: Sequence[int], begins: Sequence[int]) -> Turns:
    """The tokens of each turn, after the speaker's tag."""
    offsets = [token.start for token in scan.tokens]
    firsts = [bisect_left(offsets, start) for start in starts]
    return Turns(begins=[bisect_left(offsets, begin) for begin in begins], ends=[*firsts[1:], len(scan.tokens)])


class _Ordered:
    """Mentions by the token at which they begin."""

    def __init__(self, mentions: Sequence[Mention]) -> None:
        self._mentions = sorted(mentions, key=lambda mention: mention.first)
        self._firsts = [mention.first for mention in self._mentions]

    def between(self, begin: int, end: int) -> Sequence[Mention]:
        """Those that begin at tokens `[begin, end)`."""
        return self._mentions[bisect_left(self._firsts, begin) : bisect_left(self._firsts, end)]


def _denied(scan: Scan, mention: Mention, ordered: _Ordered, openings: Sequence[int]) -> bool:
    """Whether a value is denied or corrected: "Was it three?" answered "No, four." or "Four."; "six, I mean ten"."""
    dims = (mention.dim,) if mention.dim == "side" else (mention.dim, "")
    after = ordered.between(mention.last, mention.last + REACH + 1)
    if any(_corrects(scan, mention, other) for other in after if other.dim in dims):
        return True
    turn = bisect_right(openings, mention.first)
    if turn >= len(openings) or not _ends_turn(scan, mention.last):
        return False
    end = openings[turn + 1] if turn + 1 < len(openings) else len(scan.tokens)
    if scan.word(scan.around(mention.last, mention.last).stop) != "?":
        end = min(end, openings[turn] + CORRECTING) if mention.dim == "side" else openings[turn]
    answers = [other for other in ordered.between(openings[turn], end) if other.dim in dims]
    bare = any(other.first == openings[turn] for other in answers) and not _asks_openly(scan, mention.first)
    if scan.word(openings[turn]) not in DENIALS and not bare:
        return False
    return bool(answers) and not any(_alike(mention, other) for other in answers)


def _alike(mention: Mention, other: Mention) -> bool:
    """Whether two mentions have a reading in common; a year may be said by its last two digits."""
    if mention.dim == "date":
        years = {part for year, _, _ in mention.dates if year for part in (year, year % 100)}
        return bool(set(other.dates) & set(mention.dates)) or bool(years & set(other.raw))
    return bool(set(other.values) & set(mention.values))


def _corrects(scan: Scan, mention: Mention, other: Mention) -> bool:
    """Whether `other` corrects `mention` right after it: "two thousand five, I mean two thousand six"."""
    if not 0 < other.first - mention.last <= REACH or _alike(mention, other):
        return False
    return is_correction(scan.word(k) for k in range(mention.last, other.first) if stem(scan.word(k)) != mention.noun)


def _asks_openly(scan: Scan, k: int) -> bool:
    """Whether the sentence of token k asks how, what, when: its numbers are no proposed answers."""
    before = range(scan.around(k, k, SENTENCE_ENDS | {":"}).start, k)
    return any(scan.word(j) in OPEN_QUESTIONS and scan.word(j + 1) != "," for j in before)  # not "what, five hundred?"


def _ends_turn(scan: Scan, k: int) -> bool:
    """Whether the sentence of token k is the last one of its turn."""
    end = scan.around(k, k).stop
    return scan.word(end) == "\n" or scan.word(end + 1) in ("\n", "")
