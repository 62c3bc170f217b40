"""The subject of a value: the drug of a dose, the relative of an age, the symptom of a duration.

`attribute` is the word next to a value: "Lasix [20 mg]", "[20 mg] of Lasix". In a note it is the subject. In a dialogue
the subject is the nearest of the note's subjects, searched in the clause, then backwards through the turn and the turns
before it: "And the ibuprofen?" "Every eight hours.".
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from medsum_core.grounding.facts.anatomy import KIN, STOPWORDS, body_parts, stem
from medsum_core.grounding.facts.answers import TurnTokens
from medsum_core.grounding.facts.mention import SENTENCE_ENDS, Mention, Scan
from medsum_core.grounding.facts.tokens import word_set
from medsum_core.grounding.facts.words import units

SELF = "self"
LIMBS = word_set("ble bue rle lle rue lue")
SELF_WORDS = word_set("i i'm i'll i've me you you're your")
CHILDREN = word_set("son daughter child twin boy girl")
RELATED = KIN | {SELF, "boy", "girl"}
GENERIC = {  # a general word for relatives, and those that it can mean
    "parent": word_set("mother father"),
    "sibling": word_set("brother sister twin"),
    "child": word_set("son daughter twin"),
    "grandchild": word_set("grandson granddaughter"),
    "partner": word_set("husband wife"),
}
ALIASES = {  # words for a vital sign or laboratory value, and its one name
    "hr": "pulse", "rr": "respiration", "resp": "respiration", "respiratory": "respiration", "resps": "respiration",
    "temp": "temperature", "wt": "weight", "weigh": "weight", "sat": "saturation", "sats": "saturation",
    "potassium": "k", "ht": "height", "tall": "height",
}  # fmt: skip
BEGINNINGS = SENTENCE_ENDS | {":"}
CLAUSE_ENDS = frozenset((".", ",", "?", "!", ";", ":", "\n", "and", "but", ""))
PREFIX = 6  # words match if their first letters do: "hospital", "hospitalized"
TURNS_BACK = 2  # turns before a mention that are searched for its subject
CLAUSE, NEAR, FAR = 0, 1, 2  # where a candidate was found, see SubjectCandidates
FRAGMENT = 4  # most tokens of a sentence that is only the subject of the next: "Lisinopril. Twenty milligrams."
NOTE_REACH = 7  # tokens before a value that are searched for a note's subject
LINKS = word_set(  # words between a subject and its value
    "is was of at a an about to the be are were now been for approximately around just only taking take takes took on "
    "dose doses it's its came out set currently up maybe perhaps p o po oral orally tab tablet tablets per and "
    "count counts level levels rate by mouth"
)
NO_ATTRIBUTES = word_set(  # content words that are no subject
    "day week month year hour number one thing lot time patient doctor m g mg x i'm it he she "
    "today yesterday tonight tomorrow present worst best average baseline morning evening noon"
)
LIFE_WORDS = word_set(  # words between a relative and an age
    "is was died dies passed away at age aged the of in his her now about around who just turned had a an lived be "
    "years year old living alive deceased well only he she also maybe like to until approximately early late mid"
)
REACH = 5  # words searched for the attribute
AGE_LINKS = word_set("is was at age turned about around now ,")  # "mother is [93]", "died at [70]"
DOSE_FORMS = word_set("tablet tablets dose doses of pills capsules the your my")  # words between a dose and its drug
# The word next to a mention of these dimensions is not its subject.
NO_ATTRIBUTE_DIMS = ("time", "date", "weekday", "rate", "pressure", "clock", "code", "height")
KIN_REACH = 10  # tokens before an age that are searched for a relative


def attribute(scan: Scan, mention: Mention) -> str:
    """The stem of the word that `mention` is a value of; "" if unclear."""
    if mention.dim == "side":
        return "" if body_parts().get(mention.noun) == "whole" else mention.noun
    if mention.noun:
        return mention.noun
    if mention.kind == "age" or (mention.dim == "" and scan.word(mention.first - 1) in AGE_LINKS):
        return _relative_before(scan, mention.first)
    if mention.dim in NO_ATTRIBUTE_DIMS:
        return ""
    return _attribute_after(scan, mention.last) or _attribute_before(scan, mention.first)


def _relative_before(scan: Scan, first: int) -> str:
    """The relative that the number at token `first` belongs to: "my dad passed away at the age of [69]"."""
    for k in reversed(range(max(scan.around(first, first).start, first - KIN_REACH), first)):
        word = scan.word(k)
        if stem(word) in KIN:
            return stem(word)
        if scan.spoken and scan.is_word(k) and word not in LIFE_WORDS:
            return ""
    return ""


def _attribute_after(scan: Scan, j: int) -> str:
    """ "[20 mg] of Lasix", "[two tablets] of your Lasix"."""
    while scan.word(j) in DOSE_FORMS:
        j += 1
    return content_stem(scan, j) if scan.word(j - 1) in ("of", "the", "your", "my") else ""


def _attribute_before(scan: Scan, first: int) -> str:
    """ "Lasix [20 mg]", "heart rate of [88]"."""
    k = first - 1
    while first - k <= REACH and (scan.word(k) in LINKS or scan.word(k) in (",", ":", "(")):
        k -= 1
    return content_stem(scan, k)


def content_stem(scan: Scan, k: int) -> str:
    """The stem of token k if it is a content word, else ""."""
    if not scan.is_word(k) or k in scan.numbers:
        return ""
    word = stem(scan.word(k))
    plain = len(word) > 2 and word not in STOPWORDS and word not in NO_ATTRIBUTES and scan.word(k) not in units()
    return word if plain else ""


def note_subject(note: Scan, fact: Mention) -> str:
    """The subject of a note's fact, normalised by `fold`; "self" for the patient's age; "" if unclear."""
    if fact.kind == "age":
        return _person_of_age(note, fact)
    if note.word(fact.first) in LIMBS:
        return ""  # a whole arm or leg
    if fact.noun != "time" and (about := attribute(note, fact)):
        listed = about in KIN and not fact.noun and note.word(fact.first - 1) in (",", "and")
        return about if fact.dim == "side" else ("" if listed else fold(about))
    return fold(_content_word_before(note, fact.first)) if fact.kind == "frequency" or fact.noun == "time" else ""


def _person_of_age(note: Scan, fact: Mention) -> str:
    """ "a 2-year-old [sister]", "[Mother] died of a stroke at the age of 81", otherwise the patient."""
    after = [stem(note.word(k)) for k in (fact.last, fact.last + 1) if note.is_word(fact.last) and note.is_word(k)]
    before = [stem(note.word(k)) for k in reversed(range(note.around(fact.first, fact.first).start, fact.first))]
    found = [word for word in after if word in RELATED] + [word for word in before if word in KIN]
    return found[0] if found else SELF


def _content_word_before(note: Scan, first: int) -> str:
    """The content word before token `first`, skipping other values: "Lisinopril 50 mg [daily]"."""
    for k in reversed(range(max(note.around(first, first, BEGINNINGS).start, first - NOTE_REACH), first)):
        word = note.word(k)
        if note.is_word(k) and k not in note.numbers and word not in units() and word not in LINKS:
            return content_stem(note, k)
    return ""


def fold(word: str) -> str:
    """A stem normalised for comparing subjects: one name per vital sign, else its first letters."""
    word = ALIASES.get(word, word)
    return word if word in KIN else word[:PREFIX]


def same_subject(a: str, b: str) -> bool:
    """Whether two subjects may be the same: a son is a child, and the child may be the patient ("self")."""
    if a == b or b in GENERIC.get(a, ()) or a in GENERIC.get(b, ()):
        return True
    return SELF in (a, b) and ({a, b} - {SELF}) <= CHILDREN


def same_subjects(subject: str) -> frozenset[str]:
    """All subjects that may be the same as this one."""
    named = {subject, SELF, *CHILDREN, *GENERIC, *GENERIC.get(subject, ())}
    return frozenset(word for word in named if same_subject(subject, word))


class SubjectCandidates(NamedTuple):
    """The possible subjects of a mention.

    `level`: where they were found, CLAUSE (its clause), NEAR (its sentence, or the question that it answers) or FAR.
    """

    words: frozenset[str]
    level: int


@dataclass(frozen=True, kw_only=True)
class SubjectFinder:
    """Finds the subjects of a dialogue's mentions.

    `turn_of`: the turn of each token; `folded`: each token, normalised by `fold`.
    """

    scan: Scan
    turns: TurnTokens
    turn_of: Sequence[int]
    folded: Sequence[str]
    cache: dict[tuple[int, int, str], SubjectCandidates]

    def of(self, mention: Mention, words: Set[str], subject_type: str) -> SubjectCandidates:
        """The candidates for a mention's subject among `words`. `subject_type`: the key of `words` in the cache."""
        key = (mention.first, mention.last, subject_type)
        if key not in self.cache:
            self.cache[key] = self._candidates(mention, words)
        return self.cache[key]

    @cached_property
    def turns_of(self) -> dict[str, set[int]]:
        """The turns in which each word occurs, normalised."""
        found: dict[str, set[int]] = {}
        for word, turn in zip(self.folded, self.turn_of, strict=True):
            found.setdefault(word, set()).add(turn)
        return found

    def _among(self, begin: int, end: int, words: Set[str]) -> frozenset[str]:
        return frozenset(word for word in self.folded[begin:end] if word in words)

    def _candidates(self, mention: Mention, words: Set[str]) -> SubjectCandidates:
        turn = self.turn_of[mention.first]
        begin, end = self.turns.begins[turn], self.turns.ends[turn]
        clause = self.scan.around(mention.first, mention.last, CLAUSE_ENDS)
        sentence = max(self.scan.around(mention.first, mention.first).start, begin)
        right = min(clause.stop, end)
        if found := self._among(max(clause.start, begin), right, words):
            return SubjectCandidates(found, CLAUSE)
        if found := self._among(sentence, right, words):
            return SubjectCandidates(found, NEAR)
        if sentence > begin:
            before = max(self.scan.around(sentence - 1, sentence - 1).start, begin)
            if found := self._among(before, sentence, words):
                return SubjectCandidates(found, NEAR if sentence - before <= FRAGMENT else FAR)
        for back in range(1, min(turn, TURNS_BACK) + 1):
            number = turn - back
            if found := self._among(self.turns.begins[number], self.turns.ends[number], words):
                return SubjectCandidates(found, NEAR if back == 1 and sentence <= begin else FAR)
        return NO_CANDIDATES


NO_CANDIDATES = SubjectCandidates(frozenset(), FAR)


def subject_finder(scan: Scan, turns: TurnTokens) -> SubjectFinder:
    """The `SubjectFinder` of a dialogue."""
    stems = [stem(token.text) for token in scan.tokens]
    folded = [SELF if token.text in SELF_WORDS else fold(word) for token, word in zip(scan.tokens, stems, strict=True)]
    turn_of: list[int] = []
    for number, end in enumerate(turns.ends):
        turn_of += [number] * (end - len(turn_of))
    turn_of += [max(len(turns.ends) - 1, 0)] * (len(scan.tokens) - len(turn_of))
    return SubjectFinder(scan=scan, turns=turns, turn_of=turn_of, folded=folded, cache={})
