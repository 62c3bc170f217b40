"""Laterality: left, right, bilateral, with the body part. Not "right" that agrees, nor "left" that leaves."""

from __future__ import annotations

from collections.abc import Container, Sequence

from medsum_core.grounding.facts.after_number import Reading, counted_noun
from medsum_core.grounding.facts.anatomy import body_parts, stem
from medsum_core.grounding.facts.mention import Mention, Scan
from medsum_core.grounding.facts.tokens import bag

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
OWNERS = bag("the my your his her their on to")
NOT_SIDES = bag(  # "the right decision", "the left alone"
    "thing things decision decisions way ways direction track time now place person people away here there after "
    "before dose amount choice medication medicine medications treatment diet answer word words number size order "
    "thought idea doctor job"
)
OF_BOTH = bag("of my his her their your the these")
DOMINANT = bag("dominant dominance dominantly write writes writing handed everything")
ASKS_SIDE = bag("which left side handed hand dominant leftie lefty")
STOPPERS = bag("in i he she my his her that now before after when with the me for over and")
PLACED = bag("top bottom upper lower far front")
LOOK_AHEAD = 4
OPPOSITE = {"left": "right", "right": "left"}
OTHER_REACH = 40  # tokens


def side_at(scan: Scan, i: int) -> Reading | None:
    """The side that token i names, with the body part near it as noun; None if it names none."""
    word = scan.word(i)
    if word in LIMB_CODES and scan.tokens[i].capital and not scan.spoken:
        side, noun = LIMB_CODES[word]
        return [scan.mention(i, i + 1, "laterality", "side", (side,), noun=noun)], i + 1
    if word in HANDED:
        return [scan.mention(i, i + 1, "laterality", "side", (HANDED[word],), noun="handed")], i + 1
    if word in ("each", "either") and scan.spoken:
        return _each_of_two(scan, i)
    side = SIDES.get(word, "")
    if not side or (word in ("l", "r", "lt", "rt") and (scan.spoken or not scan.tokens[i].capital)):
        return None
    noun = _body_part(scan, i)
    if noun in ("hand", *([""] if scan.spoken else [])) and _dominant(scan, i):
        noun = "handed"
    or_before = scan.word(i - 1) == "or" or (scan.word(i - 1) == "the" and scan.word(i - 2) == "or")
    listed = {scan.word(i - 2), scan.word(i + 2)} & {"left", "right"} and "," in (scan.word(i - 1), scan.word(i + 1))
    if (or_before or listed or scan.word(i + 1) == "or") and _offered(scan, i):
        return None
    counted = _two_of(scan, i) if word == "both" and scan.spoken else []
    if side == "both":
        if word == "both" and not noun and not (scan.spoken and _asked(scan, i, body_parts().keys() | OPPOSITE)):
            return (counted, i + 1) if counted else None
        return [scan.mention(i, i + 1, "laterality", "side", ("both",), noun=noun), *counted], i + 1
    if not noun and not _bare_side(scan, i):
        return None
    sides = ("left", "right", "both") if _joined(scan, i) else (side,)
    return [scan.mention(i, i + 1, "laterality", "side", (side,), noun=noun, marks=frozenset(sides))], i + 1


def _each_of_two(scan: Scan, i: int) -> Reading | None:
    """ "in each eye": both."""
    part = stem(scan.word(i + 1))
    if body_parts().get(part) not in ("arm", "leg", "eye", "ear") and part != "side":
        return None
    return [scan.mention(i, i + 2, "laterality", "side", ("both",), noun=part)], i + 2


def _dominant(scan: Scan, i: int) -> bool:
    """Whether the hand of token i is the dominant one: "right hand dominant", "I write with my left hand"."""
    near = range(max(i - 6, 0), i + 13) if scan.spoken else range(i + 1, i + LOOK_AHEAD)
    return any(scan.word(k) in DOMINANT and (k - 1 == i or scan.word(k - 1) not in SIDES) for k in near)


