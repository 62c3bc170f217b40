"""Causal attention of one document after another, written out for CPUs: matrix products of a block of queries each.

Letters: T tokens of a row, L tokens of a document, H query heads, G key-value heads, D head size; S heads that share a
key-value head (H / G), Q queries of a block, K keys that the block may see.

A block's queries of all S heads are the rows of one product, so that a shared head is neither copied nor expanded:

    scores_QSK = q k^T    share_QSK = softmax(scores)    out_QSD = share v

A block sees the keys from its sliding window's first to its own last, nothing is computed beyond. Scores are products
in fp32, also of 16-bit queries and keys: an exponential turns their rounding into an error of its size.

For the way back q, k and v are kept, and the shares of documents up to KEPT_TOKENS in the dtype in which they weigh the
values; those of longer documents are computed again: memory grows with the tokens, not with their square.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from medsum_core.buffers import empty, empty_like
from medsum_core.products import arithmetic_dtype

BLOCK_QUERIES = 256  # fewer: products too small to be fast; more: work on keys that the first queries may not see
KEPT_TOKENS = 512


@dataclass(frozen=True, kw_only=True)
class ScoreRules:
    """How scores come from q k^T: scale, sliding window in tokens, and the bound that Gemma 2 puts on them."""

    scale: float
    window: int | None
    softcap: float | None


@dataclass(frozen=True, kw_only=True)
class _Block:
    """Queries `start` to `end` of a row, which see its keys from `first_key` to `end`, through one key-value head.

    `is_kept`: whether its shares are, for the way back.
    """

    start: int
    end: int
    first_key: int
    kv_head: int
    is_kept: bool

    @property
    def queries(self) -> slice:
        return slice(self.start, self.end)

    @property
    def keys(self) -> slice:
        return slice(self.first_key, self.end)


def attend_documents(
    query_THD: Tensor, key_TGD: Tensor, value_TGD: Tensor, lengths: Sequence[int], rules: ScoreRules
) -> Tensor:
    """(T, H, D): each document of `lengths` attends to itself only; what follows the last one gets zeros.

    Differentiable once. All documents begin where the one before ends.
    """
    out: Tensor = _DocumentAttention.apply(query_THD, key_TGD, value_TGD, tuple(lengths), rules)
    return out


class _DocumentAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query_THD: Tensor, key_TGD: Tensor, value_TGD: Tensor, lengths: tuple[int, ...], rules: ScoreRules
    ) -> Tensor:
        ctx.lengths, ctx.rules = lengths, rules
        kept = []
        dtype = arithmetic_dtype(query_THD.device, query_THD.dtype)
        query, key, value = (tensor.to(dtype) for tensor in (query_THD, key_TGD, value_TGD))
        out_THD = empty_like(query_THD).zero_()
        for block in _blocks(lengths, rules, num_kv_heads=key.shape[1]):
            query_RD, key_KD, value_KD = _parts(block, query, key, value)
            weight_RK = _shares(block, query_RD, key_KD, rules)[0].to(dtype)
            kept += [weight_RK] if block.is_kept else []
            _rows_of(out_THD, block, key.shape[1]).copy_(_as_heads(weight_RK @ value_KD, block))
        ctx.save_for_backward(query_THD, key_TGD, value_TGD, *kept)
        return out_THD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        tensors = ctx.saved_tensors  # to be asked for once
        saved, kept = tensors[:3], list(tensors[3:])
        dtype = arithmetic_dtype(saved[0].device, saved[0].dtype)
        query, key, value = (tensor.to(dtype) for tensor in saved)
        dout = gradients[0].to(dtype)
        dquery = empty_like(query).zero_()
        # Several blocks and heads add to a key's gradient: 16 bits would round each sum.
        exact = torch.promote_types(dtype, torch.float32)
        dkey, dvalue = (torch.zeros(tensor.shape, dtype=exact, device=tensor.device) for tensor in (key, value))
        for block in _blocks(ctx.lengths, ctx.rules, num_kv_heads=key.shape[1]):
            query_RD, key_KD, value_KD = _parts(block, query, key, value)
            dout_RD = _rows_of(dout, block, key.shape[1]).reshape(query_RD.shape)
            share_RK, slope_RK = (kept.pop(0), None) if block.is_kept else _shares(block, query_RD, key_KD, ctx.rules)
            dvalue[block.keys, block.kv_head] += share_RK.to(dtype).t() @ dout_RD
            weighted_RK = (dout_RD @ value_KD.t()).to(exact).mul_(share_RK)
            dscore_RK = weighted_RK.addcmul_(share_RK, weighted_RK.sum(-1, keepdim=True), value=-1)
            dscore_RK = dscore_RK if slope_RK is None else dscore_RK.mul_(slope_RK)
            dscore_RK = dscore_RK.mul_(ctx.rules.scale).to(dtype)
            _rows_of(dquery, block, key.shape[1]).copy_(_as_heads(dscore_RK @ key_KD, block))
            dkey[block.keys, block.kv_head] += dscore_RK.t() @ query_RD
        return (*(grad.to(like.dtype) for grad, like in zip((dquery, dkey, dvalue), saved, strict=True)), None, None)


def _blocks(lengths: Sequence[int], rules: ScoreRules, *, num_kv_heads: int) -> Iterator[_Block]:
    window = rules.window
    document_start = 0
    for length in lengths:
        document_end = document_start + length
        is_kept = length <= KEPT_TOKENS and rules.softcap is None  # a soft cap's slope would have to be kept too
        for start in range(document_start, document_end, BLOCK_QUERIES):
            end = min(start + BLOCK_QUERIES, document_end)
            first_key = document_start if window is None else max(document_start, start - window + 1)
            for kv_head in range(num_kv_heads):
                yield _Block(start=start, end=end, first_key=first_key, kv_head=kv_head, is_kept=is_kept)
        document_start = document_end


def _rows_of(tensor_THD: Tensor, block: _Block, num_kv_heads: int) -> Tensor:
    """(Q, S, D): a block's part of a tensor that has all heads."""
    shared = tensor_THD.shape[1] // num_kv_heads
    return tensor_THD[block.queries, block.kv_head * shared : (block.kv_head + 1) * shared]


