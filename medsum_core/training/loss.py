"""Summed negative log-likelihood of the note's tokens; the LM head runs on those positions only.

Letters: N positions that predict a note token, C positions of one chunk, W words of one tile, H hidden size,
V vocabulary.

Gemma's vocabulary of 256,000 words makes the head's logits the largest tensor of a run. Only the positions that
predict a note token reach the head, a tile of positions and words at a time, and the head is frozen: so the gradient
with respect to the hidden states is computed in the same pass and a tile's logits are freed at once. Memory depends
neither on the number of prompt tokens nor on that of the note's. The softmax over all tiles of a chunk is updated tile
by tile, as in flash attention (Dao et al. 2022, section 3.1). `F.linear_cross_entropy` does the same 8 to 12 times
slower on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from medsum_core.data.masking import IGNORE_INDEX

# On a CPU a tile and its exponentials (12 MiB) stay in the cache; fewer rows or words make slower products.
CPU_TILE = (256, 2048)  # rows, words
GPU_TILE = (1024, 16_384)
# In fp16 a share, a word's softmax probability, would be rounded to 0 below 6e-8: shares are kept multiplied by this. A
# larger factor could overflow: products with head weights (below 64) must stay under fp16's maximum, 65,504.
FP16_SHARE_FACTOR = 1024


class Objective(Protocol):
    """What training minimises: pass another one to `train_loop.main`."""

    def __call__(self, hidden_BTH: Tensor, targets_BT: Tensor, head_VH: Tensor, *, softcap: float | None) -> Tensor:
        """The loss summed over the targets, () float32, differentiable in the hidden states.

        hidden_BTH: the last layer's normed output, in the dtype of the base. targets_BT[b, t]: the token that position
        t predicts, or IGNORE_INDEX. head_VH: the frozen LM head. softcap: the bound on its logits (Gemma 2), or None.
        """
        ...


class HeadArithmetic(Protocol):
    """How the products and the softmax of a tile of logits are computed; the default is plain torch."""

    def product(self, hidden_CH: Tensor, head_WH: Tensor, *, out: Tensor) -> Tensor:
        """The logits of a tile, (C, W), written to `out`."""
        ...

    def product_transposed(self, share_CW: Tensor, head_WH: Tensor) -> Tensor:
        """(C, H): what a tile's shares give the gradient in the hidden states."""
        ...

    fold: Callable[..., None] | None  # see `_RunningSoftmax.take`; None: in torch


class TorchArithmetic:
    """Plain torch, in the dtype of the hidden states."""

    fold: Callable[..., None] | None = None

    def product(self, hidden_CH: Tensor, head_WH: Tensor, *, out: Tensor) -> Tensor:
        """See `HeadArithmetic`."""
        return torch.mm(hidden_CH, head_WH.t(), out=out)

    def product_transposed(self, share_CW: Tensor, head_WH: Tensor) -> Tensor:
        """See `HeadArithmetic`."""
        return share_CW @ head_WH


TORCH = TorchArithmetic()


def note_nll(
    hidden_BTH: Tensor,
    targets_BT: Tensor,
    head_VH: Tensor,
    *,
    softcap: float | None = None,
    arithmetic: HeadArithmetic = TORCH,
    read_M: Tensor | None = None,
) -> Tensor:
    """The sum over all targets of -log p(target): a float32 scalar, differentiable once, in the hidden states.

    `targets_BT[b, t]` is the token that position t predicts, or IGNORE_INDEX; without any target the sum is 0 with a
    zero gradient. `softcap` is the model's `final_logit_softcapping` (Gemma 2). float64 hidden states give float64.
    `read_M`: the batch's, so that the targets need not be looked for, for which a GPU would be waited for.
    Raises ValueError if the head trains: its own gradient is not computed.
    """
    if head_VH.requires_grad:
        raise ValueError("the LM head must be frozen: its gradient is not computed here")
    nll: Tensor = _NoteNLL.apply(*_read(hidden_BTH, targets_BT, read_M), head_VH, softcap, arithmetic)
    return nll


def with_options(objective: Objective, **known: Any) -> Objective:
    """`note_nll` with what is known beforehand, `arithmetic` or `read_M`, unless None; another objective as it is."""
    given = {name: value for name, value in known.items() if value is not None}
    return partial(note_nll, **given) if objective is note_nll else objective


