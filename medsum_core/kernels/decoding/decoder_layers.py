"""Decoding forward of the decoder layers of Gemma 1 to 3 and Llama, equal to transformers' modules up to rounding.

Letters: T tokens of a packed forward pass, M of them read, H hidden size, A query heads, G key-value heads, D head
size.

A step of few tokens is short: transformers' modules spend half of it in small operations around the products. Here
products that share their input are one, norms and rotations stay in fp32 until the next product, and the last layer
computes only the tokens that the head reads. Weights are packed while decoding; the model itself is not changed. Other
model types run their own modules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from medsum_core.device import arithmetic_dtype
from medsum_core.generation.candidates import Candidates
from medsum_core.generation.kv_cache import KVCache, Step, attend
from medsum_core.kernels.cpu.arena import return_free_blocks
from medsum_core.kernels.cpu.document_attention import ScoreRules, attend_documents
from medsum_core.kernels.decoding.blocked_head import Head
from medsum_core.kernels.decoding.packed_weights import (
    Projection,
    can_pack,
    dense_weight,
    fits,
    has_adapter,
    is_known,
    linear_of,
    packed_product,
    packed_product_times,
)
from medsum_core.kernels.gpu.graphed_steps import GraphedSteps
from medsum_core.kernels.gpu.graphs import Record
from medsum_core.model.forward import head_softcap, head_weight

Forward = Callable[..., Candidates]

# oneDNN's name and algorithm of an activation, by the class of transformers' module.
FUSED_ACTIVATIONS = {"GELUTanh": ("gelu", "tanh"), "SiLUActivation": ("swish", ""), "SiLU": ("swish", "")}


@contextmanager
def packed_decoder(
    causal: PreTrainedModel, *, dense: bool | None = None, record: Callable[[], Record] | None = None
) -> Iterator[Forward]:
    """The forward pass of decoding with packed weights; see `generation.generate.Forward`.

    `dense`: whether to use packed weights; None: they are used if they fit into the memory that is free now.
    `record`: makes what records the layers' launches, to be repeated in one call a step; None: each is made anew.
    """
    return_free_blocks()  # left from training; the key-value cache and the packed weights do not use them
    stack, head = DecoderStack(causal, dense=dense), Head(head_weight(causal), softcap=head_softcap(causal))
    hidden = stack.hidden if record is None else GraphedSteps(stack.hidden, record)

    def forward(cache: KVCache, step: Step, tokens_T: Tensor, positions_T: Tensor, *options: Any) -> Candidates:
        return head.candidates(hidden(tokens_T, positions_T, cache, step), *options)

    yield forward


class DecoderStack:
    """All layers and the last norm, with a key-value cache."""

    def __init__(self, causal: PreTrainedModel, *, dense: bool | None) -> None:
        self._decoder: Any = causal.get_decoder()
        embedding = self._decoder.embed_tokens.weight
        self._dtype = embedding.dtype
        compute = arithmetic_dtype(embedding.device, embedding.dtype)
        packed_dtype = None
        if dense is None:
            dense = fits(_num_weights(self._decoder.layers) * compute.itemsize, embedding.device)
        if dense and can_pack(embedding.device, compute):
            packed_dtype = self._dtype = compute
        self._layers = [_Layer(layer, packed_dtype) for layer in self._decoder.layers]
        self._norm = _Norm(self._decoder.norm)
        self._layer_types = {layer.layer_type for layer in self._layers}

    def hidden(self, tokens_T: Tensor, positions_T: Tensor, cache: KVCache, step: Step) -> Tensor:
        """The normed output (M, H) for the newest token of each beam and the last token of each prompt."""
        read_M = step.read_M if step.prompt_lengths else None  # without prompts all tokens are read
        x_TH = self._decoder.embed_tokens(tokens_T).to(self._dtype)
        rotations = {layer_type: self._rotation(positions_T, layer_type) for layer_type in self._layer_types}
        for layer in self._layers[:-1]:
            x_TH = layer(x_TH, None, rotations[layer.layer_type], cache, step)
        last = self._layers[-1]
        return self._norm(last(x_TH, read_M, rotations[last.layer_type], cache, step)).to(self._dtype)

    def _rotation(self, positions_T: Tensor, layer_type: str | None) -> tuple[Tensor, Tensor]:
        """cos and sin, (T, 1, D) in fp32, by the model's own module; sin with the sign of `_rotated`."""
        kind = () if layer_type is None else (layer_type,)
        like = torch.empty(0, dtype=torch.float32, device=positions_T.device)
        cos_1TD, sin_1TD = self._decoder.rotary_emb(like, positions_T[None], *kind)
        half = sin_1TD.shape[-1] // 2
        sin_1TD[..., :half].neg_()
        return cos_1TD[0, :, None], sin_1TD[0, :, None]


