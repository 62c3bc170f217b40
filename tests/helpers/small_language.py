"""A language of 64 tokens for random models: words, numbers in digits, blanks, full stops; and who refuses a number."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

from decoding_models import VOCAB

from medsum_core.generation.grounded_rules import Grounding

STOPS = (1, 29)
FULL_STOPS = frozenset(range(3, VOCAB, 6))
BLANKS = frozenset(range(4, VOCAB, 12))  # a token of its own, as before a number in Gemma's vocabulary


def piece(token: int) -> str:
    if token in STOPS or token == 2:
        return ""
    if token in FULL_STOPS:
        return "."
    if token in BLANKS:
        return " "
    if token % 6 in (0, 5):
        return str(token % 10)
    return f" w{'abcdefgh'[token // 8]}{'abcdefgh'[token % 8]}"


def decode(tokens: Sequence[int]) -> str:
    return "".join(map(piece, tokens)).strip()


def refused_numbers(seed: int, share: float = 0.5) -> Callable[[str], list[tuple[int, int]]]:
    """A verifier that refuses that share of all numbers, whatever is around them."""

    def is_refused(number: str) -> bool:
        return random.Random(f"{seed} {number}").random() < share

    return lambda text: [match.span() for match in re.finditer(r"\d+", text) if is_refused(match.group())]


def grounding(verifiers: Sequence[Callable[[str], list[tuple[int, int]]]]) -> Grounding:
    return Grounding(verifiers=verifiers, decode=decode, full_stops=FULL_STOPS)
