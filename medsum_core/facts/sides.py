"""Laterality: left, right, bilateral, and the body part meant. "right" that agrees and "left" that leaves are none."""

from __future__ import annotations

from medsum_core.facts.anatomy import body_parts, stem
from medsum_core.facts.mention import Scan
from medsum_core.facts.quantities import Reading
from medsum_core.facts.tokens import bag

SIDES = {
    "left": "left", "lt": "left", "l": "left", "right": "right", "rt": "right", "r": "right", "bilateral": "both",
    "bilaterally": "both", "both": "both", "bilat": "both", "leftward": "left", "rightward": "right",
}  # fmt: skip
LIMB_CODES = {
    "rle": ("right", "leg"), "lle": ("left", "leg"), "rue": ("right", "arm"), "lue": ("left", "arm"),
    "rhf": ("right", "hand"), "rhm": ("right", "hand"), "lhf": ("left", "hand"), "lhm": ("left", "hand"),
    "ruq": ("right", "quadrant"), "rlq": ("right", "quadrant"), "luq": ("left", "quadrant"),
    "llq": ("left", "quadrant"),
}  # fmt: skip
OWNERS = bag("the my your his her their on to")
NOT_SIDES = frozenset(  # "the right decision", "the left alone"
    [
        "thing",
        "things",
        "decision",
        "decisions",
        "way",
        "ways",
        "direction",
        "track",
        "time",
        "now",
        "place",
        "person",
        "people",
        "away",
        "here",
        "there",
        "after",
        "before",
        "dose",
        "amount",
        "choice",
        "medication",
        "medicine",
        "medications",
        "treatment",
        "diet",
        "answer",
        "word",
        "words",
        "number",
        "size",
        "order",
        "thought",
    ]
)
LOOK_AHEAD = 4


def side_at(scan: Scan, i: int) -> Reading | None:
    """The side that token i tells, with the body part near it as noun; None if it tells none."""
    word = scan.word(i)
    if word in LIMB_CODES:
        side, noun = LIMB_CODES[word]
        return [scan.mention(i, i + 1, "laterality", "side", (side,), noun=noun)], i + 1
    side = SIDES.get(word, "")
    if not side or (word in ("l", "r", "lt", "rt") and (scan.spoken or not scan.tokens[i].capital)):
        return None
    noun = _body_part(scan, i)
    if side == "both":
        if word == "both" and not noun:
            return None
        return [scan.mention(i, i + 1, "laterality", "side", ("both",), noun=noun)], i + 1
    if not noun and not _bare_side(scan, i):
        return None
    sides = ("left", "right", "both") if _joined(scan, i) else (side,)
    return [scan.mention(i, i + 1, "laterality", "side", (side,), noun=noun, marks=frozenset(sides))], i + 1


def _joined(scan: Scan, i: int) -> bool:
    """Whether it is one of "left and right", "right or left"."""
    around = {scan.word(i - 2), scan.word(i + 2)}
    linked = scan.word(i - 1) in ("and", "or") or scan.word(i + 1) in ("and", "or")
    return linked and bool(around & {"left", "right"})


def _body_part(scan: Scan, i: int) -> str:
    """The body part after the side at token i ("left lower leg"), or before it ("the knee on the left")."""
    parts = body_parts()
    for k in range(i + 1, i + 1 + LOOK_AHEAD):
        token = scan.tokens[min(k, len(scan.tokens) - 1)]
        if token.kind != "word" or token.text in NOT_SIDES:
            break
        if stem(token.text) in parts and not (k == i + 1 and token.text in ("back", "down")):
            return stem(token.text)
        if token.text in ("in", "i", "he", "she", "my", "his", "her", "that", "now", "before", "after", "when", "with"):
            break
        if token.text in ("the", "me", "for", "over") and scan.word(i) not in ("bilaterally", "both"):
            break
    if scan.word(i - 1) in ("the", "on", "to") or scan.word(i) == "bilaterally":
        for k in range(i - 1, max(i - 6, -1), -1):
            if scan.tokens[k].kind == "punct":
                break
            if stem(scan.word(k)) in parts:
                return stem(scan.word(k))
    return ""


def _bare_side(scan: Scan, i: int) -> bool:
    """A side without its body part: "on the left", "it's the right one", an answer that is just "Left."."""
    before, after = scan.word(i - 1), scan.word(i + 1)
    if not scan.spoken and scan.word(i) in ("l", "r", "lt", "rt"):
        return False
    if before in OWNERS and after not in NOT_SIDES:
        return before != "to" or after in (".", ",", "", "?", "and", "or")
    if scan.spoken and scan.word(i) == "left" and before == ":" and after in (".", "", "\n", "?", ","):
        return True
    if scan.spoken and before == ":" and after in (".", "\n", ""):
        return "left" in [scan.word(k) for k in range(max(i - 14, 0), i)]
    return _joined(scan, i)
