"""The verdict on a side of a note: is the side said of the same body part, and of the same that is wrong there?

"Left knee pain" is contradicted by "The right one hurts, the left is fine.", though both sides are named.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal, NamedTuple

from medsum_core.grounding.facts.anatomy import PLACES, STOPWORDS, body_parts, stem
from medsum_core.grounding.facts.answers import SENTENCE_ENDS
from medsum_core.grounding.facts.matching import near_part
from medsum_core.grounding.facts.mention import Mention, Scan
from medsum_core.grounding.facts.polarity import DENYING, denied
from medsum_core.grounding.facts.tokens import bag
from medsum_core.grounding.facts.value_index import MOST

OPPOSITE = {"left": "right", "right": "left"}
BREAKS = SENTENCE_ENDS | {",", ";", "and", "but", "with", ":"}
NOT_TOPICS = bag("left right both bilateral bilaterally side sided patient pain hurt hurts other one")
PREFIX = 5  # letters that related words share
SENTENCES_BACK = 3
ONLY = bag("only alone unilateral sole solely")
DISTINCT = ("arm", "leg", "eye", "ear")  # nobody takes one for another


class Claim(NamedTuple):
    """A side said of a body part ("" if unclear); `denied`: nothing is wrong there, None where that is unclear.

    `words`: the beginnings of the content words around it; `places`: the body parts of its sentence.
    """

    mention: Mention
    side: str
    part: str
    denied: bool | None
    words: frozenset[str]
    places: frozenset[str]


class SideVerdict(NamedTuple):
    """The verdict on a side and the mention that gives it; `of_part`: what is wrong is the body part."""

    verdict: Literal["supported", "contradicted"]
    mention: Mention
    of_part: bool = False


@dataclass(frozen=True)
class SideClaims:
    """All sides of a dialogue, and which part each is of."""

    claims: Sequence[Claim]
    parts: frozenset[str]  # all body parts that are named

    def judge(self, fact: Mention, note: Scan) -> SideVerdict | None:
        """The verdict on a side of a note with the mention that gives it; None where nothing is said of its part."""
        own = read_claim(note, fact)
        claims, elsewhere = self._of_part(own.part)
        if elsewhere and self.parts.isdisjoint(place_of(own.part)):
            return SideVerdict("contradicted", elsewhere[0].mention, of_part=True)  # only hips are spoken of
        if not claims and (other := self._of_other_region(own)) is not None:
            return SideVerdict("contradicted", other.mention, of_part=True)  # the left wrist, no leg at all
        if own.side == "both":
            return _judge_both(own, claims)
        same = [claim for claim in claims if claim.side in (own.side, "both") or own.side in claim.mention.marks]
        opposite = [claim for claim in claims if claim.side == OPPOSITE[own.side]]
        if not same:
            return _judge_unsaid(own, opposite)
        if all(claim.side == "both" for claim in same) and _is_of_one(note, own):
            return SideVerdict("contradicted", same[0].mention)  # both of them, and the note tells of one
        if all(claim.side == "both" for claim in same) and (others := [c for c in opposite if c.words & own.words]):
            return SideVerdict("contradicted", others[0].mention)  # both hurt, and one of them more
        fitting = [claim for claim in same if claim.denied is None or own.denied is None or claim.denied == own.denied]
        rivals = [claim for claim in opposite if claim.denied is None or claim.denied == bool(own.denied)]
        if not fitting:
            return (
                SideVerdict("contradicted", rivals[0].mention) if rivals else SideVerdict("supported", same[0].mention)
            )
        if any(claim.mention.noun == own.part and claim.side == own.side for claim in fitting):
            return SideVerdict("supported", fitting[0].mention)
        best = max(len(own.words & claim.words) for claim in fitting)
        better = [claim for claim in rivals if len(own.words & claim.words) > best]
        if better and best == 0:
            return SideVerdict("contradicted", better[0].mention)
        return SideVerdict("supported", fitting[0].mention)

    def _of_other_region(self, own: Claim) -> Claim | None:
        """A claim of the same side for a part of another region, where none of the note's region is named."""
        region = body_parts().get(own.part, "")
        if own.side == "both" or region not in DISTINCT or any(body_parts()[part] == region for part in self.parts):
            return None
        elsewhere = (*DISTINCT, "chest", "face") if region == "leg" else DISTINCT
        others = (one for one in self.claims if one.side == own.side and body_parts().get(one.part) in elsewhere)
        return next(others, None)

    def _of_part(self, part: str) -> tuple[Sequence[Claim], Sequence[Claim]]:
        """The sides of a body part, the first `MOST`, and those of a sentence that names another place."""
        if part not in self._known:
            near = [claim for claim in self._different if near_part(part, claim.part)]
            claims = [claim for claim in near if not excludes(part, claim.part)]
            elsewhere = [claim for claim in near if any(excludes(part, place) for place in claim.places)]
            self._known[part] = claims[:MOST], elsewhere[:1]
        return self._known[part]

    @cached_property
    def _known(self) -> dict[str, tuple[Sequence[Claim], Sequence[Claim]]]:
        return {}

    @cached_property
    def _different(self) -> Sequence[Claim]:
        """The claims, of those that say the same the first."""
        found: dict[tuple[object, ...], Claim] = {}
        for claim in self.claims:
            found.setdefault((*claim[1:], claim.mention.marks, claim.mention.noun), claim)
        return list(found.values())