class _Layer:
    """One decoder layer."""

    def __init__(self, layer: Any, packed_dtype: torch.dtype | None) -> None:
        attention = layer.self_attn
        self._index, self._size = int(attention.layer_idx), attention.head_dim
        self._options = {
            "scaling": attention.scaling,
            "window": getattr(attention, "sliding_window", None),
            "softcap": getattr(attention, "attn_logit_softcapping", None),
        }
        self._query_key_value = Projection([attention.q_proj, attention.k_proj, attention.v_proj], packed_dtype)
        self._num_query_heads = attention.q_proj.out_features // self._size
        self._num_kv_heads = attention.k_proj.out_features // self._size
        self._out = Projection([attention.o_proj], packed_dtype)
        self._mlp = _mlp(layer.mlp, packed_dtype)
        has_four = hasattr(layer, "pre_feedforward_layernorm")  # Gemma 2 and 3 norm each branch's output too
        self._norms = [_Norm(layer.input_layernorm), _Norm(layer.post_attention_layernorm)]
        if has_four:
            self._norms += [_Norm(layer.pre_feedforward_layernorm), _Norm(layer.post_feedforward_layernorm)]
        counts = (self._num_query_heads, self._num_kv_heads)
        self._head_norm = _head_norm(attention, counts) if hasattr(attention, "q_norm") else None
        # Only Gemma 3 has a rotation for each type of layer.
        self.layer_type = attention.layer_type if self._head_norm else None

    def __call__(
        self, x_TH: Tensor, read_M: Tensor | None, rotation: tuple[Tensor, Tensor], cache: KVCache, step: Step
    ) -> Tensor:
        """The layer's output, of all tokens or of those in `read_M`; all keys and values go to the cache."""
        norms = self._norms
        normed_TH = norms[0](x_TH).to(x_TH.dtype)
        attended = self._attend(normed_TH, read_M, rotation, cache, step)
        if read_M is not None:
            x_TH = x_TH[read_M]
        if len(norms) == 2:
            x_TH = x_TH + attended
            return x_TH + self._mlp(norms[1](x_TH).to(x_TH.dtype))
        x_TH = x_TH + norms[1](attended).to(x_TH.dtype)
        return x_TH + norms[3](self._mlp(norms[2](x_TH).to(x_TH.dtype))).to(x_TH.dtype)

    def _attend(
        self, x_TH: Tensor, read_M: Tensor | None, rotation: tuple[Tensor, Tensor], cache: KVCache, step: Step
    ) -> Tensor:
        heads = self._query_key_value(x_TH).unflatten(1, (-1, self._size))
        mixed, value_TGD = heads.tensor_split([self._num_query_heads + self._num_kv_heads], dim=1)
        mixed = mixed.float() if self._head_norm is None else self._head_norm(mixed)
        query_TAD, key_TGD = _rotated(mixed, rotation).to(x_TH.dtype).tensor_split([self._num_query_heads], dim=1)
        if read_M is not None:
            query_TAD = query_TAD[read_M]
        options: dict[str, Any] = {**self._options, "only_last": read_M is not None, "attend_prompts": _attend_prompts}
        out_TAD = attend(cache, self._index, query_TAD, key_TGD, value_TGD, step, **options)
        return self._out(out_TAD.flatten(1))


