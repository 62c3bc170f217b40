"""Estimate decoding's memory, and choose by it how many notes are written at a time, and a dense base or NF4.

Sizes are in bytes unless stated. On a GPU a step of many notes takes hardly longer than one of few, so a batch is as
large as fits, up to MAX_BATCH; on a CPU it is CPU_BATCH, since larger batches do not lower the time per note.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from medsum_core.device import GIB, Device
from medsum_core.generation.batch import MAX_PROMPT_TOKENS
from medsum_core.model.base import DTYPES, empty_model
from medsum_core.model.families import attention_heads
from medsum_core.model.quantised import FAST_NF4_BYTES, NF4_BYTES

CPU_BATCH, MAX_BATCH = 16, 128
BATCHES = tuple(MAX_BATCH >> halvings for halvings in range(MAX_BATCH.bit_length()))  # 128, 64, ... 1
LOGIT_COPIES = 2  # in fp32, in addition to the head's output
MLP_BUFFERS, FP32_BUFFERS = 4, 6  # activations at a time in a layer: of the widest projection, of the hidden size


@dataclass(frozen=True, kw_only=True)
class DecodingSize:
    """A model's sizes, in elements."""

    projections: int  # weights of linear layers other than the head: those stored in NF4
    largest_projection: int
    other_weights: int  # embedding, head, norms
    key_values: int  # keys and values of one token in all layers
    num_layers: int
    num_heads: int
    hidden: int
    widest: int  # features of the widest projection
    vocabulary: int


@dataclass(frozen=True, kw_only=True)
class DecodingShape:
    """The settings that the memory of decoding depends on."""

    itemsize: int  # of weights, keys and values
    load_in_4bit: bool
    has_own_weights: bool  # dense weights are copies in addition to the base's own (fast kernels), not replacements
    prompt_tokens: int  # of the longest prompt
    new_tokens: int
    num_beams: int
    num_decoders: int = 1  # at a time, each with its own weights and cache: a server's tuned model and its base
    is_loaded: bool = False  # the base is in memory already, so it is not part of the free memory
    emulated: bool = False  # a CPU without 16-bit units computes with a copy in fp32 (`widened_weights.py`)

    @property
    def slot_tokens(self) -> int:
        """Columns of a slot in `KVCache`; a note's last tokens are never attended to, so they need none."""
        return self.prompt_tokens + self.num_beams * (self.new_tokens - 1)


@dataclass(frozen=True, kw_only=True)
class DecodingChoice:
    """The choices. `dense`: NF4 is dequantised once, not at each use; None: the decoder decides itself."""

    batch_size: int
    dense: bool | None

    def to_json(self) -> dict[str, int | str]:
        """The names and values of the corresponding flags."""
        return {"batch_size": self.batch_size, "dequantize": {None: "auto", True: "on", False: "off"}[self.dense]}


def decoding_size(causal: PreTrainedModel) -> DecodingSize:
    """The sizes of a base that is not in 4 bits, such as one on the meta device."""
    text, head = causal.config.get_text_config(), causal.get_output_embeddings()
    linears = [layer for layer in causal.modules() if isinstance(layer, nn.Linear) and layer is not head]
    projections = sum(layer.weight.numel() for layer in linears)
    num_heads, num_groups, head_size = attention_heads(causal.config)
    return DecodingSize(
        projections=projections,
        largest_projection=max((layer.weight.numel() for layer in linears), default=0),
        other_weights=sum(parameter.numel() for parameter in causal.parameters()) - projections,
        key_values=2 * text.num_hidden_layers * num_groups * head_size,
        num_layers=text.num_hidden_layers,
        num_heads=num_heads,
        hidden=text.hidden_size,
        widest=max((max(layer.in_features, layer.out_features) for layer in linears), default=text.hidden_size),
        vocabulary=text.vocab_size,
    )


def decoding_bytes(size: DecodingSize, shape: DecodingShape, *, batch_size: int, dense: bool) -> int:
    """The peak while `batch_size` notes are being written, weights included."""
    return (
        weight_bytes(size, shape, dense=dense)
        + shape.num_decoders * batch_size * cache_bytes(size, shape)
        + batch_size * _step_bytes(size, shape)
        + _prompt_bytes(size, shape)
    )


