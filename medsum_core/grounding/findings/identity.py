"""Who the patient is: the sex, the work and the marital status that a note states, looked up in the dialogue.

The sex is checked only where the dialogue makes it plain: by the form of address, by what only one sex has, or, where a
relative speaks for the patient, by "he" or "she".
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Literal

from medsum_core.grounding.facts.tokens import bag
from medsum_core.grounding.findings.finding import FindingScan, JudgedFact, Verdict
from medsum_core.grounding.findings.finding_index import FindingIndex
from medsum_core.grounding.findings.lexicon import TABLES, lines_of
from medsum_core.grounding.findings.scope import Sentence
from medsum_core.grounding.findings.stems import stem

Sex = Literal["male", "female"]
KIND = "subject"
NOUNS: dict[str, Sex] = {
    "male": "male", "man": "male", "gentleman": "male", "boy": "male", "female": "female", "woman": "female",
    "lady": "female", "girl": "female",
}  # fmt: skip
PRONOUNS: dict[str, Sex] = {
    "he": "male", "his": "male", "him": "male", "he's": "male", "himself": "male",
    "she": "female", "her": "female", "she's": "female", "hers": "female", "herself": "female",
}  # fmt: skip
CHILDREN: dict[str, Sex] = {"son": "male", "boy": "male", "daughter": "female", "girl": "female"}
ADDRESS: dict[str, Sex] = {
    "sir": "male", "mr": "male", "mister": "male", "ma'am": "female", "maam": "female", "mrs": "female",
    "ms": "female",
}  # fmt: skip
OF_ONE_SEX: dict[str, Sex] = {
    "prostate cancer": "male", "benign prostatic hyperplasia": "male", "erectile dysfunction": "male",
    "vasectomy": "male", "testicular pain": "male", "testicular cancer": "male", "testicular swelling": "male",
    "menopause": "female", "menorrhagia": "female", "dysmenorrhea": "female", "irregular periods": "female",
    "hysterectomy": "female", "vaginal bleeding": "female", "vaginal discharge": "female", "vaginal dryness": "female",
    "cesarean section": "female", "miscarriage": "female", "endometriosis": "female", "uterine fibroid": "female",
}  # fmt: skip
STATUS = {
    "married": bag("married husband wife spouse hubby wedding marriage anniversary"),
    "divorced": bag("divorced divorce ex split separated"),
    "widowed": bag("widow widower widowed passed died lost late dead gone"),
    "widow": bag("widow widower widowed passed died lost late dead gone"),
    "widower": bag("widow widower widowed passed died lost late dead gone"),
}
ALONE = bag("alone myself own just only nobody single widow widower")
LIVES = bag("lives living live resides")
WORKS = bag("works worked work retired is was as a an former employed occupation job by profession")
ANY_WORK = bag("worker driver officer bus assembly")
NEAR = 3


def judge_identity(note: FindingScan, index: FindingIndex) -> list[JudgedFact]:
    """The verdicts on what a note says of the patient's sex (the first time), work and marital status."""
    sex = _said_sex(index)
    stated = next(_stated_sexes(note, index), None) if sex is not None else None
    facts = []
    if stated is not None:
        i, of_note = stated
        facts.append(_fact(note, i, i + 1, "supported" if of_note == sex else "contradicted"))
    for sentence in note.sentences:
        if note.kin_between(sentence.first, sentence.last):
            continue
        facts += _works(note, sentence, index)
        for i in range(sentence.first, sentence.last):
            lives = note.words[i].text == "alone" and i > sentence.first and note.words[i - 1].text in LIVES
            said = ALONE if lives else STATUS.get(note.words[i].text)
            if said is not None:
                facts.append(_fact(note, i, i + 1, "supported" if index.says(said) else "not_found"))
    return facts


def _fact(note: FindingScan, first: int, last: int, verdict: Verdict) -> JudgedFact:
    return JudgedFact(note.words[first].start, note.words[last - 1].end, KIND, verdict, None)


def _stated_sexes(note: FindingScan, index: FindingIndex) -> Iterator[tuple[int, Sex]]:
    """Where the note tells the patient's sex; a pronoun only where no relative is named before it."""
    named = False
    for sentence in note.sentences:
        kin = note.kin_between(sentence.first, sentence.last)
        for i in range(sentence.first, sentence.last):
            text = note.words[i].text
            if text in NOUNS and not kin:
                yield i, NOUNS[text]
            elif text in CHILDREN and index.has_guests and len(kin) == 1 and note.words[i - 1].text == "old":
                yield i, CHILDREN[text]
            elif text in PRONOUNS and not (named or kin):
                yield i, PRONOUNS[text]
        named = named or bool(kin)


def _said_sex(index: FindingIndex) -> Sex | None:
    """The patient's sex as the dialogue makes it plain; None where it doesn't, or says both."""
    said: set[Sex] = set()
    for turn, (first, last) in zip(index.turns, index.scan.turns, strict=True):
        texts = [word.text for word in index.scan.words[first:last]]
        if index.has_guests:
            said |= {PRONOUNS[text] for text in texts if text in PRONOUNS}
            said |= {CHILDREN[text] for text in texts if text in CHILDREN}
        elif turn.is_clinician:
            said |= {ADDRESS[text] for text in texts if text in ADDRESS}
    if not index.has_guests:
        own = (one for one in index.scan.findings if one.assertion in ("present", "past_or_stopped"))
        of_patient = (one for one in own if one.subject == "patient")
        said |= {OF_ONE_SEX[name] for one in of_patient for name in one.names if name in OF_ONE_SEX}
    return said.pop() if len(said) == 1 else None


def _works(note: FindingScan, sentence: Sentence, index: FindingIndex) -> list[JudgedFact]:
    """The verdicts on the occupations that a sentence gives the patient: "a retired [nurse]"."""
    texts = [note.words[i].text for i in range(sentence.first, sentence.last)]
    facts = []
    i = 0
    while i < len(texts):
        found = next(
            ((names, hints) for names, hints in _occupations().get(texts[i], ()) if names == texts[i : i + len(names)]),
            None,
        )
        if found is not None and WORKS & {*texts[max(i - NEAR, 0) : i]}:
            names, hints = found
            verdict: Verdict = "supported" if index.says(hints) else "not_found"
            facts.append(_fact(note, sentence.first + i, sentence.first + i + len(names), verdict))
        i += len(found[0]) if found else 1
    return facts


@lru_cache(maxsize=1)
def _occupations() -> dict[str, list[tuple[list[str], frozenset[str]]]]:
    """The occupations by their first word, long names first, each with the stems of which a dialogue must have one."""
    found: dict[str, list[tuple[list[str], frozenset[str]]]] = {}
    for line in lines_of(TABLES / "occupation.tsv"):
        names, hints = line.split("\t")
        stems = frozenset(map(stem, {*hints.split("|"), *names.replace("|", " ").split()} - ANY_WORK))
        for name in names.split("|"):
            found.setdefault(name.split()[0], []).append((name.split(), stems))
    for listed in found.values():
        listed.sort(key=lambda pair: -len(pair[0]))
    return found
