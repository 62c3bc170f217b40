"""The last decoder layer computes only the positions that the loss reads: those with a target.

Letters: B rows, T tokens of a row, H features, A features of all heads, M positions that are read.

Nobody sees what a prompt's positions make of the last layer, except as keys and values. So behind attention that layer
goes on with the M positions alone, forward and backward; the gradient is the same. The others come out as NaN: an
objective that reads a position without a target fails at once instead of training on a wrong number.

The layers of Gemma 1 to 3 and Llama are written out here; other model types compute all positions.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.models.gemma.modeling_gemma import apply_rotary_pos_emb

TWO_NORMS = ("GemmaDecoderLayer", "LlamaDecoderLayer")
FOUR_NORMS = ("Gemma2DecoderLayer", "Gemma3DecoderLayer")  # they norm what attention and MLP give, too


def skip_unread_positions(decoder: nn.Module) -> bool:
    """Replace the forward of the decoder's last layer, if it is of a known class; it then takes `read_M` besides.

    `read_M` are the places of the M positions in the B x T of a micro-batch. Without it the layer computes all.
    """
    layer: Any = list(getattr(decoder, "layers", [None]))[-1]
    is_known = type(layer).__name__ in TWO_NORMS + FOUR_NORMS
    if is_known:
        layer.forward = partial(_forward, layer)
    return is_known


def _forward(layer: Any, x_BTH: Tensor, *, read_M: Tensor | None = None, **settings: Any) -> Tensor:
    """(B, T, H), NaN outside of `read_M`."""
    if read_M is None:
        y_BTH: Tensor = type(layer).forward(layer, x_BTH, **settings)
        return y_BTH
    heads_BTA = _attention(layer.self_attn, layer.input_layernorm(x_BTH), **settings)
    heads_MA, x_MH = (tensor.flatten(0, 1).index_select(0, read_M) for tensor in (heads_BTA, x_BTH))
    attended_MH = layer.self_attn.o_proj(heads_MA)
    if type(layer).__name__ in TWO_NORMS:
        x_MH = x_MH + attended_MH
        y_MH = x_MH + layer.mlp(layer.post_attention_layernorm(x_MH))
    else:
        x_MH = x_MH + layer.post_attention_layernorm(attended_MH)
        y_MH = x_MH + layer.post_feedforward_layernorm(layer.mlp(layer.pre_feedforward_layernorm(x_MH)))
    unread_TH = torch.full_like(x_BTH, torch.nan).flatten(0, 1)
    return unread_TH.index_copy(0, read_M, y_MH).view_as(x_BTH)


def _attention(
    attention: Any,
    normed_BTH: Tensor,
    *,
    position_embeddings: tuple[Tensor, Tensor],
    attention_mask: Tensor | None = None,
    past_key_values: None = None,
    **settings: Any,
) -> Tensor:
    """What goes into the output projection, (B, T, A), with the attention function that the model is set to."""
    if past_key_values is not None:
        raise ValueError("positions are skipped in training only, where no key-value cache is in use")
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    query, key, value = (
        projection(normed_BTH).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2) for projection in projections
    )
    if hasattr(attention, "q_norm"):
        query, key = attention.q_norm(query), attention.k_norm(key)
    query, key = apply_rotary_pos_emb(query, key, *position_embeddings)
    out_BTAD, _ = AttentionInterface()[attention.config._attn_implementation](
        attention,
        query,
        key,
        value,
        attention_mask,
        scaling=attention.scaling,
        sliding_window=getattr(attention, "sliding_window", None),
        softcap=getattr(attention, "attn_logit_softcapping", None),
        **settings,
    )
    heads_BTA: Tensor = out_BTAD.flatten(2)
    return heads_BTA
