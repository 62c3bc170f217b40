"""Attention inside packed rows: one document never sees another, whatever the layer.

Letters: B rows, H query heads, G key-value heads, T tokens of a row, L tokens of one document, P of a prefix, D head
size.

`document_attention(model)` puts these functions in the place of a transformers model's attention for the time of a
block. The model hands over `document_lengths` (one tuple a row; tokens after the last document are padding) and builds
no mask at all, so that neither a cache nor a dense mask can leak one document into the next (trap C2: position ids
alone are not enough). On the CPU one document follows the other (a dense block mask is 3 to 6 times slower, C3);
on CUDA from capability 8.0 one call of torch's variable-length kernel; below that, SDPA with a block mask.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel

from medsum_core.kernels.cpu.document_attention import ScoreRules, attend_documents
from medsum_core.kernels.recompute import Recipe

DOCUMENT_KERNELS = ("per_document", "varlen", "sdpa", "eager")
# Model types whose packed-against-single test is in tests/model/test_attention.py; others train one row each.
PACKABLE_MODEL_TYPES = ("gemma", "gemma2", "gemma3_text", "llama")
IMPLEMENTATION_PREFIX = "medsum_"


@contextmanager
def document_attention(model: nn.Module, kernel: str = "per_document") -> Iterator[None]:
    """Within the block, `model(..., document_lengths=...)` attends inside each document only; afterwards as before.

    The block must cover the backward pass too, since activation checkpointing runs layers again in it.
    """
    if kernel not in DOCUMENT_KERNELS:
        raise ValueError(f"unknown attention kernel {kernel!r}: one of {', '.join(DOCUMENT_KERNELS)}")
    functions: dict[str, Callable[..., Any]] = {
        "per_document": attend_per_document,
        "varlen": attend_varlen,
        "sdpa": attend_block_mask,
        "eager": partial(attend_block_mask, eager=True),
    }
    AttentionInterface.register(IMPLEMENTATION_PREFIX + kernel, functions[kernel])
    config = next(module.config for module in model.modules() if isinstance(module, PreTrainedModel))
    before = config._attn_implementation
    config._attn_implementation = IMPLEMENTATION_PREFIX + kernel
    try:
        yield
    finally:
        config._attn_implementation = before


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
    recipes: tuple[Recipe, Recipe] | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Written out, one document after another; returns (B, T, H, D) and no weights. Padding positions are zero.

    `prefix`: keys and values (P, G, D) that come before those of each document. `recipes`: how the queries (B, T, H, D)
    and the keys (B, T, G, D) come about.
    """
    _check_lengths(query_BHTD, key_BGTD, attention_mask, document_lengths)
    scale = scaling if scaling is not None else query_BHTD.shape[-1] ** -0.5
    rules = ScoreRules(scale=scale, window=sliding_window, softcap=softcap)
    inputs = (query_BHTD, key_BGTD, value_BGTD)
    if len(document_lengths) == 1:  # no copy that puts rows together, in either direction
        query_THD, key_TGD, value_TGD = (tensor.squeeze(0).transpose(0, 1) for tensor in inputs)
        out_THD = attend_documents(query_THD, key_TGD, value_TGD, document_lengths[0], rules, prefix, recipes)
        return out_THD.unsqueeze(0), None
    rows = []
    for row, lengths in zip(zip(*(tensor.unbind() for tensor in inputs), strict=True), document_lengths, strict=True):
        query_THD, key_TGD, value_TGD = (tensor.transpose(0, 1) for tensor in row)
        rows.append(attend_documents(query_THD, key_TGD, value_TGD, lengths, rules, prefix))
    return torch.stack(rows), None


