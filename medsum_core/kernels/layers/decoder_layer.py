"""Training forward of the decoder layers of Gemma 1 to 3 and Llama; other model types keep transformers' own.

Letters: B rows, T tokens of a row, H features, N heads, D head size, A features of all heads (N x D), M positions with
a target.

Modules, names and weights stay those of transformers. The `forward` of attention, MLP, input norms and of the
projections after a norm is not called, so hooks on them do not fire. Two things differ from transformers:

* A norm and the projections after it are one function, which saves less for the backward pass (`norm_linear.py`).
* The last layer computes only the positions that the loss reads, those with a target. Other positions are needed for
  their keys and values only, so everything after attention uses the M positions alone. The others are set to NaN: an
  objective that reads one fails at once instead of training on a wrong value.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from medsum_core.kernels.cpu.document_attention import Recomputed
from medsum_core.kernels.cpu.shared_prefix import KeyValue, SharedPrefix
from medsum_core.kernels.layers.gated_mlp import gated_down
from medsum_core.kernels.layers.joined_products import join_projections
from medsum_core.kernels.layers.lora_linear import FusedLinear
from medsum_core.kernels.layers.norm_linear import ResidualSum, normed_projections
from medsum_core.kernels.layers.rms_norm import frozen_rms_norm
from medsum_core.kernels.layers.rotation import rotate

CACHE_ARGUMENTS = ("cache", "past_key_values")  # from transformers 5.24 on, and before
TWO_NORMS = ("GemmaDecoderLayer", "LlamaDecoderLayer")
FOUR_NORMS = ("Gemma2DecoderLayer", "Gemma3DecoderLayer")  # they also norm the output of attention and MLP


def use_training_layers(decoder: nn.Module, *, joins: bool = False) -> int:
    """Replace the forward of the decoder's layers of a known class; returns how many were replaced.

    They then also take `read_M`, the indices of the M positions in the flattened B x T of a micro-batch. Without it
    they call transformers' own forward. With `joins` the projections of one input are joined (`joined_products.py`).
    """
    layers: list[Any] = list(getattr(decoder, "layers", []))
    known = [layer for layer in layers if type(layer).__name__ in TWO_NORMS + FOUR_NORMS]
    for layer in known:
        layer.forward = partial(_forward, layer, layer is layers[-1])
        _mark_saved_outputs(layer)
        if joins:
            join_projections((layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj))
            join_projections((layer.mlp.gate_proj, layer.mlp.up_proj))
    return len(known)


def _mark_saved_outputs(layer: Any) -> None:
    attention, mlp = layer.self_attn, layer.mlp
    norms_outputs = type(layer).__name__ in FOUR_NORMS
    is_saved = {
        attention.q_proj: hasattr(attention, "q_norm"),  # a norm saves its input; else only rotated heads are saved
        attention.k_proj: hasattr(attention, "k_norm"),
        attention.v_proj: True,
        attention.o_proj: norms_outputs,  # else only the residual sum is saved
        mlp.gate_proj: True,
        mlp.up_proj: True,
        mlp.down_proj: norms_outputs,
    }
    for projection, value in is_saved.items():
        if isinstance(projection.forward, FusedLinear):
            projection.forward.output_is_saved = value


def _forward(layer: Any, is_last: bool, x_BTH: Tensor, *, read_M: Tensor | None = None, **settings: Any) -> Tensor:
    """(B, T, H); the last layer's is NaN outside of `read_M`."""
    if read_M is None:
        y_BTH: Tensor = type(layer).forward(layer, x_BTH, **settings)
    elif is_last:  # recomputing it would save nothing: the backward pass starts with this layer
        unread_TH = torch.full_like(x_BTH, torch.nan).flatten(0, 1)
        y_BTH = unread_TH.index_copy(0, read_M, _output(layer, x_BTH, read_M, **settings)).view_as(x_BTH)
    elif layer.gradient_checkpointing and layer.training:
        y_BTH = layer._gradient_checkpointing_func(partial(_output, layer, **settings), x_BTH)
    else:
        y_BTH = _output(layer, x_BTH, **settings)
    return y_BTH


def _output(layer: Any, x: Tensor, read_M: Tensor | None = None, **settings: Any) -> Tensor:
    """The layer's output, (B, T, H), or (M, H) with `read_M`."""
    heads = _attention(layer.self_attn, layer.input_layernorm, x, **settings)
    if read_M is not None:
        heads, x = (tensor.flatten(0, 1).index_select(0, read_M) for tensor in (heads, x))
    attended = layer.self_attn.o_proj(heads)
    if type(layer).__name__ in TWO_NORMS:
        x = x + attended
        return x + _mlp(layer.mlp, layer.post_attention_layernorm, x)
    summed = ResidualSum(x=x, y=attended, norm=frozen_rms_norm(layer.post_attention_layernorm))
    x = x + layer.post_attention_layernorm(attended)
    return x + layer.post_feedforward_layernorm(_mlp(layer.mlp, layer.pre_feedforward_layernorm, x, summed))


def _mlp(mlp: Any, norm: Any, x: Tensor, summed: ResidualSum | None = None) -> Tensor:
    return gated_down(mlp, *normed_projections(norm, (mlp.gate_proj, mlp.up_proj), x, summed))


def _attention(
    attention: Any,
    norm: Any,
    x_BTH: Tensor,
    *,
    position_embeddings: tuple[Tensor, Tensor],
    attention_mask: Tensor | None = None,
    prefix: SharedPrefix | None = None,
    keys_and_values: list[KeyValue] | None = None,
    **settings: Any,
) -> Tensor:
    """The input of the output projection, (B, T, A), by the attention function that the model is set to.

    `prefix`: keys and values before each document. `keys_and_values`: a list to which those of the first row are added.
    """
    if any(settings.pop(name, None) is not None for name in CACHE_ARGUMENTS):
        raise ValueError("read_M is for training, where no key-value cache is in use: pass one of them only")
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    outputs = normed_projections(norm, projections, x_BTH)
    query, key, value = (output.unflatten(-1, (-1, attention.head_dim)) for output in outputs)
    prepare = partial(_normed_and_rotated, attention, position_embeddings)
    options: dict[str, Any] = {} if prefix is None else {"prefix": prefix.of_layer(attention.layer_idx)}
    if hasattr(attention, "q_norm"):  # the norms save their inputs, from which the rotated heads can be recomputed
        options["recomputed"] = Recomputed(tensors=(query, key), compute=prepare)
    query, key = prepare(query, key)
    if keys_and_values is not None:
        keys_and_values.append((key[0], value[0]))
    out_BTND, _ = AttentionInterface()[attention.config._attn_implementation](
        attention,
        *(heads_BTND.transpose(1, 2) for heads_BTND in (query, key, value)),
        attention_mask,
        scaling=attention.scaling,
        sliding_window=getattr(attention, "sliding_window", None),
        softcap=getattr(attention, "attn_logit_softcapping", None),
        **options,
        **settings,
    )
    heads_BTA: Tensor = out_BTND.flatten(2)
    return heads_BTA


def _normed_and_rotated(
    attention: Any, position_embeddings: tuple[Tensor, Tensor], query_BTND: Tensor, key_BTND: Tensor
) -> tuple[Tensor, Tensor]:
    """Queries and keys after their norms, where the family has some, and their rotation."""
    if hasattr(attention, "q_norm"):
        query_BTND, key_BTND = attention.q_norm(query_BTND), attention.k_norm(key_BTND)
    return rotate(query_BTND, *position_embeddings), rotate(key_BTND, *position_embeddings)
