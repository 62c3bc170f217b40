"""Weak evidence for a finding that the dialogue does not name: similar or misspelled words, or its kind as a whole."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher

from medsum_core.grounding.facts.tokens import word_set
from medsum_core.grounding.findings.finding import ROOTS, Finding, FindingScan
from medsum_core.grounding.findings.finding_index import NEGATIVE, WEAK_WORDS, FindingIndex
from medsum_core.grounding.findings.relatives import PATIENT_OR_UNKNOWN
from medsum_core.grounding.findings.scope import NEGATIONS, Sentence
from medsum_core.grounding.findings.stems import PREFIX, stem, texts_of

REFERABLE = ("medication", "surgery", "laboratory tests")  # kinds to which a dialogue may refer without a name
ROOTS_OF = {  # for each kind the concepts that a general denial of it names
    "symptom": ("symptom", "condition"),
    "condition": ("condition", "symptom"),
    "medication": ("medication",),
    "procedure": ("surgery", "procedure"),
    "substance": ("substance",),
    "allergen": ("allergy",),
}
LIMITING = word_set("with in of from on to")  # after "problems": only some are denied
COURTESY = 3  # most words of the turn "No problem."
COMPLAINTS = frozenset(("symptom", "condition"))  # kinds of findings, and the concepts that name all of a kind
OTHER = word_set("other further additional")  # before "complaints" in a note's denial of all others
OTHERS = word_set("other else anything otherwise nothing additional further")  # for them in a dialogue
NEAR = 8  # words before a denied finding
MIN_LETTERS = 5  # of a drug that may be misspelled in the dialogue
MIN_SIMILARITY = 0.82  # of its spelling, as `SequenceMatcher.ratio`
UNSPECIFIC_WORDS = word_set(  # words that the names of many concepts share
    "pain disease disorder condition problem syndrome chronic acute test surgery therapy treatment blood heart history "
    "medication medicine abnormal low high loss failure infection left right use change difficulty severe mild general "
    "bilateral lower upper type exam examination study scan evaluation symptom system "
    "vaccine vaccination shot monitor clinic repair removal replacement biopsy culture injection allergy"
)
UNSPECIFIC_STEMS = frozenset(map(stem, ("problem", "trouble", "issue", "symptom", "disease", "condition")))


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
    roots, of_patient = ROOTS_OF[finding.kind], finding.subject in PATIENT_OR_UNKNOWN
    return index.cached(("denies_kind", of_patient, *roots), lambda: _denies_kind(roots, index, of_patient=of_patient))


def _denies_kind(roots: Sequence[str], index: FindingIndex, *, of_patient: bool) -> bool:
    denied = (one for one in index.exact(roots) if one.assertion == "denied" or index.is_answered_no(one))
    if any(not of_patient or one.subject in PATIENT_OR_UNKNOWN for one in denied):
        return True
    general = (one for one in index.sentences_with(roots) if not _is_limited(index, *one))
    return any(index.polarity_of(sentence, [i]) in NEGATIVE for i, sentence in general)


def denies_others(finding: Finding, note: FindingScan) -> bool:
    """Whether a finding of a note denies all other complaints: "denies any other [medical conditions]"."""
    before = texts_of(note.words, max(finding.first - NEAR, 0), finding.first)
    of_others = "any" in before[-1:] or not OTHER.isdisjoint(before[-2:])  # not "any visual complaints"
    denied = finding.assertion in ("denied", "uncertain") and not NEGATIONS.isdisjoint(before)
    return denied and of_others and COMPLAINTS.issuperset(finding.names)


def denies_some(index: FindingIndex) -> bool:
    """Whether the dialogue denies any complaint, so that a note may deny all others: "Anything else?" "No."."""
    return index.cached(("denies_some",), lambda: _denies_some(index))


def _denies_some(index: FindingIndex) -> bool:
    if any(one.assertion == "denied" and one.kind in COMPLAINTS for one in index.scan.findings):
        return True
    return any(polarity in NEGATIVE for polarity in index.polarities_of(OTHERS))


def _is_limited(index: FindingIndex, i: int, sentence: Sentence) -> bool:
    """Whether word i names only some problems ("problems [with] the bladder") or is a courtesy ("No problem.")."""
    first, last = index.scan.turns[sentence.turn]
    after = index.scan.words[i + 1].text if i + 1 < sentence.last else ""
    return after in LIMITING or (last - first <= COURTESY and not sentence.asks)


def denies_word_of(names: Iterable[str], index: FindingIndex) -> bool:
    """Whether the dialogue denies a word of a paraphrase of one of these concepts: "Blood?" "No."."""
    paraphrase_stems = {word for _, stems in index.paraphrases(names) for word in stems - WEAK_WORDS - UNSPECIFIC_STEMS}
    return any(polarity in NEGATIVE for polarity in index.polarities_of(paraphrase_stems))


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