@torch.no_grad()
def note_token_nll(
    hidden_BTH: Tensor,
    targets_BT: Tensor,
    head_VH: Tensor,
    *,
    softcap: float | None = None,
    arithmetic: HeadArithmetic = TORCH,
    read_M: Tensor | None = None,
) -> Tensor:
    """(N,) -log p of each target, float32, in the order of the positions; without a gradient, for evaluation."""
    hidden_NH, targets_N = _read(hidden_BTH, targets_BT, read_M)
    pieces = [
        _chunk_nll(hidden_NH[chunk], targets_N[chunk], head_VH, softcap, arithmetic, needs_gradient=False)[0]
        for chunk in _slices(len(targets_N), tile_shape(hidden_NH.device.type)[0])
    ]
    return torch.cat(pieces) if pieces else hidden_NH.new_zeros(0, dtype=torch.float32)


def _read(hidden_BTH: Tensor, targets_BT: Tensor, read_M: Tensor | None) -> tuple[Tensor, Tensor]:
    """(N, H), (N,): hidden states and targets of the positions that have one, in order."""
    if read_M is None:
        read_M = (targets_BT.flatten() != IGNORE_INDEX).nonzero()[:, 0]
    return hidden_BTH.flatten(0, 1).index_select(0, read_M), targets_BT.flatten().index_select(0, read_M)


def tile_shape(device_type: str) -> tuple[int, int]:
    """How many rows and words of logits are held at once."""
    return CPU_TILE if device_type == "cpu" else GPU_TILE


class _NoteNLL(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_NH: Tensor,
        targets_N: Tensor,
        head_VH: Tensor,
        softcap: float | None,
        arithmetic: HeadArithmetic,
    ) -> Tensor:
        total = torch.zeros((), dtype=_exact(hidden_NH.dtype), device=hidden_NH.device)
        needs_gradient = ctx.needs_input_grad[0]
        # fp16 would round small gradients to 0 before the scaler's factor, which only the backward pass knows.
        stored = torch.float32 if hidden_NH.dtype == torch.float16 else hidden_NH.dtype
        gradient_NH = torch.empty_like(hidden_NH, dtype=stored) if needs_gradient else None
        for chunk in _slices(len(targets_N), tile_shape(hidden_NH.device.type)[0]):
            nll_C, gradient_CH = _chunk_nll(
                hidden_NH[chunk], targets_N[chunk], head_VH, softcap, arithmetic, needs_gradient=needs_gradient
            )
            total += nll_C.sum()
            if gradient_NH is not None and gradient_CH is not None:
                gradient_NH[chunk] = gradient_CH
        if gradient_NH is not None:
            ctx.save_for_backward(gradient_NH)
            ctx.dtype = hidden_NH.dtype
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient_NH,) = ctx.saved_tensors
        # In the loss's dtype: 1 / num_targets is 0.2 % off in bf16, and a scaler's factor is beyond fp16.
        scaled_NH = gradient_NH.to(gradients[0].dtype) * gradients[0]
        return scaled_NH.to(ctx.dtype), None, None, None, None


def _exact(dtype: torch.dtype) -> torch.dtype:
    """What sums over words are taken in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _slices(length: int, step: int) -> Iterator[slice]:
    return (slice(start, min(start + step, length)) for start in range(0, length, step))


def _chunk_nll(
    hidden_CH: Tensor,
    targets_C: Tensor,
    head_VH: Tensor,
    softcap: float | None,
    arithmetic: HeadArithmetic,
    *,
    needs_gradient: bool,
) -> tuple[Tensor, Tensor | None]:
    """One chunk's NLL (C,) in float32 (float64 stays) and its gradient in the hidden states (C, H)."""
    num_words = len(head_VH)
    rows, width = tile_shape(hidden_CH.device.type)
    if hidden_CH.device.type != "cpu":  # fewer rows: more words in the same memory, hence fewer launches
        width = rows * width // len(hidden_CH)
    step = min(width, num_words)
    # One buffer for all tiles: fresh memory pages for each would cost a tenth of its time.
    buffer = hidden_CH.new_empty(len(hidden_CH) * step)
    softmax = _RunningSoftmax(targets_C, hidden_CH, softcap, arithmetic, needs_gradient=needs_gradient)
    for words in _slices(num_words, step):
        head_WH = head_VH[words]
        logits_CW = buffer[: len(hidden_CH) * len(head_WH)].view(len(hidden_CH), -1)
        softmax.take(arithmetic.product(hidden_CH, head_WH, out=logits_CW), head_WH, words.start)
    return softmax.nll(), softmax.gradient(head_VH[targets_C]) if needs_gradient else None


