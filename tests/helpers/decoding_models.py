"""What the tests of decoding share: small random models, prompts, and the notes of transformers' own `generate`."""

from __future__ import annotations

import random
from typing import Any

import torch
from support import tiny_model
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, NoRepeatNGramLogitsProcessor

from medsum_core.generation.search import Generation

KINDS = ("gemma", "gemma2", "gemma3_text", "llama")
VOCAB = 64
SMALL = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}
STOPS = tuple(range(1, VOCAB, 5))  # so many that notes do end in them, at different lengths


def small_model(kind: str, seed: int = 0, **overrides: Any) -> Any:
    """Untied, for a tied random model mostly says its last token again."""
    eager = {"attn_implementation": "eager"} if kind == "gemma2" else {}
    overrides = {"tie_word_embeddings": False, **overrides}
    return tiny_model(kind, seed=seed, **{**SMALL, **eager, **overrides})


def some_prompts(seed: int, count: int = 4, longest: int = 20) -> list[list[int]]:
    chance = random.Random(seed)
    return [[2, *(chance.randrange(8, VOCAB) for _ in range(chance.randrange(longest)))] for _ in range(count)]


class OfTheNote(LogitsProcessor):
    """transformers' rule against repetition, which counts the prompt too, for what follows the prompt."""

    def __init__(self, size: int, num_prompt_tokens: int) -> None:
        self._rule, self._start = NoRepeatNGramLogitsProcessor(size), num_prompt_tokens

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return self._rule(input_ids[:, self._start :], scores)


def reference(
    model: Any, prompt: list[int], *, stops: tuple[int, ...] = STOPS, no_repeat_in_note: int = 0, **settings: Any
) -> Generation:
    """One note by transformers' own `generate`, on the model's device; on request with no n-gram of that size twice."""
    config = GenerationConfig(
        do_sample=False,
        eos_token_id=list(stops),
        pad_token_id=0,
        return_dict_in_generate=True,
        output_scores=True,
        **settings,
    )
    ids = torch.tensor([prompt], device=model.device)
    rules = LogitsProcessorList([OfTheNote(no_repeat_in_note, len(prompt))] if no_repeat_in_note else [])
    asked: dict[str, Any] = {"generation_config": config, "logits_processor": rules}
    output = model.generate(ids, attention_mask=torch.ones_like(ids), **asked)
    tokens = output.sequences[0, len(prompt) :].tolist()
    end = next((place for place, token in enumerate(tokens) if token in stops), len(tokens))
    score = float(output.sequences_scores[0]) if settings.get("num_beams", 1) > 1 else float("nan")
    return Generation(token_ids=tuple(tokens[:end]), hit_limit=end == len(tokens), score=score)
