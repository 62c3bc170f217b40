"""Causal attention for CPUs, document by document, as matrix products of one block of queries each.

Letters: T tokens of a row, L tokens of a document, P of a prefix, H query heads, G key-value heads, D head size; S
heads that share a key-value head (H / G), Q queries of a block, K keys that the block may see.

The queries of all S heads in a block are the rows of one product: a shared key-value head is neither copied nor
expanded.

    scores_QSK = q k^T    weights_QSK = softmax(scores)    out_QSD = weights v

A block computes only the keys from the first of its sliding window to its own last. Scores are products in fp32, also
of 16-bit queries and keys: the exponential would turn their rounding error into a relative error of the weights.

q, k and v are saved for the backward pass, and the attention weights of documents up to SAVED_TOKENS. Those of longer
documents are recomputed: memory grows with the number of tokens, not with its square.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from medsum_core.device import arithmetic_dtype
from medsum_core.kernels.cpu.arena import converted, empty, empty_for_backward, empty_like, mm
from medsum_core.kernels.cpu.elementwise import array_of, causal_softmax, on_cpu, softmax_backward
from medsum_core.model.attention import check_lengths

BLOCK_QUERIES = (
    256  # fewer: products too small to be fast; more: wasted work on keys that the first queries may not see
)
SAVED_TOKENS = 512


@dataclass(frozen=True, kw_only=True)
class ScoreRules:
    """What is applied to q k^T: scale, sliding window in tokens, and Gemma 2's soft cap."""

    scale: float
    window: int | None
    softcap: float | None


@dataclass(frozen=True, kw_only=True)
class _Block:
    """Some queries of a row and the keys that they may see, of one key-value head.

    `is_saved`: whether the attention weights are saved for the backward pass.
    """

    queries: slice
    keys: slice
    kv_head: int
    is_saved: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class Recomputed:
    """Queries (1, T, H, D) and keys (1, T, G, D) that the backward pass recomputes as `compute(*tensors)`.

    `compute` must give the same bits each time; `tensors` are saved by other functions anyway.
    """

    tensors: tuple[Tensor, Tensor]
    compute: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def attend_documents(
    query_THD: Tensor,
    key_TGD: Tensor,
    value_TGD: Tensor,
    lengths: Sequence[int],
    rules: ScoreRules,
    prefix: tuple[Tensor, Tensor] | None = None,
    recomputed: Recomputed | None = None,
) -> Tensor:
    """(T, H, D): each document of `lengths` attends to itself only; padding after the last one gets zeros.

    Differentiable once. Documents follow each other without gaps. `prefix`: keys and values (P, G, D), at least fp32,
    that come before those of each document; their gradients have the same dtype. `recomputed`: what is saved instead of
    queries and keys.
    """
    prefix_key, prefix_value = prefix or (None, None)
    out: Tensor = _DocumentAttention.apply(
        query_THD, key_TGD, value_TGD, prefix_key, prefix_value, tuple(lengths), rules, recomputed
    )
    return out


