"""Detects whether a text is English. The readers know only English; other texts are not checked."""

from __future__ import annotations

import re
from functools import lru_cache

from medsum_core.grounding.facts.tokens import word_set

MIN_WORDS = 2  # so many different foreign words make a text foreign
MIN_SHARE = 0.3  # of the letters; with at least this share in another script, a text is not English
ENGLISH = word_set(
    "the and of to is was are with for on at this that has have had he she they you i my his her we it be been not or "
    "from by as what how when any do does did your me there which who denies reports patient no yes okay"
)
OTHERS = word_set(  # frequent foreign words, without names and abbreviations of English notes
    "der das und ist nicht ein eine einen mit seit wie ich sie haben auf für von dem den wochen tage jahre schmerzen "
    "keine drei lange bei wird nein auch oder wurde le les une est pas avec pour depuis vous je il elle dans sur qui "
    "depuis jours semaines oui douleur aucune avez el los las una es con para por desde que usted yo tiene dolor sin "
    "días semanas años sí está muy il della sono non con per da che gli anni giorni settimane dolore ho lei um uma "
    "não com há dor semana dias anos o eu você het een niet van sinds weken dagen jaar pijn ik u hebt geen en och "
    "inte är jag har med sedan veckor dagar smärta ikke og siden uger smerter w nie jest od się mam bóle tygodni"
) - word_set("o u w en um es il has")  # fmt: skip


@lru_cache(maxsize=1)
def _words() -> re.Pattern[str]:
    return re.compile(r"[^\W\d_]+")


def is_english(text: str) -> bool:
    """Whether `text` is English, or too short to decide."""
    words = [word.lower() for word in _words().findall(text)]
    letters = sum(len(word) for word in words)
    other_script = sum(len(word) for word in words if ord(word[0]) > 0x24F)  # beyond the Latin letters of Europe
    if letters and other_script >= MIN_SHARE * letters:
        return False
    found = set(words)
    others = len(found & OTHERS)
    return others < MIN_WORDS or others <= len(found & ENGLISH)
