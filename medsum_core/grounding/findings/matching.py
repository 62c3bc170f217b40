"""Finds the names of findings in a text: the longest phrases of the lexicon; qualities are joined with body parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from medsum_core.grounding.facts.tokens import word_set
from medsum_core.grounding.findings.lexicon import END, PART, Lexicon
from medsum_core.grounding.findings.stems import FILLERS, Word

MAX_FILLERS = 2  # in one phrase
PART_BEFORE, PART_AFTER = 4, 7  # most words between a quality and a body part before or after it
PART_LINKS = word_set(
    "in on of to at around over under with behind down into along inside across near the my his her your"
)
AFTER_BACK = word_set("to from in at on up home then again into for")
BEFORE_BACK = word_set("come comes came coming go went going get got getting be been call cut put held look")
CLAUSE_MARKS = word_set(". ; : ? ! ( ) ,")


class Named(NamedTuple):
    """A match at words `[first, last)`.

    `names`: the concepts that the words can mean; `part`: the body part of a quality, "" if none. `phrase`: as in
    `Finding`.
    """

    first: int
    last: int
    names: tuple[str, ...]
    part: str
    phrase: bool = True
    denying: bool = False  # "nonsmoker"


def find_named(words: Sequence[Word], lexicon: Lexicon, *, spoken: bool) -> tuple[list[Named], list[Named]]:
    """The findings that a text names, in order, and the body parts, which are no findings by themselves.

    `spoken`: the text is a dialogue.
    """
    found: list[Named] = []
    parts: list[Named] = []
    i = 0
    while i < len(words):
        names, last, denying = _longest(words, i, lexicon.trie, spoken=spoken)
        if not names:
            i += 1
            continue
        concepts = tuple(name for name in names if lexicon.concepts[name].kind != PART)
        part_names = tuple(name for name in names if lexicon.concepts[name].kind == PART)
        if part_names and not _is_adverb(words, i):
            parts.append(Named(i, last, part_names, ""))
        if concepts:
            found.append(Named(i, last, concepts, "", True, denying))
        i = last
    found = _with_parts(words, found, parts, lexicon) if parts else found
    return [named for named in found if named.part or not _needs_part(named, lexicon)], parts


def _is_adverb(words: Sequence[Word], i: int) -> bool:
    """Whether word i is "back" as an adverb: "back to normal", "came back"."""
    before, after = words[i - 1].text if i else "", words[i + 1].text if i + 1 < len(words) else ""
    return words[i].text == "back" and (after in AFTER_BACK or before in BEFORE_BACK)


def _needs_part(named: Named, lexicon: Lexicon) -> bool:
    return named.phrase and all(lexicon.concepts[name].needs_part for name in named.names)


def _longest(
    words: Sequence[Word], i: int, trie: Mapping[str, Any], *, spoken: bool
) -> tuple[tuple[str, ...], int, bool]:
    """The concepts of the longest phrase that begins at word i (() if none), its end, and whether it denies them."""
    node = trie.get(words[i].stem)
    best: tuple[tuple[str, ...], int, bool] = ((), i, False)
    j, fillers = i + 1, 0
    while node is not None:
        entries = [
            entry
            for entry in node.get(END, ())
            if (not entry.capitals or words[i].capital) and (spoken or not entry.spoken)
        ]
        if entries:
            best = (tuple(entry.name for entry in entries), j, any(entry.denies for entry in entries))
        while j < len(words) and words[j].stem not in node and words[j].stem in FILLERS and fillers < MAX_FILLERS:
            j, fillers = j + 1, fillers + 1
        node = node.get(words[j].stem) if j < len(words) else None
        j += 1
    return best


def _with_parts(words: Sequence[Word], found: Sequence[Named], parts: Sequence[Named], lexicon: Lexicon) -> list[Named]:
    """The findings, each quality joined with its body part where its clause names one."""
    result = []
    k = 0
    for named in found:
        qualities = [name for name in named.names if lexicon.concepts[name].takes_part]
        while k < len(parts) and parts[k].last + PART_BEFORE < named.first:
            k += 1
        part = _part_of(words, named, parts[k:], qualities) if qualities else None
        result.append(_composed(named, part, qualities, lexicon) if part else named)
    return result


def _part_of(words: Sequence[Word], named: Named, parts: Sequence[Named], qualities: Sequence[str]) -> Named | None:
    """The body part of a quality: the one right before it ("[chest] pain"), else the next ("pain in the [chest]"), else
    the last before ("my [chest] really hurts"). None if its clause has none."""
    before = after = None
    for part in parts:
        if part.first >= named.last + PART_AFTER:
            break
        if part.last <= named.first:
            between = {word.text for word in words[part.last : named.first]}
            if not between & CLAUSE_MARKS and named.first - part.last <= PART_BEFORE:
                before = part
        elif part.first >= named.last and after is None:
            between = {word.text for word in words[named.last : part.first]}
            if not between & CLAUSE_MARKS and (part.first == named.last or between & PART_LINKS):
                after = part
    if before is not None and (before.last == named.first or after is None):
        return before
    return after or before


def _composed(named: Named, part: Named, qualities: Sequence[str], lexicon: Lexicon) -> Named:
    """A quality with its body part; as one concept if the lexicon has one for both ("chest pain")."""
    name = part.names[0]
    joined = [lexicon.composed[quality, name] for quality in qualities if (quality, name) in lexicon.composed]
    first, last = min(named.first, part.first), max(named.last, part.last)
    if joined:
        others = [other for other in named.names if other not in qualities]
        return Named(first, last, tuple(dict.fromkeys([*joined, *others])), "", False, named.denying)
    return Named(first, last, named.names, name, False, named.denying)
