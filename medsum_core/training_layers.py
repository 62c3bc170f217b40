"""Decoder layers of Gemma 1 to 3 and Llama written out for training; other model types keep transformers' own.

Letters: B rows, T tokens of a row, H features, N heads, D head size, A features of all heads (N x D), M positions that
are read.

Modules, names and weights stay those of transformers; an attention module's own `forward` is not called, its
projections and norms are. Two things differ, none of them a number:

* What is kept for the way back lies in slabs (`buffers.py`): rotated queries and keys and the residual sums too.
* The last layer computes only the positions that the loss reads, those with a target. Nobody sees what a prompt's
  positions make of it, except as keys and values: behind attention it goes on with the M positions alone. The others
  come out as NaN: an objective that reads one fails at once instead of training on a wrong number.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface

from medsum_core.buffers import empty_like, kept_like
from medsum_core.lora_linear import FusedLinear
from medsum_core.shared_prefix import KeyValue, SharedPrefix

TWO_NORMS = ("GemmaDecoderLayer", "LlamaDecoderLayer")
FOUR_NORMS = ("Gemma2DecoderLayer", "Gemma3DecoderLayer")  # they norm what attention and MLP give, too


def use_training_layers(decoder: nn.Module) -> int:
    """Replace the forward of the decoder's layers of a known class; returns how many were replaced.

    They then take `read_M` besides, the places of the M positions in the B x T of a micro-batch. Without it they do
    what they did before.
    """
    layers: list[Any] = list(getattr(decoder, "layers", []))
    known = [layer for layer in layers if type(layer).__name__ in TWO_NORMS + FOUR_NORMS]
    for layer in known:
        layer.forward = partial(_forward, layer, layer is layers[-1])
        _mark_kept_outputs(layer)
    return len(known)


def _mark_kept_outputs(layer: Any) -> None:
    attention, mlp = layer.self_attn, layer.mlp
    norms_outputs = type(layer).__name__ in FOUR_NORMS
    is_kept = {
        attention.q_proj: hasattr(attention, "q_norm"),  # else only what is rotated is kept
        attention.k_proj: hasattr(attention, "k_norm"),
        attention.v_proj: True,
        attention.o_proj: norms_outputs,  # else only the residual sum
        mlp.gate_proj: True,
        mlp.up_proj: True,
        mlp.down_proj: norms_outputs,
    }
    for projection, value in is_kept.items():
        if isinstance(projection.forward, FusedLinear):
            projection.forward.output_is_kept = value


def _forward(layer: Any, is_last: bool, x_BTH: Tensor, *, read_M: Tensor | None = None, **settings: Any) -> Tensor:
    """(B, T, H); the last layer's is NaN outside of `read_M`."""
    if read_M is None:
        y_BTH: Tensor = type(layer).forward(layer, x_BTH, **settings)
    elif is_last:  # computed once in any case: the way back begins with it
        unread_TH = torch.full_like(x_BTH, torch.nan).flatten(0, 1)
        y_BTH = unread_TH.index_copy(0, read_M, _output(layer, x_BTH, read_M, **settings)).view_as(x_BTH)
    elif layer.gradient_checkpointing and layer.training:
        y_BTH = layer._gradient_checkpointing_func(partial(_output, layer, **settings), x_BTH)
    else:
        y_BTH = _output(layer, x_BTH, **settings)
    return y_BTH


def _output(layer: Any, x: Tensor, read_M: Tensor | None = None, **settings: Any) -> Tensor:
    """The layer's output, (B, T, H), or (M, H) where only some positions are read."""
    heads = _attention(layer.self_attn, layer.input_layernorm(x), **settings)
    if read_M is not None:
        heads, x = (tensor.flatten(0, 1).index_select(0, read_M) for tensor in (heads, x))
    attended = layer.self_attn.o_proj(heads)
    if type(layer).__name__ in TWO_NORMS:
        x = _Sum.apply(x, attended)
        y: Tensor = _Sum.apply(x, layer.mlp(layer.post_attention_layernorm(x)))
    else:
        x = _Sum.apply(x, layer.post_attention_layernorm(attended))
        y = _Sum.apply(x, layer.post_feedforward_layernorm(layer.mlp(layer.pre_feedforward_layernorm(x))))
    return y


