"""Findings named in a text: the longest phrases of the lexicon, and qualities with the body part that they are of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from medsum_core.grounding.facts.tokens import bag
from medsum_core.grounding.findings.lexicon import END, PART, Lexicon
from medsum_core.grounding.findings.stems import FILLERS, Word

MAX_FILLERS = 2
PART_BEFORE, PART_AFTER = 4, 7  # words between a quality and its body part
PART_LINKS = bag("in on of to at around over under with behind down into along inside across near the my his her your")
BACK_TO = bag("to from in at on up home then again into for")
COMES_BACK = bag("come comes came coming go went going get got getting be been call cut put held look")
CLAUSE_MARKS = bag(". ; : ? ! ( ) ,")


class Named(NamedTuple):
    """Words `[first, last)` that name one of `names`; `part`: a body part, "" if none; `phrase`: it is one of the
    lexicon's."""

    first: int
    last: int
    names: tuple[str, ...]
    part: str
    phrase: bool = True
    denying: bool = False  # "nonsmoker"


def find_named(words: Sequence[Word], lexicon: Lexicon, *, spoken: bool) -> tuple[list[Named], list[Named]]:
    """All findings named in the text, in order, and the body parts named by themselves, which are none."""
    found: list[Named] = []
    parts: list[Named] = []
    i = 0
    while i < len(words):
        names, last, denying = _longest(words, i, lexicon.trie, spoken=spoken)
        if not names:
            i += 1
            continue
        kept = tuple(name for name in names if lexicon.concepts[name].kind != PART)
        body = tuple(name for name in names if lexicon.concepts[name].kind == PART)
        if body and not _is_adverb(words, i):
            parts.append(Named(i, last, body, ""))
        if kept:
            found.append(Named(i, last, kept, "", True, denying))
        i = last
    found = _with_parts(words, found, parts, lexicon) if parts else found
    return [named for named in found if named.part or not _needs_part(named, lexicon)], parts


def _is_adverb(words: Sequence[Word], i: int) -> bool:
    """Whether word i is the "back" of "back to normal", "came back"."""
    before, after = words[i - 1].text if i else "", words[i + 1].text if i + 1 < len(words) else ""
    return words[i].text == "back" and (after in BACK_TO or before in COMES_BACK)


def _needs_part(named: Named, lexicon: Lexicon) -> bool:
    return named.phrase and all(lexicon.concepts[name].needs_part for name in named.names)


def _longest(
    words: Sequence[Word], i: int, trie: Mapping[str, Any], *, spoken: bool
) -> tuple[tuple[str, ...], int, bool]:
    """The names of the longest phrase that begins at word i, the word after it, and whether it denies; () if none."""
    node = trie.get(words[i].stem)
    best: tuple[tuple[str, ...], int, bool] = ((), i, False)
    j, fillers = i + 1, 0
    while node is not None:
        entries = [
            entry for entry in node.get(END, ()) if (not entry[1] or words[i].capital) and (spoken or not entry[3])
        ]
        if entries:
            best = (tuple(entry[0] for entry in entries), j, any(entry[2] for entry in entries))
        while j < len(words) and words[j].stem not in node and words[j].stem in FILLERS and fillers < MAX_FILLERS:
            j, fillers = j + 1, fillers + 1
        node = node.get(words[j].stem) if j < len(words) else None
        j += 1
    return best


def _with_parts(words: Sequence[Word], found: Sequence[Named], parts: Sequence[Named], lexicon: Lexicon) -> list[Named]:
    """The findings, each quality with the nearest body part of its clause, or as the concept that both make."""
    result = []
    k = 0
    for named in found:
        qualities = [name for name in named.names if lexicon.concepts[name].parted]
        while k < len(parts) and parts[k].last + PART_BEFORE < named.first:
            k += 1
        part = _part_of(words, named, parts[k:], qualities) if qualities else None
        result.append(_composed(named, part, qualities, lexicon) if part else named)
    return result


def _part_of(words: Sequence[Word], named: Named, parts: Sequence[Named], qualities: Sequence[str]) -> Named | None:
    """ "my [chest] hurts", "pain in the [chest]"; right before wins, then after, then further back."""
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
    name = part.names[0]
    joined = [lexicon.composed[quality, name] for quality in qualities if (quality, name) in lexicon.composed]
    first, last = min(named.first, part.first), max(named.last, part.last)
    if joined:
        others = [other for other in named.names if other not in qualities]
        return Named(first, last, tuple(dict.fromkeys([*joined, *others])), "", False, named.denying)
    return Named(first, last, named.names, name, False, named.denying)
