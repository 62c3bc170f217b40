"""Whose finding is it? The patient's or a relative's, in notes and in dialogues."""

from __future__ import annotations

from collections.abc import Sequence

from medsum_core.grounding.facts.tokens import bag
from medsum_core.grounding.findings.kinship import AND, FAMILY
from medsum_core.grounding.findings.scope import Sentence
from medsum_core.grounding.findings.stems import Word

PATIENT, UNKNOWN = "patient", ""
TELLING = bag(  # a relative who tells or helps is not the one who has it
    "says said knows reckons swears reports reported states stated notes noted denies denied describes described "
    "thinks thought brought makes "
    "brings gave gives told tells accompanied worries believes feels came helps noticed witnessed admits called asked "
    "concerned wants is who's present here"
)
BY = bag("with by to for from per lives and")
SELF = bag("i i'm i've i'd my me myself i'll mine")
THIRD = bag("he she his her he's she's him hers")
NAMED_PATIENT = bag("patient pt")
JOINING = bag("and or , both my his her the maternal paternal two three four of")
BEFORE_KIN = bag("patient's their our two three one an older younger late own twin half step great")
NEAR = 8
HAS_TOO = bag("at too as also did has had both , and in")
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


def subject_in_talk(
    words: Sequence[Word],
    sentence: Sentence,
    first: int,
    kin: Sequence[tuple[int, str]],
    topic: str,
    named_last: str,
    speaker: str,
    trailing: Sequence[tuple[int, str]] = (),
    *,
    is_symptom: bool = False,
) -> str:
    """The person that a finding of a dialogue is of.

    `topic`: the relative of whom the question or the turn speaks; `named_last`: whom "he" may mean; `speaker`: the
    relative who speaks, "" for others; `trailing`: relatives after the last finding of the sentence ("my mom had a
    stroke at seventy, and my dad at eighty").
    """
    holders = bearers(words, sentence, kin)
    before = [(i, name) for i, name in holders if i < first]
    texts = {word.text for word in words[sentence.first : sentence.last]}
    if before and not (texts & SELF and _self_after(words, sentence, first, holders)):
        further = [name for i, name in trailing if _has_too(words, i, sentence)]
        return AND.join([_together(words, before), *further])
    after = [(i, name) for i, name in holders if i > first and i - first <= NEAR]
    if after and not words[after[0][0]].text.endswith("'s"):
        between = {word.text for word in words[first : after[0][0]]}
        if between & {"in", "of", "on"} and not between & {".", ";"}:
            return _together(words, after[::-1])
    pronoun = next(
        (words[k].text for k in range(first - 1, sentence.first - 1, -1) if words[k].text in SELF | THIRD), ""
    )
    if pronoun in SELF:
        return FAMILY if speaker else PATIENT  # "I gave him the drops", says his mother
    if pronoun in THIRD:
        return named_last
    if topic and sentence.last - sentence.first <= FRAGMENT and not texts & (SELF - {"me"}) and not is_symptom:
        return topic  # "And your father?" "Prostate cancer."
    return PATIENT if texts & SELF and not speaker else UNKNOWN


def _is_linked(words: Sequence[Word], first: int, kin: int) -> bool:
    """Whether a relative is joined to a finding: "cancer [in] her mother", not "pain of lifting her husband"."""
    k = kin - 1
    while k > first and words[k].text in JOINING | BEFORE_KIN:
        k -= 1
    return words[k].text in ("in", "of", "by", "through", "affects", "affecting")


def _has_too(words: Sequence[Word], i: int, sentence: Sentence) -> bool:
    """Whether a relative after the last finding has it too: "and my dad at eighty", not "my dad's is low"."""
    before = {words[k].text for k in range(max(sentence.first, i - 3), i)}
    after = words[i + 1].text if i + 1 < sentence.last else ""
    return bool({"and", "or", "both"} & before) and (not after or after in HAS_TOO)


def _together(words: Sequence[Word], kin: Sequence[tuple[int, str]]) -> str:
    """The last of these relatives with those joined to it: "brother and sister" -> "brother+sister"."""
    names = [kin[-1][1]]
    for (a, name), (b, _) in zip(reversed(kin[:-1]), reversed(kin), strict=False):
        between = {word.text for word in words[min(a, b) + 1 : max(a, b)]}
        if not between <= JOINING:
            break
        names.append(name)
    return AND.join(names)


def _self_after(words: Sequence[Word], sentence: Sentence, first: int, holders: Sequence[tuple[int, str]]) -> bool:
    """Whether "I" comes between the last relative before word `first` and it: "since dad died [I] have headaches"."""
    last_kin = max(i for i, _ in holders if i < first)
    return any(words[k].text in ("i", "i'm", "i've") for k in range(last_kin + 1, first))


def bearers(words: Sequence[Word], sentence: Sentence, kin: Sequence[tuple[int, str]]) -> list[tuple[int, str]]:
    """The relatives of a sentence but for those who only tell or help: "my wife says"."""
    return [(i, name) for i, name in kin if not _tells(words, i, sentence)]


def _tells(words: Sequence[Word], i: int, sentence: Sentence) -> bool:
    after = words[i + 1].text if i + 1 < sentence.last else ""
    before = words[i - 1].text if i > sentence.first else ""
    earlier = words[i - 2].text if i > sentence.first + 1 else ""
    possessive = before in ("his", "her", "the", "their", "my", "a")
    with_her = (earlier if possessive else before) in ("at", "with", "by", "to", "from", "per", "told", "for")
    if after == "side":
        return True
    if after == "," and i + 2 < sentence.last and words[i + 2].text == "who":
        return False  # "caring for her mother, who has dementia"
    return (after in TELLING and after not in ("is",)) or (with_her and "family" not in words[i].text)