def _is_of_one(note: Scan, own: Claim) -> bool:
    """Whether a note says that only this side is meant, or what is done to one: "left ear only", "left mastectomy"."""
    near = {note.word(k) for k in range(own.mention.first - 2, own.mention.last + 4)}
    return bool(near & ONLY) or own.part.endswith(("ectomy", "plasty"))


def _judge_unsaid(own: Claim, opposite: Sequence[Claim]) -> SideVerdict | None:
    """A side that is not said: that the other one is well is said of it, if the note says so of this."""
    if own.denied:
        opposite = [claim for claim in opposite if claim.denied]
        return SideVerdict("contradicted", opposite[0].mention) if opposite else None
    return SideVerdict("contradicted", opposite[0].mention) if opposite else None


def _judge_both(own: Claim, claims: Sequence[Claim]) -> SideVerdict | None:
    """Both sides are said of the part, or each of them is; None where the part is unclear."""
    wrong = [claim for claim in claims if claim.denied is not True]
    both = [claim for claim in wrong if claim.side == "both"]
    sides = {claim.side for claim in wrong}
    if both or {"left", "right"} <= sides:
        return SideVerdict("supported", (both or wrong)[0].mention)
    good = [claim for claim in claims if claim.side == "both" or own.denied]
    if good and not wrong:
        return SideVerdict("supported", good[0].mention)
    sure = [claim for claim in claims if own.part and claim.part]
    return SideVerdict("contradicted", sure[0].mention) if sure else None


def is_measure(scan: Scan, mention: Mention) -> bool:
    """Whether a side is only what the other one is compared with: "weaker than the [right]"."""
    before = scan.word(mention.first - 1), scan.word(mention.first - 2)
    return "than" in before and scan.word(mention.first) == mention.values[0]


def read_claim(scan: Scan, mention: Mention) -> Claim:
    """What a side is said of: the body part next to it, else the nearest of its sentence, else the one asked for."""
    sentence = _around(scan, mention)
    part = "toe" if mention.noun in ("great", "big") else mention.noun
    part = part if _is_part(part) else _nearest(scan, mention, sentence)
    places = frozenset(stem(scan.word(k)) for k in sentence if _is_part(stem(scan.word(k))))
    return Claim(mention, str(mention.values[0]), part, denied(scan, mention), _words(scan, mention, sentence), places)


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


def _around(scan: Scan, mention: Mention) -> range:
    first, last = mention.first, mention.last
    while first > 0 and scan.word(first - 1) not in SENTENCE_ENDS:
        first -= 1
    while last < len(scan.tokens) - 1 and scan.word(last) not in SENTENCE_ENDS:
        last += 1
    return range(first, last)


def _words(scan: Scan, mention: Mention, sentence: range) -> frozenset[str]:
    """The content words of a side's clause; in speech of its sentence."""
    first, last = sentence.start, sentence.stop
    if not scan.spoken:
        first, last = mention.first, mention.last
        while first > sentence.start and scan.word(first - 1) not in BREAKS:
            first -= 1
        while last < sentence.stop and scan.word(last) not in BREAKS:
            last += 1
        if any(scan.word(k) in OPPOSITE for k in range(first, last) if k != mention.first):
            return frozenset()  # "the left eye in May, followed by the right eye"
    return frozenset(_prefix(scan.word(k)) for k in range(first, last) if scan.tokens[k].kind == "word") - {""}


@lru_cache(maxsize=1)
def _places() -> dict[str, frozenset[int]]:
    words = {word for place in PLACES for word in place.split()}
    return {word: frozenset(k for k, place in enumerate(PLACES) if word in place.split()) for word in words}


def place_of(part: str) -> frozenset[str]:
    """The words for the place that a body part is; none for what takes in other places."""
    return frozenset(word for k in _places().get(part, ()) for word in PLACES[k].split())


def excludes(a: str, b: str) -> bool:
    """Whether two body parts are different places: hip and knee, not leg and knee."""
    one, other = _places().get(a), _places().get(b)
    return one is not None and other is not None and one.isdisjoint(other)


@lru_cache(maxsize=8192)
def _prefix(word: str) -> str:
    low = stem(word)
    return (
        ""
        if word in STOPWORDS or low in NOT_TOPICS or word in DENYING or len(low) < 3 or _is_part(low)
        else low[:PREFIX]
    )
