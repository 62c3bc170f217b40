"""The tokenizer. Written numeric forms (dates, ratios, heights) are one token each.

A hyphen is not a token: "seventy-six-year-old" is four words whose `gap` is "-".
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

MAX_NUMBER_CHARACTERS = 40  # longer runs of digits, as from a degenerate model output, are no quantity


def word_set(words: str) -> frozenset[str]:
    """The words of a text as a set."""
    return frozenset(words.split())


class Token(NamedTuple):
    """A token at characters `[start, end)`. `text`: in lower case; `gap`: the text between it and the token before."""

    kind: str  # word | num | date | height | clock | slash | rate | code | punct | end
    text: str
    start: int
    end: int
    gap: str
    capital: bool  # begins with a capital letter


@lru_cache(maxsize=1)
def _token_pattern() -> re.Pattern[str]:
    """Forms in order of precedence; `plain`: words that match no other form. Compiled at first use."""
    return re.compile(
        r"""(?P<plain>[AC-PRSU-Zac-prsu-z][A-Za-z]*(?:['’][A-Za-z]+)?(?![A-Za-z\d]))
          | (?P<rate>(?i:[btq]\.?\ ?i\.?\ ?d|q\.?\ ?h\.?\ ?s|q\.?\ ?o\.?\ ?d|q\.?\ ?[ap]\.?\ ?m
                |q\.?\ ?d(?:ay|aily)?|q\.?\ ?\d{1,2}(?:\ ?-\ ?\d{1,2})?\ ?(?:hours?|hrs?|h)
                |q\.?\ ?(?:week(?:ly)?|month(?:ly)?|nightly|night|hour))(?![A-Za-z\d])(?:(?<=\.\w)\.)?)
          | (?P<code>[A-Za-z]{1,3}\d+(?:[A-Za-z](?![A-Za-z\d]))?)
          | (?P<word>[A-Za-z]+(?:['’][A-Za-z]+)?)
          | (?P<date>(?:\d{1,2}/\d{1,2}/(?:\d{4}|\d{2})|\d{1,2}-\d{1,2}-(?:\d{4}|\d{2})
                |(?:19|20)\d\d-\d{1,2}-\d{1,2})(?![\d/]))
          | (?P<height>\d\ ?['’]\ ?\d{1,2}(?:\ ?["”]|''|(?![\d'’])))
          | (?P<clock>\d{1,2}:\d\d(?!\d))
          | (?P<slash>\d{1,4}(?:\.\d+)?\ ?/\ ?\d{1,4}(?:\.\d+)?(?!\d))
          | (?P<num>(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)(?:(?:st|nd|rd|th|['’]?s)(?![A-Za-z]))?|[½¼¾])
          | (?P<punct>[^\s\w-]|\n)""",
        re.VERBOSE,
    )


def tokenize(text: str) -> list[Token]:
    """All tokens of `text` in order, then one of kind "end". Offsets are into `text` as given."""
    tokens = []
    last_end = 0
    for match in _token_pattern().finditer(text):
        start, end = match.span()
        piece = match[0]
        is_word = match.lastgroup == "plain" or len(piece) > MAX_NUMBER_CHARACTERS
        kind = "word" if is_word else match.lastgroup or ""
        tokens.append(Token(kind, piece.lower(), start, end, text[last_end:start], piece[0].isupper()))
        last_end = end
    tokens.append(Token("end", "", len(text), len(text), text[last_end:], False))
    return tokens
