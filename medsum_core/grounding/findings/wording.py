"""Weak evidence for a finding that the dialogue does not name: similar or misspelled words, or its kind as a whole."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher

from medsum_core.grounding.facts.tokens import bag
from medsum_core.grounding.findings.finding import ROOTS, Finding
from medsum_core.grounding.findings.finding_index import MOST, NEGATIVE, WEAK_WORDS, FindingIndex
from medsum_core.grounding.findings.stems import PREFIX, stem

REFERABLE = ("medication", "surgery", "laboratory tests")  # kinds to which a dialogue may refer without a name
ROOTS_OF = {  # for each kind the concepts that a general denial of it names
    "symptom": ("symptom", "condition"),
    "condition": ("condition", "symptom"),
    "medication": ("medication",),
    "procedure": ("surgery", "procedure"),
    "substance": ("substance",),
    "allergen": ("allergy",),
}
MIN_LETTERS = 5  # of a drug that may be misspelled in the dialogue
MIN_SIMILARITY = 0.82  # of its spelling, as `SequenceMatcher.ratio`
UNSPECIFIC_WORDS = bag(  # words that the names of many concepts share
    "pain disease disorder condition problem syndrome chronic acute test surgery therapy treatment blood heart history "
    "medication medicine abnormal low high loss failure infection left right use change difficulty severe mild general "
    "bilateral lower upper type exam examination study scan evaluation symptom system "
    "vaccine vaccination shot monitor clinic repair removal replacement biopsy culture injection allergy"
)


def has_similar_words(index: FindingIndex, text: str, *, with_part: bool = False) -> bool:
    """Whether the last content word of `text` is in the dialogue, or two of them are; words with the same prefix count.

    `with_part`: the finding has a body part, and the last content word alone is not enough.
    """
    stems = [stem(word) for word in text.lower().replace("-", " ").split()]
    content = [word for word in stems if len(word) > 3 and word not in UNSPECIFIC_WORDS]
    if not content:
        return False
    hits = [word in index.turns_of or _has_prefix(index, word) for word in content]
    return sum(hits) >= 2 or (hits[-1] and not with_part)


def _has_prefix(index: FindingIndex, word: str) -> bool:
    """Whether a word of the dialogue has the same prefix; of a long word one letter more is compared.

    "osteoarthritis" is not "osteoporosis".
    """
    if len(word) < PREFIX or word[:PREFIX] not in index.prefixes:
        return False
    start = word[: PREFIX + (len(word) > 2 * PREFIX)]
    return any(other.startswith(start) for other in index.turns_of)


def has_misspelling(index: FindingIndex, text: str) -> bool:
    """Whether a word of the dialogue is spelled almost like `text`."""
    word = stem(text)
    near = (other for other in index.turns_of if other[0] == word[0] and abs(len(other) - len(word)) <= 3)
    return len(word) >= MIN_LETTERS and any(
        SequenceMatcher(None, word, other).ratio() >= MIN_SIMILARITY for other in near
    )


def parts_of(finding: Finding, index: FindingIndex) -> set[str]:
    """The body parts of a finding, named or implied; none for a discharge, as people do not name the part then."""
    if any("discharge" in index.lexicon.ancestors[name] for name in finding.names):
        return set()
    return {finding.part} if finding.part else index.implied_parts(finding)


def has_kind_only(finding: Finding, index: FindingIndex) -> bool:
    """Whether the dialogue refers to a kind of the finding but names none of that kind: "same dose", "take it out"."""
    ancestors = index.lexicon.ancestors
    kinds = [kind for kind in REFERABLE for name in finding.names if kind in ancestors[name]]
    named = {kind for kind in kinds for one in index.by_name.get(kind, ()) if not ROOTS.issuperset(one.names)}
    return any(kind not in named and index.hints_at((kind,), "") for kind in kinds)


def denies_kind(finding: Finding, index: FindingIndex) -> bool:
    """Whether the dialogue denies all findings of a kind: "Any other problems?" "No."."""
    if any("sign" in index.lexicon.ancestors[name] for name in finding.names) and index.hints_at(("sign",), ""):
        return True  # "Your lungs are clear." denies wheezes and rales
    roots = ROOTS_OF[finding.kind]
    if any(other.assertion == "denied" or index.is_answered_no(other) for other in index.exact(roots)):
        return True
    return any(polarity in NEGATIVE for _, polarity in index.in_paraphrase(roots, ""))


def denies_word_of(names: Iterable[str], index: FindingIndex) -> bool:
    """Whether the dialogue denies a word of a paraphrase of one of these concepts: "Blood?" "No."."""
    paraphrase_stems = {word for _, stems in index.paraphrases(names) for word in stems - WEAK_WORDS}
    positions = [i for word in sorted(paraphrase_stems) for i in index.positions.get(word, ())[:MOST]]
    return any(index.polarity_of(index.scan.sentence_at(i), [i]) in NEGATIVE for i in positions)


def implies_pain(part: str, index: FindingIndex) -> bool:
    """Whether a dialogue that does not name pain implies it.

    `part`: a body part; its pain is implied if a finding is stated in a turn that names the part or in the two turns
    before: "He limps." "On which leg?" "He points at his hip.". "" for pain without a part: any stated symptom will do.
    """
    stated = {one.turn for one in index.scan.findings if _is_stated(one, part)}
    turns = {turn for word in index.named_part_stems(part) for turn in index.turns_of[word]} if part else stated
    return any({turn, turn - 1, turn - 2} & stated for turn in turns)


def _is_stated(finding: Finding, part: str) -> bool:
    """Whether a finding counts as stated; of a body part a question does too, as it presupposes a complaint."""
    if part:
        return finding.assertion == "present" or (bool(finding.part) and finding.assertion == "asked")
    return finding.kind == "symptom" and finding.assertion in ("present", "past_or_stopped")
