"""The memory table of examples/gpu.md, estimated from configurations alone; needs no GPU and no model.

    python benchmarks/memory_table.py        # writes it between the page's two marker lines

Shapes as published; Gemma 3 4B, 12B and 27B with their vision tower, tuned on text. The recipe: NF4,
bf16, LoRA of rank 16 on the seven projections, dropout 0.05, 8-bit AdamW, rows of at most 1,024 tokens.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from random_models import gemma_config
from transformers import Gemma3Config, PretrainedConfig

from medsum_core.device import Device
from medsum_core.generation.decoding_memory import (
    DecodingShape,
    DecodingSize,
    choose_decoding,
    decoding_bytes,
    decoding_size,
)
from medsum_core.kernels import FAST, REFERENCE
from medsum_core.model.base import empty_model
from medsum_core.model.lora import LoraSettings
from medsum_core.training.memory import CARD_SHARE, GIB, ModelSize, RunShape, estimate_memory, measure_model

PAGE = Path(__file__).resolve().parent.parent / "examples" / "gpu.md"
BEGIN, END = "<!-- memory_table.py: begin -->", "<!-- memory_table.py: end -->"
TOKENS, MAX_LENGTH = (1024, 2048, 4096), 1024
CARDS = (6, 8, 12, 16, 24, 32, 48, 80)  # GB, as they are sold
DECODING_CARDS = (8, 16, 24, 80)
# hidden size, layers, query heads, key-value heads, head size, MLP
GEMMA_3 = {
    "Gemma 3 4B": (2560, 34, 8, 4, 256, 10_240),
    "Gemma 3 12B": (3840, 48, 16, 8, 256, 15_360),
    "Gemma 3 27B": (5376, 62, 32, 16, 128, 21_504),
}
SIGLIP = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "image_size": 896,
    "patch_size": 14,
    "vision_use_head": False,
}
PATHS = (("Gemma 2B", REFERENCE), ("Gemma 2B", FAST), *((name, REFERENCE) for name in GEMMA_3))


def config_of(name: str) -> PretrainedConfig:
    """The model's configuration."""
    if name == "Gemma 2B":
        return gemma_config(tiny=False)
    hidden, layers, heads, groups, size, mlp = GEMMA_3[name]
    text = {
        "vocab_size": 262_208,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "head_dim": size,
        "intermediate_size": mlp,
        "sliding_window": 1024,
    }
    return Gemma3Config(text_config=text, vision_config=SIGLIP)


def table() -> str:
    """A row for each model and path, a cell for each number of tokens in a micro-batch."""
    tokens = [f"{count:,} tokens" for count in TOKENS]
    decoding = ", ".join(map(str, DECODING_CARDS))
    lines = [["model", "kernels", *tokens, f"notes at a time on {decoding} GB"], ["---"] * (len(TOKENS) + 3)]
    for name, kernels in PATHS:
        config = config_of(name)
        size = measure_model(config, LoraSettings(), precision="bf16", kernels=kernels)
        cells = [_training(size, count) for count in TOKENS]
        lines.append([name, f"`{kernels}`", *cells, _decoding(config, kernels)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write_table(page: Path = PAGE) -> None:
    """Put the table between the page's two marker lines."""
    before, rest = page.read_text().split(BEGIN)
    _, after = rest.split(END)
    page.write_text(f"{before}{BEGIN}\n{table()}\n{END}{after}")


def _training(size: ModelSize, num_tokens: int) -> str:
    """The smallest GPU for a run and, where gradient checkpointing makes a smaller one suffice, that one too."""
    run = RunShape(
        precision="bf16",
        load_in_4bit=True,
        num_tokens=num_tokens,
        num_documents=num_tokens // MAX_LENGTH,
        attention="varlen",
        device_kind="cuda",
    )
    recomputed = replace(run, gradient_checkpointing=True)
    plain, again = (_card(estimate_memory(size, one).total) for one in (run, recomputed))
    return plain if plain.split(":")[0] == again.split(":")[0] else f"{plain}; recompute {again}"


def _card(needed: int) -> str:
    fitting = [card for card in CARDS if needed <= CARD_SHARE * card * GIB]
    return f"{fitting[0]} GB: {needed / GIB:.1f} GiB" if fitting else f"none: {needed / GIB:.1f} GiB"


def _decoding(config: PretrainedConfig, kernels: str) -> str:
    size = decoding_size(empty_model(config, precision="bf16"))
    how: dict[str, Any] = {"prompt_tokens": 768, "new_tokens": 256, "num_beams": 1}
    shape = DecodingShape(itemsize=2, load_in_4bit=True, has_own_weights=kernels == FAST, **how)
    return ", ".join(_notes(size, shape, _free_card(card)) for card in DECODING_CARDS)


def _notes(size: DecodingSize, shape: DecodingShape, device: Device) -> str:
    choice = choose_decoding(size, shape, device)
    needed = decoding_bytes(size, shape, batch_size=choice.batch_size, dense=bool(choice.dense))
    return f"{choice.batch_size}{' dense' if choice.dense else ''}" if needed <= device.usable_bytes else "none"


def _free_card(gigabytes: int) -> Device:
    free = int(CARD_SHARE * gigabytes * GIB)
    known: dict[str, Any] = {"capability": (8, 0), "has_bf16_units": True}
    return Device(kind="cuda", name="GPU", total_bytes=gigabytes * GIB, free_bytes=free, **known)


if __name__ == "__main__":
    write_table()
