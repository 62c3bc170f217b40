"""The verdict on a side of a note: does the dialogue give it for the same body part and the same complaint?

"Left knee pain" is contradicted by "The right one hurts, the left is fine.", although both sides are named.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal, NamedTuple

from medsum_core.grounding.facts.anatomy import PLACES, STOPWORDS, body_parts, stem
from medsum_core.grounding.facts.matching import MOST, near_part
from medsum_core.grounding.facts.mention import SENTENCE_ENDS, Mention, Scan
from medsum_core.grounding.facts.sides import OPPOSITE
from medsum_core.grounding.facts.tokens import word_set

DENYING = word_set(
    "no not never none nothing without denies denied denying negative normal fine good okay ok unremarkable intact "
    "healthy unaffected perfect clear clean spared waiting wait asymptomatic recovered resolved isn't doesn't don't "
    "didn't wasn't hasn't can't cannot"
)
GOOD = word_set("normal fine good okay ok intact healthy perfect clear clean")
AGREEING = GOOD | word_set("yes yeah yep yup right mm mhm")
ANSWERS_NO = word_set("no nope nah none not nothing never")
CLAUSE_ENDS = SENTENCE_ENDS | {",", ";", "and", "but", ":"}
SHORT = 4  # most tokens of an elliptical question: "And the right?"
NOT_TOPICS = (
    STOPWORDS | DENYING | word_set("left right both bilateral bilaterally side sided patient pain hurt hurts other one")
)
PREFIX = 5  # letters that related words share
SENTENCES_BACK = 3  # sentences before a side that are searched for its body part
ONLY = word_set("only alone unilateral sole solely")
DISTINCT = ("arm", "leg", "eye", "ear")  # regions that speakers do not confuse


class SideMention(NamedTuple):
    """A side of a body part `part`, "" if unclear.

    `denied`: whether the text says that nothing is wrong there; None if unclear. `words`: prefixes of the content words
    around it; `places`: the body parts of its sentence.
    """

    mention: Mention
    side: str
    part: str
    denied: bool | None
    words: frozenset[str]
    places: frozenset[str]


class SideVerdict(NamedTuple):
    """The verdict on a side and the mention that decides it; `of_part`: the body part is contradicted, not the side."""

    verdict: Literal["supported", "contradicted"]
    mention: Mention
    of_part: bool = False


@dataclass(frozen=True)
class SideIndex:
    """The sides of a dialogue by body part."""

    mentions: Sequence[SideMention]
    parts: frozenset[str]  # all body parts that the dialogue names

    def judge(self, fact: Mention, note: Scan) -> SideVerdict | None:
        """The verdict on a side of a note; None if the dialogue does not mention its body part."""
        own = read_side(note, fact)
        mentions, elsewhere = self._same_and_other_part(own.part)
        if elsewhere and self.parts.isdisjoint(place_of(own.part)):
            return SideVerdict("contradicted", elsewhere[0].mention, of_part=True)  # the dialogue has only hips
        if not mentions and (other := self._in_other_region(own)) is not None:
            return SideVerdict("contradicted", other.mention, of_part=True)  # the left wrist, no leg at all
        if own.side == "both":
            return _judge_both(own, mentions)
        same = [one for one in mentions if one.side in (own.side, "both")]
        opposite = [one for one in mentions if one.side == OPPOSITE[own.side]]
        if not same:  # a denial ("no right knee pain") is no contradiction then
            return SideVerdict("contradicted", opposite[0].mention) if opposite and not own.denied else None
        if all(one.side == "both" for one in same):
            more = [one for one in opposite if one.words & own.words]
            if more or _is_one_sided(note, own):  # both hurt, but one more; or the note limits it to one
                return SideVerdict("contradicted", (more or same)[0].mention)
        fitting = [one for one in same if one.denied is None or own.denied is None or one.denied == own.denied]
        rivals = [one for one in opposite if one.denied is None or one.denied == bool(own.denied)]
        if not fitting:
            return SideVerdict("contradicted" if rivals else "supported", (rivals or same)[0].mention)
        shared = max(len(own.words & one.words) for one in fitting)
        named = any(one.mention.noun == own.part and one.side == own.side for one in fitting)
        better = [one for one in rivals if own.words & one.words]
        if better and not shared and not named:
            return SideVerdict("contradicted", better[0].mention)
        return SideVerdict("supported", fitting[0].mention)

    def _in_other_region(self, own: SideMention) -> SideMention | None:
        """A mention of the same side in another region; None if the dialogue names a part of the note's region."""
        region = body_parts().get(own.part, "")
        if own.side == "both" or region not in DISTINCT or any(body_parts()[part] == region for part in self.parts):
            return None
        elsewhere = (*DISTINCT, "chest", "face") if region == "leg" else DISTINCT
        others = (one for one in self.mentions if one.side == own.side and body_parts().get(one.part) in elsewhere)
        return next(others, None)

    def _same_and_other_part(self, part: str) -> tuple[Sequence[SideMention], Sequence[SideMention]]:
        """The first `MOST` sides of a body part, and the first in a sentence that names another place."""
        if part not in self._by_part:
            near = [one for one in self._distinct if near_part(part, one.part)]
            mentions = [one for one in near if not excludes(part, one.part)]
            elsewhere = [one for one in near if any(excludes(part, place) for place in one.places)]
            self._by_part[part] = mentions[:MOST], elsewhere[:1]
        return self._by_part[part]

    @cached_property
    def _by_part(self) -> dict[str, tuple[Sequence[SideMention], Sequence[SideMention]]]:
        return {}

    @cached_property
    def _distinct(self) -> Sequence[SideMention]:
        """The mentions, only the first of equal ones."""
        found: dict[tuple[object, ...], SideMention] = {}
        for one in self.mentions:
            found.setdefault((*one[1:], one.mention.noun), one)
        return list(found.values())


