"""Summed negative log-likelihood of the note's tokens; the LM head runs on those positions only.

Letters: N positions that predict a note token, C positions of one chunk, H hidden size, V vocabulary.

Gemma's vocabulary of 256,000 words makes the head's logits the largest tensor of a run. Only the positions that
predict a note token reach the head, a chunk of them at a time, and the head is frozen: so the gradient with respect to
the hidden states is computed in the same pass and the logits of a chunk are forgotten at once. Memory does not depend
on the number of prompt tokens. `F.linear_cross_entropy` does the same 8 to 12 times slower on a CPU (trap C4).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from medsum_core.batching import IGNORE_INDEX
from medsum_core.products import product, product_transposed

CHUNK_LOGITS = 1 << 24  # logits held at once: 64 rows of Gemma 3's vocabulary, 64 MiB in fp32


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
    step = max(1, CHUNK_LOGITS // head_VH.shape[0])
    chunks = [slice(start, start + step) for start in range(0, hidden_NH.shape[0], step)]
    pieces = [_chunk_nll(hidden_NH[chunk], targets_N[chunk], head_VH, softcap, False)[0] for chunk in chunks]
    return torch.cat(pieces) if pieces else hidden_NH.new_zeros(0, dtype=torch.float32)


class _NoteNLL(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_NH: Tensor, targets_N: Tensor, head_VH: Tensor, softcap: float | None, rows: int | None
    ) -> Tensor:
        exact = torch.float64 if hidden_NH.dtype == torch.float64 else torch.float32
        total = torch.zeros((), dtype=exact, device=hidden_NH.device)
        needs_gradient = ctx.needs_input_grad[0]
        gradient_NH = torch.empty_like(hidden_NH) if needs_gradient else None
        step = rows or max(1, CHUNK_LOGITS // head_VH.shape[0])
        for start in range(0, hidden_NH.shape[0], step):
            chunk = slice(start, start + step)
            nll_C, gradient_CH = _chunk_nll(hidden_NH[chunk], targets_N[chunk], head_VH, softcap, needs_gradient)
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


def _chunk_nll(
    hidden_CH: Tensor, targets_C: Tensor, head_VH: Tensor, softcap: float | None, needs_gradient: bool
) -> tuple[Tensor, Tensor | None]:
    """One chunk's NLL (C,) in float32 (float64 stays) and its gradient in the hidden states, softmax in place."""
    logits_CV = product(hidden_CH, head_VH)
    logits_CV = logits_CV.float() if logits_CV.dtype in (torch.bfloat16, torch.float16) else logits_CV
    if softcap is not None:
        logits_CV = logits_CV.div_(softcap).tanh_()
        slope_CV = 1 - logits_CV.square() if needs_gradient else None
        logits_CV = logits_CV.mul_(softcap)
    index_C1 = targets_C[:, None]
    wanted_C1 = logits_CV.gather(1, index_C1)
    # Written out, the exponentials of the sum serve the gradient too: half the time of logsumexp and a second exp.
    largest_C1 = logits_CV.amax(dim=-1, keepdim=True)
    powers_CV = logits_CV.sub_(largest_C1).exp_()
    total_C1 = powers_CV.sum(dim=-1, keepdim=True)
    nll_C = (largest_C1 - wanted_C1 + total_C1.log())[:, 0]
    if not needs_gradient:
        return nll_C, None
    probs_CV = powers_CV.div_(total_C1)
    probs_CV.scatter_add_(1, index_C1, torch.full_like(index_C1, -1, dtype=probs_CV.dtype))
    if softcap is not None:
        assert slope_CV is not None
        probs_CV = probs_CV.mul_(slope_CV)
    return nll_C, product_transposed(probs_CV.to(hidden_CH.dtype), head_VH)
