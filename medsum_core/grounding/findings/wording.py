"""Does a dialogue speak of a finding without its name: in another form of it, nearly spelt so, of its whole kind?"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher

from medsum_core.grounding.facts.tokens import bag
from medsum_core.grounding.findings.finding import ROOTS, Finding
from medsum_core.grounding.findings.finding_index import DENIES, LITTLE, MOST, FindingIndex
from medsum_core.grounding.findings.stems import PREFIX, stem

WHOLE_KINDS = ("medication", "surgery", "laboratory tests")
ROOT_OF = {"symptom": ("symptom", "condition"), "condition": ("condition", "symptom"), "medication": ("medication",),
           "procedure": ("surgery", "procedure"), "substance": ("substance",), "allergen": ("allergy",)}  # fmt: skip
SPELT = 5  # letters; shorter words must be spelt alike
ALIKE = 0.82  # share of letters in common, for a misspelt drug
TELLING_LITTLE = bag(  # words of a concept's name that do not tell it from another
    "pain disease disorder condition problem syndrome chronic acute test surgery therapy treatment blood heart history "
    "medication medicine abnormal low high loss failure infection left right use change difficulty severe mild general "
    "bilateral lower upper type exam examination study scan evaluation symptom system "
    "vaccine vaccination shot monitor clinic repair removal replacement biopsy culture injection allergy"
)


def has_words_like(index: FindingIndex, text: str, *, with_part: bool = False) -> bool:
    """Whether most content words of a name occur, inflected or as parts of other words.

    `with_part`: the name has a body part, and both must.
    """
    stems = [stem(word) for word in text.lower().replace("-", " ").split()]
    content = [word for word in stems if len(word) > 3 and word not in TELLING_LITTLE]
    if not content:
        return False
    hits = [word in index.turns_of or _has_start(index, word) for word in content]
    return sum(hits) >= 2 or (hits[-1] and not with_part)


def _has_start(index: FindingIndex, word: str) -> bool:
    """Whether a word begins like this one; a long one by a letter more: "osteoarthritis" is no "osteoporosis"."""
    if len(word) < PREFIX or word[:PREFIX] not in index.prefixes:
        return False
    start = word[: PREFIX + (len(word) > 2 * PREFIX)]
    return any(other.startswith(start) for other in index.turns_of)


def has_misspelt(index: FindingIndex, text: str) -> bool:
    """Whether a word of the dialogue is spelt nearly like `text`."""
    word = stem(text)
    near = (other for other in index.turns_of if other[0] == word[0] and abs(len(other) - len(word)) <= 3)
    return len(word) >= SPELT and any(SequenceMatcher(None, word, other).ratio() >= ALIKE for other in near)


def parts_of(finding: Finding, index: FindingIndex) -> set[str]:
    """The body parts of a finding; none for what comes out of one, which has its own words."""
    if any("discharge" in index.lexicon.ancestors[name] for name in finding.names):
        return set()
    return {finding.part} if finding.part else index.implied_parts(finding)


def is_generic(finding: Finding, index: FindingIndex) -> bool:
    """Whether the dialogue speaks of a kind without a name of its members: "same dose", "take it out"."""
    ancestors = index.lexicon.ancestors
    kinds = [kind for kind in WHOLE_KINDS for name in finding.names if kind in ancestors[name]]
    named = {kind for kind in kinds for one in index.by_name.get(kind, ()) if not ROOTS.issuperset(one.names)}
    return any(kind not in named and index.hints_at((kind,), "") for kind in kinds)


def generic_denial(finding: Finding, index: FindingIndex) -> bool:
    """Whether the dialogue denies all of a kind: "Any other problems?" "No."."""
    if any("sign" in index.lexicon.ancestors[name] for name in finding.names) and index.hints_at(("sign",), ""):
        return True  # "Your lungs are clear.": neither wheezes nor rales
    roots = ROOT_OF[finding.kind]
    if any(other.assertion == "denied" or index.is_refused(other) for other in index.exact(roots)):
        return True
    return any(polarity in DENIES for _, polarity in index.in_paraphrase(roots, ""))


def denies_word_of(names: Iterable[str], index: FindingIndex) -> bool:
    """Whether the dialogue denies a word that patients use of one of these concepts: "Blood?" "No."."""
    paraphrases = {word for _, stems in index.paraphrases(names) for word in stems - LITTLE}
    places = [i for word in sorted(paraphrases) for i in index.places.get(word, ())[:MOST]]
    return any(index.polarity_of(index.scan.sentence_at(i), [i]) in DENIES for i in places)


def hurts(part: str, index: FindingIndex) -> bool:
    """Whether pain goes without saying: of a part where any finding is stated, of no part where a symptom is.

    "I take Tylenol for the knee.", "He limps." "On which leg?" "He points at his hip."
    """
    stated = {one.turn for one in index.scan.findings if _is_stated(one, part)}
    turns = {turn for word in index.parts_named(part) for turn in index.turns_of[word]} if part else stated
    return any({turn, turn - 1, turn - 2} & stated for turn in turns)


def _is_stated(finding: Finding, part: str) -> bool:
    """Whether a finding says that a part has something, which a question of it takes for granted; or of none, hurts."""
    if part:
        return finding.assertion == "present" or (bool(finding.part) and finding.assertion == "asked")
    return finding.kind == "symptom" and finding.assertion in ("present", "past_or_stopped")
