"""Whose finding is it? The patient's or a relative's, in notes and in dialogues."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from medsum_core.grounding.facts.anatomy import KIN, stem
from medsum_core.grounding.facts.tokens import bag
from medsum_core.grounding.findings.scope import Sentence
from medsum_core.grounding.findings.stems import Word

PATIENT, UNKNOWN, FAMILY = "patient", "", "family"
AND = "+"  # between relatives named together: "my [brother and sister] have diabetes"
GROUPS = {
    "parent": bag("mother father"),
    "sibling": bag("brother sister twin"),
    "child": bag("son daughter twin"),
    "spouse": bag("husband wife partner"),
    "partner": bag("husband wife spouse"),
    "grandparent": bag("grandmother grandfather"),
    "grandchild": bag("grandson granddaughter"),
    "uncle": bag("brother sibling"),  # "my father and his brother"
    "aunt": bag("sister sibling"),
    "grandmother": bag("mother"),  # "my mother's mother"
    "grandfather": bag("father"),
}
KINDRED = KIN | bag("spouse grandparent family relative neighbor neighbour friend coworker roommate")
SPELLED = {
    "grandparents": "grandparent", "spouse": "spouse", "families": "family", "familial": "family",
    "relatives": "family", "relative": "family", "maternal": "family", "paternal": "family", "folks": "parent",
    "mommy": "mother", "momma": "mother", "hereditary": "family", "boyfriend": "partner", "girlfriend": "partner",
    "fiance": "partner", "siblings": "sibling", "kids": "child", "boy": "son", "girl": "daughter",
    "granny": "grandmother",
}  # fmt: skip
TELLING = bag(  # a relative who tells or helps is not the one who has it
    "says said reports reported states stated notes noted denies denied describes described thinks thought brought "
    "brings gave gives told tells accompanied worries believes feels came helps noticed witnessed admits called asked "
    "concerned wants is who's present here"
)
BY = bag("with by to for from per lives and")
SELF = bag("i i'm i've i'd my me myself i'll mine")
THIRD = bag("he she his her he's she's him they their hers")
PATIENT_WORDS = bag("patient pt he she his her i my")
COMPOUND = {  # "my mum's dad"
    ("mother", "mother"): "grandmother", ("father", "mother"): "grandmother", ("mother", "father"): "grandfather",
    ("father", "father"): "grandfather", ("mother", "sister"): "aunt", ("father", "sister"): "aunt",
    ("mother", "brother"): "uncle", ("father", "brother"): "uncle", ("sister", "son"): "nephew",
    ("brother", "son"): "nephew", ("sister", "daughter"): "niece", ("brother", "daughter"): "niece",
    ("son", "son"): "grandson", ("daughter", "son"): "grandson", ("son", "daughter"): "granddaughter",
    ("daughter", "daughter"): "granddaughter",
}  # fmt: skip
JOINING = bag("and or , both my his her the maternal paternal")
NEAR = 8
CHILDREN = bag("son daughter child grandchild twin")
OWNED = bag("my his her their our your one two three four five six and have has")
FRAGMENT = 6  # words of an answer without a verb


@lru_cache(maxsize=16384)
def kin_of(text: str) -> str:
    """The relative that a word names, in the singular: "mom's" -> "mother"; "" for other words."""
    text = text.replace("’", "'").removesuffix("'s")
    if text in SPELLED:
        return SPELLED[text]
    word = stem(text)
    return SPELLED.get(word, word if word in KINDRED else "")


def is_family(speaker: str) -> bool:
    """Whether a speaker's tag is a relative's, who then may call the patient "my mother"."""
    return any(kin_of(part) for part in speaker.lower().replace("_", " ").split())


def same_person(a: str, b: str) -> bool:
    """Whether two relatives may be the same person or of one group."""
    if FAMILY in (a, b) or UNKNOWN in (a, b):
        return True
    pairs = [(one, other) for one in a.split(AND) for other in b.split(AND)]
    return any(one == other or other in GROUPS.get(one, ()) or one in GROUPS.get(other, ()) for one, other in pairs)


def relatives_in(words: Sequence[Word], first: int, last: int) -> list[tuple[int, str]]:
    """The relatives named among words `[first, last)`. "A 6-year-old girl" is the patient, "her girl" is none."""
    found: list[tuple[int, str]] = []
    for i in range(first, last):
        kin = kin_of(words[i].text)
        owner = kin_of(words[i - 1].text) if kin and i > first and words[i - 1].text.endswith("'s") else ""
        if (owner, kin) in COMPOUND:
            found = [place for place in found if place[0] != i - 1]
            found.append((i, COMPOUND[owner, kin]))
        elif kin and (kin not in CHILDREN or (i > first and words[i - 1].text in OWNED)):
            found.append((i, kin))
    return found


def subject_in_note(
    words: Sequence[Word], sentence: Sentence, first: int, kin: Sequence[tuple[int, str]], *, kin_before: bool
) -> str:
    """The person that a note's finding at word `first` is of: a relative before it in the sentence, or after it.

    `kin_before`: the sentence before names a relative, so that "he" may be him.
    """
    holders = [(i, name) for i, name in kin if not _tells(words, i, sentence)]
    before = [(i, name) for i, name in holders if i < first]
    after = [(i, name) for i, name in holders if first < i <= first + NEAR]
    between = {word.text for word in words[first : after[0][0]]} if after else set()
    if between & {"in", "of", "by", "affects", "affecting"} and not between & {".", ";", "and", ","}:
        return _together(words, after[::-1])  # "cancer in her mother and stroke in her father"
    if before:
        return _together(words, before)
    if (kin and not holders) or kin_before or after:
        return UNKNOWN
    begins = {word.text for word in words[sentence.first : first]}
    return PATIENT if begins & PATIENT_WORDS else UNKNOWN


def subject_in_talk(
    words: Sequence[Word],
    sentence: Sentence,
    first: int,
    kin: Sequence[tuple[int, str]],
    topic: str,
    speaker: str,
    trailing: Sequence[tuple[int, str]] = (),
    *,
    is_symptom: bool = False,
) -> str:
    """The person that a finding of a dialogue is of.

    `topic`: the relative named in the turn before; `speaker`: the relative who speaks, "" for others; `trailing`:
    relatives after the last finding of the sentence ("my mom had a stroke at seventy, and my dad at eighty").
    """
    holders = [(i, name) for i, name in kin if not _tells(words, i, sentence)]
    before = [(i, name) for i, name in holders if i < first]
    texts = {word.text for word in words[sentence.first : sentence.last]}
    if before and not (texts & SELF and _self_after(words, sentence, first, holders)):
        return AND.join([_together(words, before), *(name for _, name in trailing)])
    after = [(i, name) for i, name in holders if i > first and i - first <= NEAR]
    if after:
        between = {word.text for word in words[first : after[0][0]]}
        if between & {"in", "of", "on"} and not between & {".", ";"}:
            return _together(words, after[::-1])
    pronoun = next(
        (words[k].text for k in range(first - 1, sentence.first - 1, -1) if words[k].text in SELF | THIRD), ""
    )
    if pronoun in SELF:
        return speaker or PATIENT
    if pronoun in THIRD:
        return topic
    if topic and sentence.last - sentence.first <= FRAGMENT and not texts & (SELF - {"me"}) and not is_symptom:
        return topic  # "And your father?" "Prostate cancer."
    return (speaker or PATIENT) if texts & SELF else UNKNOWN


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


def _tells(words: Sequence[Word], i: int, sentence: Sentence) -> bool:
    after = words[i + 1].text if i + 1 < sentence.last else ""
    before = words[i - 1].text if i > sentence.first else ""
    earlier = words[i - 2].text if i > sentence.first + 1 else ""
    possessive = before in ("his", "her", "the", "their", "my", "a")
    with_her = (earlier if possessive else before) in ("with", "by", "to", "from", "per", "told", "for")
    if after == "side":
        return True
    return (after in TELLING and after not in ("is",)) or (with_her and "family" not in words[i].text)