def _attention(
    attention: Any,
    normed_BTH: Tensor,
    *,
    position_embeddings: tuple[Tensor, Tensor],
    attention_mask: Tensor | None = None,
    past_key_values: None = None,
    prefix: SharedPrefix | None = None,
    keys_and_values: list[KeyValue] | None = None,
    **settings: Any,
) -> Tensor:
    """What goes into the output projection, (B, T, A), with the attention function that the model is set to.

    `prefix` comes before each document; to `keys_and_values` are added those of the first row.
    """
    if past_key_values is not None:
        raise ValueError("positions are skipped in training only, where no key-value cache is in use")
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    query, key, value = (projection(normed_BTH).unflatten(-1, (-1, attention.head_dim)) for projection in projections)
    if hasattr(attention, "q_norm"):
        query, key = attention.q_norm(query), attention.k_norm(key)
    cos_BT1D, sin_BT1D = (angles_BTD.unsqueeze(2) for angles_BTD in position_embeddings)
    query, key = (_Rotation.apply(heads_BTND, cos_BT1D, sin_BT1D) for heads_BTND in (query, key))
    if keys_and_values is not None:
        keys_and_values.append((key[0], value[0]))
    shared = {} if prefix is None else {"prefix": prefix.of_layer(attention.layer_idx)}
    out_BTND, _ = AttentionInterface()[attention.config._attn_implementation](
        attention,
        *(heads_BTND.transpose(1, 2) for heads_BTND in (query, key, value)),
        attention_mask,
        scaling=attention.scaling,
        sliding_window=getattr(attention, "sliding_window", None),
        softcap=getattr(attention, "attn_logit_softcapping", None),
        **shared,
        **settings,
    )
    heads_BTA: Tensor = out_BTND.flatten(2)
    return heads_BTA


class _Sum(torch.autograd.Function):
    """x + y, kept in a slab."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        return torch.add(x, y, out=kept_like(x))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        return gradients[0], gradients[0]


class _Rotation(torch.autograd.Function):
    """Rotary position embedding of (B, T, N, D): x cos + rotate_half(x) sin, rounded where transformers rounds it."""

    @staticmethod
    def forward(ctx: Any, x_BTND: Tensor, cos_BT1D: Tensor, sin_BT1D: Tensor) -> Tensor:
        ctx.save_for_backward(cos_BT1D, sin_BT1D)
        return _rotate(x_BTND, cos_BT1D, sin_BT1D, out=kept_like(x_BTND))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        cos_BT1D, sin_BT1D = ctx.saved_tensors
        opposite_BT1D = torch.cat(sin_BT1D.chunk(2, -1)[::-1], -1).neg_()
        return _rotate(gradients[0], cos_BT1D, opposite_BT1D, out=empty_like(gradients[0])), None, None


def _rotate(x_BTND: Tensor, cos_BT1D: Tensor, sin_BT1D: Tensor, *, out: Tensor) -> Tensor:
    """Written to `out`: x cos + (-second half, first half) sin."""
    (first, second), (out_first, out_second) = x_BTND.chunk(2, -1), out.chunk(2, -1)
    (cos_first, cos_second), (sin_first, sin_second) = cos_BT1D.chunk(2, -1), sin_BT1D.chunk(2, -1)
    torch.mul(first, cos_first, out=out_first).sub_(torch.mul(second, sin_first, out=empty_like(first)))
    torch.mul(second, cos_second, out=out_second).add_(torch.mul(first, sin_second, out=empty_like(first)))
    return out
