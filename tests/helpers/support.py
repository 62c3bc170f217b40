"""Tiny stand-ins used all over the tests: a tokenizer trained in-process and random Gemmas that fit in a few MiB.

Nothing here reads a file or the network. Hidden sizes are multiples of 64 (NF4 blocks) and 256 x rank 16 gives LoRA
tensors of exactly 4,096 elements, the size from which bitsandbytes stores its state in 8 bits.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from medsum_core.data.records import Record
from medsum_core.model.embedded import embedded_model

GEMMA_SPECIALS = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
GEMMA_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' }}"
    "{{ m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
CORPUS = [
    "Doctor: What brings you in today?\nPatient: I have had a cough for three days.\nDoctor: Any fever?\nPatient: No.",
    "The patient is a 52-year-old male with a history of hypertension. He takes lisinopril 10 mg daily.",
    "Guest_family: She is allergic to penicillin.\nDoctor: Thank you. Any other allergies?\nPatient: None.",
    "Write the section of a clinical note. Section: History of present illness. Dialogue: Note:",
]
TINY_VOCAB = 512


@lru_cache
def _bpe_json() -> str:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=GEMMA_SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", tokenizer.token_to_id("<bos>"))]
    )
    return tokenizer.to_str()


def tiny_tokenizer(*, chat: bool = True) -> PreTrainedTokenizerFast:
    """A byte-level BPE of fewer than 512 tokens with Gemma's control tokens; `chat=False` leaves out the chat template."""
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_bpe_json()),
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        pad_token="<pad>",
        additional_special_tokens=["<start_of_turn>", "<end_of_turn>"],
        chat_template=GEMMA_TEMPLATE if chat else None,
    )


def tiny_config(kind: str = "gemma", **overrides: Any) -> Any:
    """A two-layer configuration: `gemma`, `gemma2`, `gemma3_text` (one sliding layer of 8, one full), `llama`, `qwen2` or `qwen3`."""
    shape: dict[str, Any] = {
        "vocab_size": TINY_VOCAB,
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 64,
        "max_position_embeddings": 2048,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": 2,
    }
    if kind == "gemma":
        return GemmaConfig(**{**shape, "hidden_activation": "gelu_pytorch_tanh", **overrides})
    if kind == "gemma2":
        return Gemma2Config(**{**shape, "sliding_window": 8, "query_pre_attn_scalar": 64, **overrides})
    if kind == "gemma3_text":
        layers = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 8}
        return Gemma3TextConfig(**{**shape, **layers, "query_pre_attn_scalar": 64, **overrides})
    if kind == "llama":
        return LlamaConfig(**{**shape, "num_key_value_heads": 2, "tie_word_embeddings": True, **overrides})
    if kind == "qwen2":
        return Qwen2Config(**{**shape, "num_key_value_heads": 2, **overrides})
    if kind == "qwen3":
        return Qwen3Config(**{**shape, "num_key_value_heads": 2, **overrides})
    raise ValueError(f"unknown tiny model {kind!r}")


def tiny_model(
    kind: str = "gemma", *, seed: int = 0, dtype: torch.dtype = torch.float32, **overrides: Any
) -> PreTrainedModel:
    """A random model in evaluation mode. Weights are drawn wide enough that its predictions are not all alike."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(tiny_config(kind, initializer_range=0.08, **overrides))
    return model.to(dtype).eval()


def needs_package(name: str) -> pytest.MarkDecorator:
    """Skip a test of an embedded model whose package is not installed; the reason names the command."""
    model = embedded_model(name)
    absent = any(find_spec(module) is None for module, _ in model.parts)
    return pytest.mark.skipif(absent, reason=f"needs {model.package}: {model.install}")


def section_record(*, id: str, section_header: str, dialogue: str, note: str = "") -> Record:
    """A row of the task `section`."""
    return Record(id=id, parts={"section_header": section_header, "dialogue": dialogue}, note=note)


def section_parts(dialogue: str, section_header: str) -> dict[str, str]:
    """The parts of a prompt of the task `section`."""
    return {"section_header": section_header, "dialogue": dialogue}
