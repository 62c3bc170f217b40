"""Banned next tokens: stop tokens below the minimum length, and tokens that would repeat an n-gram.

Letters: M rows of candidates, V vocabulary, P pairs of a row and a token.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class BanRules:
    """`no_repeat_ngram_size`: no n-gram of that many tokens occurs twice in a note; 0: no such rule.

    Unlike in transformers, n-grams of the prompt are allowed, since a note should be able to quote its dialogue.
    """

    stop_token_ids: frozenset[int]
    no_repeat_ngram_size: int


@dataclass(frozen=True, kw_only=True)
class Ban:
    """Pairs of a row and a banned token; for the rows in `only`, the only tokens that are not banned.

    Log-probabilities are computed before the ban.
    """

    tokens: tuple[int, ...]  # of the pairs, in ascending order
    rows_P: Tensor
    tokens_P: Tensor
    only: Mapping[int, frozenset[int]]

    @classmethod
    def of(
        cls, pairs: Iterable[tuple[int, int]], only: Mapping[int, frozenset[int]] | None = None, *, device: torch.device
    ) -> Ban | None:
        """The ban of (row, token) pairs and, in the rows of `only`, of all tokens but those; None without any ban."""
        only = only or {}
        ordered = sorted((pair for pair in pairs if pair[0] not in only), key=lambda pair: pair[1])
        if not ordered and not only:
            return None
        rows_P, tokens_P = torch.tensor(ordered, dtype=torch.int64, device=device).view(-1, 2).unbind(1)
        return cls(tokens=tuple(token for _, token in ordered), rows_P=rows_P, tokens_P=tokens_P, only=only)

    def apply(self, logits_MV: Tensor, *, start: int) -> None:
        """Set the banned logits to -inf, in place. `logits_MV` covers the vocabulary from `start` on."""
        here = slice(bisect_left(self.tokens, start), bisect_left(self.tokens, start + logits_MV.shape[1]))
        if here.start < here.stop:
            logits_MV[self.rows_P[here], self.tokens_P[here] - start] = float("-inf")
        for row, tokens in self.only.items():
            inside = [token - start for token in tokens if start <= token < start + logits_MV.shape[1]]
            allowed = logits_MV[row, inside]  # a copy
            logits_MV[row] = float("-inf")
            logits_MV[row, inside] = allowed


def repeating_tokens(tokens: list[int], size: int) -> set[int]:
    """The next tokens that would complete an n-gram of `size` tokens that is in `tokens` already."""
    if size == 1:
        return set(tokens)
    tail = tokens[len(tokens) - size + 1 :]
    ends = range(size - 1, len(tokens))
    # The last token of an n-gram is compared first, because nearly all n-grams differ there.
    return {tokens[end] for end in ends if tokens[end - 1] == tail[-1] and tokens[end - size + 1 : end] == tail}
