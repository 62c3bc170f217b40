"""Summed negative log-likelihood (NLL) of the note tokens; the LM head runs only on positions that predict one.

Letters: N positions that predict a note token, C of them in one chunk, V vocabulary entries, W of them in one tile,
H hidden size.

Gemma's vocabulary of 256,000 entries makes the head's logits the largest tensor of a run. Here they are computed a tile
at a time, C positions by W vocabulary entries. As the head is frozen, the gradient with respect to the hidden states is
computed in the same pass and a tile's logits are freed at once, so memory depends neither on the number of prompt
tokens nor on that of note tokens. The softmax over the tiles of a chunk is updated tile by tile, as in flash attention
(Dao et al. 2022, section 3.1). `F.linear_cross_entropy` does the same 8 to 12 times slower on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from medsum_core.data.masking import IGNORE_INDEX
from medsum_core.errors import InputError

# (positions, vocabulary entries). On a CPU a tile and its exponentials (12 MiB) stay in the cache; smaller tiles make
# slower products.
CPU_TILE = (256, 2048)
GPU_TILE = (1024, 16_384)
# fp16 rounds probabilities below 6e-8 to 0, so they are stored multiplied by this. A larger factor could overflow:
# products with head weights (below 64) must stay under fp16's maximum, 65,504.
FP16_PROBABILITY_SCALE = 1024


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

    def product_transposed(self, probability_CW: Tensor, head_WH: Tensor) -> Tensor:
        """(C, H): a tile's contribution to the gradient in the hidden states."""
        ...

    add_tile: Callable[..., None] | None  # see `_RunningSoftmax.add_tile`; None: plain torch


class TorchArithmetic:
    """Plain torch, in the dtype of the hidden states."""

    add_tile: Callable[..., None] | None = None

    def product(self, hidden_CH: Tensor, head_WH: Tensor, *, out: Tensor) -> Tensor:
        """See `HeadArithmetic`."""
        return torch.mm(hidden_CH, head_WH.t(), out=out)

    def product_transposed(self, probability_CW: Tensor, head_WH: Tensor) -> Tensor:
        """See `HeadArithmetic`."""
        return probability_CW @ head_WH


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
    """The sum over all targets of -log p(target), nats: () float32, differentiable once, in the hidden states only.

    `targets_BT[b, t]` is the token that position t predicts, or IGNORE_INDEX; without any target the sum is 0 with a
    zero gradient. `softcap` is the model's `final_logit_softcapping` (Gemma 2). float64 hidden states give float64.
    `read_M`: `MicroBatch.read_M`, which includes all positions with a target; others in it count 0. None: they are
    searched for, which waits for a GPU. Raises ValueError if the head is trainable: its own gradient is not computed.
    """
    if head_VH.requires_grad:
        raise ValueError("the LM head must be frozen: its gradient is not computed here")
    nll: Tensor = _NoteNLL.apply(*_read(hidden_BTH, targets_BT, read_M), head_VH, softcap, arithmetic)
    return nll


def with_options(objective: Objective, **options: Any) -> Objective:
    """`note_nll` with `arithmetic` or `read_M` bound, where not None; any other objective with its result checked."""
    given = {name: value for name, value in options.items() if value is not None}
    return partial(note_nll, **given) if objective is note_nll else partial(_checked, objective)


def _checked(objective: Objective, hidden_BTH: Tensor, *tensors: Tensor, **options: Any) -> Tensor:
    """The loss of `objective`. Raises InputError if it is no sum, or has no gradient."""
    loss: object = objective(hidden_BTH, *tensors, **options)
    found = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
    if isinstance(loss, Tensor) and loss.ndim == 0:
        if loss.requires_grad or not hidden_BTH.requires_grad:
            return loss
        found = "a number without a gradient in the hidden states"
    raise InputError(f"the objective returned {found}: it must return the loss summed over the targets, of shape ()")


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
    """(N,) float32: -log p of each target in the order of the positions, without a gradient; for evaluation."""
    hidden_NH, targets_N = _read(hidden_BTH, targets_BT, read_M)
    pieces = [
        _chunk_nll(hidden_NH[chunk], targets_N[chunk], head_VH, softcap, arithmetic, needs_gradient=False)[0]
        for chunk in _slices(len(targets_N), tile_shape(hidden_NH.device.type)[0])
    ]
    return torch.cat(pieces) if pieces else hidden_NH.new_zeros(0, dtype=torch.float32)


def _read(hidden_BTH: Tensor, targets_BT: Tensor, read_M: Tensor | None) -> tuple[Tensor, Tensor]:
    """(N, H), (N,): hidden states and targets of the positions that have a target, in order."""
    if read_M is None:
        read_M = (targets_BT.flatten() != IGNORE_INDEX).nonzero()[:, 0]
    return hidden_BTH.flatten(0, 1).index_select(0, read_M), targets_BT.flatten().index_select(0, read_M)


def tile_shape(device_type: str) -> tuple[int, int]:
    """How many positions and vocabulary entries a tile of logits has."""
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
        # fp16 would round small gradients to 0: the scaler's factor is applied only in the backward pass.
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
        # In the loss's dtype: bf16 rounds 1 / num_targets by up to 0.2 %, and a scaler's factor overflows fp16.
        scaled_NH = gradient_NH.to(gradients[0].dtype) * gradients[0]
        return scaled_NH.to(ctx.dtype), None, None, None, None


