"""Decoder layers of Gemma 1 to 3 and Llama written out for training; other model types keep transformers' own.

Letters: B rows, T tokens of a row, H features, N heads, D head size, A features of all heads (N x D), M positions that
are read.

Modules, names and weights stay those of transformers. The `forward` of attention, MLP, norms and of the projections
behind a norm is not called, nor are hooks on it: their arithmetic is that of the functions below. Two things differ:

* The output of a norm before projections is not saved for the backward pass but computed again (`norm_linear.py`).
* The last layer computes only the positions that the loss reads, those with a target. Nobody sees what a prompt's
  positions make of it, except as keys and values: behind attention it goes on with the M positions alone. The others
  come out as NaN: an objective that reads one fails at once instead of training on a wrong number.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from medsum_core.kernels.cpu.shared_prefix import KeyValue, SharedPrefix
from medsum_core.kernels.layers.gated_mlp import gated_down
from medsum_core.kernels.layers.lora_linear import FusedLinear
from medsum_core.kernels.layers.norm_linear import normed_projections

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
    heads = _attention(layer.self_attn, layer.input_layernorm, x, **settings)
    if read_M is not None:
        heads, x = (tensor.flatten(0, 1).index_select(0, read_M) for tensor in (heads, x))
    attended = layer.self_attn.o_proj(heads)
    if type(layer).__name__ in TWO_NORMS:
        x = x + attended
        return x + _mlp(layer.mlp, layer.post_attention_layernorm, x)
    x = x + layer.post_attention_layernorm(attended)
    return x + layer.post_feedforward_layernorm(_mlp(layer.mlp, layer.pre_feedforward_layernorm, x))


def _mlp(mlp: Any, norm: Any, x: Tensor) -> Tensor:
    return gated_down(mlp, *normed_projections(norm, (mlp.gate_proj, mlp.up_proj), x))


def _attention(
    attention: Any,
    norm: Any,
    x_BTH: Tensor,
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
    outputs = normed_projections(norm, projections, x_BTH)
    query, key, value = (output.unflatten(-1, (-1, attention.head_dim)) for output in outputs)
    if hasattr(attention, "q_norm"):
        query, key = attention.q_norm(query), attention.k_norm(key)
    query, key = apply_rotary_pos_emb(query, key, *position_embeddings, unsqueeze_dim=2)
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