def other_sides(scan: Scan, mentions: Sequence[Mention]) -> list[Mention]:
    """Sides that are meant, not named: "the other knee", "bigger than the right one" mean the side not named last."""
    found = []
    last: Mention | None = None
    by_token = {mention.first: mention for mention in mentions if mention.dim == "side"}
    for i in range(len(scan.tokens) - 1):
        last = by_token.get(i, last)
        if i in by_token and scan.word(i - 2) == "than" and (opposite := OPPOSITE.get(str(by_token[i].values[0]))):
            found.append(by_token[i]._replace(values=(opposite,), marks=frozenset({opposite})))
        if scan.word(i) != "other" or last is None or last.values[0] not in OPPOSITE or i - last.last > OTHER_REACH:
            continue
        noun = stem(scan.word(i + 1))
        bare = scan.word(i - 1) == "the" and scan.tokens[i + 1].kind == "punct"  # "And the other?"
        if bare or noun in ("one", "side") or noun == last.noun:
            part = last.noun if bare or noun == "one" else noun
            other = (OPPOSITE[str(last.values[0])],)
            found.append(scan.mention(i, i + 2, "laterality", "side", other, noun=part, marks=frozenset(other)))
    return found


def _two_of(scan: Scan, i: int) -> list[Mention]:
    """ "both of my brothers" counts two."""
    k = i + 1
    while scan.word(k) in OF_BOTH:
        k += 1
    noun = counted_noun(scan, k, small=False)
    return [scan.mention(i, i + 1, "number", "", (2.0,), raw=(2.0,), noun=noun)] if noun else []


def _offered(scan: Scan, i: int) -> bool:
    """Whether the side is an alternative in a question: "left or right?", "left, right?", "one ear or both?"."""
    k = i
    while k < len(scan.tokens) - 1 and scan.word(k) not in (".", "?", "!", "\n"):
        k += 1
    return scan.word(k) == "?"


def _joined(scan: Scan, i: int) -> bool:
    """Whether it is one of "left and right", "right or left"."""
    before = scan.word(i - 1) in ("and", "or") and scan.word(i - 2) in ("left", "right")
    return before or (scan.word(i + 1) in ("and", "or") and scan.word(i + 2) in ("left", "right"))


def _body_part(scan: Scan, i: int) -> str:
    """The body part after the side at token i ("left lower leg"), or before it ("the knee on the left")."""
    parts = body_parts()
    both = SIDES[scan.word(i)] == "both"
    begin = i + 1
    while both and scan.word(begin) in OF_BOTH:
        begin += 1
    for k in range(begin, begin + LOOK_AHEAD):
        token = scan.tokens[min(k, len(scan.tokens) - 1)]
        if token.kind != "word" or token.text in STOPPERS or token.text in NOT_SIDES:
            break
        if stem(token.text) in parts and not (k == i + 1 and token.text in ("back", "down")):
            return stem(token.text)
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
    """Whether a side without a body part is one: "on the left", "it's the right one", the answer "Left."."""
    before, after = scan.word(i - 1), scan.word(i + 1)
    if not scan.spoken and scan.word(i) in ("l", "r", "lt", "rt"):
        return False
    if before in PLACED and scan.tokens[i + 1].kind == "punct":
        return True  # "Top left, in the back."
    if before in OWNERS and after not in NOT_SIDES:
        return before != "to" or after in (".", ",", "", "?", "and", "or")
    if scan.spoken and before == ":" and after in (".", "", "\n", "?", ","):
        return scan.word(i) == "left" or _asked(scan, i, ASKS_SIDE)
    if scan.spoken and after in (".", "\n", "") and before not in ("that's", "all", "you're", "is", "yes", ","):
        return _asked(scan, i, ASKS_SIDE)  # "I think it's left."
    return _joined(scan, i)


def _asked(scan: Scan, i: int, words: Container[str]) -> bool:
    """Whether one of `words` was said just before token i."""
    return any(stem(scan.word(k)) in words for k in range(max(i - 14, 0), i))
