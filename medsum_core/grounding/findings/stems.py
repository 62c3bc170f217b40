"""The words of a text and their stems: inflections and British spellings are normalized, spelled-out letters joined."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from medsum_core.grounding.facts.tokens import word_set

IRREGULAR = {  # the stems of inflected forms that the rules would not normalize
    word: form
    for form, words in {
        "swell": "swollen", "bleed": "bled bleeding", "throw": "threw thrown", "feel": "felt", "break": "broke broken",
        "eat": "ate eaten", "lose": "lost loss losing", "wake": "woke woken", "fall": "fell fallen",
        "drink": "drank drunk", "take": "took taken", "give": "gave given", "go": "went gone goes", "tooth": "teeth",
        "foot": "feet", "calf": "calves", "kidnei": "kidneys", "come": "came", "sting": "stung", "shake": "shook",
        "spit": "spat", "get": "got gotten", "keep": "kept", "blow": "blew blown", "be": "was is are were been",
        "have": "has had having", "do": "did does done", "bite": "bit bitten", "tear": "tore torn", "see": "saw seen",
        "sleep": "slept", "run": "ran", "lie": "lying", "die": "dying", "anesthesia": "anaesthesia", "fiber": "fibre",
        "hive": "hives", "use": "using", "feed": "feeding", "pill": "pills", "weak": "weaker", "stiff": "stiffer",
        "urinat": "urination", "constipat": "constipation", "menstruat": "menstruation",
    }.items()
    for word in words.split()
}  # fmt: skip
UNCHANGED = word_set(
    "quit wet runny this his pus aids diabetes herpes news rabies scabies mono worse something anything nothing "
    "everything evening morning during need spine scale spite glasses spotting exhausting"
)
BRITISH = (
    ("rrhoea", "rrhea"), ("haem", "hem"), ("aemi", "emi"), ("oedema", "edema"), ("oesoph", "esoph"), ("paed", "ped"),
    ("tumour", "tumor"), ("colour", "color"), ("gynaec", "gynec"), ("orthopae", "orthope"), ("anaesth", "anesth"),
    ("faec", "fec"), ("dyspnoe", "dyspne"), ("apnoe", "apne"), ("isation", "ization"), ("leuk", "leuk"),
    ("caesar", "cesar"), ("foet", "fet"),
)  # fmt: skip
PREFIX = 5  # first letters that two related words have in common: "arthritis", "arthritic"
NO_PLURAL = ("ss", "us", "is", "as", "os")
KEEP_DOUBLE = ("ll", "ss", "zz", "ff", "ee", "oo")


class Word(NamedTuple):
    """A word or punctuation mark at characters `[start, end)`; `stem`: for the lexicon; `text`: in lower case."""

    stem: str
    text: str
    start: int
    end: int
    capital: bool  # written in capitals, as an abbreviation is


@lru_cache(maxsize=1)
def _pattern() -> re.Pattern[str]:
    return re.compile(
        r"(?P<spelled>\b[A-Z](?:\.?[ ][A-Z]\b)+(?:[ ][A-Z]s\b|\.)?(?!['’\w-])|\b(?:[A-Z]\.){2,})"
        r"|(?P<word>[^\W_]+(?:['’][A-Za-z]+)*)|(?P<mark>[.,;:?!()\n])"
    )


def words_of(text: str, offset: int = 0) -> list[Word]:
    """The words and punctuation marks of a text in order.

    "E K G", "E K Gs" and "E.K.G." are the word "ekg"; hyphens separate words. `offset`: is added to all positions.
    """
    words = []
    for match in _pattern().finditer(text):
        start, end = match.span()
        start, end, piece = start + offset, end + offset, match[0]
        if match.lastgroup == "mark":
            words.append(Word(piece, piece, start, end, False))
            continue
        if match.lastgroup == "spelled":
            joined = piece.replace(" ", "").replace(".", "").removesuffix("s").lower()
            words.append(Word(joined, joined, start, end, True))
            continue
        low = piece.lower().replace("’", "'")
        if low == "n't":
            low = "not"  # some transcripts separate "do n't"
        words.append(Word(stem(low), low, start, end, piece.isupper() and len(piece) > 1))
    return words


def texts_of(words: Sequence[Word], first: int, last: int) -> list[str]:
    """The words `[first, last)` in lower case."""
    return [word.text for word in words[first:last]]


@lru_cache(maxsize=65536)
def stem(word: str) -> str:
    """The stem of a word in lower case, the same for all its inflections: "coughing", "coughs" -> "cough"."""
    if word.endswith("'s"):
        word = word[:-2]
    if word in IRREGULAR:
        return IRREGULAR[word]
    if word in UNCHANGED or len(word) <= 3 or "'" in word or not word.isalpha():
        return word
    for british, american in BRITISH:
        if british in word:
            word = word.replace(british, american)
    if word.endswith("ies") and len(word) > 4:
        word = word[:-3] + "y"
    elif word.endswith(("xes", "ches", "shes", "sses", "zes")):
        word = word[:-2]
    elif word.endswith("s") and not word.endswith(NO_PLURAL):
        word = word[:-1]
    for ending, least in (("ing", 6), ("ness", 7), ("ed", 5)):
        if word.endswith(ending) and len(word) >= least and not word.endswith("eed"):
            word = word[: -len(ending)]
            if word[-1] == word[-2] and word[-2:] not in KEEP_DOUBLE:
                word = word[:-1]
            break
    if word.endswith("e") and len(word) > 4:
        word = word[:-1]
    return word[:-1] + "i" if word.endswith("y") and len(word) > 4 else word


FILLERS = word_set(  # words that may stand between the words of a phrase
    "of the a an my your his her their in on to any some with from at s both that this really very so when you i he she"
)
