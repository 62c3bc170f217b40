"""Attention inside packed rows: a document never attends to another one, in any layer.

Letters: B rows, H query heads, G key-value heads, T tokens of a row, L tokens of one document, D head size.

`document_attention(model, name)` replaces a transformers model's attention by one of these functions while a block
runs. The function gets `document_lengths` (one tuple per row; tokens after the last document are padding) and the model
builds no mask, so neither a cache nor a dense mask can leak one document into the next. Position ids alone are not
enough, since transformers uses them only without a mask and a cache.

On CUDA from capability 8.0 one call of torch's variable-length kernel is used. On older GPUs and on a CPU documents are
computed one after another: a dense block mask over N documents is about N times the work (on a CPU 3 to 6 times
slower), and a single document needs no mask, so SDPA can use its memory-efficient kernel, which older GPUs have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from inspect import signature
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel

from medsum_core.data.collator import padded_lengths
from medsum_core.device import AMPERE

# Model types whose packed rows are tested against single ones (tests/model/test_attention.py); others are not packed.
PACKABLE_MODEL_TYPES = ("gemma", "gemma2", "gemma3_text", "llama", "qwen2", "qwen3")
# Likewise with images, tests/images/test_image_laws.py, and on text alone, tests/model/test_multimodal_text.py.
IMAGE_MODEL_TYPES = ("gemma3",)
TESTED_MODEL_TYPES = PACKABLE_MODEL_TYPES + IMAGE_MODEL_TYPES
IMPLEMENTATION_PREFIX = "medsum_"
OWN_ATTENTION = "model"  # the model's own function, for rows of a single document


# What transformers calls in each layer, by the name in `config._attn_implementation`: (module, query_BHTD, key_BGTD,
# value_BGTD, attention_mask, *, document_lengths, document_starts, scaling, sliding_window, softcap, ...) -> out_BTHD,
# weights or None. `document_starts`: the batch's, on the device; a tensor made of the lengths would wait for a GPU.
AttentionFunction = Callable[..., tuple[Tensor, Tensor | None]]


@contextmanager
def document_attention(
    model: nn.Module, name: str = "per_document", *, functions: Mapping[str, AttentionFunction] | None = None
) -> Iterator[None]:
    """While the block runs, `model(..., document_lengths=...)` attends inside each document only.

    `name` is one of `functions`, or of `DOCUMENT_ATTENTION`, or a function that the caller has registered with
    transformers' `AttentionInterface` and that respects `document_lengths`. With OWN_ATTENTION nothing is replaced, and
    `forward.hidden_states` refuses rows of several documents. Raises ValueError for other names. The block must include
    the backward pass, since activation checkpointing runs layers again in it.
    """
    if name == OWN_ATTENTION:
        yield
        return
    known = {**DOCUMENT_ATTENTION, **(functions or {})}
    if name in known:
        AttentionInterface.register(IMPLEMENTATION_PREFIX + name, known[name])
    elif not is_registered(name):
        raise ValueError(f"unknown attention {name!r}: one of {', '.join(known)}, or register it with transformers")
    config = next(module.config for module in model.modules() if isinstance(module, PreTrainedModel))
    before = config._attn_implementation
    config._attn_implementation = IMPLEMENTATION_PREFIX + name if name in known else name
    try:
        yield
    finally:
        config._attn_implementation = before


def is_registered(name: str) -> bool:
    """Whether a user has registered this function; transformers' own functions ignore `document_lengths`."""
    function = AttentionInterface().get(name)
    return function is not None and not str(getattr(function, "__module__", "")).startswith("transformers.")


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
    image_runs: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """One call of SDPA a document; returns (B, T, H, D) and no weights. Padding positions are zero."""
    check_lengths(query_BHTD, key_BGTD, attention_mask, document_lengths, options=_)
    options: dict[str, Any] = {"scaling": scaling, "window": sliding_window, "softcap": softcap}
    rows = []
    for row, lengths in enumerate(document_lengths):
        query, key, value = (tensor[row].transpose(0, 1) for tensor in (query_BHTD, key_BGTD, value_BGTD))
        runs_T = None if image_runs is None else image_runs[row]
        rows.append(attend_documents(query, key, value, lengths, image_runs=runs_T, **options))
    return torch.stack(rows), None


