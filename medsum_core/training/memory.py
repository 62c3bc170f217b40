"""Estimate a run's peak memory by part, before any weight is loaded.

The model is built on the meta device, where tensors have shapes but no memory. One forward pass there, adapter in
place, counts what autograd saves for the backward pass: no formula per architecture, which could become outdated. Sizes
are in bytes. Letters: T tokens of a micro-batch, H heads, D head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PretrainedConfig

from medsum_core.errors import is_out_of_memory
from medsum_core.kernels import FAST_PATHS, GRAPHS, choose
from medsum_core.model.attention import document_attention
from medsum_core.model.base import DTYPES, empty_model
from medsum_core.model.families import attention_heads, decoder_name, is_inside, plain_attention
from medsum_core.model.forward import head_weight, inner_model
from medsum_core.model.lora import LoraSettings, attach_lora, fit_to, trainable_parameters
from medsum_core.model.quantised import FAST_NF4_BYTES, NF4_BYTES
from medsum_core.training.loss import tile_shape
from medsum_core.training.optimizer import OPTIMIZERS, PAGED_ADAMW_8BIT, SMALL_TENSOR

GIB = 1 << 30
PROBE_TOKENS = 128  # what autograd saves grows in proportion to the tokens
PROCESS_BYTES = {"cpu": int(0.75 * GIB), "cuda": int(0.55 * GIB)}  # libraries, tokenizer, kernels; the CUDA context
# Heap size / bytes of saved tensors, measured when those up to 32 MiB came from glibc's heap; the arena has fewer gaps.
HEAP_FACTOR, MMAP_BYTES = 1.7, 35 << 20
TOWER_BUFFERS = 6  # activations of the vision tower's widest layer that exist at a time without a backward pass
CARDS_GIB = (6, 8, 12, 16, 24)
MULTIPROCESSORS = 132  # of an H100 or H200: no GPU in examples/gpu.md has more
SCORE_BYTES = 8  # of a score: softmax in fp32, its 16-bit copy, the soft cap's tanh; in fp32 there is no copy
FLASH_ROWS = 128  # padding of each document's part of the query gradient
CARD_SHARE = 0.93  # of a GPU's memory; the rest goes to the driver, a screen and fragmentation


@dataclass(frozen=True, kw_only=True)
class ModelSize:
    """Sizes of a model with its adapter, measured on the meta device. Weights and tensors are counted in elements."""

    projections: int  # weights of linear layers other than the head: those stored in NF4
    adapted: int  # those of them that carry an adapter
    largest_projection: int
    other_weights: int  # embedding, tied head, norms
    head: int
    adapter: int
    adapter_small: int  # the part of it in tensors under SMALL_TENSOR
    num_layers: int
    num_heads: int
    head_size: int
    hidden: int
    widest: int  # features of the widest projection
    saved_tensors: tuple[float, ...]  # bytes a token of each tensor saved for the backward pass, attention scores aside
    targets: tuple[str, ...]  # the names of the layers that carry an adapter
    kernels: str
    written_out: bool  # attention in plain operations, which save all scores: soft caps, and classes without SDPA
    tower: int = 0  # weights of the vision tower, which is freed after the features of images are computed
    tower_working: int = 0  # elements of its activations for one image


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """Bytes at the peak of an update, by part."""

    weights: int
    dense_copy: int
    adapter: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    process: int
    tower: int = 0  # vision tower, before the first update only, in addition to weights and process

    @property
    def parts(self) -> dict[str, int]:
        """The parts of an update's peak: all but the vision tower."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "tower"}

    @property
    def total(self) -> int:
        """The peak: the sum of the parts, or the memory for computing features of images where that is more."""
        return max(sum(self.parts.values()), self.weights + self.process + self.tower)

    def lines(self) -> list[str]:
        """One aligned line a part, in GiB, then the sum."""
        parts = [(name.replace("_", " "), size) for name, size in [*self.parts.items(), ("peak", self.total)]]
        lines = [f"{name:<12}{size / GIB:7.2f} GiB" for name, size in parts]
        before = self.weights + self.process + self.tower
        return [*lines, f"{before / GIB:.2f} GiB while the vision tower reads images, before"] if self.tower else lines


