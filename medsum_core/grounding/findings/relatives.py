"""The subject of a finding (ConText's "experiencer"): the patient or a relative, in notes and in dialogues."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from medsum_core.grounding.facts.tokens import word_set
from medsum_core.grounding.findings.kinship import AND, FAMILY
from medsum_core.grounding.findings.scope import Sentence
from medsum_core.grounding.findings.stems import Word, texts_of

PATIENT, UNKNOWN = "patient", ""
PATIENT_OR_UNKNOWN = (PATIENT, UNKNOWN)  # a finding that names nobody may be the patient's
REPORTING_WORDS = word_set(  # after a relative they mark who only reports or helps: "my wife says"
    "says said knows reckons swears reports reported states stated notes noted denies denied describes described "
    "thinks thought brought makes "
    "brings gave gives told tells accompanied worries believes feels came helps noticed witnessed admits called asked "
    "concerned wants who's present here"
)
DETERMINERS = word_set("his her the their my a")
COMPANION_PREPOSITIONS = word_set("at with by to from per told for")  # before a relative: "lives with her son"
FIRST_PERSON = word_set("i i'm i've i'd my me myself i'll mine")
THIRD_PERSON = word_set("he she his her he's she's him hers")
PATIENT_TERMS = word_set("patient pt")
JOINING_WORDS = word_set("and or , both my his her the maternal paternal two three four of")
KIN_MODIFIERS = word_set("patient's their our two three one an older younger late own twin half step great")
AFTER_REACH = 8  # words from a finding to a relative after it
FRAGMENT = 6  # most words of an answer without a verb


def subject_in_note(
    words: Sequence[Word], sentence: Sentence, first: int, kin: Sequence[tuple[int, str]], *, kin_before: bool
) -> str:
    """The subject of a note's finding at word `first`: a relative before or after it in the sentence, else the patient.

    `kin_before`: an earlier sentence names a relative, whom "he" may refer to.
    """
    possible = possible_subjects(words, sentence, kin)
    before = [(i, name) for i, name in possible if i < first]
    after = [(i, name) for i, name in possible if first < i <= first + AFTER_REACH]
    between = {word.text for word in words[first : after[0][0]]} if after else set()
    if after and _is_linked(words, first, after[0][0]) and not between & {".", ";", "and", ","}:
        return _join_adjacent(words, after[::-1])  # "cancer in her mother and stroke in her father"
    if before:
        return _join_adjacent(words, before)
    begins = {word.text for word in words[sentence.first : first]}
    if begins & PATIENT_TERMS and (not after or {",", "as"} <= between):  # "the patient has gout, as do his brothers"
        return PATIENT
    return UNKNOWN if (kin and not possible) or kin_before or after else PATIENT


class Persons(NamedTuple):
    """The persons whom a sentence of a dialogue may be about.

    `kin`: the relatives in it, `trailing` those after its last finding ("my mom had a stroke at seventy, and my dad at
    eighty"). `topic`: the relative whom the question or the turn is about; `last_relative`: whom "he" may refer to;
    `speaker`: the relative who speaks, "" for others.
    """

    kin: Sequence[tuple[int, str]]
    topic: str
    last_relative: str
    speaker: str
    trailing: Sequence[tuple[int, str]]


def subject_in_dialogue(words: Sequence[Word], sentence: Sentence, first: int, persons: Persons) -> str:
    """The subject of a dialogue's finding at word `first`."""
    possible = possible_subjects(words, sentence, persons.kin)
    before = [(i, name) for i, name in possible if i < first]
    texts = set(texts_of(words, sentence.first, sentence.last))
    if before and not _speaker_between(words, before[-1][0], first):
        return AND.join([_join_adjacent(words, before), *(name for _, name in persons.trailing)])
    after = [(i, name) for i, name in possible if first < i <= first + AFTER_REACH]
    if after and not words[after[0][0]].text.endswith("'s"):
        between = set(texts_of(words, first, after[0][0]))
        if between & {"in", "of", "on"} and not between & {".", ";"}:
            return _join_adjacent(words, after[::-1])
    said = reversed(texts_of(words, sentence.first, first))
    pronoun = next((text for text in said if text in FIRST_PERSON | THIRD_PERSON), "")
    if persons.last_relative and {"of", "them"}.issubset(texts_of(words, sentence.first, first)):
        return persons.last_relative  # "One of them had kidney stones"
    if pronoun in FIRST_PERSON:
        return FAMILY if persons.speaker else PATIENT  # "I gave him the drops", says his mother
    if pronoun in THIRD_PERSON:
        return persons.last_relative
    if persons.topic and sentence.last - sentence.first <= FRAGMENT and not texts & (FIRST_PERSON - {"me"}):
        return persons.topic  # "And your father?" "Prostate cancer."
    return PATIENT if texts & FIRST_PERSON and not persons.speaker else UNKNOWN


def _is_linked(words: Sequence[Word], first: int, kin: int) -> bool:
    """Whether a preposition links a finding to a relative: "cancer [in] her mother", not "pain of lifting her son"."""
    k = kin - 1
    while k > first and words[k].text in JOINING_WORDS | KIN_MODIFIERS:
        k -= 1
    return words[k].text in ("in", "of", "by", "through", "affects", "affecting")


def _join_adjacent(words: Sequence[Word], kin: Sequence[tuple[int, str]]) -> str:
    """The last of these relatives with those coordinated with it: "brother and sister" -> "brother+sister"."""
    names = [kin[-1][1]]
    for (a, name), (b, _) in zip(reversed(kin[:-1]), reversed(kin), strict=False):
        between = {word.text for word in words[min(a, b) + 1 : max(a, b)]}
        if not between <= JOINING_WORDS:
            break
        names.append(name)
    return AND.join(names)


def _speaker_between(words: Sequence[Word], kin: int, first: int) -> bool:
    """Whether "I" stands between a relative and word `first`: "since dad died [I] have headaches"."""
    return not {"i", "i'm", "i've"}.isdisjoint(texts_of(words, kin + 1, first))


def possible_subjects(
    words: Sequence[Word], sentence: Sentence, kin: Sequence[tuple[int, str]]
) -> list[tuple[int, str]]:
    """The relatives of a sentence who may have its findings, not those who only report or help: "my wife says"."""
    return [(i, name) for i, name in kin if not _only_reports(words, i, sentence)]


def _only_reports(words: Sequence[Word], i: int, sentence: Sentence) -> bool:
    if i + 1 < sentence.last and words[i + 1].text in REPORTING_WORDS:
        return True
    before = [text for text in texts_of(words, max(i - 2, sentence.first), i) if text not in DETERMINERS]
    return before[-1:] != [] and before[-1] in COMPANION_PREPOSITIONS and "family" not in words[i].text