def attend_documents(
    query_THD: Tensor,
    key_TGD: Tensor,
    value_TGD: Tensor,
    lengths: Sequence[int],
    *,
    scaling: float | None = None,
    window: int | None = None,
    softcap: float | None = None,
    image_runs: Tensor | None = None,
) -> Tensor:
    """(T, H, D): each document of `lengths` attends to itself only, causally, inside an image in both directions.

    `image_runs`: (T,), see `find_image_runs`. Tokens after the last document get zeros.
    """
    num_padding = len(query_THD) - sum(lengths)
    outputs, start = [], 0
    pieces = (tensor.split([*lengths, num_padding])[: len(lengths)] for tensor in (query_THD, key_TGD, value_TGD))
    for document in zip(*pieces, strict=True):
        query_1HLD, key_1GLD, value_1GLD = (tensor.transpose(0, 1)[None] for tensor in document)
        mask, length = None, query_1HLD.shape[2]
        runs_1L = None if image_runs is None else image_runs[None, start : start + length]
        start += length
        if softcap is not None or runs_1L is not None or (window is not None and window < length):
            mask = seen_mask(length, window=window, device=query_1HLD.device, image_runs=runs_1L)
        out = _attend_masked(query_1HLD, key_1GLD, value_1GLD, mask, scaling=scaling, softcap=softcap)
        outputs.append(out[0].transpose(0, 1))
    return torch.cat([*outputs, query_THD.new_zeros(num_padding, query_THD.shape[1], value_TGD.shape[2])])


def attend_block_mask(
    module: nn.Module,
    query_BHTD: Tensor,
    key_BGTD: Tensor,
    value_BGTD: Tensor,
    attention_mask: Tensor | None,
    *,
    document_lengths: Sequence[Sequence[int]],
    document_starts: Tensor | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    image_runs: Tensor | None = None,
    eager: bool = False,
    **_: Any,
) -> tuple[Tensor, None]:
    """One call with a dense block-diagonal causal mask, SDPA or written out; returns (B, T, H, D) and no weights."""
    check_lengths(query_BHTD, key_BGTD, attention_mask, document_lengths, options=_)
    batch, num_tokens = query_BHTD.shape[0], query_BHTD.shape[2]
    if document_starts is None:
        document_starts = starts_of(document_lengths, num_tokens, device=query_BHTD.device)
    mask_B1TT = block_mask(document_starts, (batch, num_tokens), window=sliding_window, image_runs=image_runs)
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
    document_starts: Tensor | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """torch's variable-length kernel (CUDA from 8.0, 16-bit); returns (B, T, H, D) and no weights."""
    from torch.nn.attention.varlen import varlen_attn

    check_lengths(query_BHTD, key_BGTD, attention_mask, document_lengths, options=_)
    if softcap is not None:
        raise ValueError("the variable-length kernel has no soft-capping: use --attention eager")
    batch, heads, num_tokens, size = query_BHTD.shape
    if document_starts is None:
        document_starts = starts_of(document_lengths, num_tokens, device=query_BHTD.device)
    query, key, value = (tensor.transpose(1, 2).flatten(0, 1) for tensor in (query_BHTD, key_BGTD, value_BGTD))
    window = (sliding_window - 1 if sliding_window else -1, 0)
    longest = max(padded_lengths(document_lengths, num_tokens))
    places = (document_starts, document_starts, longest, longest)
    out = varlen_attn(query, key, value, *places, scale=scaling, window_size=window, **_shared_heads())
    assert isinstance(out, Tensor)
    return out.view(batch, num_tokens, heads, size), None