def _exact(dtype: torch.dtype) -> torch.dtype:
    """The dtype of sums over the vocabulary."""
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
    """One chunk's NLL (C,), float32 or float64, and its gradient in the hidden states (C, H) if `needs_gradient`.

    Both are 0 for positions without a target.
    """
    vocabulary_size = len(head_VH)
    rows, width = tile_shape(hidden_CH.device.type)
    if hidden_CH.device.type != "cpu":  # fewer positions leave room for wider tiles, hence fewer launches
        width = rows * width // len(hidden_CH)
    step = min(width, vocabulary_size)
    # One buffer for all tiles: new memory pages for each tile would cost a tenth of its time.
    buffer = hidden_CH.new_empty(len(hidden_CH) * step)
    softmax = _RunningSoftmax(targets_C, hidden_CH, softcap, arithmetic, needs_gradient=needs_gradient)
    for entries in _slices(vocabulary_size, step):
        head_WH = head_VH[entries]
        logits_CW = buffer[: len(hidden_CH) * len(head_WH)].view(len(hidden_CH), -1)
        softmax.add_tile(arithmetic.product(hidden_CH, head_WH, out=logits_CW), head_WH, entries.start)
    ignored_C = targets_C == IGNORE_INDEX
    nll_C = softmax.nll().masked_fill_(ignored_C, 0)
    if not needs_gradient:
        return nll_C, None
    return nll_C, softmax.gradient(head_VH[targets_C.clamp(min=0)]).masked_fill_(ignored_C[:, None], 0)


class _RunningSoftmax:
    """The softmax of a chunk over the tiles added so far, and the gradient's part from all entries but the target.

    One exponential of each logit serves the sum and the gradient. The target's probability minus 1 is computed
    separately in fp32: 16 bits would round a probability near 1 by more than its distance from 1.
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
        self._target_logit_C1, self._target_slope_C1 = zeros_C1.clone(), zeros_C1 + 1
        self._needs_gradient = needs_gradient
        self._probability_scale = FP16_PROBABILITY_SCALE if hidden_CH.dtype == torch.float16 else 1
        self._others_CH = torch.zeros(hidden_CH.shape, dtype=self._dtype, device=hidden_CH.device)

    def add_tile(self, logits_CW: Tensor, head_WH: Tensor, first_entry: int) -> None:
        """Add a tile. Its logits are overwritten by their probabilities so far, that of the target by 0.

        fp16 probabilities are stored times FP16_PROBABILITY_SCALE. The arithmetic's own `add_tile`, if it has one, is
        used except in fp16 and with a soft cap. It gets the logits, the target's column in this tile and, to be updated
        in place, (C,) each: the running largest logit, sum of exponentials, target's logit, and the factor that
        rescales the probabilities of earlier tiles.
        """
        column_C1 = self._target_C1 - first_entry
        if self._arithmetic.add_tile is not None and self._softcap is None and self._probability_scale == 1:
            rescale_C1 = torch.empty_like(self._total_C1)
            totals = (self._largest_C1, self._total_C1, self._target_logit_C1, rescale_C1)
            self._arithmetic.add_tile(logits_CW, column_C1[:, 0], *(total_C1[:, 0] for total_C1 in totals))
        else:
            rescale_C1 = self._add_tile(logits_CW, column_C1)
        if self._needs_gradient:
            product_CH = self._arithmetic.product_transposed(logits_CW, head_WH)
            self._others_CH.mul_(rescale_C1).add_(product_CH, alpha=1 / self._probability_scale)

    def _add_tile(self, logits_CW: Tensor, column_C1: Tensor) -> Tensor:
        """`add_tile` in plain torch; returns the factor (C, 1) that rescales the probabilities of earlier tiles."""
        values_CW, slope_CW = logits_CW.to(self._dtype), None
        if self._softcap is not None:
            values_CW = (values_CW / self._softcap).tanh_()
            slope_CW = 1 - values_CW.square()
            values_CW = values_CW.mul_(self._softcap)
        is_here_C1 = (column_C1 >= 0) & (column_C1 < logits_CW.shape[1])
        column_C1 = column_C1.clamp(0, logits_CW.shape[1] - 1)
        self._target_logit_C1 = torch.where(is_here_C1, values_CW.gather(1, column_C1), self._target_logit_C1)
        largest_C1 = torch.maximum(self._largest_C1, values_CW.amax(dim=-1, keepdim=True))
        exp_CW = values_CW.sub_(largest_C1).exp_()
        earlier_C1 = self._total_C1 * (self._largest_C1 - largest_C1).exp_()
        self._largest_C1, self._total_C1 = largest_C1, earlier_C1 + exp_CW.sum(dim=-1, keepdim=True)
        # Probabilities, not exponentials: sums of these over 150,000 entries would overflow fp16.
        probability_CW = exp_CW.div_(self._total_C1)
        probability_CW.scatter_(1, column_C1, probability_CW.gather(1, column_C1).masked_fill_(is_here_C1, 0))
        if slope_CW is not None:
            self._target_slope_C1 = torch.where(is_here_C1, slope_CW.gather(1, column_C1), self._target_slope_C1)
            probability_CW = probability_CW.mul_(slope_CW)
        if self._probability_scale != 1:
            probability_CW = probability_CW.mul_(self._probability_scale)
        logits_CW.copy_(probability_CW)
        return earlier_C1.div_(self._total_C1)

    def nll(self) -> Tensor:
        """(C,) -log p of each target, after the last tile."""
        return (self._largest_C1 - self._target_logit_C1 + self._total_C1.log())[:, 0]

    def gradient(self, target_rows_CH: Tensor) -> Tensor:
        """(C, H): the gradient in the hidden states, after the last tile. `target_rows_CH`: the targets' head rows."""
        probability_C1 = (self._target_logit_C1 - self._largest_C1).exp_().div_(self._total_C1)
        return self._others_CH.addcmul_(target_rows_CH.to(self._dtype), (probability_C1 - 1) * self._target_slope_C1)
