"""Laterality: left, right or both, with the body part. "Right" that agrees and "left" of leaving are excluded."""

from __future__ import annotations

from collections.abc import Container, Sequence

from medsum_core.grounding.facts.anatomy import body_parts, stem
from medsum_core.grounding.facts.mention import Mention, ReaderResult, Scan
from medsum_core.grounding.facts.quantities import counted_noun
from medsum_core.grounding.facts.tokens import word_set

SIDES = {
    "left": "left", "lt": "left", "l": "left", "right": "right", "rt": "right", "r": "right", "bilateral": "both",
    "bilaterally": "both", "both": "both", "bilat": "both", "leftward": "left", "rightward": "right",
    "left's": "left", "right's": "right",
}  # fmt: skip
LIMB_CODES = {
    "od": ("right", "eye"), "os": ("left", "eye"), "ou": ("both", "eye"),
    "ble": ("both", "leg"), "bue": ("both", "arm"),
    "rle": ("right", "leg"), "lle": ("left", "leg"), "rue": ("right", "arm"), "lue": ("left", "arm"),
    "rhf": ("right", "handed"), "rhm": ("right", "handed"), "lhf": ("left", "handed"), "lhm": ("left", "handed"),
    "ruq": ("right", "quadrant"), "rlq": ("right", "quadrant"), "luq": ("left", "quadrant"),
    "llq": ("left", "quadrant"),
}  # fmt: skip
HANDED = {"righty": "right", "rightie": "right", "lefty": "left", "leftie": "left", "southpaw": "left"}
BEFORE_BARE_SIDE = word_set("the my your his her their on to")  # before a side without a body part
NOT_SIDES = word_set(  # "the right decision", "the left alone"
    "thing things decision decisions way ways direction track time now place person people away here there after "
    "before dose amount choice medication medicine medications treatment diet answer word words number size order "
    "thought idea doctor job"
)
OF_BOTH = word_set("of my his her their your the these")
DOMINANT = word_set("dominant dominance dominantly write writes writing handed everything")
ASKS_SIDE = word_set("which left side handed hand dominant leftie lefty")
NOT_BEFORE_PART = word_set("in i he she my his her that now before after when with the me for over and")
DIRECTION_WORDS = word_set("top bottom upper lower far front")  # before a side: "Top left."
LETTERS = word_set("l r lt rt")  # only in capitals, only in notes
BEFORE_AGREEMENT = word_set("that's all you're is yes ,")  # before "right" in the sense of "correct"
LOOK_AHEAD = 4  # tokens from a side to its body part
OPPOSITE = {"left": "right", "right": "left"}
OTHER_REACH = 40  # tokens from a side to "the other"


def side_at(scan: Scan, i: int) -> ReaderResult | None:
    """The side at token i, with its body part as noun; None if there is none."""
    word = scan.word(i)
    if word in LIMB_CODES and scan.tokens[i].capital and not scan.spoken:
        return [_side(scan, i, i + 1, *LIMB_CODES[word])], i + 1
    if word in HANDED:
        return [_side(scan, i, i + 1, HANDED[word], "handed")], i + 1
    if word in ("each", "either") and scan.spoken:
        return _each_of_two(scan, i)
    side = SIDES.get(word, "")
    if not side or (word in LETTERS and (scan.spoken or not scan.tokens[i].capital)) or _is_alternative(scan, i):
        return None
    noun = _body_part(scan, i)
    if side == "both":
        counted = _two_of(scan, i) if word == "both" and scan.spoken else []
        is_side = word != "both" or noun or (scan.spoken and _has_before(scan, i, body_parts().keys() | OPPOSITE))
        found = [*([_side(scan, i, i + 1, "both", noun)] if is_side else []), *counted]
        return (found, i + 1) if found else None
    if noun in ("hand", *([""] if scan.spoken else [])) and _dominant(scan, i):
        noun = "handed"
    return ([_side(scan, i, i + 1, side, noun)], i + 1) if noun or _bare_side(scan, i) else None


def _side(scan: Scan, first: int, last: int, side: str, noun: str) -> Mention:
    return scan.mention(first, last, "laterality", "side", (side,), noun=noun)


def _each_of_two(scan: Scan, i: int) -> ReaderResult | None:
    """ "in each eye", "on either side": both."""
    part = stem(scan.word(i + 1))
    is_pair = part == "side" or body_parts().get(part) in ("arm", "leg", "eye", "ear")
    return ([_side(scan, i, i + 2, "both", part)], i + 2) if is_pair else None