def weight_bytes(size: DecodingSize, shape: DecodingShape, *, dense: bool) -> int:
    """The base's weights, and dequantised or converted copies of them."""
    plain = shape.itemsize * size.projections
    nf4_bytes = FAST_NF4_BYTES if shape.has_own_weights and not dense else NF4_BYTES
    packed = int(nf4_bytes * size.projections) if shape.load_in_4bit else plain
    base = 0 if shape.is_loaded else packed + shape.itemsize * size.other_weights
    if shape.emulated:
        base += 4 * (size.other_weights + (size.projections if dense else 0))
    if not dense:
        return base + (shape.itemsize * size.largest_projection if shape.load_in_4bit else 0)
    return base + shape.num_decoders * plain if shape.has_own_weights else base + plain - packed


def cache_bytes(size: DecodingSize, shape: DecodingShape) -> int:
    """The slot of a note in `KVCache`: keys and values, an int64 position, and a bool for each beam that may see it."""
    return shape.slot_tokens * (shape.itemsize * size.key_values + 8 + shape.num_beams)


def choose_decoding(
    size: DecodingSize, shape: DecodingShape, device: Device, *, asked: int | None = None
) -> DecodingChoice:
    """`asked` notes at a time; None: on a GPU the largest of BATCHES that fits, on a CPU CPU_BATCH.

    A dense base is preferred to a larger batch if CPU_BATCH notes still fit: the time of a step with few notes is that
    of reading weights, and dequantising reads and writes each weight several times.
    """

    def fits(batch_size: int, *, dense: bool) -> bool:
        return decoding_bytes(size, shape, batch_size=batch_size, dense=dense) <= device.usable_bytes

    dense = (shape.load_in_4bit or shape.has_own_weights) and fits(asked or CPU_BATCH, dense=True)
    if asked is not None or device.kind == "cpu":
        return DecodingChoice(batch_size=asked or CPU_BATCH, dense=dense)
    return DecodingChoice(batch_size=next((number for number in BATCHES if fits(number, dense=dense)), 1), dense=dense)


def decide_for(
    config: PretrainedConfig, device: Device, *, precision: str, asked: int | None, **shape: Any
) -> DecodingChoice:
    """`choose_decoding` for a base's configuration; printed on stderr on a GPU. `shape`: fields of `DecodingShape`.

    Fast kernels on a CPU pack weights in their own layout and dtype, and decide themselves whether they fit.
    """
    emulated = device.kind == "cpu" and precision != "fp32" and not device.has_bf16_units
    run = DecodingShape(itemsize=DTYPES[precision].itemsize, emulated=emulated, **shape)
    if device.kind == "cpu" and (run.has_own_weights or not run.load_in_4bit):
        return DecodingChoice(batch_size=asked or CPU_BATCH, dense=None if run.has_own_weights else False)
    size = decoding_size(empty_model(config, precision=precision))
    choice = choose_decoding(size, run, device, asked=asked)
    if device.kind == "cuda":
        print(choice_line(choice, size, run, device), file=sys.stderr)
    return choice


def choice_line(choice: DecodingChoice, size: DecodingSize, shape: DecodingShape, device: Device) -> str:
    """A line with the choices and the estimate."""
    needed = decoding_bytes(size, shape, batch_size=choice.batch_size, dense=bool(choice.dense))
    weights = {None: "as the kernels decide", True: "dense", False: "NF4" if shape.load_in_4bit else "as loaded"}
    return (
        f"decoding: {choice.batch_size} notes at a time, weights {weights[choice.dense]}: about {needed / GIB:.1f} of "
        f"{device.free_bytes / GIB:.1f} GiB that are free"
    )


def _step_bytes(size: DecodingSize, shape: DecodingShape) -> int:
    """Per note in a step: logits, and for one layer a copy of its keys and values and the attention scores."""
    logits = shape.num_beams * size.vocabulary * (shape.itemsize + LOGIT_COPIES * 4)
    keys = shape.slot_tokens * size.key_values // size.num_layers * shape.itemsize
    return logits + keys + shape.num_beams * size.num_heads * shape.slot_tokens * (shape.itemsize + 4)


def _prompt_bytes(size: DecodingSize, shape: DecodingShape) -> int:
    """A forward pass over prompts, one layer at a time, and the mask that a sliding window may need."""
    num_tokens = max(MAX_PROMPT_TOKENS, shape.prompt_tokens)
    layer = num_tokens * (MLP_BUFFERS * shape.itemsize * size.widest + FP32_BUFFERS * 4 * size.hidden)
    return layer + shape.prompt_tokens**2 * (1 + shape.itemsize)