class _DocumentAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query_THD: Tensor,
        key_TGD: Tensor,
        value_TGD: Tensor,
        prefix_key: Tensor | None,
        prefix_value: Tensor | None,
        lengths: tuple[int, ...],
        rules: ScoreRules,
        recomputed: Recomputed | None,
    ) -> Tensor:
        ctx.lengths, ctx.rules = lengths, rules
        ctx.compute = None if recomputed is None else recomputed.compute
        dtype = arithmetic_dtype(query_THD.device, query_THD.dtype)
        query = converted(query_THD, dtype)
        key, value = (
            _with_prefix(*both, lengths, dtype) for both in ((key_TGD, prefix_key), (value_TGD, prefix_value))
        )
        saved_weights = []
        out_THD = empty_for_backward(query_THD.shape, dtype=query_THD.dtype, device=query_THD.device).zero_()
        for block in _blocks(lengths, rules, num_kv_heads=key.shape[1], num_prefix=_length(prefix_key)):
            query_RD, key_KD, value_KD = _parts(block, query, key, value)
            weight_RK = _attention_weights(block, query_RD, key_KD, rules)[0]
            saved_weights += [weight_RK] if block.is_saved else []
            _heads_of_block(out_THD, block, key.shape[1]).copy_(_as_heads(mm(weight_RK, value_KD), block))
        saved = (query_THD, key_TGD) if recomputed is None else recomputed.tensors
        ctx.save_for_backward(*saved, value_TGD, prefix_key, prefix_value, *saved_weights)
        return out_THD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query_THD, key_TGD, value_TGD, prefix_key, prefix_value, *saved_weights = ctx.saved_tensors
        if ctx.compute is not None:
            query_THD, key_TGD = (heads_1TND[0] for heads_1TND in ctx.compute(query_THD, key_TGD))
        dtype = arithmetic_dtype(query_THD.device, query_THD.dtype)
        query, dout = converted(query_THD, dtype), converted(gradients[0], dtype)
        key, value = (
            _with_prefix(*both, ctx.lengths, dtype) for both in ((key_TGD, prefix_key), (value_TGD, prefix_value))
        )
        dquery = empty_like(query).zero_()
        # Several blocks and heads add to a key's gradient; 16 bits would round each sum.
        exact = torch.promote_types(dtype, torch.float32)
        dkey, dvalue = (empty_like(tensor, dtype=exact).zero_() for tensor in (key, value))
        for block in _blocks(ctx.lengths, ctx.rules, num_kv_heads=key.shape[1], num_prefix=_length(prefix_key)):
            query_RD, key_KD, value_KD = _parts(block, query, key, value)
            dout_RD = _heads_of_block(dout, block, key.shape[1]).reshape(query_RD.shape)
            weight_RK, slope_RK = (
                (saved_weights.pop(0), None)
                if block.is_saved
                else _attention_weights(block, query_RD, key_KD, ctx.rules)
            )
            dvalue[block.keys, block.kv_head] += converted(mm(weight_RK.t(), dout_RD), exact)
            dscore_RK = _scores_backward(weight_RK, mm(dout_RD, value_KD.t()), slope_RK, ctx.rules)
            _heads_of_block(dquery, block, key.shape[1]).copy_(_as_heads(mm(dscore_RK, key_KD), block))
            dkey[block.keys, block.kv_head] += converted(mm(dscore_RK.t(), query_RD), exact)
        dkey_TGD, dprefix_key = _split_prefix(dkey, key_TGD, prefix_key, ctx.lengths)
        dvalue_TGD, dprefix_value = _split_prefix(dvalue, value_TGD, prefix_value, ctx.lengths)
        return converted(dquery, query_THD.dtype), dkey_TGD, dvalue_TGD, dprefix_key, dprefix_value, None, None, None


def _length(prefix: Tensor | None) -> int:
    return 0 if prefix is None else len(prefix)


def _with_prefix(x_TGD: Tensor, prefix: Tensor | None, lengths: Sequence[int], dtype: torch.dtype) -> Tensor:
    """The keys or values of all documents, each preceded by the prefix."""
    if prefix is None:
        return converted(x_TGD, dtype)
    pieces = [piece for document in x_TGD[: sum(lengths)].split(list(lengths)) for piece in (prefix, document)]
    return torch.cat([converted(piece, dtype) for piece in pieces])


def _split_prefix(grad: Tensor, like_TGD: Tensor, prefix: Tensor | None, lengths: Sequence[int]) -> tuple[Tensor, Any]:
    """The gradient of the documents' keys or values, (T, G, D), and that of the prefix, summed over documents."""
    if prefix is None:
        return converted(grad, like_TGD.dtype), None
    parts = grad.split([count for length in lengths for count in (len(prefix), length)])
    dx_TGD = empty_like(like_TGD).zero_()
    torch.cat(parts[1::2], out=dx_TGD[: sum(lengths)])
    return dx_TGD, torch.stack(parts[::2]).sum(0).to(prefix.dtype)


def _blocks(lengths: Sequence[int], rules: ScoreRules, *, num_kv_heads: int, num_prefix: int) -> Iterator[_Block]:
    """All blocks. Queries are indexed in the documents, keys in the documents with the prefix before each."""
    document_start = 0
    for number, length in enumerate(lengths):
        document_end, key_start = document_start + length, document_start + number * num_prefix
        # With a soft cap its derivative would have to be saved too.
        is_saved = num_prefix + length <= SAVED_TOKENS and rules.softcap is None
        for start in range(document_start, document_end, BLOCK_QUERIES):
            end = min(start + BLOCK_QUERIES, document_end)
            seen = num_prefix + start - document_start  # tokens before the first query
            first_key = key_start if rules.window is None else key_start + max(0, seen - rules.window + 1)
            keys = slice(first_key, key_start + seen + end - start)
            for kv_head in range(num_kv_heads):
                yield _Block(queries=slice(start, end), keys=keys, kv_head=kv_head, is_saved=is_saved)
        document_start = document_end


def _heads_of_block(tensor_THD: Tensor, block: _Block, num_kv_heads: int) -> Tensor:
    """(Q, S, D): a block's part of a tensor with all heads."""
    shared = tensor_THD.shape[1] // num_kv_heads
    return tensor_THD[block.queries, block.kv_head * shared : (block.kv_head + 1) * shared]