def _parts(block: _Block, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A block's queries as R = Q x S rows (R, D), and its keys and values (K, D)."""
    query_RD = _rows_of(query, block, key.shape[1]).reshape(-1, query.shape[2])
    return query_RD, key[block.keys, block.kv_head], value[block.keys, block.kv_head]


def _as_heads(tensor_RD: Tensor, block: _Block) -> Tensor:
    return tensor_RD.view(block.end - block.start, -1, tensor_RD.shape[1])


def _shares(block: _Block, query_RD: Tensor, key_KD: Tensor, rules: ScoreRules) -> tuple[Tensor, Tensor | None]:
    """The softmax of a block's scores (R, K), at least fp32, and the slope of the soft cap where there is one."""
    exact = torch.promote_types(query_RD.dtype, torch.float32)
    scores_RK = empty((len(query_RD), len(key_KD)), dtype=exact, device=query_RD.device)
    torch.mm(query_RD.to(exact), key_KD.to(exact).t(), out=scores_RK).mul_(rules.scale)
    slope_RK = None
    if rules.softcap is not None:
        scores_RK = scores_RK.div_(rules.softcap).tanh_()
        slope_RK = 1 - scores_RK.square()
        scores_RK = scores_RK.mul_(rules.softcap)
    hidden_QK = _hidden(block, rules.window, device=query_RD.device)
    by_query_QSK = scores_RK.view(len(hidden_QK), -1, scores_RK.shape[1])
    by_query_QSK += torch.zeros_like(hidden_QK, dtype=exact).masked_fill_(hidden_QK, -math.inf)[:, None]
    return scores_RK.softmax(-1), slope_RK


def _hidden(block: _Block, window: int | None, *, device: torch.device) -> Tensor:
    """(Q, K) bool: true where a query may not see a key, because it is later or out of the window."""
    query_Q1 = torch.arange(block.start, block.end, device=device)[:, None]
    key_K = torch.arange(block.first_key, block.end, device=device)
    hidden_QK = key_K > query_Q1
    return hidden_QK if window is None else hidden_QK | (query_Q1 - key_K >= window)
