"""Summed negative log-likelihood of the note's tokens; the LM head runs on those positions only.

Letters: N positions that predict a note token, C positions of one chunk, H hidden size, V vocabulary.

Gemma's vocabulary of 256,000 words makes the head's logits the largest tensor of a run. Only the positions that
predict a note token reach the head, a chunk of them at a time, and the head is frozen: so the gradient with respect to
the hidden states is computed in the same pass and the logits of a chunk are forgotten at once. Memory does not depend
on the number of prompt tokens. `F.linear_cross_entropy` does the same 8 to 12 times slower on a CPU (trap C4).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from medsum_core.batching import IGNORE_INDEX
from medsum_core.products import product, product_transposed

CHUNK_BYTES = 1 << 27  # of logits held at once: 256 rows of Gemma 3's vocabulary in 16 bits
CACHED_LOGITS = 1 << 21  # turned into exponentials at a time: 8 MiB in fp32


def note_nll(
    hidden_BTH: Tensor,
    targets_BT: Tensor,
    head_VH: Tensor,
    *,
    softcap: float | None = None,
    rows_per_chunk: int | None = None,
) -> Tensor:
    """The sum over all targets of -log p(target): a float32 scalar, differentiable once, in the hidden states.

    `targets_BT[b, t]` is the token that position t predicts, or IGNORE_INDEX; without any target the sum is 0 with a
    zero gradient. `softcap` is the model's `final_logit_softcapping` (Gemma 2). Raises ValueError if the head trains:
    its own gradient is not computed.
    """
    if head_VH.requires_grad:
        raise ValueError("the LM head must be frozen: its gradient is not computed here")
    wanted_BT = targets_BT != IGNORE_INDEX
    return _NoteNLL.apply(hidden_BTH[wanted_BT], targets_BT[wanted_BT], head_VH, softcap, rows_per_chunk)


@torch.no_grad()
def note_token_nll(hidden_BTH: Tensor, targets_BT: Tensor, head_VH: Tensor, *, softcap: float | None = None) -> Tensor:
    """(N,) -log p of each target, float32, in the order of the positions; without a gradient, for evaluation."""
    wanted_BT = targets_BT != IGNORE_INDEX
    hidden_NH, targets_N = hidden_BTH[wanted_BT], targets_BT[wanted_BT]
    pieces = [
        _chunk_nll(logits_CV, targets_N[chunk], head_VH, softcap, False)[0]
        for chunk, logits_CV in _chunks(hidden_NH, head_VH, None)
    ]
    return torch.cat(pieces) if pieces else hidden_NH.new_zeros(0, dtype=torch.float32)


class _NoteNLL(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_NH: Tensor, targets_N: Tensor, head_VH: Tensor, softcap: float | None, rows: int | None
    ) -> Tensor:
        total = torch.zeros((), dtype=_exact(hidden_NH.dtype), device=hidden_NH.device)
        needs_gradient = ctx.needs_input_grad[0]
        gradient_NH = torch.empty_like(hidden_NH) if needs_gradient else None
        for chunk, logits_CV in _chunks(hidden_NH, head_VH, rows):
            nll_C, gradient_CH = _chunk_nll(logits_CV, targets_N[chunk], head_VH, softcap, needs_gradient)
            total += nll_C.sum()
            if gradient_NH is not None and gradient_CH is not None:
                gradient_NH[chunk] = gradient_CH
        if gradient_NH is not None:
            ctx.save_for_backward(gradient_NH)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient_NH,) = ctx.saved_tensors
        # In the loss's dtype: 1 / num_targets is 0.2 % off in bf16, and a scaler's factor is beyond fp16.
        scaled_NH = gradient_NH.to(gradients[0].dtype) * gradients[0]
        return scaled_NH.to(gradient_NH.dtype), None, None, None, None


def _exact(dtype: torch.dtype) -> torch.dtype:
    """What sums over words are taken in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _chunks(hidden_NH: Tensor, head_VH: Tensor, rows: int | None) -> Iterator[tuple[slice, Tensor]]:
    """Each chunk's positions and logits, all in one buffer: fresh pages for every chunk would cost a tenth of its time.

    A CPU multiplies 256 rows with Gemma's head in two thirds of the time a row that 64 take.
    """
    num_rows, num_words = len(hidden_NH), len(head_VH)
    step = rows or max(1, CHUNK_BYTES // (num_words * hidden_NH.element_size()))
    buffer_CV = hidden_NH.new_empty(min(step, num_rows), num_words)
    for start in range(0, num_rows, step):
        chunk = slice(start, min(start + step, num_rows))
        yield chunk, product(hidden_NH[chunk], head_VH, out=buffer_CV[: chunk.stop - start])


def _chunk_nll(
    logits_CV: Tensor, targets_C: Tensor, head_VH: Tensor, softcap: float | None, needs_gradient: bool
) -> tuple[Tensor, Tensor | None]:
    """One chunk's NLL (C,) in float32 (float64 stays) and its gradient in the hidden states (C, H).

    The logits are overwritten by their softmax, of which one exponential serves the sum and the gradient; few rows at a
    time on a CPU, so that all passes over a row find it in the cache.
    """
    dtype, device = _exact(logits_CV.dtype), logits_CV.device
    nll_C = torch.empty(len(targets_C), dtype=dtype, device=device)
    excess_C1 = torch.empty(len(targets_C), 1, dtype=dtype, device=device)
    step = max(1, CACHED_LOGITS // logits_CV.shape[1]) if device.type == "cpu" else len(targets_C)
    for start in range(0, len(targets_C), step):
        rows = slice(start, start + step)
        values_RV, index_R1 = logits_CV[rows].to(dtype), targets_C[rows, None]
        slope_RV = None
        if softcap is not None:
            values_RV = (values_RV / softcap).tanh_()
            slope_RV = 1 - values_RV.square()
            values_RV = values_RV.mul_(softcap)
        wanted_R1, largest_R1 = values_RV.gather(1, index_R1), values_RV.amax(dim=-1, keepdim=True)
        powers_RV = values_RV.sub_(largest_R1).exp_()
        total_R1 = powers_RV.sum(dim=-1, keepdim=True)
        nll_C[rows] = (largest_R1 - wanted_R1 + total_R1.log())[:, 0]
        if not needs_gradient:
            continue
        # The target's share, p - 1, is kept apart: 16 bits would round p near 1 by more than its distance from 1.
        share_RV = powers_RV.div_(total_R1)
        excess_C1[rows] = share_RV.gather(1, index_R1) - 1
        share_RV = share_RV.scatter_(1, index_R1, 0)
        if slope_RV is not None:
            excess_C1[rows] *= slope_RV.gather(1, index_R1)
            share_RV = share_RV.mul_(slope_RV)
        logits_CV[rows] = share_RV
    if not needs_gradient:
        return nll_C, None
    others_CH = product_transposed(logits_CV, head_VH).to(dtype)
    return nll_C, others_CH.addcmul_(head_VH[targets_C].to(dtype), excess_C1)