def _is_one_sided(note: Scan, own: SideMention) -> bool:
    """Whether a note limits a finding to one side: "left ear only", "left mastectomy"."""
    near = {note.word(k) for k in range(own.mention.first - 2, own.mention.last + 4)}
    return bool(near & ONLY) or own.part.endswith(("ectomy", "plasty"))


def _judge_both(own: SideMention, mentions: Sequence[SideMention]) -> SideVerdict | None:
    """The verdict on "both": supported if the part is mentioned with both, or with each side; None if unclear."""
    wrong = [one for one in mentions if one.denied is not True]
    both = [one for one in wrong if one.side == "both"]
    sides = {one.side for one in wrong}
    if both or {"left", "right"} <= sides:
        return SideVerdict("supported", (both or wrong)[0].mention)
    good = [one for one in mentions if one.side == "both" or own.denied]
    if good and not wrong:
        return SideVerdict("supported", good[0].mention)
    sure = [one for one in mentions if own.part and one.part]
    return SideVerdict("contradicted", sure[0].mention) if sure else None


def is_standard_of_comparison(scan: Scan, mention: Mention) -> bool:
    """Whether a side is only the standard of a comparison: "weaker than the [right]"."""
    return "than" in scan.words(mention.first - 2, mention.first) and scan.word(mention.first) == mention.values[0]


def is_negated(scan: Scan, mention: Mention) -> bool | None:
    """Whether a side is negated, in its clause or by the answer "No."; None if only its sentence has a negation.

    A turn's opening "No," may only correct the question ("No, the right one."): it is ignored.
    """
    clause = scan.around(mention.first, mention.last, CLAUSE_ENDS)
    sentence = scan.around(mention.first, mention.last, SENTENCE_ENDS | {":", ";"})
    asks = scan.spoken and scan.word(sentence.stop) == "?"
    negations = DENYING.intersection(scan.words(clause.start, clause.stop))
    if negations and not (asks and negations <= GOOD):
        return True
    words = scan.words(sentence.start, sentence.stop)
    answer = _answer(scan, sentence.stop) if asks else [""]
    if not DENYING.isdisjoint(words[2 if words[:2] == ["no", ","] else 0 :]):
        return True if negations and answer[0] in AGREEING else None  # "The other one's okay?" "Yes."
    if len(sentence) <= SHORT and not DENYING.isdisjoint(answer):
        return True  # "And the right?" "Clear."
    return answer[0] in ANSWERS_NO


def _answer(scan: Scan, end: int) -> list[str]:
    """The first words of the turn after the question that ends at token `end`."""
    begin = next((k + 1 for k in range(end + 2, end + 10) if scan.word(k) == ":"), end)
    return scan.words(begin, begin + SHORT - 1) if scan.word(end + 1) == "\n" else [""]


def read_side(scan: Scan, mention: Mention) -> SideMention:
    """A side with its body part: the one next to it, else the nearest of its sentence, else of the sentences before."""
    sentence = scan.around(mention.first, mention.last)
    part = "toe" if mention.noun in ("great", "big") else mention.noun
    part = part if _is_part(part) else _nearest(scan, mention, sentence)
    places = frozenset(filter(_is_part, map(stem, scan.words(sentence.start, sentence.stop))))
    return SideMention(
        mention,
        str(mention.values[0]),
        part,
        is_negated(scan, mention),
        _content_prefixes(scan, mention, sentence),
        places,
    )


def _is_part(word: str) -> bool:
    return body_parts().get(word, "whole") not in ("whole", "handed", "back") and word not in ("great", "big")


def _nearest(scan: Scan, mention: Mention, sentence: range) -> str:
    places = [k for k in sentence if _is_part(stem(scan.word(k)))]
    if places:
        return stem(scan.word(min(places, key=lambda k: abs(k - mention.first))))
    k, sentences = sentence.start - 1, 0
    while scan.spoken and k >= 0 and sentences < SENTENCES_BACK:
        if _is_part(stem(scan.word(k))):
            return stem(scan.word(k))
        sentences += scan.word(k) in SENTENCE_ENDS and scan.word(k - 1) not in SENTENCE_ENDS
        k -= 1
    return ""


def _content_prefixes(scan: Scan, mention: Mention, sentence: range) -> frozenset[str]:
    """Prefixes of the content words of a side's clause; in a dialogue, of its sentence."""
    span = sentence if scan.spoken else scan.around(mention.first, mention.last, CLAUSE_ENDS | {"with"})
    if not scan.spoken and any(scan.word(k) in OPPOSITE for k in span if k != mention.first):
        return frozenset()  # "the left eye in May, followed by the right eye"
    return frozenset(_prefix(scan.word(k)) for k in span if scan.is_word(k)) - {""}


@lru_cache(maxsize=1)
def _places() -> dict[str, frozenset[int]]:
    words = {word for place in PLACES for word in place.split()}
    return {word: frozenset(k for k, place in enumerate(PLACES) if word in place.split()) for word in words}


def place_of(part: str) -> frozenset[str]:
    """The words for the place of a body part; none for a part that contains other places."""
    return frozenset(word for k in _places().get(part, ()) for word in PLACES[k].split())


def excludes(a: str, b: str) -> bool:
    """Whether two body parts are different places: hip and knee, not leg and knee."""
    one, other = _places().get(a), _places().get(b)
    return one is not None and other is not None and one.isdisjoint(other)


@lru_cache(maxsize=8192)
def _prefix(word: str) -> str:
    low = stem(word)
    is_topic = len(low) >= 3 and NOT_TOPICS.isdisjoint((word, low)) and not _is_part(low)
    return low[:PREFIX] if is_topic else ""
