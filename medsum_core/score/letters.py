"""Letters other than a to z: how many the official ROUGE tokenizer drops, and a tokenizer that keeps them.

The official one (rouge-score's `DefaultTokenizer`) keeps a to z and 0 to 9: Chinese notes have no token at all, and
score 0 against themselves; in German ones each umlaut splits its word.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from medsum_core.errors import InputError

OFFICIAL, UNICODE = "official", "unicode"
MAX_DROPPED_SHARE = 0.01  # of all letters: a name with an accent here and there changes no score that anybody reports
# Chinese and Japanese are written without spaces: each of their signs is a token.
_SIGNS = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_TOKEN = re.compile(rf"[{_SIGNS}]|[^\W_{_SIGNS}]+")


class UnicodeTokenizer:
    """Words of letters and digits of any script, in lower case; of ASCII text the official tokens."""

    def tokenize(self, text: str) -> list[str]:
        """The method that rouge-score calls. A letter and its accent count as one, however they are encoded."""
        return _TOKEN.findall(unicodedata.normalize("NFC", text).lower())


def check_letters(texts: Iterable[str], *, source: str) -> str | None:
    """A notice that counts the texts with letters which the official tokenizer drops; None where it drops none.

    Raises InputError where it drops more than MAX_DROPPED_SHARE of all letters: such scores would mean nothing.
    """
    num_texts = num_affected = num_letters = num_dropped = 0
    for text in texts:
        dropped = sum(letter.isalpha() and not letter.isascii() for letter in text)
        num_texts, num_affected = num_texts + 1, num_affected + (dropped > 0)
        num_letters, num_dropped = num_letters + sum(map(str.isalpha, text)), num_dropped + dropped
    if not num_dropped:
        return None
    found = f"{source}: the official ROUGE tokenizer keeps a to z and 0 to 9, and {num_affected} of {num_texts} notes"
    if num_dropped > MAX_DROPPED_SHARE * num_letters:
        share = 100 * num_dropped / num_letters
        raise InputError(
            f"{found} have other letters ({share:.0f} % of all), so that the score would say nothing; give --tokenizer "
            "unicode, which adds scores that keep them and are not official"
        )
    return f"{found} have other letters (fewer than 1 %): it splits their words there"