def attend_packed(
    query_THD: Tensor,
    key_TGD: Tensor,
    value_TGD: Tensor,
    lengths: Sequence[int],
    *,
    starts: Tensor,
    scaling: float | None = None,
    window: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """`attend_documents` by one call of `attend_varlen`. `starts`: as `MicroBatch.document_starts`."""
    query, key, value = (tensor.transpose(0, 1)[None] for tensor in (query_THD, key_TGD, value_TGD))
    rules: dict[str, Any] = {"scaling": scaling, "sliding_window": window, "softcap": softcap}
    documents: dict[str, Any] = {"document_lengths": [lengths], "document_starts": starts}
    return attend_varlen(nn.Module(), query, key, value, None, **documents, **rules)[0][0]


@lru_cache
def has_varlen(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the variable-length kernel supports that device and dtype."""
    return device.type == "cuda" and dtype.itemsize == 2 and torch.cuda.get_device_capability(device) >= AMPERE


@lru_cache
def _shared_heads() -> dict[str, Any]:
    """The kernel's option for grouped key-value heads, which versions after torch 2.11 require."""
    from torch.nn.attention.varlen import varlen_attn

    return {"enable_gqa": True} if "enable_gqa" in signature(varlen_attn).parameters else {}


def starts_of(document_lengths: Sequence[Sequence[int]], num_tokens: int, *, device: torch.device) -> Tensor:
    """`MicroBatch.document_starts` from the lengths alone; the copy to a GPU waits for its earlier work."""
    ends = accumulate(padded_lengths(document_lengths, num_tokens))
    return torch.tensor([0, *ends], dtype=torch.int32, device=device)


def find_image_runs(ids_BT: Tensor) -> Tensor:
    """(B, T) int64: which image of its row a position belongs to, counted from 0; -1 for text.

    Ids below 0 are positions of images (`data/image_tokens.py`); between two images there is always text.
    """
    is_image_BT = ids_BT < 0
    starts_BT = is_image_BT & ~pad(is_image_BT, (1, 0))[:, :-1]
    return (starts_BT.cumsum(1) - 1).masked_fill(~is_image_BT, -1)


def block_mask(
    document_starts: Tensor, shape: tuple[int, int], *, window: int | None, image_runs: Tensor | None = None
) -> Tensor:
    """(B, 1, T, T) bool: true where a query may attend to a key: in the same document, and by `seen_mask`."""
    places = torch.arange(shape[0] * shape[1], dtype=document_starts.dtype, device=document_starts.device)
    document_BT = torch.searchsorted(document_starts, places, right=True).view(shape)
    allowed = seen_mask(shape[1], window=window, device=document_starts.device, image_runs=image_runs)
    return (allowed & (document_BT[:, :, None] == document_BT[:, None, :]))[:, None]


def seen_mask(num_tokens: int, *, window: int | None, device: torch.device, image_runs: Tensor | None = None) -> Tensor:
    """(T, T) bool: true where a query may attend to a key of its document: not later, inside the sliding window.

    With `image_runs` (B, T) it is (B, T, T), and positions of one image attend to each other in both directions. This
    is Gemma 3's rule: the window limits attention backwards only (transformers' `create_masks_for_vision_model`).
    """
    position_T = torch.arange(num_tokens, device=device)
    allowed = position_T[:, None] >= position_T[None, :]  # (T, T), with images (B, T, T)
    if image_runs is not None:
        allowed = allowed | ((image_runs[:, :, None] == image_runs[:, None, :]) & (image_runs[:, :, None] >= 0))
    if window is not None:
        allowed = allowed & (position_T[:, None] - position_T[None, :] < window)
    return allowed


def _attend_masked(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    *,
    scaling: float | None,
    softcap: float | None,
    eager: bool = False,
) -> Tensor:
    """SDPA, causal without a mask; with a mask and soft-capping or `eager`, in plain operations."""
    key, value = (_expand_heads(tensor, query.shape[1]) for tensor in (key, value))
    if mask is None or (softcap is None and not eager):
        return scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=mask is None, scale=scaling)
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


def check_lengths(
    query_BHTD: Tensor,
    key_BGTD: Tensor,
    attention_mask: Tensor | None,
    document_lengths: Sequence[Sequence[int]],
    *,
    options: Mapping[str, Any],
) -> None:
    """Raise ValueError unless these are whole rows, without mask or cache, and the document lengths fit them.

    `options`: the arguments that the function ignores; a shared prefix or images must not be among them.
    """
    if "prefix" in options:
        raise ValueError("only the fast kernels' per_document attention takes a prefix that documents share")
    if "image_runs" in options:
        raise ValueError("this attention function is causal inside of images too: use per_document, sdpa or eager")
    if attention_mask is not None or query_BHTD.shape[2] != key_BGTD.shape[2]:
        raise ValueError("attention inside documents takes whole rows: no mask and no key-value cache")
    if len(document_lengths) != query_BHTD.shape[0] or max(sum(row) for row in document_lengths) > query_BHTD.shape[2]:
        raise ValueError(
            f"document lengths do not fit a batch of {query_BHTD.shape[0]} rows and {query_BHTD.shape[2]} tokens"
        )


DOCUMENT_ATTENTION: dict[str, AttentionFunction] = {
    "per_document": attend_per_document,
    "varlen": attend_varlen,
    "sdpa": attend_block_mask,
    "eager": partial(attend_block_mask, eager=True),
}