@dataclass(frozen=True, kw_only=True)
class RunShape:
    """The choices that memory depends on. `emulated`: 16-bit products are computed in fp32 (CPU without bf16 units)."""

    precision: str
    load_in_4bit: bool
    num_tokens: int  # of the largest micro-batch, padding included
    alone_tokens: int = 0  # of a longer row, which runs alone
    optim: str = PAGED_ADAMW_8BIT
    attention: str = "per_document"
    dequantize: bool = False
    gradient_checkpointing: bool = False
    recompute_alone: bool = False  # recompute the activations of a longer row
    concurrent: int = 1  # micro-batches computed at a time
    num_documents: int = 1  # of the largest micro-batch, at least
    multiprocessors: int = MULTIPROCESSORS  # of the GPU
    saved_attention_tokens: int = 0  # attention weights of documents up to this length are saved (`kernels.Kernels`)
    device_kind: str = "cpu"
    emulated: bool = False


def measure_model(
    config: PretrainedConfig, lora: LoraSettings, *, precision: str, kernels: str, images: bool = False
) -> ModelSize:
    """The sizes of a model with its adapter, from its configuration alone; takes about a second and little memory.

    `kernels`: the name of the path, as each saves different tensors for the backward pass. With `images` the vision
    tower is counted separately: it is in memory while features are computed, not in training.
    Raises InputError when a target module matches nothing.
    """
    with torch.device("meta"):
        base = empty_model(config, precision=precision).requires_grad_(False)
        head = base.get_output_embeddings()
        linears = {
            name: layer for name, layer in base.named_modules() if isinstance(layer, nn.Linear) and layer is not head
        }
        head_weight(base)  # refuses a head of another kind before any weight is loaded
        lora, decoder = fit_to(base, lora), decoder_name(base)
        tower = tower_working = 0
        if images:
            from medsum_core.images.embedding import drop_tower

            before = sum(parameter.numel() for parameter in base.parameters())
            drop_tower(base)
            tower = before - sum(parameter.numel() for parameter in base.parameters())
            linears = {name: layer for name, layer in linears.items() if is_inside(name, decoder)}
            vision = config.vision_config
            tower_working = TOWER_BUFFERS * (vision.image_size // vision.patch_size) ** 2 * vision.intermediate_size
        num_weights = sum(parameter.numel() for parameter in base.parameters())
        projections = sum(layer.weight.numel() for layer in linears.values())
        adapted = [n for n in linears if is_inside(n, decoder) and n.rsplit(".", 1)[-1] in lora.target_modules]
        # The fast kernels save no dropout masks. On the reference path autocast computes the adapter in 16 bits.
        model = attach_lora(base, replace(lora, dropout=0.0) if kernels in FAST_PATHS else lora, base_name="")
        choose(kernels).apply(model, keep_dense=False)
    if kernels not in FAST_PATHS:
        for _, parameter in trainable_parameters(model):
            parameter.data = parameter.data.to(DTYPES[precision])
    trained = [parameter.numel() for _, parameter in trainable_parameters(model)]
    text = config.get_text_config()
    num_heads, _, head_size = attention_heads(config)
    return ModelSize(
        projections=projections,
        adapted=sum(linears[name].weight.numel() for name in adapted),
        largest_projection=max(layer.weight.numel() for layer in linears.values()),
        other_weights=num_weights - projections,
        head=head.weight.numel(),
        adapter=sum(trained),
        adapter_small=sum(size for size in trained if size < SMALL_TENSOR),
        num_layers=text.num_hidden_layers,
        num_heads=num_heads,
        head_size=head_size,
        hidden=text.hidden_size,
        widest=max(max(layer.in_features, layer.out_features) for layer in linears.values()),
        saved_tensors=tuple(num_bytes / PROBE_TOKENS for num_bytes in _saved_bytes(model, kernels)),
        targets=lora.target_modules,
        kernels=kernels,
        written_out=plain_attention(config) == "eager",
        tower=tower,
        tower_working=tower_working,
    )


def estimate_memory(size: ModelSize, run: RunShape) -> MemoryEstimate:
    """The peak memory of an update, by part."""
    stored = DTYPES[run.precision].itemsize
    computed = 4 if run.emulated else stored
    unpacks_scales = size.kernels in FAST_PATHS and run.device_kind == "cuda" and not run.dequantize
    nf4_bytes = FAST_NF4_BYTES if unpacks_scales else NF4_BYTES
    packed = nf4_bytes if run.load_in_4bit else stored
    converts = run.load_in_4bit or computed != stored
    packed_weights = size.projections - (size.adapted if run.dequantize and run.load_in_4bit else 0)
    activation_bytes = partial(_activation_bytes, size, stored=stored, computed=computed)
    alone = replace(run, num_tokens=run.alone_tokens, num_documents=1, gradient_checkpointing=run.recompute_alone)
    # Before a shape is recorded it is computed once, beside the memory that the graphs of other shapes keep.
    times = 2 if size.kernels == GRAPHS else 1
    return MemoryEstimate(
        weights=int(packed * packed_weights) + stored * size.other_weights,
        dense_copy=computed * (size.adapted if run.dequantize else size.largest_projection) if converts else 0,
        adapter=4 * size.adapter,
        gradients=4 * size.adapter * (1 + times * run.concurrent),  # a sum for each concurrent micro-batch, and its own
        optimizer=OPTIMIZERS[run.optim].moment_bytes(size.adapter, size.adapter_small),
        activations=times * max(run.concurrent * activation_bytes(run), activation_bytes(alone)),
        logits=times * run.concurrent * _logit_bytes(size, run, stored=stored, computed=computed),
        process=PROCESS_BYTES[run.device_kind],
        tower=stored * (size.tower + size.tower_working),
    )


def _activation_bytes(size: ModelSize, run: RunShape, *, stored: int, computed: int) -> int:
    """Bytes saved for the backward pass, plus the working memory of the widest layer in it."""
    saved = _resident_bytes(size, run) + size.num_layers * _score_bytes(size, run, stored=stored, computed=computed)
    if run.gradient_checkpointing:
        saved = saved / size.num_layers + stored * size.num_layers * size.hidden * run.num_tokens
    working = 3 * computed * size.widest * run.num_tokens
    return int(saved) + max(working, _attention_working_bytes(size, run, computed=computed))


def _attention_working_bytes(size: ModelSize, run: RunShape, *, computed: int) -> int:
    """Working memory of the deterministic backward pass of the varlen kernel: gradients, and partial query gradients.

    Deterministic FlashAttention 2 has a copy of dQ in fp32 for each of ceil(multiprocessors / (documents x H)) splits,
    (splits, T + 128 x documents, H, D rounded up to 32): `mha_varlen_bwd` of its flash_api.cpp.
    """
    if run.attention != "varlen":
        return 0
    num_splits = -(-run.multiprocessors // (run.num_documents * size.num_heads))
    rows = run.num_tokens + FLASH_ROWS * run.num_documents
    parts = 4 * num_splits * rows * size.num_heads * (-(-size.head_size // 32) * 32)
    return parts + 4 * computed * run.num_tokens * size.num_heads * size.head_size


def _logit_bytes(size: ModelSize, run: RunShape, *, stored: int, computed: int) -> int:
    """A tile of logits with its exponentials, plus a converted tile of the head where products use another dtype."""
    rows, words = tile_shape(run.device_kind)
    exponentials = 3 * 4  # the soft cap's slope included
    tile = rows * words * (stored + exponentials)
    return tile + (computed * words * size.hidden if computed != stored else 0)


def _resident_bytes(size: ModelSize, run: RunShape) -> float:
    """Memory of the saved tensors; on a CPU small ones leave gaps in the heap, which count too."""
    sizes = [num_bytes * run.num_tokens for num_bytes in size.saved_tensors]
    if run.device_kind == "cuda":
        return sum(sizes)
    return sum(num_bytes * (HEAP_FACTOR if num_bytes < MMAP_BYTES else 1) for num_bytes in sizes)


def _score_bytes(size: ModelSize, run: RunShape, *, stored: int, computed: int) -> int:
    """Bytes that a layer saves for pairs of tokens: all scores, those of short documents, or a mask (`sdpa`)."""
    pairs = run.num_tokens**2
    by_document = run.attention == "per_document"
    if by_document and run.saved_attention_tokens > 0:  # the fast kernels, which recompute soft-capped scores
        saved_pairs = run.num_tokens * min(run.num_tokens, run.saved_attention_tokens) * 3 // 4  # a quarter is masked
        return 0 if size.written_out else computed * size.num_heads * saved_pairs
    if size.written_out or run.attention == "eager":
        return SCORE_BYTES * size.num_heads * (pairs // run.num_documents if by_document else pairs)
    return stored * pairs if run.attention == "sdpa" else 0


def _saved_bytes(model: PeftModel, kernels: str) -> list[float]:
    """Bytes of each tensor, parameters aside, that a forward pass over PROBE_TOKENS saves for its backward pass.

    For a family that can't run on the meta device, the rule of thumb of Korthikanti et al. 2022 (section 4.1): 34 bytes
    per token, layer and hidden feature in 16 bits, attention scores aside.
    """
    inner = inner_model(model)
    dtype, grouped = inner.dtype, any(name.split(".")[-2:-1] == ["experts"] for name, _ in inner.named_parameters())
    if grouped:  # on the meta device torch's grouped product takes 16 bits only
        model.to(torch.bfloat16)
    try:
        saved = _probe(model, kernels)
    except (RuntimeError, TypeError, ValueError, AttributeError, LookupError, NotImplementedError) as error:
        if kernels in FAST_PATHS or is_out_of_memory(error):
            raise
        text = inner.config.get_text_config()
        return [34 * text.hidden_size * text.num_hidden_layers * PROBE_TOKENS * dtype.itemsize / 2]
    return [num_bytes * dtype.itemsize / inner.dtype.itemsize for num_bytes in saved] if grouped else [*saved]


def _probe(model: PeftModel, kernels: str) -> list[int]:
    parameters = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    saved: dict[int, tuple[int, Tensor]] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in parameters:
            saved[storage._cdata] = (storage.nbytes(), tensor)
        return tensor

    inner = inner_model(model)
    tokens_1T = torch.zeros(1, PROBE_TOKENS, dtype=torch.int64, device="meta")
    attention = document_attention(model, "probe", functions={"probe": _probe_attention})
    with attention, torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        options = {"read_M": torch.arange(PROBE_TOKENS, device="meta")} if kernels in FAST_PATHS else {}
        inner(input_ids=tokens_1T, position_ids=tokens_1T, use_cache=False, **options)
    return [num_bytes for num_bytes, _ in saved.values()]


class _FusedAttention(torch.autograd.Function):
    """The shapes of attention and the tensors that it saves, without its arithmetic.

    Real attention saves its output too, but that is the next projection's input and counted there.
    """

    @staticmethod
    def forward(ctx: Any, query_BHTD: Tensor, key: Tensor, value: Tensor) -> Tensor:
        ctx.save_for_backward(query_BHTD, key, value)
        batch, heads, num_tokens, _ = query_BHTD.shape
        return value.new_empty(batch, num_tokens, heads, value.shape[-1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        raise NotImplementedError("a probe has no backward pass")


def _probe_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **_: Any
) -> tuple[Tensor, None]:
    return _FusedAttention.apply(query, key, value), None


def fitting_settings(size: ModelSize, run: RunShape, *, cards_gib: Sequence[float] = CARDS_GIB) -> list[str]:
    """A line for each size of GPU: whether the run fits, or what to change so that it does."""
    # Without soft caps and images no GPU needs a mask: below 8.0 documents are computed one by one, at no more memory.
    needed = "eager" if size.written_out else "sdpa" if size.tower else "varlen"
    attention = run.attention if run.attention in ("eager", "sdpa") else needed
    base = replace(run, device_kind="cuda", concurrent=1, dequantize=False, emulated=False, attention=attention)
    recomputed = replace(base, gradient_checkpointing=True, recompute_alone=True)
    shortest = min(512, max(base.num_tokens, base.alone_tokens))
    shorter = replace(recomputed, num_tokens=shortest, num_documents=1, alone_tokens=0)
    changes = {
        "as it is": base,
        "--gradient_checkpointing on": recomputed,
        "--gradient_checkpointing on --load_in_4bit true": replace(recomputed, load_in_4bit=True),
        "--gradient_checkpointing on --load_in_4bit true --max_length 512 --pack_tokens 512": replace(
            shorter, load_in_4bit=True
        ),
    }
    needs = {flags: estimate_memory(size, changed).total for flags, changed in changes.items()}
    lines = []
    for card in cards_gib:
        fitting = [flags for flags, needed in needs.items() if needed <= CARD_SHARE * card * GIB]
        flags = fitting[0] if fitting else "does not fit: take a smaller model"
        lines.append(f"{card:>4g} GiB GPU: {flags}" + (f" ({needs[flags] / GIB:.1f} GiB)" if fitting else ""))
    return lines
