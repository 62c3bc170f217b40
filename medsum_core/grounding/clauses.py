"""Where an English sentence can end early, so that what comes later in it is left out. Word lists, no grammar.

A wrong guess costs style, never a fact: the sentence is shorter than it could be, or reads as broken.
"""

from __future__ import annotations

import re
from functools import lru_cache

from medsum_core.grounding.facts.tokens import bag

MIN_WORDS = 3  # a subject and what is said of it
# Words after which a sentence does not end: they are removed with what they introduce.
INTRODUCING = bag(
    "a about after an and approximately around as at because before between but by during each every for from his her "
    "if in including into its like my nearly near of on or over per roughly since than that the their then through to "
    "until up very when which while who with within without"
)
# Words whose object is missing: what is left would say something else, or nothing.
INCOMPLETE = bag(
    "am are be been being began begin consumes could denied denies did do does drank drinks gets given goes got had "
    "has have having he i is it measured measures not no notes noted rated rates reported reports says she smoked "
    "smokes started starts states stated takes taken taking they took underwent used uses using was we weighed weighs "
    "were will would you"
)


@lru_cache(maxsize=1)
def _word() -> re.Pattern[str]:
    return re.compile(r"[^\s,;:()]+")


def clause_end(clause: str) -> int:
    """The characters of the longest beginning of `clause` that can stand as a sentence with a full stop; 0: none."""
    words = list(_word().finditer(clause))
    if words and words[-1].end() == len(clause):  # what is left out began inside of a word: "L5", "(45"
        words.pop()
    while words and words[-1].group().lower() in INTRODUCING:
        words.pop()
    if len(words) < MIN_WORDS or words[-1].group().lower() in INCOMPLETE:
        return 0
    return words[-1].end()
