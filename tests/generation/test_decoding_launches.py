"""Kernel launches of a decoding step of 16 notes on Gemma 2B's shape, fast decoder, counted on the meta device."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from meta_device import META, WaitRecorder, meta_patches, meta_run, recording
from transformers import GemmaConfig

from medsum_core.generation import kv_cache
from medsum_core.generation.kv_cache import KVCache
from medsum_core.kernels.decoding import decoder_layers, packed_weights
from medsum_core.kernels.decoding.decoder_layers import packed_decoder
from medsum_core.model.forward import causal_model

BUDGET = 900
SHAPE = {"hidden_size": 2048, "intermediate_size": 16_384, "num_attention_heads": 8, "num_key_value_heads": 1}


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., list[str]]]:
    """The launches of a forward pass over so many notes in progress and prompts of these lengths."""
    for module in (decoder_layers, packed_weights):
        monkeypatch.setattr(module, "fits", lambda num_bytes, device: True)
    config = GemmaConfig(**SHAPE, head_dim=256, vocab_size=256_000, num_hidden_layers=18)
    with meta_patches():
        causal = causal_model(meta_run(config, "varlen", load_in_4bit=True).model).eval()
        cache = KVCache(16, 1, 600, device=META)

        def count(num_rows: int, prompt_lengths: list[int]) -> list[str]:
            places = [300] * num_rows
            step = cache.begin_step(places, places, prompt_lengths, one_column=[False] * num_rows)
            tokens_T = torch.zeros(num_rows + sum(prompt_lengths), dtype=torch.int64, device=META)
            with torch.no_grad(), packed_decoder(causal) as forward:
                forward(cache, step, tokens_T, tokens_T, 1, None)  # the first one allocates the cache
                step.masks.clear()
                with recording(WaitRecorder()) as recorder:
                    forward(cache, step, tokens_T, tokens_T, 1, None)
            return recorder.launches

        yield count


def test_a_step_of_16_notes_launches_no_more_kernels_than_its_budget(launches: Callable[..., list[str]]) -> None:
    assert 500 < len(launches(16, [])) <= BUDGET


def test_prompts_are_attended_to_in_one_call_a_layer(
    launches: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    separately = len(launches(0, [240] * 8))
    monkeypatch.setattr(kv_cache, "has_varlen", lambda device, dtype: dtype == torch.bfloat16)
    together = launches(0, [240] * 8)
    assert together.count("torch_attn._varlen_attn.default") == 17  # the last layer reads one position of each prompt
    assert len(together) < separately - 17 * 8
