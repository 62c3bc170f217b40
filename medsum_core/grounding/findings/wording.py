"""Does a dialogue have the words of a name in another form: inflected, in part, or spelt nearly so?"""

from __future__ import annotations

from difflib import SequenceMatcher

from medsum_core.grounding.facts.tokens import bag
from medsum_core.grounding.findings.heard import SPELT, Heard
from medsum_core.grounding.findings.stems import PREFIX, stem

ALIKE = 0.82  # share of letters in common, for a misspelt drug
GENERIC = bag(  # words of a concept's name that do not tell it from another
    "pain disease disorder condition problem syndrome chronic acute test surgery therapy treatment blood heart history "
    "medication medicine abnormal low high loss failure infection left right use change difficulty severe mild general "
    "bilateral lower upper type exam examination study scan evaluation symptom system"
)


def has_words_like(heard: Heard, text: str, *, with_part: bool = False) -> bool:
    """Whether most content words of a name occur, inflected or as parts of other words.

    `with_part`: the name has a body part, and both must.
    """
    stems = [stem(word) for word in text.lower().replace("-", " ").split()]
    content = [word for word in stems if len(word) > 3 and word not in GENERIC]
    if not content:
        return False
    hits = [word in heard.turns_of or (len(word) >= PREFIX and word[:PREFIX] in heard.prefixes) for word in content]
    return sum(hits) >= 2 or (hits[-1] and not with_part)


def has_misspelt(heard: Heard, text: str) -> bool:
    """Whether a word of the dialogue is spelt nearly like `text`."""
    word = text.lower()
    if len(word) < SPELT:
        return False
    return any(
        abs(len(other) - len(word)) <= 3 and SequenceMatcher(None, word, other).ratio() >= ALIKE
        for other in heard.spelt.get(word[0], ())
    )
