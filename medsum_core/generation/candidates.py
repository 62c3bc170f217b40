"""The likeliest next tokens and their log-probabilities, without a (rows x vocabulary) matrix of logits on a CPU.

Letters: M rows, H hidden size, V vocabulary, k candidates.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from medsum_core.generation.banned_tokens import Ban
from medsum_core.kernels.decoding.packed_weights import Product, block_products

# A product with so many words at a time; of its logits so many values at a time stay in a CPU's cache.
CPU_BLOCK_WORDS = 32768
CPU_CACHED_VALUES = 1 << 19
# Indices are slow to carry along: the maxima of groups come first, then places inside the best groups only.
GROUP_WORDS = 128


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """The k likeliest tokens of each row, best first, with their log-probabilities over the whole vocabulary (fp32)."""

    tokens_Mk: Tensor
    log_probs_Mk: Tensor


class Head:
    """The LM head (V, H) as products with blocks of its words."""

    def __init__(self, weight_VH: Tensor, *, softcap: float | None = None) -> None:
        num_words = len(weight_VH)
        block = CPU_BLOCK_WORDS if weight_VH.device.type == "cpu" else num_words
        self._starts = range(0, num_words, block)
        self._products: list[Product] = block_products(weight_VH, block)
        self._softcap = softcap

    def candidates(self, hidden_MH: Tensor, num_candidates: int, ban: Ban | None = None) -> Candidates:
        """The candidates for the last layer's normed output."""
        best, tokens, totals = [], [], []
        for start, logits in self._logits(hidden_MH):
            if self._softcap is not None:
                logits = torch.tanh(logits / self._softcap) * self._softcap
            values, places, total = _best_and_total(logits, num_candidates, ban, start)
            best.append(values)
            tokens.append(places + start)
            totals.append(total)
        return _join(torch.cat(best, -1), torch.cat(tokens, -1), torch.stack(totals, -1).logsumexp(-1), num_candidates)

    def _logits(self, hidden_MH: Tensor) -> Iterator[tuple[int, Tensor]]:
        """fp32 logits of consecutive words, and the first word's number."""
        words = CPU_CACHED_VALUES // len(hidden_MH) // GROUP_WORDS * GROUP_WORDS
        for start, product in zip(self._starts, self._products, strict=True):
            for part in product(hidden_MH).split(max(GROUP_WORDS, words), dim=1):
                yield start, part.float()
                start += part.shape[1]


def candidates_of_logits(logits_MV: Tensor, num_candidates: int, ban: Ban | None = None) -> Candidates:
    """The candidates in a matrix of logits, which may be changed."""
    values, tokens, total_M = _best_and_total(logits_MV.float(), num_candidates, ban, 0)
    return _join(values, tokens, total_M, num_candidates)


def _best_and_total(
    logits_MV: Tensor, num_candidates: int, ban: Ban | None, start: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The best allowed logits (M, k), their places, and logsumexp over all words (M,)."""
    groups_MgW = logits_MV.unflatten(1, (-1, GROUP_WORDS)) if _pays_in_groups(logits_MV, num_candidates) else None
    maxima = logits_MV if groups_MgW is None else groups_MgW.amax(-1)
    peak_M1 = maxima.amax(-1, keepdim=True)
    total_M = (logits_MV - peak_M1).exp_().sum(-1).log_().add_(peak_M1[:, 0])
    if ban is not None:
        ban.apply(logits_MV, start=start)
        maxima = logits_MV if groups_MgW is None else groups_MgW.amax(-1)
    if groups_MgW is None:
        return *_top(logits_MV, num_candidates), total_M
    _, group_Mk = _top(maxima, num_candidates)
    inside_MkW = groups_MgW.gather(1, group_Mk[:, :, None].expand(-1, -1, GROUP_WORDS))
    values_Mk, places_Mk = _top(inside_MkW.flatten(1), num_candidates)
    group = group_Mk.gather(1, places_Mk // GROUP_WORDS)
    return values_Mk, group * GROUP_WORDS + places_Mk % GROUP_WORDS, total_M


def _pays_in_groups(logits_MV: Tensor, num_candidates: int) -> bool:
    num_words = logits_MV.shape[1]
    return num_words % GROUP_WORDS == 0 and num_words > 2 * num_candidates * GROUP_WORDS


def _top(logits_MV: Tensor, num_candidates: int) -> tuple[Tensor, Tensor]:
    if num_candidates == 1:  # of equal logits the first, as argmax does
        values, places = logits_MV.max(-1, keepdim=True)
        return values, places
    values, places = logits_MV.topk(min(num_candidates, logits_MV.shape[-1]))
    return values, places


def _join(values_Mc: Tensor, tokens_Mc: Tensor, total_M: Tensor, num_candidates: int) -> Candidates:
    best_Mk, places_Mk = _top(values_Mc, num_candidates)
    return Candidates(tokens_Mk=tokens_Mc.gather(1, places_Mk), log_probs_Mk=best_Mk - total_M[:, None])