class _Norm:
    """RMSNorm with an fp32 output. Gemma stores its weights minus 1."""

    def __init__(self, norm: Any) -> None:
        is_gemma = hasattr(norm, "eps")
        weight = norm.weight.detach().float()
        self.weight = 1 + weight if is_gemma else weight
        self.eps = norm.eps if is_gemma else norm.variance_epsilon

    def __call__(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" and self.weight.dim() == 1:  # torch has a fused kernel for GPUs only
            y: Tensor = torch.ops.aten._fused_rms_norm(x.float(), x.shape[-1:], self.weight, self.eps)[0]
            return y
        wide = x.to(torch.float32, copy=True)
        length = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        return wide.mul_(length.square_().div_(x.shape[-1]).add_(self.eps).rsqrt_()).mul_(self.weight)


def _head_norm(attention: Any, counts: tuple[int, int]) -> _Norm:
    """The norms of query and key heads as one, with a weight for each head."""
    query, key = _Norm(attention.q_norm), _Norm(attention.k_norm)
    if query.eps != key.eps:
        raise ValueError("query and key norms with a different epsilon are not supported")
    query.weight = torch.cat([norm.weight.expand(n, -1) for norm, n in zip((query, key), counts, strict=True)])
    return query


class _FusedMlp:
    """A gated MLP in which oneDNN applies the activation and the product of both branches inside matrix products."""

    def __init__(self, mlp: Any, dtype: torch.dtype, activation: str, algorithm: str) -> None:
        gate = dense_weight(mlp.gate_proj, dtype)
        self._gate = packed_product(*gate, activation=activation, algorithm=algorithm)
        self._times_up = packed_product_times(*dense_weight(mlp.up_proj, dtype))
        self._down = Projection([mlp.down_proj], dtype)

    def __call__(self, x_TH: Tensor) -> Tensor:
        return self._down(self._times_up(x_TH, self._gate(x_TH)))


class _Mlp:
    """A gated MLP for any activation and for layers with an adapter."""

    def __init__(self, mlp: Any, packed_dtype: torch.dtype | None) -> None:
        self._activation = mlp.act_fn
        self._gate_up = Projection([mlp.gate_proj, mlp.up_proj], packed_dtype)
        self._down = Projection([mlp.down_proj], packed_dtype)

    def __call__(self, x_TH: Tensor) -> Tensor:
        gate, up = self._gate_up(x_TH).chunk(2, -1)
        return self._down(self._activation(gate) * up)


def _mlp(mlp: Any, packed_dtype: torch.dtype | None) -> _FusedMlp | _Mlp:
    name = type(mlp.act_fn).__name__
    branches = (mlp.gate_proj, mlp.up_proj)
    on_cpu = linear_of(mlp.gate_proj).weight.device.type == "cpu"
    if packed_dtype is None or not on_cpu or name not in FUSED_ACTIVATIONS or any(map(has_adapter, branches)):
        return _Mlp(mlp, packed_dtype)
    if not all(map(is_known, branches)):
        return _Mlp(mlp, packed_dtype)
    return _FusedMlp(mlp, packed_dtype, *FUSED_ACTIVATIONS[name])


def _rotated(x_TAD: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """x cos + (-x2, x1) sin, with the minus already in sin."""
    cos_T1D, sin_T1D = rotation
    first, second = x_TAD.chunk(2, -1)
    return torch.addcmul(x_TAD * cos_T1D, torch.cat((second, first), -1), sin_T1D)


def _num_weights(layers: nn.ModuleList) -> int:
    names = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    found = [module for name, module in layers.named_modules() if name.rsplit(".", 1)[-1] in names]
    return sum(linear_of(module).in_features * linear_of(module).out_features for module in found)


def _attend_prompts(
    query_THD: Tensor,
    key_TGD: Tensor,
    value_TGD: Tensor,
    lengths: Sequence[int],
    *,
    scaling: float | None,
    window: int | None,
    softcap: float | None,
) -> Tensor:
    """`model.attention.attend_documents` by the compiled attention."""
    rules = ScoreRules(scale=scaling or query_THD.shape[-1] ** -0.5, window=window, softcap=softcap)
    return attend_documents(query_THD, key_TGD, value_TGD, lengths, rules)
