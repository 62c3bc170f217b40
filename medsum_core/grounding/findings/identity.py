"""The verdicts on the patient's sex, occupation and marital status.

Evidence of the sex in a dialogue: the clinician's form of address, a finding that only one sex has, or, if a relative
speaks for the patient, "he" or "she". A noun for it ("female") is not found if no word of the dialogue tells a sex.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Literal

from medsum_core.grounding.facts.tokens import word_set
from medsum_core.grounding.findings.finding import FindingScan, JudgedFact, Verdict
from medsum_core.grounding.findings.finding_index import FindingIndex
from medsum_core.grounding.findings.lexicon import TABLES, lines_of
from medsum_core.grounding.findings.scope import Sentence, read_scopes
from medsum_core.grounding.findings.stems import stem

Sex = Literal["male", "female"]
KIND = "subject"
SEX_NOUNS: dict[str, Sex] = {
    "male": "male", "man": "male", "gentleman": "male", "boy": "male", "female": "female", "woman": "female",
    "lady": "female", "girl": "female",
}  # fmt: skip
PRONOUNS: dict[str, Sex] = {
    "he": "male", "his": "male", "him": "male", "he's": "male", "himself": "male",
    "she": "female", "her": "female", "she's": "female", "hers": "female", "herself": "female",
}  # fmt: skip
CHILDREN: dict[str, Sex] = {"son": "male", "boy": "male", "daughter": "female", "girl": "female"}
FORMS_OF_ADDRESS: dict[str, Sex] = {
    "sir": "male", "mr": "male", "mister": "male", "ma'am": "female", "maam": "female", "mrs": "female",
    "missus": "female", "ms": "female",
}  # fmt: skip
SEX_WORDS = frozenset((*SEX_NOUNS, *PRONOUNS, *CHILDREN, *FORMS_OF_ADDRESS)) | word_set(  # may tell the patient's sex
    "miss madam madame guy dude lad husband wife girlfriend boyfriend mom mum mother mama dad father grandma grandpa "
    "grandmother grandfather niece nephew pregnant pregnancy period menstrual breast uterus ovary prostate penis "
    "testicle birth pap mammogram gynecologist hysterectomy menopause vasectomy"
)
SEX_BY_FINDING: dict[str, Sex] = {
    "prostate cancer": "male", "benign prostatic hyperplasia": "male", "erectile dysfunction": "male",
    "vasectomy": "male", "testicular pain": "male", "testicular cancer": "male", "testicular swelling": "male",
    "menopause": "female", "menorrhagia": "female", "dysmenorrhea": "female", "irregular periods": "female",
    "hysterectomy": "female", "vaginal bleeding": "female", "vaginal discharge": "female", "vaginal dryness": "female",
    "cesarean section": "female", "miscarriage": "female", "endometriosis": "female", "uterine fibroid": "female",
}  # fmt: skip
STATUS_EVIDENCE = {  # for each word of a note the words of a dialogue that support it
    "married": word_set("married husband wife spouse hubby wedding marriage anniversary"),
    "divorced": word_set("divorced divorce ex split separated"),
    "widowed": word_set("widow widower widowed passed died lost late dead gone"),
    "widow": word_set("widow widower widowed passed died lost late dead gone"),
    "widower": word_set("widow widower widowed passed died lost late dead gone"),
}
ALONE_EVIDENCE = word_set("alone myself own just only nobody single widow widower")  # the same for "lives alone"
LIVES = word_set("lives living live resides")
WORK_WORDS = word_set(  # before an occupation
    "works worked work retired is was as a an former employed occupation job by profession"
)
UNSPECIFIC_WORK = word_set("worker driver officer bus assembly")  # are no evidence of an occupation
NEAR = 3  # words


def judge_identity(note: FindingScan, index: FindingIndex) -> list[JudgedFact]:
    """The verdicts on the patient's sex (its first mention only), occupation, marital status and living alone."""
    sex = _sex_in_dialogue(index)
    stated = next(_sexes_in_note(note, index), None)
    facts = []
    if stated is not None:
        i, sex_in_note = stated
        if sex is not None:
            facts.append(_fact(note, i, i + 1, "supported" if sex_in_note == sex else "contradicted"))
        elif note.words[i].text in SEX_NOUNS and not index.has_word(SEX_WORDS):
            facts.append(_fact(note, i, i + 1, "not_found"))
    for sentence in note.sentences:
        if note.kin_between(sentence.first, sentence.last):
            continue
        facts += _occupations_in(note, sentence, index)
        denied = read_scopes(note.words, sentence, spoken=False).denied
        for i in range(sentence.first, sentence.last):
            lives_alone = note.words[i].text == "alone" and i > sentence.first and note.words[i - 1].text in LIVES
            evidence = ALONE_EVIDENCE if lives_alone else STATUS_EVIDENCE.get(note.words[i].text)
            if evidence is not None:
                facts.append(_fact(note, i, i + 1, _status_verdict(evidence, index, denied=i in denied)))
    return facts


