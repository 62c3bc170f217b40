"""The likeliest next tokens and their log-probabilities, without a (rows x vocabulary) matrix of logits on a CPU.

Letters: M rows, H hidden size, V vocabulary, k candidates.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from medsum_core.few_rows import few_rows_product

# Logits of this many words fit a CPU's cache: twice as fast as the whole vocabulary of 262,144 at once.
CPU_BLOCK_WORDS = 2048


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """The k likeliest tokens of each row, best first, with their log-probabilities over the whole vocabulary (fp32)."""

    tokens_Mk: Tensor
    log_probs_Mk: Tensor


@dataclass(frozen=True, kw_only=True)
class Ban:
    """Tokens that rows marked in `where_M` (bool) may not go on with; log-probabilities stay those without a ban."""

    tokens: tuple[int, ...]
    where_M: Tensor

    def apply(self, logits_MV: Tensor, *, start: int = 0) -> None:
        """Put -inf, in place, into logits of the words from `start` on."""
        for token in self.tokens:
            if start <= token < start + logits_MV.shape[1]:
                logits_MV[:, token - start].masked_fill_(self.where_M, float("-inf"))


def candidates_of_hidden(
    hidden_MH: Tensor, weight_VH: Tensor, *, num_candidates: int, softcap: float | None = None, ban: Ban | None = None
) -> Candidates:
    """The candidates that the LM head `weight_VH` gives for the last layer's normed output."""
    num_words = len(weight_VH)
    block = CPU_BLOCK_WORDS if hidden_MH.device.type == "cpu" else num_words
    best, tokens, totals = [], [], []
    for start in range(0, num_words, block):
        logits = few_rows_product(hidden_MH, weight_VH[start : start + block]).float()
        if softcap is not None:
            logits = torch.tanh(logits / softcap) * softcap
        totals.append(logits.logsumexp(-1))
        if ban is not None:
            ban.apply(logits, start=start)
        values, places = _top(logits, num_candidates)
        best.append(values)
        tokens.append(places + start)
    return _join(torch.cat(best, -1), torch.cat(tokens, -1), torch.stack(totals, -1).logsumexp(-1), num_candidates)


def candidates_of_logits(logits_MV: Tensor, *, num_candidates: int, ban: Ban | None = None) -> Candidates:
    """The candidates in a matrix of logits, which may be changed."""
    logits_MV = logits_MV.float()
    total_M = logits_MV.logsumexp(-1)
    if ban is not None:
        ban.apply(logits_MV)
    return _join(*_top(logits_MV, num_candidates), total_M, num_candidates)


def _top(logits_MV: Tensor, num_candidates: int) -> tuple[Tensor, Tensor]:
    if num_candidates == 1:  # of equal logits the first, as argmax does
        values, places = logits_MV.max(-1, keepdim=True)
        return values, places
    values, places = logits_MV.topk(min(num_candidates, logits_MV.shape[-1]))
    return values, places


def _join(values_Mc: Tensor, tokens_Mc: Tensor, total_M: Tensor, num_candidates: int) -> Candidates:
    best_Mk, places_Mk = _top(values_Mc, num_candidates)
    return Candidates(tokens_Mk=tokens_Mc.gather(1, places_Mk), log_probs_Mk=best_Mk - total_M[:, None])
