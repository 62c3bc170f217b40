"""Upper or lower, inner or outer, front or back: does a note name the end of a body part that the dialogue names?

Contradicted only where the dialogue has the other end of the axis, of the same region of the body, and never this one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from medsum_core.grounding.facts.anatomy import body_parts, stem
from medsum_core.grounding.facts.mention import Scan
from medsum_core.grounding.facts.tokens import bag

# Axis -> end -> words of a note, phrases of a dialogue; "^" begins a sentence.
AXES: Mapping[str, Mapping[str, tuple[str, str]]] = {
    "height": {
        "upper": ("upper superior", "upper|top|up high|high up|higher up|up top|^high|ribs|shoulder blades"),
        "lower": ("lower inferior", "lower|bottom|down low|low down|below|low on|and low|^low|tailbone|belt"),
    },
    "width": {
        "inner": ("medial inner", "inner|inside|medial|big toe side|great toe|between"),
        "outer": ("lateral outer", "outer|outside|lateral|pinky side|little toe|out to the side|the side"),
    },
    "depth": {
        "front": ("anterior", "front|anterior|forward|shin|kneecap"),
        "back": ("posterior", "back of|behind|posterior"),
    },
    "head": {
        "frontal": ("frontal", "forehead|front|frontal|brow|eyes|between my eyes|sinuses|all over|all around"),
        "occipital": ("occipital", "back of|the back|nape|neck|base of|occipital|all over|all around"),
        "temporal": ("temporal", "temple|temples|side|sides|temporal|all over|all around|ear"),
    },
    "knee": {
        "above": ("above", "above the knee|above knee|over the knee|thigh|hip"),
        "below": ("below", "below the knee|below knee|under the knee|shin|ankle|foot"),
    },
    "hernia": {
        "inguinal": ("inguinal", "inguinal|groin|scrotum|testicle|testicles|down there"),
        "umbilical": ("umbilical", "umbilical|belly button|navel|bellybutton"),
        "hiatal": ("hiatal", "hiatal|hiatus|stomach|chest|heartburn|reflux|food pipe"),
    },
}
NOUNS: Mapping[str, frozenset[str]] = {  # what must follow for a word to be an end of the axis; else any body part
    "height": bag(
        "quadrant back arm leg lip lid eyelid thigh abdomen belly jaw teeth tooth molar molars lobe breast chest pole"
    ),
    "head": bag("headache headaches head pain region scalp"),
    "knee": bag("knee"),
    "hernia": bag("hernia hernias"),
}
BETWEEN = bag("left right l r inner outer upper lower medial lateral and aspect side of the")
ANYWHERE = ("quadrant", "lobe", "pole")  # parts of breast, belly, lung
ENDS = frozenset((".", "?", "!", "\n", ":"))
DENIALS, DENIED_REACH = bag("not no never"), 2
REACH = 4  # tokens between the word of a note and its body part


class End(NamedTuple):
    """The end of an axis at characters `[start, end)`; `region`: of the body parts near it, "" if none is named."""

    start: int
    end: int
    axis: str
    name: str
    regions: frozenset[str]


class EndVerdict(NamedTuple):
    """Whether the dialogue names the end `end` of the note, and the end there that decides."""

    end: End
    is_supported: bool
    said: End


def judge_ends(named: Sequence[End], said: Sequence[End]) -> list[EndVerdict]:
    """The verdicts on the ends that a note names; none for those whose axis the dialogue does not speak of."""
    verdicts = []
    for end in named:
        same = [other for other in said if other.axis == end.axis and other.name == end.name]
        rivals = [one for one in said if one.axis == end.axis and one.name != end.name and _near(one, end)]
        if same or rivals:
            verdicts.append(EndVerdict(end, bool(same), (same or rivals)[0]))
    return verdicts


def _near(said: End, end: End) -> bool:
    return not said.regions or not end.regions or not end.regions.isdisjoint(said.regions)


def ends_of_note(note: Scan) -> list[End]:
    """The ends of body parts that a note names: "[upper] quadrant"."""
    found = []
    for i, token in enumerate(note.tokens):
        axis, name = _words_of_notes().get(token.text, ("", ""))
        k = i + 1
        while axis and k < i + REACH and note.word(k) in BETWEEN:
            k += 1
        noun = stem(note.word(k))
        fits = noun in NOUNS[axis] if axis in NOUNS else noun in body_parts()
        if axis and fits:
            region = body_parts().get(noun, "") if noun not in ANYWHERE else ""
            found.append(End(token.start, token.end, axis, name, frozenset((region,) if region else ())))
    return found


@lru_cache(maxsize=1)
def _words_of_notes() -> Mapping[str, tuple[str, str]]:
    return {word: (axis, name) for axis, ends in AXES.items() for name, (own, _) in ends.items() for word in bag(own)}


@lru_cache(maxsize=1)
def _phrases() -> Mapping[str, Sequence[tuple[tuple[str, ...], str, str]]]:
    """The phrases of dialogues by their first word."""
    found: dict[str, list[tuple[tuple[str, ...], str, str]]] = {}
    for axis, ends in AXES.items():
        for name, (_, phrases) in ends.items():
            for phrase in phrases.split("|"):
                words = tuple(phrase.split())
                found.setdefault(words[0].removeprefix("^"), []).append((words, axis, name))
    return found


def read_ends(talk: Scan) -> list[End]:
    """The ends of axes that a dialogue names, but for those of a choice in a question: "The upper back, or lower?"."""
    found: list[End] = []
    begin = 0
    for last in range(len(talk.tokens)):
        if talk.word(last) not in ENDS and last + 1 < len(talk.tokens):
            continue
        sentence = range(begin, last + 1)
        begin = last + 1
        texts = [talk.word(k) for k in sentence]
        if talk.word(last) == "?" and "or" in texts:
            continue
        regions = frozenset(body_parts()[part] for part in map(stem, texts) if part in body_parts()) - {
            "whole",
            "handed",
        }
        found += [
            End(talk.tokens[k].start, talk.tokens[k].end, axis, name, regions)
            for k in sentence
            for words, axis, name in _phrases().get(talk.word(k), ())
            if _matches(talk, k, words, begins=k == sentence.start)
        ]
    return found


def _matches(talk: Scan, k: int, words: Sequence[str], *, begins: bool) -> bool:
    led = begins or not words[0].startswith("^")
    led = led and DENIALS.isdisjoint(talk.word(j) for j in range(k - DENIED_REACH, k))  # "not the bottom ones"
    return led and all(talk.word(k + j) == word for j, word in enumerate(words[1:], start=1))