class _RunningSoftmax:
    """The softmax of a chunk over the words seen so far, and what the other words than the target give the gradient.

    One exponential of each logit serves the sum and the gradient. The target's share less 1 is kept apart: 16 bits
    would round a share near 1 by more than its distance from 1.
    """

    def __init__(
        self,
        targets_C: Tensor,
        hidden_CH: Tensor,
        softcap: float | None,
        arithmetic: HeadArithmetic,
        *,
        needs_gradient: bool,
    ) -> None:
        self._arithmetic = arithmetic
        self._dtype, self._softcap, self._target_C1 = _exact(hidden_CH.dtype), softcap, targets_C[:, None]
        zeros_C1 = torch.zeros(len(targets_C), 1, dtype=self._dtype, device=hidden_CH.device)
        self._largest_C1, self._total_C1 = zeros_C1 - torch.inf, zeros_C1
        self._wanted_C1, self._wanted_slope_C1 = zeros_C1.clone(), zeros_C1 + 1
        self._needs_gradient = needs_gradient
        self._share_factor = FP16_SHARE_FACTOR if hidden_CH.dtype == torch.float16 else 1
        self._others_CH = torch.zeros(hidden_CH.shape, dtype=self._dtype, device=hidden_CH.device)

    def take(self, logits_CW: Tensor, head_WH: Tensor, first_word: int) -> None:
        """Add a tile, whose logits are overwritten by their shares of the softmax so far, without the target's.

        In fp16 the shares are held times FP16_SHARE_FACTOR, a power of two, and `fold` is not asked.
        `fold` of the arithmetic does that in place, with the running largest logit, sum of exponentials and target's
        logit (C,) and, last, (C,) for the factor by which the earlier tiles' shares shrink.
        """
        column_C1 = self._target_C1 - first_word
        if self._arithmetic.fold is not None and self._softcap is None and self._share_factor == 1:
            earlier_C1 = torch.empty_like(self._total_C1)
            totals = (self._largest_C1, self._total_C1, self._wanted_C1, earlier_C1)
            self._arithmetic.fold(logits_CW, column_C1[:, 0], *(total_C1[:, 0] for total_C1 in totals))
        else:
            earlier_C1 = self._take(logits_CW, column_C1)
        if self._needs_gradient:
            product_CH = self._arithmetic.product_transposed(logits_CW, head_WH)
            self._others_CH.mul_(earlier_C1).add_(product_CH, alpha=1 / self._share_factor)

    def _take(self, logits_CW: Tensor, column_C1: Tensor) -> Tensor:
        """The tile becomes its shares; returns what those of the tiles before are to be multiplied by."""
        values_CW, slope_CW = logits_CW.to(self._dtype), None
        if self._softcap is not None:
            values_CW = (values_CW / self._softcap).tanh_()
            slope_CW = 1 - values_CW.square()
            values_CW = values_CW.mul_(self._softcap)
        is_here_C1 = (column_C1 >= 0) & (column_C1 < logits_CW.shape[1])
        column_C1 = column_C1.clamp(0, logits_CW.shape[1] - 1)
        self._wanted_C1 = torch.where(is_here_C1, values_CW.gather(1, column_C1), self._wanted_C1)
        largest_C1 = torch.maximum(self._largest_C1, values_CW.amax(dim=-1, keepdim=True))
        powers_CW = values_CW.sub_(largest_C1).exp_()
        earlier_C1 = self._total_C1 * (self._largest_C1 - largest_C1).exp_()
        self._largest_C1, self._total_C1 = largest_C1, earlier_C1 + powers_CW.sum(dim=-1, keepdim=True)
        # Shares, not bare exponentials: summed over 150,000 words these are beyond fp16.
        share_CW = powers_CW.div_(self._total_C1)
        share_CW.scatter_(1, column_C1, share_CW.gather(1, column_C1).masked_fill_(is_here_C1, 0))
        if slope_CW is not None:
            self._wanted_slope_C1 = torch.where(is_here_C1, slope_CW.gather(1, column_C1), self._wanted_slope_C1)
            share_CW = share_CW.mul_(slope_CW)
        if self._share_factor != 1:
            share_CW = share_CW.mul_(self._share_factor)
        logits_CW.copy_(share_CW)
        return earlier_C1.div_(self._total_C1)

    def nll(self) -> Tensor:
        """(C,) -log p of each target, after the last tile."""
        return (self._largest_C1 - self._wanted_C1 + self._total_C1.log())[:, 0]

    def gradient(self, target_rows_CH: Tensor) -> Tensor:
        """(C, H) the gradient in the hidden states, after the last tile; it takes the head's rows of the targets."""
        share_C1 = (self._wanted_C1 - self._largest_C1).exp_().div_(self._total_C1)
        return self._others_CH.addcmul_(target_rows_CH.to(self._dtype), (share_C1 - 1) * self._wanted_slope_C1)
