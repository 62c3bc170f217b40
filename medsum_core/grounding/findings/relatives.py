"""Whose finding is it? The patient's or a relative's, in notes and in dialogues."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from medsum_core.grounding.facts.tokens import bag
from medsum_core.grounding.findings.kinship import AND, FAMILY
from medsum_core.grounding.findings.scope import Sentence
from medsum_core.grounding.findings.stems import Word, texts_of

PATIENT, UNKNOWN = "patient", ""
TELLING = bag(  # a relative who tells or helps is not the one who has it
    "says said knows reckons swears reports reported states stated notes noted denies denied describes described "
    "thinks thought brought makes "
    "brings gave gives told tells accompanied worries believes feels came helps noticed witnessed admits called asked "
    "concerned wants who's present here"
)
DETERMINERS = bag("his her the their my a")
LED_BY = bag("at with by to from per told for")
SELF = bag("i i'm i've i'd my me myself i'll mine")
THIRD = bag("he she his her he's she's him hers")
NAMED_PATIENT = bag("patient pt")
JOINING = bag("and or , both my his her the maternal paternal two three four of")
BEFORE_KIN = bag("patient's their our two three one an older younger late own twin half step great")
NEAR = 8
FRAGMENT = 6  # words of an answer without a verb


def subject_in_note(
    words: Sequence[Word], sentence: Sentence, first: int, kin: Sequence[tuple[int, str]], *, kin_before: bool
) -> str:
    """The person that a note's finding at word `first` is of: a relative before it in the sentence, or after it.

    `kin_before`: the sentence before names a relative, so that "he" may be him.
    """
    holders = bearers(words, sentence, kin)
    before = [(i, name) for i, name in holders if i < first]
    after = [(i, name) for i, name in holders if first < i <= first + NEAR]
    between = {word.text for word in words[first : after[0][0]]} if after else set()
    if after and _is_linked(words, first, after[0][0]) and not between & {".", ";", "and", ","}:
        return _together(words, after[::-1])  # "cancer in her mother and stroke in her father"
    if before:
        return _together(words, before)
    begins = {word.text for word in words[sentence.first : first]}
    if begins & NAMED_PATIENT and not after:
        return PATIENT
    return UNKNOWN if (kin and not holders) or kin_before or after else PATIENT


class Persons(NamedTuple):
    """Whom a sentence of a dialogue may be of.

    `kin`: the relatives in it, `trailing` those after its last finding ("my mom had a stroke at seventy, and my dad at
    eighty"). `topic`: the relative of whom the question or the turn speaks; `named_last`: whom "he" may mean;
    `speaker`: the relative who speaks, "" for others.
    """

    kin: Sequence[tuple[int, str]]
    topic: str
    named_last: str
    speaker: str
    trailing: Sequence[tuple[int, str]]


def subject_in_talk(words: Sequence[Word], sentence: Sentence, first: int, persons: Persons) -> str:
    """The person that a dialogue's finding at word `first` is of."""
    holders = bearers(words, sentence, persons.kin)
    before = [(i, name) for i, name in holders if i < first]
    texts = set(texts_of(words, sentence.first, sentence.last))
    if before and not _self_between(words, before[-1][0], first):
        return AND.join([_together(words, before), *(name for _, name in persons.trailing)])
    after = [(i, name) for i, name in holders if first < i <= first + NEAR]
    if after and not words[after[0][0]].text.endswith("'s"):
        between = set(texts_of(words, first, after[0][0]))
        if between & {"in", "of", "on"} and not between & {".", ";"}:
            return _together(words, after[::-1])
    said = reversed(texts_of(words, sentence.first, first))
    pronoun = next((text for text in said if text in SELF | THIRD), "")
    if pronoun in SELF:
        return FAMILY if persons.speaker else PATIENT  # "I gave him the drops", says his mother
    if pronoun in THIRD:
        return persons.named_last
    if persons.topic and sentence.last - sentence.first <= FRAGMENT and not texts & (SELF - {"me"}):
        return persons.topic  # "And your father?" "Prostate cancer."
    return PATIENT if texts & SELF and not persons.speaker else UNKNOWN


def _is_linked(words: Sequence[Word], first: int, kin: int) -> bool:
    """Whether a relative is joined to a finding: "cancer [in] her mother", not "pain of lifting her husband"."""
    k = kin - 1
    while k > first and words[k].text in JOINING | BEFORE_KIN:
        k -= 1
    return words[k].text in ("in", "of", "by", "through", "affects", "affecting")


def _together(words: Sequence[Word], kin: Sequence[tuple[int, str]]) -> str:
    """The last of these relatives with those joined to it: "brother and sister" -> "brother+sister"."""
    names = [kin[-1][1]]
    for (a, name), (b, _) in zip(reversed(kin[:-1]), reversed(kin), strict=False):
        between = {word.text for word in words[min(a, b) + 1 : max(a, b)]}
        if not between <= JOINING:
            break
        names.append(name)
    return AND.join(names)


def _self_between(words: Sequence[Word], kin: int, first: int) -> bool:
    """Whether "I" comes between a relative and word `first`: "since dad died [I] have headaches"."""
    return not {"i", "i'm", "i've"}.isdisjoint(texts_of(words, kin + 1, first))


def bearers(words: Sequence[Word], sentence: Sentence, kin: Sequence[tuple[int, str]]) -> list[tuple[int, str]]:
    """The relatives of a sentence but for those who only tell or help: "my wife says"."""
    return [(i, name) for i, name in kin if not _tells(words, i, sentence)]


def _tells(words: Sequence[Word], i: int, sentence: Sentence) -> bool:
    if i + 1 < sentence.last and words[i + 1].text in TELLING:
        return True
    before = [text for text in texts_of(words, max(i - 2, sentence.first), i) if text not in DETERMINERS]
    return before[-1:] != [] and before[-1] in LED_BY and "family" not in words[i].text