def _status_verdict(evidence: frozenset[str], index: FindingIndex, *, denied: bool) -> Verdict:
    """The verdict on a status that the note states or denies, by the words of the dialogue that are evidence of it."""
    texts = evidence | set(map(stem, evidence))
    polarities = index.cached(("polarities", *sorted(texts)), lambda: set(index.polarities_of(texts)))
    if not polarities:
        return "not_found"
    return "contradicted" if polarities == {"denied"} and not denied else "supported"


def _fact(note: FindingScan, first: int, last: int, verdict: Verdict) -> JudgedFact:
    return JudgedFact(note.words[first].start, note.words[last - 1].end, KIND, verdict, None)


def _sexes_in_note(note: FindingScan, index: FindingIndex) -> Iterator[tuple[int, Sex]]:
    """The words of a note that state the patient's sex; a pronoun only if no relative is named before it."""
    has_relative = False
    for sentence in note.sentences:
        kin = note.kin_between(sentence.first, sentence.last)
        for i in range(sentence.first, sentence.last):
            text = note.words[i].text
            if text in SEX_NOUNS and not kin:
                yield i, SEX_NOUNS[text]
            elif text in CHILDREN and index.has_family_speaker and len(kin) == 1 and note.words[i - 1].text == "old":
                yield i, CHILDREN[text]
            elif text in PRONOUNS and not (has_relative or kin):
                yield i, PRONOUNS[text]
        has_relative = has_relative or bool(kin)


def _sex_in_dialogue(index: FindingIndex) -> Sex | None:
    """The patient's sex by the evidence of the dialogue; None if there is none or it is conflicting."""
    sexes: set[Sex] = set()
    for turn, (first, last) in zip(index.turns, index.scan.turns, strict=True):
        texts = [word.text for word in index.scan.words[first:last]]
        if index.has_family_speaker:
            sexes |= {PRONOUNS[text] for text in texts if text in PRONOUNS}
            sexes |= {CHILDREN[text] for text in texts if text in CHILDREN}
        elif turn.is_clinician:
            sexes |= {FORMS_OF_ADDRESS[text] for text in texts if text in FORMS_OF_ADDRESS}
    if not index.has_family_speaker:
        own = (one for one in index.scan.findings if one.assertion in ("present", "past_or_stopped"))
        of_patient = (one for one in own if one.subject == "patient")
        sexes |= {SEX_BY_FINDING[name] for one in of_patient for name in one.names if name in SEX_BY_FINDING}
    return sexes.pop() if len(sexes) == 1 else None


def _occupations_in(note: FindingScan, sentence: Sentence, index: FindingIndex) -> list[JudgedFact]:
    """The verdicts on the occupations of a sentence: "a retired [nurse]"."""
    texts = [note.words[i].text for i in range(sentence.first, sentence.last)]
    facts = []
    i = 0
    while i < len(texts):
        entries = _occupation_table().get(texts[i], ())
        found = next(((name, evidence) for name, evidence in entries if name == texts[i : i + len(name)]), None)
        if found is not None and WORK_WORDS & {*texts[max(i - NEAR, 0) : i]}:
            name, evidence = found
            verdict: Verdict = "supported" if index.has_word(evidence) else "not_found"
            facts.append(_fact(note, sentence.first + i, sentence.first + i + len(name), verdict))
        i += len(found[0]) if found else 1
    return facts


@lru_cache(maxsize=1)
def _occupation_table() -> dict[str, list[tuple[list[str], frozenset[str]]]]:
    """The occupations by their first word, longest first, each with the stems that are evidence of it."""
    found: dict[str, list[tuple[list[str], frozenset[str]]]] = {}
    for line in lines_of(TABLES / "occupation.tsv"):
        names, evidence = line.split("\t")
        stems = frozenset(map(stem, {*evidence.split("|"), *names.replace("|", " ").split()} - UNSPECIFIC_WORK))
        for name in names.split("|"):
            found.setdefault(name.split()[0], []).append((name.split(), stems))
    for entries in found.values():
        entries.sort(key=lambda pair: -len(pair[0]))
    return found
