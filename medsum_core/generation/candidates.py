"""The likeliest next tokens of a row and their log-probabilities.

Letters: M rows, H hidden size, V vocabulary, g groups of s vocabulary entries, k candidates.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from medsum_core.generation.banned_tokens import Ban

# A maximum with its index over the whole vocabulary is slow: plain maxima of groups first, indices in the best groups.
GROUP_SIZE = 128


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """The k likeliest tokens of each row, best first, with their log-probabilities over the whole vocabulary (fp32)."""

    tokens_Mk: Tensor
    log_probs_Mk: Tensor


def candidates_of_logits(logits_MV: Tensor, num_candidates: int, ban: Ban | None = None) -> Candidates:
    """The candidates in a matrix of logits, which may be overwritten."""
    values, tokens, total_M = best_and_total(logits_MV.float(), num_candidates, ban, 0)
    return join(values, tokens, total_M, num_candidates)


def best_and_total(
    logits_MV: Tensor, num_candidates: int, ban: Ban | None, start: int
) -> tuple[Tensor, Tensor, Tensor]:
    """(M, k) best logits that are not banned; their indices; (M,) logsumexp over the vocabulary, banned ones too."""
    groups_Mgs = logits_MV.unflatten(1, (-1, GROUP_SIZE)) if _groups_are_faster(logits_MV, num_candidates) else None
    maxima = logits_MV if groups_Mgs is None else groups_Mgs.amax(-1)
    peak_M1 = maxima.amax(-1, keepdim=True)
    total_M = (logits_MV - peak_M1).exp_().sum(-1).log_().add_(peak_M1[:, 0])
    if ban is not None:
        ban.apply(logits_MV, start=start)
        maxima = logits_MV if groups_Mgs is None else groups_Mgs.amax(-1)
    if groups_Mgs is None:
        return *_top(logits_MV, num_candidates), total_M
    _, group_Mk = _top(maxima, num_candidates)
    inside_Mks = groups_Mgs.gather(1, group_Mk[:, :, None].expand(-1, -1, GROUP_SIZE))
    values_Mk, places_Mk = _top(inside_Mks.flatten(1), num_candidates)
    group = group_Mk.gather(1, places_Mk // GROUP_SIZE)
    return values_Mk, group * GROUP_SIZE + places_Mk % GROUP_SIZE, total_M


def _groups_are_faster(logits_MV: Tensor, num_candidates: int) -> bool:
    vocabulary_size = logits_MV.shape[1]
    return vocabulary_size % GROUP_SIZE == 0 and vocabulary_size > 2 * num_candidates * GROUP_SIZE


def _top(logits_MV: Tensor, num_candidates: int) -> tuple[Tensor, Tensor]:
    if num_candidates == 1:  # of equal logits the first, as argmax does
        values, places = logits_MV.max(-1, keepdim=True)
        return values, places
    values, places = logits_MV.topk(min(num_candidates, logits_MV.shape[-1]))
    return values, places


def join(values_Mc: Tensor, tokens_Mc: Tensor, total_M: Tensor, num_candidates: int) -> Candidates:
    """The best of candidates that were found in parts of the vocabulary; `total_M` is logsumexp over all of it."""
    best_Mk, places_Mk = _top(values_Mc, num_candidates)
    return Candidates(tokens_Mk=tokens_Mc.gather(1, places_Mk), log_probs_Mk=best_Mk - total_M[:, None])
