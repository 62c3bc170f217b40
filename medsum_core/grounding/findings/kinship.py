"""Resolves the words for relatives: "my mum's dad" is the maternal grandfather."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from medsum_core.grounding.facts.anatomy import KIN, stem
from medsum_core.grounding.facts.tokens import word_set
from medsum_core.grounding.findings.stems import Word

FAMILY = "family"
AND = "+"  # between relatives named together: "my [brother and sister] have diabetes"
MATERNAL, PATERNAL = "maternal ", "paternal "  # prefixes of a relative's name
GROUPS = {  # which relatives a general word may mean
    "parent": word_set("mother father"),
    "sibling": word_set("brother sister twin"),
    "child": word_set("son daughter twin"),
    "twin": word_set("brother sister son daughter"),
    "spouse": word_set("husband wife partner"),
    "partner": word_set("husband wife spouse"),
    "grandparent": word_set("grandmother grandfather"),
    "grandchild": word_set("grandson granddaughter"),
}
KINDRED = KIN | word_set("spouse grandparent family relative neighbor neighbour friend coworker roommate")
VARIANTS = {
    word: kin
    for kin, words in {
        "mother": "mommy momma mam", "parent": "folks", "child": "kids", "sibling": "siblings",
        "son": "boy", "daughter": "girl", "brother": "bro", "sister": "sis", "twin": "twins", "nephew": "nephews",
        "grandparent": "grandparents", "grandmother": "granny gran nan nanna",
        "grandchild": "grandbaby grandkid grandkids",
        "grandfather": "granddad grandad gramps grampa", "aunt": "auntie aunties aunty",
        "stepfather": "stepdad", "stepmother": "stepmom stepmum", "spouse": "spouse", "husband": "exhusband hubby",
        "wife": "exwife", "partner": "boyfriend girlfriend fiance fiancee",
        "family": "families familial relatives relative hereditary",
    }.items()
    for word in words.split()
}  # fmt: skip
GRANDPARENT_OF = (("mother", "grandmother"), ("father", "grandfather"), ("parent", "grandparent"))
SIDES = {"maternal": MATERNAL, "paternal": PATERNAL, "mother": MATERNAL, "father": PATERNAL}
COMPOUND = {  # (a relative, a relative of theirs): who that is to the patient
    **{(one, kin): SIDES[one] + up for one in ("mother", "father")
       for kin, up in (*GRANDPARENT_OF, ("sister", "aunt"), ("brother", "uncle"))},
    **{(side + kin, parent): side + up for side in (MATERNAL, PATERNAL) for kin in ("grandparent", "aunt", "uncle")
       for parent, up in GRANDPARENT_OF[:2]},
    **{(one, kin): name for one in ("brother", "sister") for kin, name in (("son", "nephew"), ("daughter", "niece"))},
    **{(one, kin): "grand" + kin for one in ("son", "daughter") for kin in ("son", "daughter")},
    **{(one, kin): "cousin" for one in ("aunt", "uncle") for kin in ("son", "daughter")},
    **{(one, kin): "in-law" for one in ("husband", "wife", "partner")
       for kin in ("mother", "father", "sister", "brother")},
}  # fmt: skip
KIN_WITH_SIDE = word_set("aunt uncle cousin grandmother grandfather grandparent family")
CHILDREN = word_set("son daughter child grandchild twin")
POSSESSIVES = word_set("my his her their our your patient's one two three four five six and have has a an , both")
KIN_MODIFIERS = word_set(
    "own older younger big little eldest oldest youngest late full first half three two other both birth biological "
    "foster adoptive step great"
)
NOT_SPECIFIC = word_set(  # never the patient nor a certain relative
    "family neighbor neighbour friend coworker roommate"
)
THIRD_POSSESSIVES = word_set("his her their")
MALE = word_set("father brother son grandfather husband uncle nephew grandson stepfather")
FEMALE = word_set("mother sister daughter grandmother wife aunt niece granddaughter stepmother")


@lru_cache(maxsize=16384)
def kin_of(text: str) -> str:
    """The relative that a word names, in the singular: "mom's" -> "mother"; "" for other words."""
    text = text.replace("’", "'").removesuffix("'s")
    if text in VARIANTS:
        return VARIANTS[text]
    word = stem(text)
    return VARIANTS.get(word, word if word in KINDRED else "")


def is_family(speaker: str) -> bool:
    """Whether a speaker tag names a relative, who then may call the patient "my mother"."""
    return any(kin_of(part) for part in speaker.lower().replace("_", " ").split())


def same_person(a: str, b: str) -> bool:
    """Whether two relatives may be the same person; not if they are of different sides of the family."""
    pairs = [(one, other) for one in a.split(AND) for other in b.split(AND)]
    return any(_same(*split_side(one), *split_side(other)) for one, other in pairs)


def split_side(name: str) -> tuple[str, str]:
    """The side of the family ("" if unknown) and the relative without it."""
    side = next((side for side in (MATERNAL, PATERNAL) if name.startswith(side)), "")
    return side, name.removeprefix(side)


def _same(side: str, one: str, other_side: str, other: str) -> bool:
    if side and other_side and side != other_side:
        return False
    known = FAMILY in (one, other) or "" in (one, other)
    return known or one == other or other in GROUPS.get(one, ()) or one in GROUPS.get(other, ())


def relatives_in(
    words: Sequence[Word], first: int, last: int, topic: str = "", *, spoken: bool, has_family_speaker: bool = False
) -> list[tuple[int, str]]:
    """The relatives named among words `[first, last)`. "A 6-year-old girl" is the patient, "her girl" is none.

    `topic`: the last relative before these words, whom "his" in "his brother" refers to; in a note "his" is the
    patient's. `has_family_speaker`: a relative takes part in the dialogue, so that "my son" or "your son" may be the
    patient: they are then "family".
    """
    found: list[tuple[int, str]] = []
    named: list[str] = []
    side = ""
    for i in range(first, last):
        text = words[i].text
        if text in ("maternal", "paternal"):
            side = SIDES[text]
            continue
        kin = "in-law" if [word.text for word in words[i + 1 : i + 3]] == ["in", "law"] else kin_of(text)
        if not kin:
            if text == "side" and found and split_side(found[-1][1])[1] in SIDES and i - found[-1][0] <= 2:
                _set_side(found, SIDES[found.pop()[1]], i)
            side = side if text in ("and", "great") else ""
            continue
        if kin == "twin" and i + 1 < last and kin_of(words[i + 1].text):
            continue  # "twin sister"
        if has_family_speaker and kin not in NOT_SPECIFIC and _may_be_speakers_kin(words, i, first):
            found.append((i, FAMILY))
            continue
        owner = _owner(words, i, first, [topic, *named], spoken=spoken and not has_family_speaker)
        named.append(COMPOUND.get((owner, kin), kin))
        if (owner, kin) in COMPOUND:
            found = [place for place in found if not (place[0] == i - 1 and words[i - 1].text.endswith("'s"))]
            found.append((i, COMPOUND[owner, kin]))
        elif kin not in CHILDREN or (words[i - 1].text in POSSESSIVES | KIN_MODIFIERS if i > first else not spoken):
            found.append((i, side + kin if side and kin in KIN_WITH_SIDE else kin))
        side = side if kin == FAMILY else ""
    return found


def _may_be_speakers_kin(words: Sequence[Word], i: int, first: int) -> bool:
    """Whether word i may be a relative of the speaker, not of the patient: "my mother", "Mom"; not "his mother"."""
    return _determiner(words, i, first) not in THIRD_POSSESSIVES


def _determiner(words: Sequence[Word], i: int, first: int) -> str:
    """The word before the relative at word i and its adjectives, which may say whose relative it is; "" if none."""
    return next((words[k].text for k in range(i - 1, first - 1, -1) if words[k].text not in KIN_MODIFIERS), "")


def _owner(words: Sequence[Word], i: int, first: int, before: Sequence[str], *, spoken: bool) -> str:
    """The relative whose relative is named at word i: "[mum]'s dad", "my [father] and both his brothers"; "" if none.

    `before`: the relatives named before; "his" or "her" refers to the last one of that gender.
    """
    text = _determiner(words, i, first)
    if text in THIRD_POSSESSIVES:
        other = {"his": FEMALE, "her": MALE}.get(text, frozenset())
        fitting = [name for name in before if name and split_side(name)[1] not in other]
        return fitting[-1] if spoken and fitting else ""
    return kin_of(text) if text.endswith(("'s", "s'", "mums", "moms", "dads")) else ""


def _set_side(found: list[tuple[int, str]], side: str, i: int) -> None:
    """Give the last relative before "my mother's side" at word i that side; if none, add the family of that side."""
    k = next((k for k in range(len(found) - 1, -1, -1) if found[k][1] in KIN_WITH_SIDE), None)
    if k is None:
        found.append((i, side + FAMILY))
    else:
        found[k] = (found[k][0], side + found[k][1])


def join_relatives(kin: Sequence[tuple[int, str]]) -> str:
    """The relatives of an answer as one subject; "My aunties. My dad's sisters." are the paternal aunts only."""
    names = [name for _, name in kin if name != FAMILY]
    with_side = {split_side(name)[1] for name in names if split_side(name)[0]}
    return AND.join(dict.fromkeys(name for name in names if split_side(name)[0] or name not in with_side)) or FAMILY
