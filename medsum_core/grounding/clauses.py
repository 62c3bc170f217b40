"""Where an English sentence can be truncated to omit a fact later in it. Uses word lists, no grammar.

A wrong decision costs style only: the sentence is shorter than necessary, or ungrammatical.
"""

from __future__ import annotations

import re
from functools import lru_cache

from medsum_core.grounding.facts.tokens import word_set

MIN_WORDS = 3  # of the rest: a subject and its predicate
# A sentence cannot end with these: they are removed together with the phrase that they introduce.
INTRODUCING = word_set(
    "a about after an and approximately around as at because before between but by during each every for from his her "
    "if in including into its like my nearly near of on or over per roughly since than that the their then through to "
    "until up very when which while who with within without"
)
# A sentence cannot end with these either, as their object is missing: the rest would change its meaning.
INCOMPLETE = word_set(
    "am are be been being began begin consumes could denied denies did do does drank drinks gets given goes got had "
    "has have having he i is it measured measures not no notes noted rated rates reported reports says she smoked "
    "smokes started starts states stated takes taken taking they took underwent used uses using was we weighed weighs "
    "were will would you"
)


@lru_cache(maxsize=1)
def _word() -> re.Pattern[str]:
    return re.compile(r"[^\s,;:()]+")


def clause_end(clause: str) -> int:
    """The length in characters of the longest prefix of `clause` that can be a sentence; 0 if there is none."""
    words = list(_word().finditer(clause))
    if words and words[-1].end() == len(clause):  # the omitted text begins inside a word: "L5", "(45"
        words.pop()
    while words and words[-1].group().lower() in INTRODUCING:
        words.pop()
    if len(words) < MIN_WORDS or words[-1].group().lower() in INCOMPLETE:
        return 0
    return words[-1].end()
