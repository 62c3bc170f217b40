"""The subject of a value: the drug of a dose, the relative of an age, the symptom of a duration.

In a note it is the word next to the value. In a dialogue it is the nearest of the note's subjects, searched in the
clause, then backwards through the turn and the turns before it: "And the ibuprofen?" "Every eight hours.".
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from medsum_core.grounding.facts.anatomy import KIN, stem
from medsum_core.grounding.facts.answers import SENTENCE_ENDS, Turns
from medsum_core.grounding.facts.attributes import LINKS, attribute, content_stem
from medsum_core.grounding.facts.mention import Mention, Scan
from medsum_core.grounding.facts.tokens import bag
from medsum_core.grounding.facts.words import units

SELF = "self"
LIMBS = bag("ble bue rle lle rue lue")
SELF_WORDS = bag("i i'm i'll i've me you you're your")
CHILDREN = bag("son daughter child twin boy girl")
RELATED = KIN | {SELF, "boy", "girl"}
GENERIC = {
    "parent": bag("mother father"),
    "sibling": bag("brother sister twin"),
    "child": bag("son daughter twin"),
    "grandchild": bag("grandson granddaughter"),
    "partner": bag("husband wife"),
}
ALIASES = {
    "hr": "pulse", "rr": "respiration", "resp": "respiration", "respiratory": "respiration", "resps": "respiration",
    "temp": "temperature", "wt": "weight", "weigh": "weight", "sat": "saturation", "sats": "saturation",
    "potassium": "k", "ht": "height", "tall": "height",
}  # fmt: skip
CLAUSE_ENDS = frozenset((".", ",", "?", "!", ";", ":", "\n", "and", "but", ""))
PREFIX = 6  # words match if their first letters do: "hospital", "hospitalized"
TURNS_BACK = 2
CLAUSE, NEAR, FAR = 0, 1, 2
FRAGMENT = 4  # most tokens of a sentence that only names the subject of the next: "Lisinopril. Twenty milligrams."
NOTE_REACH = 7  # tokens before a value that are searched for a note's subject


def note_subject(note: Scan, fact: Mention) -> str:
    """The word that a note's fact is about, normalised by `fold`; "self" for the patient's age; "" if unclear."""
    if fact.kind == "age":
        return _whose_age(note, fact)
    if note.word(fact.first) in LIMBS:
        return ""  # a whole arm or leg
    if fact.noun != "time" and (about := attribute(note, fact)):
        listed = about in KIN and not fact.noun and note.word(fact.first - 1) in (",", "and")
        return about if fact.dim == "side" else ("" if listed else fold(about))
    return fold(_before(note, fact.first)) if fact.kind == "frequency" or fact.noun == "time" else ""


def _whose_age(note: Scan, fact: Mention) -> str:
    """ "a 2-year-old [sister]", "[Mother] died of a stroke at the age of 81", otherwise the patient."""
    for k in (fact.last, fact.last + 1):
        if note.tokens[min(k, len(note.tokens) - 1)].kind != "word":
            break
        if stem(note.word(k)) in RELATED:
            return stem(note.word(k))
    k = fact.first - 1
    while k >= 0 and note.word(k) not in SENTENCE_ENDS:
        if stem(note.word(k)) in KIN:
            return stem(note.word(k))
        k -= 1
    return SELF


def _before(note: Scan, first: int) -> str:
    """The content word before token `first`, skipping other values: "Lisinopril 50 mg [daily]"."""
    for k in range(first - 1, max(first - 1 - NOTE_REACH, -1), -1):
        word = note.word(k)
        if word in SENTENCE_ENDS or word == ":":
            return ""
        value = k in note.numbers or word in units() or word in LINKS or note.tokens[k].kind != "word"
        if not value:
            return content_stem(note, k)
    return ""


def fold(word: str) -> str:
    """A stem in the form in which subjects are compared: one name for a vital sign, else its first letters."""
    word = ALIASES.get(word, word)
    return word if word in KIN else word[:PREFIX]


def same_subject(a: str, b: str) -> bool:
    """Whether two subjects may be the same: a son is a child, and the child may be the patient."""
    if a == b or b in GENERIC.get(a, ()) or a in GENERIC.get(b, ()):
        return True
    return SELF in (a, b) and ({a, b} - {SELF}) <= CHILDREN


def same_subjects(subject: str) -> frozenset[str]:
    """All subjects that may be the same as this one."""
    named = {subject, SELF, *CHILDREN, *GENERIC, *GENERIC.get(subject, ())}
    return frozenset(word for word in named if same_subject(subject, word))


class Scope(NamedTuple):
    """The possible subjects of a mention. `level`: where they were found, CLAUSE, NEAR (in its sentence, or in the
    question that it answers) or FAR."""

    words: frozenset[str]
    level: int


@dataclass(frozen=True, kw_only=True)
class Subjects:
    """Finds the subjects of a dialogue's mentions. `folded`: its tokens, normalised by `fold`."""

    scan: Scan
    turns: Turns
    turn_of: Sequence[int]
    folded: Sequence[str]
    cache: dict[tuple[int, int, str], Scope]

    def of(self, mention: Mention, words: Set[str], sort: str) -> Scope:
        """The subjects of `mention` among `words`; none where none is near. `sort` names `words` in the cache."""
        key = (mention.first, mention.last, sort)
        if key not in self.cache:
            self.cache[key] = self._scope(mention, words)
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

    def _scope(self, mention: Mention, words: Set[str]) -> Scope:
        turn = self.turn_of[mention.first]
        begin, end = self.turns.begins[turn], self.turns.ends[turn]
        left = self._back(mention.first, begin, CLAUSE_ENDS)
        right = mention.last
        while right < end and self.scan.word(right) not in CLAUSE_ENDS:
            right += 1
        if found := self._among(left, right, words):
            return Scope(found, CLAUSE)
        sentence = self._back(mention.first, begin, SENTENCE_ENDS)
        if found := self._among(sentence, right, words):
            return Scope(found, NEAR)
        if sentence > begin:
            before = self._back(sentence - 1, begin, SENTENCE_ENDS)
            if found := self._among(before, sentence, words):
                return Scope(found, NEAR if sentence - before <= FRAGMENT else FAR)
        for back in range(1, min(turn, TURNS_BACK) + 1):
            number = turn - back
            if found := self._among(self.turns.begins[number], self.turns.ends[number], words):
                return Scope(found, NEAR if back == 1 and sentence <= begin else FAR)
        return NOTHING

    def _back(self, k: int, begin: int, ends: Set[str]) -> int:
        while k > begin and self.scan.word(k - 1) not in ends:
            k -= 1
        return k


NOTHING = Scope(frozenset(), FAR)


def subjects_of_talk(scan: Scan, turns: Turns) -> Subjects:
    """Prepare a dialogue for `Subjects.of`."""
    stems = [stem(token.text) for token in scan.tokens]
    folded = [SELF if token.text in SELF_WORDS else fold(word) for token, word in zip(scan.tokens, stems, strict=True)]
    turn_of: list[int] = []
    for number, end in enumerate(turns.ends):
        turn_of += [number] * (end - len(turn_of))
    turn_of += [max(len(turns.ends) - 1, 0)] * (len(scan.tokens) - len(turn_of))
    return Subjects(scan=scan, turns=turns, turn_of=turn_of, folded=folded, cache={})
