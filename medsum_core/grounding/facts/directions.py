"""Directional terms of anatomy: upper or lower, medial or lateral, anterior or posterior.

A note's term is contradicted only if the dialogue has the opposite one, for the same body region, and never the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from medsum_core.grounding.facts.anatomy import body_parts, stem
from medsum_core.grounding.facts.mention import Scan
from medsum_core.grounding.facts.tokens import word_set

# Axis, direction, words of a note, phrases of a dialogue ("^": only at the start of a sentence).
AXES = (
    ("height", "upper", "upper superior", "upper|top|up high|high up|higher up|up top|^high|ribs|shoulder blades"),
    ("height", "lower", "lower inferior", "lower|bottom|down low|low down|below|low on|and low|^low|tailbone|belt"),
    ("width", "inner", "medial inner", "inner|inside|medial|big toe side|great toe|between"),
    ("width", "outer", "lateral outer", "outer|outside|lateral|pinky side|little toe|out to the side|the side"),
    ("depth", "front", "anterior", "front|anterior|forward|shin|kneecap"),
    ("depth", "back", "posterior", "back of|behind|posterior"),
    ("head", "frontal", "frontal",
     "forehead|front|frontal|brow|eyes|between my eyes|sinuses|all over|all around"),
    ("head", "occipital", "occipital",
     "back of|the back|nape|neck|base of|occipital|all over|all around"),
    ("head", "temporal", "temporal", "temple|temples|side|sides|temporal|all over|all around|ear"),
    ("knee", "above", "above", "above the knee|above knee|over the knee|thigh|hip"),
    ("knee", "below", "below", "below the knee|below knee|under the knee|shin|ankle|foot"),
    ("hernia", "inguinal", "inguinal", "inguinal|groin|scrotum|testicle|testicles|down there"),
    ("hernia", "umbilical", "umbilical", "umbilical|belly button|navel|bellybutton"),
    ("hernia", "hiatal", "hiatal", "hiatal|hiatus|stomach|chest|heartburn|reflux|food pipe"),
)  # fmt: skip
NOUNS: Mapping[str, frozenset[str]] = {  # nouns that must follow the word on each axis; on other axes any body part
    "height": word_set(
        "quadrant back arm leg lip lid eyelid thigh abdomen belly jaw teeth tooth molar molars lobe breast chest pole"
    ),
    "head": word_set("headache headaches head pain region scalp"),
    "knee": word_set("knee"),
    "hernia": word_set("hernia hernias"),
}
BETWEEN = word_set("left right l r inner outer upper lower medial lateral and aspect side of the")
ANYWHERE = ("quadrant", "lobe", "pole")  # of several organs, so without a region
SENTENCE_ENDS = frozenset((".", "?", "!", "\n", ":"))
DENIALS, DENIED_REACH = word_set("not no never"), 2
REACH = 4  # tokens between the word of a note and its body part


class Direction(NamedTuple):
    """A directional term at characters `[start, end)`; `regions`: those of the body parts near it, may be empty."""

    start: int
    end: int
    axis: str
    name: str
    regions: frozenset[str]


def judge_directions(
    of_note: Sequence[Direction], of_dialogue: Sequence[Direction]
) -> Iterator[tuple[Direction, Direction | None]]:
    """Each term of a note with the same term in the dialogue, or None if the dialogue has only another one.

    Skips terms whose axis, or region, the dialogue does not mention.
    """
    for direction in of_note:
        of_axis = [one for one in of_dialogue if one.axis == direction.axis]
        same = next((one for one in of_axis if one.name == direction.name), None)
        if same or any(not one.regions or not direction.regions or one.regions & direction.regions for one in of_axis):
            yield direction, same


def read_note_directions(note: Scan) -> list[Direction]:
    """The directional terms of a note: "[upper] quadrant"."""
    found = []
    for i, token in enumerate(note.tokens):
        axis, name = _words_of_notes().get(token.text, ("", ""))
        k = i + 1
        while axis and k < i + REACH and note.word(k) in BETWEEN:
            k += 1
        noun = stem(note.word(k))
        if axis and noun in NOUNS.get(axis, body_parts()):
            regions = {body_parts()[noun]} if noun in body_parts() and noun not in ANYWHERE else ()
            found.append(Direction(token.start, token.end, axis, name, frozenset(regions)))
    return found


@lru_cache(maxsize=1)
def _words_of_notes() -> Mapping[str, tuple[str, str]]:
    return {word: (axis, name) for axis, name, own, _ in AXES for word in own.split()}


@lru_cache(maxsize=1)
def _phrases() -> Mapping[str, Sequence[tuple[Sequence[str], str, str]]]:
    """The phrases of dialogues by their first word."""
    found: dict[str, list[tuple[Sequence[str], str, str]]] = {}
    for axis, name, _, phrases in AXES:
        for phrase in phrases.split("|"):
            words = phrase.split()
            found.setdefault(words[0].removeprefix("^"), []).append((words, axis, name))
    return found


def read_dialogue_directions(dialogue: Scan) -> list[Direction]:
    """The directional terms of a dialogue, without those of an alternative question: "The upper back, or lower?"."""
    found: list[Direction] = []
    begin = 0
    while begin < len(dialogue.tokens):
        sentence = dialogue.around(begin, begin, SENTENCE_ENDS)
        words = dialogue.words(begin, sentence.stop)
        if not ("or" in words and dialogue.word(sentence.stop) == "?"):
            regions = frozenset(body_parts()[part] for part in map(stem, words) if part in body_parts())
            regions -= {"whole", "handed"}
            found += [
                Direction(dialogue.tokens[k].start, dialogue.tokens[k].end, axis, name, regions)
                for k in range(begin, sentence.stop)
                for phrase, axis, name in _phrases().get(dialogue.word(k), ())
                if _matches(dialogue, k, phrase, begins=k == begin)
            ]
        begin = sentence.stop + 1
    return found


def _matches(dialogue: Scan, k: int, phrase: Sequence[str], *, begins: bool) -> bool:
    denied = not DENIALS.isdisjoint(dialogue.words(k - DENIED_REACH, k))  # "not the bottom ones"
    led = begins or not phrase[0].startswith("^")
    return led and not denied and dialogue.words(k + 1, k + len(phrase)) == list(phrase[1:])
