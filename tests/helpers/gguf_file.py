"""What a Llama's GGUF file holds, by llama.cpp's rules: an independent reference for its conversion."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import gguf
import numpy as np
import regex
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.convert_slow_tokenizer import bytes_to_unicode

# llama.cpp, LLAMA_VOCAB_PRE_TYPE_SMOLLM: each digit for itself, then GPT-2's splits within what lies between digits.
GPT2_SPLITS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
PLACES = {"token_embd": "model.embed_tokens.weight", "output_norm": "model.norm.weight"}
LAYER_PLACES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}


def dequantised(contents: Any, name: str) -> Tensor:
    """A tensor of the file in fp32, rounded to bf16 as the cache holds it."""
    [tensor] = [tensor for tensor in contents.tensors if tensor.name == name]
    values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
    return torch.from_numpy(np.array(values, dtype=np.float32)).to(torch.bfloat16).float()


def model_of(contents: Any) -> LlamaForCausalLM:
    """transformers' Llama with the file's sizes and weights, put in by name; a head's rotated pairs are taken apart."""
    fields = {name: field.contents() for name, field in contents.fields.items() if name.startswith("llama.")}
    config = LlamaConfig(
        vocab_size=fields["llama.vocab_size"],
        hidden_size=fields["llama.embedding_length"],
        intermediate_size=fields["llama.feed_forward_length"],
        num_hidden_layers=fields["llama.block_count"],
        num_attention_heads=fields["llama.attention.head_count"],
        num_key_value_heads=fields["llama.attention.head_count_kv"],
        rms_norm_eps=fields["llama.attention.layer_norm_rms_epsilon"],
        rope_theta=fields["llama.rope.freq_base"],
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config).eval()
    weights = {place: dequantised(contents, f"{name}.weight") for name, place in PLACES.items()}
    for layer in range(config.num_hidden_layers):
        for name, place in LAYER_PLACES.items():
            weight = dequantised(contents, f"blk.{layer}.{name}.weight")
            if name in ("attn_q", "attn_k"):
                weight = weight.view(-1, 32, 2, 576).transpose(1, 2).reshape(-1, 576)
            weights[f"model.layers.{layer}.{place}.weight"] = weight
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    model.load_state_dict(weights)
    return model


def words(text: str) -> Iterator[list[str]]:
    """The characters that stand for the bytes of each stretch that is merged for itself."""
    spelt = bytes_to_unicode()
    for stretch in regex.findall(r"\p{N}|[^\p{N}]+", text):
        for word in regex.findall(GPT2_SPLITS, stretch):
            yield [spelt[byte] for byte in word.encode()]


def merged(symbols: list[str], ranks: dict[tuple[str, ...], int]) -> list[str]:
    """Byte-pair encoding: the pair that was merged first in training is merged first, wherever it stands."""
    while pairs := [pair for pair in pairwise(symbols) if pair in ranks]:
        best, rest, symbols = min(pairs, key=ranks.__getitem__), symbols, []
        while rest:
            width = 2 if tuple(rest[:2]) == best else 1
            symbols, rest = [*symbols, "".join(rest[:width])], rest[width:]
    return symbols