def _parts(block: _Block, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A block's queries as R = Q x S rows (R, D), and its keys and values (K, D)."""
    query_RD = _heads_of_block(query, block, key.shape[1]).reshape(-1, query.shape[2])
    return query_RD, key[block.keys, block.kv_head], value[block.keys, block.kv_head]


def _as_heads(tensor_RD: Tensor, block: _Block) -> Tensor:
    return tensor_RD.view(block.queries.stop - block.queries.start, -1, tensor_RD.shape[1])


def _attention_weights(
    block: _Block, query_RD: Tensor, key_KD: Tensor, rules: ScoreRules
) -> tuple[Tensor, Tensor | None]:
    """A block's attention weights (R, K) in the dtype of its queries, and the derivative of the soft cap if it has one.

    Both are computed in at least fp32.
    """
    exact = torch.promote_types(query_RD.dtype, torch.float32)
    scores_RK = mm(converted(query_RD, exact), converted(key_KD, exact).t())
    allocate = empty_for_backward if block.is_saved else empty
    weight_RK = allocate(scores_RK.shape, dtype=query_RD.dtype, device=query_RD.device)
    num_queries = block.queries.stop - block.queries.start
    seen_before = len(key_KD) - num_queries
    if on_cpu(query_RD) and rules.softcap is None:
        num_shared = len(query_RD) // num_queries
        window = len(key_KD) if rules.window is None else rules.window
        causal_softmax(array_of(scores_RK), rules.scale, num_shared, seen_before, window, array_of(weight_RK))
        return weight_RK, None
    scores_RK, slope_RK = scores_RK.mul_(rules.scale), None
    if rules.softcap is not None:
        scores_RK = scores_RK.div_(rules.softcap).tanh_()
        slope_RK = 1 - scores_RK.square()
        scores_RK = scores_RK.mul_(rules.softcap)
    mask_QK = _mask((num_queries, len(key_KD)), seen_before, rules.window, like=scores_RK)
    by_query_QSK = scores_RK.view(num_queries, -1, len(key_KD))
    by_query_QSK += mask_QK[:, None]
    return weight_RK.copy_(torch.softmax(scores_RK, -1)), slope_RK


def _scores_backward(weight_RK: Tensor, dweight_RK: Tensor, slope_RK: Tensor | None, rules: ScoreRules) -> Tensor:
    """The gradient of q k^T from that of the attention weights, in their dtype."""
    dscore_RK = empty_like(weight_RK)
    if on_cpu(weight_RK) and slope_RK is None:
        softmax_backward(array_of(weight_RK), array_of(dweight_RK), rules.scale, array_of(dscore_RK))
        return dscore_RK
    exact = torch.promote_types(weight_RK.dtype, torch.float32)
    weight_RK, dweight_RK = weight_RK.to(exact), dweight_RK.to(exact)
    exact_RK = weight_RK * (dweight_RK - (weight_RK * dweight_RK).sum(-1, keepdim=True)) * rules.scale
    return dscore_RK.copy_(exact_RK if slope_RK is None else exact_RK * slope_RK)


def _mask(shape: tuple[int, int], seen_before: int, window: int | None, *, like: Tensor) -> Tensor:
    """(Q, K): -inf where a key is later than the query or outside its window, elsewhere 0."""
    mask_QK = like.new_full(shape, -math.inf).triu_(seen_before + 1)
    if window is not None and shape[1] > window:
        mask_QK += like.new_full(shape, -math.inf).tril_(seen_before - window)
    return mask_QK


def attend_per_document(
    module: nn.Module,
    query_BHTD: Tensor,
    key_BGTD: Tensor,
    value_BGTD: Tensor,
    attention_mask: Tensor | None,
    *,
    document_lengths: Sequence[Sequence[int]],
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    prefix: tuple[Tensor, Tensor] | None = None,
    recomputed: Recomputed | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """`attend_documents` with the interface of transformers: (B, T, H, D) and None. Padding positions are zero.

    `prefix`: keys and values (P, G, D) that come before those of each document. `recomputed` is used for a single row.
    """
    check_lengths(query_BHTD, key_BGTD, attention_mask, document_lengths, options={})
    scale = scaling if scaling is not None else query_BHTD.shape[-1] ** -0.5
    rules = ScoreRules(scale=scale, window=sliding_window, softcap=softcap)
    inputs = (query_BHTD, key_BGTD, value_BGTD)
    if len(document_lengths) == 1:  # spares the copy of torch.stack and its backward
        query_THD, key_TGD, value_TGD = (tensor.squeeze(0).transpose(0, 1) for tensor in inputs)
        out_THD = attend_documents(query_THD, key_TGD, value_TGD, document_lengths[0], rules, prefix, recomputed)
        return out_THD.unsqueeze(0), None
    rows = []
    for row, lengths in zip(zip(*(tensor.unbind() for tensor in inputs), strict=True), document_lengths, strict=True):
        query_THD, key_TGD, value_TGD = (tensor.transpose(0, 1) for tensor in row)
        rows.append(attend_documents(query_THD, key_TGD, value_TGD, lengths, rules, prefix))
    return torch.stack(rows), None
