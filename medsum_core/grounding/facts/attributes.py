"""What a fact is about: the drug of a dose, the relative of an age, the thing counted, the value measured."""

from __future__ import annotations

from collections.abc import Iterator

from medsum_core.grounding.facts.anatomy import KIN, STOPWORDS, body_parts, stem
from medsum_core.grounding.facts.mention import Mention, Scan
from medsum_core.grounding.facts.tokens import bag
from medsum_core.grounding.facts.words import units

LINKS = bag(
    "is was of at a an about to the be are were now been for approximately around just only taking take takes took on "
    "dose doses it's its came out set currently up maybe perhaps p o po oral orally tab tablet tablets per and "
    "count counts level levels rate by mouth"
)
NO_ATTRIBUTES = bag(
    "day week month year hour number one thing lot time patient doctor m g mg x i'm it he she "
    "today yesterday tonight tomorrow present worst best average baseline morning evening noon"
)
LIFE = bag(
    "is was died dies passed away at age aged the of in his her now about around who just turned had a an lived be "
    "years year old living alive deceased well only he she also maybe like to until approximately early late mid"
)
REACH = 5  # words searched for the attribute


def attribute(scan: Scan, mention: Mention) -> str:
    """The stem of the word that `mention` is about; "" where the text does not tell."""
    if mention.dim == "side":
        return "" if body_parts().get(mention.noun) == "whole" else mention.noun
    if mention.noun:
        return mention.noun
    if mention.kind == "age" or (mention.dim == "" and _links_to_kin(scan, mention.first)):
        return _relative(scan, mention.first)
    if mention.dim in ("time", "date", "weekday", "rate", "pressure", "clock", "code", "height"):
        return ""
    return _of(scan, mention.last) or _before(scan, mention.first)


def context(scan: Scan, mention: Mention) -> set[str]:
    """Stems of the content words around a mention, within its sentence."""
    words: set[str] = set()
    for step, start in ((1, mention.last), (-1, mention.first - 1)):
        words.update(stem(word) for word in _sentence_words(scan, start, step, 7))
    return {word for word in words if len(word) > 2 and word not in STOPWORDS and word not in units()}


def _sentence_words(scan: Scan, start: int, step: int, reach: int) -> Iterator[str]:
    k = start
    while 0 <= k < len(scan.tokens) and abs(k - start) < reach:
        if scan.tokens[k].kind == "punct" and scan.word(k) in (".", "?", "!", ";", "\n"):
            return
        if scan.tokens[k].kind == "word":
            yield scan.word(k)
        k += step


def _relative(scan: Scan, first: int) -> str:
    """The relative that the number at token `first` belongs to: "my dad passed away at the age of [69]"."""
    for word in _sentence_words(scan, first - 1, -1, 10):
        if stem(word) in KIN:
            return stem(word)
        if word not in LIFE and scan.spoken:
            return ""
    return ""


def _links_to_kin(scan: Scan, first: int) -> bool:
    """Whether a bare number may be an age: "mother is [93]", "died at [70]"."""
    return scan.word(first - 1) in ("is", "was", "at", "age", "turned", "about", "around", "now", ",")


def _of(scan: Scan, j: int) -> str:
    """ "[20 mg] of Lasix", "[20 mg] Lasix"."""
    while scan.word(j) in ("tablet", "tablets", "dose", "doses", "of", "pills", "capsules", "the", "your", "my"):
        j += 1
    return content_stem(scan, j) if scan.word(j - 1) in ("of", "the", "your", "my") else ""


def _before(scan: Scan, first: int) -> str:
    """ "Lasix [20 mg]", "heart rate of [88]"."""
    k = first - 1
    while k >= 0 and first - k <= REACH and (scan.word(k) in LINKS or scan.word(k) in (",", ":", "(")):
        k -= 1
    return content_stem(scan, k) if first - k <= REACH else ""


def content_stem(scan: Scan, k: int) -> str:
    """The stem of token k if it is a content word, else ""."""
    if not 0 <= k < len(scan.tokens) or scan.tokens[k].kind != "word" or k in scan.numbers:
        return ""
    word = stem(scan.word(k))
    plain = len(word) > 2 and word not in STOPWORDS and word not in NO_ATTRIBUTES and scan.word(k) not in units()
    return word if plain else ""