def attend_block_mask(
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
    eager: bool = False,
    prefix: object = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """One call with a dense block-diagonal causal mask, SDPA or written out; returns (B, T, H, D) and no weights."""
    _check_lengths(query_BHTD, key_BGTD, attention_mask, document_lengths, prefix=prefix)
    mask_B1TT = block_mask(document_lengths, query_BHTD.shape[2], window=sliding_window, device=query_BHTD.device)
    out = _attend_masked(query_BHTD, key_BGTD, value_BGTD, mask_B1TT, scaling=scaling, softcap=softcap, eager=eager)
    return out.transpose(1, 2), None


def attend_varlen(
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
    prefix: object = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """torch's variable-length kernel (CUDA from 8.0, 16-bit); returns (B, T, H, D) and no weights."""
    from torch.nn.attention.varlen import varlen_attn

    _check_lengths(query_BHTD, key_BGTD, attention_mask, document_lengths, prefix=prefix)
    if softcap is not None:
        raise ValueError("the variable-length kernel has no soft-capping: use --attention eager")
    batch, heads, num_tokens, size = query_BHTD.shape
    lengths = padded_lengths(document_lengths, num_tokens)
    ends = torch.tensor(lengths, device=query_BHTD.device).cumsum(0, dtype=torch.int32)
    starts = pad(ends, (1, 0))
    query, key, value = (tensor.transpose(1, 2).flatten(0, 1) for tensor in (query_BHTD, key_BGTD, value_BGTD))
    window = (sliding_window - 1 if sliding_window else -1, 0)
    longest = max(lengths)
    out = varlen_attn(
        query, key, value, starts, starts, longest, longest, scale=scaling, window_size=window, **_shared_heads()
    )
    assert isinstance(out, Tensor)
    return out.view(batch, num_tokens, heads, size), None


@lru_cache
def _shared_heads() -> dict[str, Any]:
    """What tells the kernel that heads share keys and values: torch 2.11's takes that as it comes, later ones ask."""
    from torch.nn.attention.varlen import varlen_attn

    return {"enable_gqa": True} if "enable_gqa" in signature(varlen_attn).parameters else {}


def padded_lengths(document_lengths: Sequence[Sequence[int]], num_tokens: int) -> list[int]:
    """The rows' document lengths end to end; a row's padding becomes a document of its own."""
    lengths: list[int] = []
    for row in document_lengths:
        lengths += [*row, num_tokens - sum(row)] if sum(row) < num_tokens else row
    return lengths


def block_mask(
    document_lengths: Sequence[Sequence[int]], num_tokens: int, *, window: int | None, device: torch.device
) -> Tensor:
    """(B, 1, T, T) bool: true where a query may see a key: same document, not later, inside the sliding window."""
    lengths = torch.tensor(padded_lengths(document_lengths, num_tokens), device=device)
    size = len(document_lengths) * num_tokens  # told, it need not be read back from the device
    documents = torch.arange(len(lengths), device=device)
    document_BT = torch.repeat_interleave(documents, lengths, output_size=size).view(-1, num_tokens)
    position_T = torch.arange(num_tokens, device=device)
    allowed_TT = position_T[:, None] >= position_T[None, :]
    if window is not None:
        allowed_TT &= position_T[:, None] - position_T[None, :] < window
    return (allowed_TT & (document_BT[:, :, None] == document_BT[:, None, :]))[:, None]


def _attend_masked(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor,
    *,
    scaling: float | None,
    softcap: float | None,
    eager: bool = False,
) -> Tensor:
    key, value = (_expand_heads(tensor, query.shape[1]) for tensor in (key, value))
    if softcap is None and not eager:
        return scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling)
    scores = query @ key.transpose(2, 3) * (scaling if scaling is not None else query.shape[-1] ** -0.5)
    scores = scores if softcap is None else torch.tanh(scores / softcap) * softcap
    weights = scores.masked_fill(~mask, float("-inf")).softmax(-1, dtype=torch.float32).to(query.dtype)
    return weights @ value


def _expand_heads(tensor_BGTD: Tensor, num_heads: int) -> Tensor:
    batch, groups, num_tokens, size = tensor_BGTD.shape
    if groups == num_heads:
        return tensor_BGTD
    repeated = tensor_BGTD[:, :, None].expand(batch, groups, num_heads // groups, num_tokens, size)
    return repeated.reshape(batch, num_heads, num_tokens, size) if groups > 1 else repeated[:, 0]


def _check_lengths(
    query: Tensor,
    key: Tensor,
    attention_mask: Tensor | None,
    document_lengths: Sequence[Sequence[int]],
    *,
    prefix: object = None,
) -> None:
    if prefix is not None:
        raise ValueError("only the per_document kernel takes a prefix that documents share")
    if attention_mask is not None or query.shape[2] != key.shape[2]:
        raise ValueError("attention inside documents takes whole rows: no mask and no key-value cache")
    if len(document_lengths) != query.shape[0] or max(sum(row) for row in document_lengths) > query.shape[2]:
        raise ValueError(f"document lengths do not fit a batch of {query.shape[0]} rows and {query.shape[2]} tokens")
