"""Model folders with a real model's exact shape and random weights, to measure time and memory.

Weights are written in one file for each layer, so that building a model needs little memory.

`gemma-2b-shape` is google/gemma-2b-it's (2,506,172,416 parameters, 5 GB of disk). Its tokenizer is the embedded
model's, Gemma 3's, whose 262,144 entries end with 6,143 unused ones, so that text stays below Gemma 2B's 256,000 ids.
`gemma-2b-tiny` has its vocabulary and kind, but small layers. `llama-135m` is SmolLM2-135M-Instruct's (134,515,008
parameters) with that model's tokenizer (the second embedded model's).
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import (
    AutoModelForCausalLM,
    GemmaConfig,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedTokenizerBase,
)

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tests" / "helpers"))  # the chat template of Gemma's turns

NUM_PARAMETERS = {"gemma-2b-shape": 2_506_172_416, "llama-135m": 134_515_008}
NAMES = ("gemma-2b-shape", "gemma-2b-tiny", "llama-135m")
TINY = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "head_dim": 64, "num_attention_heads": 2}


def build(name: str, parent: Path, *, tokenizer: PreTrainedTokenizerBase | None = None, device: str = "cpu") -> Path:
    """The folder `parent/name` with weights, configuration and tokenizer; an existing one is reused.

    `tokenizer` replaces the model's own, whose package may not be installed. The weights are drawn on `device`.
    """
    folder = parent / name
    if (folder / "config.json").exists():
        return folder
    config = llama_config() if name == "llama-135m" else gemma_config(tiny=name == "gemma-2b-tiny")
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    num_parameters = sum(parameter.numel() for parameter in empty.parameters())
    assert num_parameters == NUM_PARAMETERS.get(name, num_parameters)
    folder.mkdir(parents=True, exist_ok=True)
    if tokenizer is None:
        tokenizer = smollm2_tokenizer() if name == "llama-135m" else gemma_tokenizer()
    tokenizer.save_pretrained(folder)
    shapes = {key: tuple(parameter.shape) for key, parameter in empty.named_parameters()}
    num_bytes = write_weights(folder, shapes, norm=1.0 if name == "llama-135m" else 0.0, device=device)
    config.save_pretrained(folder)  # last: it marks the folder as complete
    print(f"built {num_parameters:,} parameters, {num_bytes / 2**30:.2f} GiB", file=sys.stderr, flush=True)
    return folder


def gemma_config(*, tiny: bool) -> PretrainedConfig:
    """The configuration of google/gemma-2b-it; with `tiny` its vocabulary and kind, but small layers."""
    shape: dict[str, Any] = {
        "vocab_size": 256_000,
        "hidden_size": 2048,
        "intermediate_size": 16_384,
        "num_hidden_layers": 18,
        "num_attention_heads": 8,
        "num_key_value_heads": 1,
        "head_dim": 256,
        "hidden_activation": "gelu_pytorch_tanh",
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-6,
        "initializer_range": 0.02,
        "tie_word_embeddings": True,
        "bos_token_id": 2,
        "eos_token_id": 1,
        "pad_token_id": 0,
        "architectures": ["GemmaForCausalLM"],
        "dtype": "bfloat16",
    }
    return GemmaConfig(**(shape | (TINY if tiny else {})))


def llama_config() -> PretrainedConfig:
    """The configuration of HuggingFaceTB/SmolLM2-135M-Instruct."""
    return LlamaConfig(
        vocab_size=49_152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=8192,
        rms_norm_eps=1e-5,
        rope_theta=100_000.0,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
        architectures=["LlamaForCausalLM"],
        dtype="bfloat16",
    )


def write_weights(folder: Path, shapes: dict[str, tuple[int, ...]], *, norm: float, device: str = "cpu") -> int:
    """Random bf16 weights, one safetensors file for each layer and one for each other tensor; returns their bytes.

    `norm` is what a norm's weight is before training: Gemma multiplies by 1 + weight, Llama by the weight.
    """
    files: dict[str, list[str]] = defaultdict(list)
    for name in shapes:
        parts = name.split(".")
        files[".".join(parts[: parts.index("layers") + 2]) if "layers" in parts else name].append(name)
    chance = torch.Generator(device).manual_seed(0)
    num_bytes, places = 0, {}
    for number, names in enumerate(files.values(), start=1):
        file_name = f"model-{number:05d}-of-{len(files):05d}.safetensors"
        tensors = {name: torch.empty(shapes[name], dtype=torch.bfloat16, device=device) for name in names}
        for name, tensor in tensors.items():
            tensor.fill_(norm) if "norm" in name else tensor.normal_(std=0.02, generator=chance)
        save_file(tensors, folder / file_name, metadata={"format": "pt"})
        num_bytes += sum(tensor.nbytes for tensor in tensors.values())
        places |= dict.fromkeys(names, file_name)
    index = {"metadata": {"total_size": num_bytes}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    return num_bytes


def gemma_tokenizer() -> PreTrainedTokenizerBase:
    """The embedded model's tokenizer with a chat template of Gemma's turns, as the instruct model has one."""
    from support import GEMMA_TEMPLATE

    from medsum_core.model.base import load_tokenizer
    from medsum_core.model.embedded import EMBEDDED_NAME

    tokenizer = load_tokenizer(EMBEDDED_NAME)
    tokenizer.chat_template = GEMMA_TEMPLATE
    return tokenizer


def smollm2_tokenizer() -> PreTrainedTokenizerBase:
    """SmolLM2-135M-Instruct's, with its chat template."""
    from medsum_core.model.base import load_tokenizer
    from medsum_core.model.embedded import SMOLLM2_NAME

    return load_tokenizer(SMOLLM2_NAME)


def check_ids(folder: Path, train_file: Path, *, max_length: int) -> None:
    """Stop if a token of a row is outside of the model's vocabulary; print how long the rows are."""
    from medsum_core.model.base import load_config

    examples = read_examples(folder, train_file, max_length=max_length)
    vocabulary = load_config(str(folder)).vocab_size
    largest = max(max(*example.input_ids, *example.targets) for example in examples)
    if largest >= vocabulary:
        raise SystemExit(f"{train_file}: token {largest} is outside of the model's vocabulary of {vocabulary:,}")
    tokens = sum(example.num_tokens for example in examples) / len(examples)
    print(f"{len(examples)} rows, {tokens:.0f} tokens a row, largest id {largest:,} of {vocabulary:,}", flush=True)


def read_examples(folder: Path, train_file: Path, *, max_length: int) -> list[Any]:
    """The rows as that model is trained on them."""
    from medsum_core.data.masking import build_examples
    from medsum_core.data.prompt import build_renderer
    from medsum_core.data.records import read_records
    from medsum_core.model.base import load_tokenizer

    renderer = build_renderer(load_tokenizer(str(folder)))
    examples, _ = build_examples(read_records(train_file), renderer, max_length=max_length, max_new_tokens=256)
    return examples