def _dominant(scan: Scan, i: int) -> bool:
    """Whether the hand of token i is the dominant one: "right hand dominant", "I write with my left hand"."""
    near = range(max(i - 6, 0), i + 13) if scan.spoken else range(i + 1, i + LOOK_AHEAD)
    return any(scan.word(k) in DOMINANT and scan.word(k - 1) not in SIDES for k in near)


def other_sides(scan: Scan, mentions: Sequence[Mention]) -> list[Mention]:
    """Implicit sides: "the other knee", "bigger than the right one" refer to the opposite of the side before."""
    found = []
    last: Mention | None = None
    by_token = {mention.first: mention for mention in mentions if mention.dim == "side"}
    for i in range(len(scan.tokens) - 1):
        last = by_token.get(i, last)
        opposite = OPPOSITE.get(str(last.values[0])) if last is not None else None
        if last is None or opposite is None:
            continue
        if i in by_token and scan.word(i - 2) == "than":
            found.append(last._replace(values=(opposite,)))
        if scan.word(i) != "other" or i - last.last > OTHER_REACH:
            continue
        noun = stem(scan.word(i + 1))
        bare = scan.word(i - 1) == "the" and not scan.is_word(i + 1)  # "And the other?"
        if bare or noun in ("one", "side", last.noun):
            found.append(_side(scan, i, i + 2, opposite, last.noun if bare or noun == "one" else noun))
    return found


def _two_of(scan: Scan, i: int) -> list[Mention]:
    """ "both of my brothers" counts two."""
    k = i + 1
    while scan.word(k) in OF_BOTH:
        k += 1
    noun = counted_noun(scan, k, small=False)
    return [scan.plain(i, i + 1, (2.0,), noun=noun)] if noun else []


def _is_alternative(scan: Scan, i: int) -> bool:
    """Whether the side is part of an alternative question: "left or right?", "one ear or both?"."""
    joined = "or" in (scan.word(i - 1), scan.word(i + 1)) or scan.words(i - 2, i) == ["or", "the"]
    return joined and scan.word(scan.around(i, i).stop) == "?"


def _body_part(scan: Scan, i: int) -> str:
    """The body part after the side at token i ("left lower leg"), or before it ("the knee on the left"); "" if none."""
    parts = body_parts()
    both = SIDES[scan.word(i)] == "both"
    begin = i + 1
    while both and scan.word(begin) in OF_BOTH:
        begin += 1
    for k in range(begin, begin + LOOK_AHEAD):
        word = scan.word(k)
        if not scan.is_word(k) or word in NOT_BEFORE_PART or word in NOT_SIDES:
            break
        if stem(word) in parts and not (k == i + 1 and word in ("back", "down")):
            return stem(word)
    backward = both and scan.word(i + 1) in (".", ",", "", "and", "with", "to", ";")  # "knees bilaterally"
    if scan.word(i - 1) not in ("the", "on", "to", "both") and not backward:
        return ""
    for k in range(i - 1, max(i - 6, -1), -1):
        if scan.tokens[k].kind == "punct":
            break
        if stem(scan.word(k)) in parts:
            return stem(scan.word(k))
    return ""


def _bare_side(scan: Scan, i: int) -> bool:
    """Whether "left" or "right" without a body part is a side: "on the left", "it's the right one", "Left."."""
    before, after = scan.word(i - 1), scan.word(i + 1)
    if not scan.spoken and scan.word(i) in LETTERS:
        return False
    if before in DIRECTION_WORDS and scan.tokens[i + 1].kind == "punct":
        return True  # "Top left, in the back."
    if before in BEFORE_BARE_SIDE and after not in NOT_SIDES:
        return before != "to" or not scan.is_word(i + 1)
    if scan.spoken and before == ":" and after in (".", "", "\n", "?", ","):
        return scan.word(i) == "left" or _has_before(scan, i, ASKS_SIDE)
    if scan.spoken and after in (".", "\n", "") and before not in BEFORE_AGREEMENT:
        return _has_before(scan, i, ASKS_SIDE)  # "I think it's left."
    beside = scan.words(i - 2, i), scan.words(i + 1, i + 3)
    return any("and" in words and not OPPOSITE.keys().isdisjoint(words) for words in beside)  # "left and right"


def _has_before(scan: Scan, i: int, words: Container[str]) -> bool:
    """Whether one of `words` occurs shortly before token i."""
    return any(stem(word) in words for word in scan.words(i - 14, i))
