"""The memory estimate: counts from the meta device against the bytes of real tensors."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit
from image_models import image_config, image_model
from support import tiny_config, tiny_model
from transformers import AutoConfig, AutoModelForCausalLM

from benchmarks.random_models import gemma_config
from medsum_core.data.collator import MicroBatch
from medsum_core.errors import InputError
from medsum_core.kernels import choose
from medsum_core.model.attention import document_attention
from medsum_core.model.base import DTYPES
from medsum_core.model.lora import LoraSettings, attach_lora, trainable_parameters
from medsum_core.model.quantised import FAST_NF4_BYTES, NF4_BYTES, unpack_scales
from medsum_core.training.loss import CPU_TILE
from medsum_core.training.memory import (
    GIB,
    ModelSize,
    RunShape,
    estimate_memory,
    fitting_settings,
    measure_model,
)
from medsum_core.training.optimizer import build_optimizer

NO_DROPOUT = LoraSettings(dropout=0.0)


@pytest.fixture(scope="module")
def size_2b() -> ModelSize:
    return measure_model(gemma_config(tiny=False), LoraSettings(), precision="bf16", kernels="fast")


def test_gemma_2b_trains_19_611_648_parameters(size_2b):
    assert size_2b.adapter == 19_611_648
    attention = (2048 + 2048) * 2 + (2048 + 256) * 2  # q and o, k and v: in + out features
    assert size_2b.adapter == 18 * 16 * (attention + 3 * (2048 + 16_384))
    assert size_2b.projections + size_2b.other_weights == 2_506_172_416  # the published size of gemma-2b
    assert size_2b.head == 256_000 * 2048 and size_2b.widest == 16_384


def test_estimated_nf4_bytes_equal_those_of_bitsandbytes():
    layer = Linear4bit(2048, 1024, bias=False, compress_statistics=True, quant_type="nf4").to("cpu")
    state = layer.weight.quant_state
    tensors = [layer.weight.data, state.absmax, state.state2.absmax]
    assert sum(tensor.nbytes for tensor in tensors) == pytest.approx(NF4_BYTES * 2048 * 1024, rel=1e-3)
    expected = dequantize_4bit(layer.weight.data, state)
    unpack_scales(layer)
    assert torch.equal(dequantize_4bit(layer.weight.data, state), expected)
    assert layer.weight.nbytes + state.absmax.nbytes == FAST_NF4_BYTES * 2048 * 1024 and state.state2 is None


def saved_bytes(model: Any, kernels: str, num_tokens: int, *, length: int = 8, attention: str = "per_document") -> int:
    """Bytes that a forward pass saves for the backward pass, without parameters; documents of 8 tokens need no masks."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    saved: dict[int, tuple[int, torch.Tensor]] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage().data_ptr()] = (tensor.untyped_storage().nbytes(), tensor)
        return tensor

    chosen = choose(kernels)
    tokens = torch.zeros(1, num_tokens, dtype=torch.int64)
    batch = MicroBatch(
        input_ids_BT=tokens,
        position_ids_BT=torch.arange(num_tokens)[None] % length,
        targets_BT=tokens,
        document_lengths=((length,) * (num_tokens // length),),
        ids=(),
        num_targets=num_tokens,
        num_tokens=num_tokens,
    )
    attends = document_attention(model, attention, functions=chosen.attention)
    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with attends, hooks:
        chosen.hidden_states(model, batch)
    return sum(num_bytes for place, (num_bytes, _) in saved.items() if place not in parameters)


@pytest.mark.parametrize("kind", ["gemma", "gemma2", "gemma3_text", "llama"])
def test_estimated_activations_equal_those_of_a_forward_pass_of_the_fast_kernels(kind: str) -> None:
    model = attach_lora(tiny_model(kind), NO_DROPOUT, base_name="")
    choose("fast").apply(model, keep_dense=False)
    found = saved_bytes(model, "fast", 256)
    size = measure_model(tiny_config(kind), NO_DROPOUT, precision="fp32", kernels="fast")
    if kind == "gemma3_text":  # its rotated queries and keys: other functions save them, this one computes them again
        config = tiny_config(kind)
        heads = config.num_attention_heads + config.num_key_value_heads
        found += config.num_hidden_layers * 256 * heads * config.head_dim * 4
    assert sum(size.saved_tensors) * 256 == pytest.approx(found, rel=0.05)


@pytest.mark.parametrize("kind", ["gemma", "gemma3_text", "llama", "qwen3"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_estimated_activations_equal_those_of_a_forward_pass_of_the_reference_path(precision: str, kind: str) -> None:
    """Dropout's masks and copies among them; in bf16 under autocast, with a 16-bit copy of the adapter's weights."""
    settings = LoraSettings(r=4, dropout=0.05)
    model = attach_lora(tiny_model(kind, dtype=DTYPES[precision]), settings, base_name="")
    found = saved_bytes(model, "reference", 1024)
    size = measure_model(tiny_config(kind), settings, precision=precision, kernels="reference")
    assert sum(size.saved_tensors) * 1024 == pytest.approx(found, rel=0.1)


@pytest.mark.parametrize(
    ("kind", "kernels", "attention", "precision"),
    [
        ("gemma2", "reference", "per_document", "fp32"),
        ("gemma2", "reference", "per_document", "bf16"),
        ("gemma2", "reference", "sdpa", "bf16"),
        ("gemma2", "fast", "eager", "bf16"),
        ("gemma2", "fast", "per_document", "bf16"),
        ("granite_swa", "reference", "model", "fp32"),  # its class knows no SDPA
    ],
)
def test_scores_that_attention_saves_are_in_the_estimate(
    kind: str, kernels: str, attention: str, precision: str
) -> None:
    shape = {**tiny_config("llama").to_dict(), "model_type": kind}
    config = AutoConfig.for_model(**shape) if kind == "granite_swa" else tiny_config(kind)
    lora = LoraSettings(r=4, dropout=0.0, target_modules=("q_proj", "v_proj"))
    torch.manual_seed(0)
    model = attach_lora(AutoModelForCausalLM.from_config(config).to(DTYPES[precision]), lora, base_name="")
    choose(kernels).apply(model, keep_dense=False)
    found = saved_bytes(model, kernels, 512, length=512, attention=attention)
    size = measure_model(config, lora, precision=precision, kernels=kernels)
    saved_tokens = choose(kernels).saved_attention_tokens
    run = RunShape(
        precision=precision,
        load_in_4bit=False,
        num_tokens=512,
        attention=attention,
        saved_attention_tokens=saved_tokens,
        device_kind="cuda",  # whose allocator leaves no gaps
    )
    working = 3 * DTYPES[precision].itemsize * size.widest * 512
    assert estimate_memory(size, run).activations - working == pytest.approx(found, rel=0.1)


@pytest.mark.parametrize("optim", ["paged_adamw_8bit", "adamw_torch"])
def test_estimated_optimizer_bytes_equal_those_of_a_real_state(optim):
    model = attach_lora(tiny_model(), NO_DROPOUT, base_name="")
    parameters = trainable_parameters(model)
    optimizer = build_optimizer(parameters, name=optim, learning_rate=1e-4)
    for _, parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    names = ("state1", "state2", "absmax1", "absmax2", "exp_avg", "exp_avg_sq")
    found = sum(state[name].nbytes for state in optimizer.state.values() for name in names if name in state)
    size = measure_model(tiny_config(), NO_DROPOUT, precision="fp32", kernels="fast")
    estimate = estimate_memory(size, RunShape(precision="fp32", load_in_4bit=False, num_tokens=1, optim=optim))
    assert estimate.optimizer == pytest.approx(found, rel=0.01)
    assert estimate.adapter == sum(4 * parameter.numel() for _, parameter in parameters)
    assert estimate.gradients == 2 * estimate.adapter  # the sum, and that of a micro-batch


def test_each_setting_changes_its_part_of_the_estimate(size_2b):
    run = RunShape(precision="bf16", load_in_4bit=True, num_tokens=1024, num_documents=16, saved_attention_tokens=512)
    plain = estimate_memory(size_2b, run)

    def changed(**choices):
        return estimate_memory(size_2b, RunShape(**{**vars(run), **choices}))

    assert changed(gradient_checkpointing=True).activations < plain.activations / 5
    on_gpu = changed(device_kind="cuda").activations
    assert changed(device_kind="cuda", num_tokens=2048).activations == pytest.approx(2 * on_gpu, rel=1e-6)
    assert changed(load_in_4bit=False).weights == 2 * 2_506_172_416
    unpacked = changed(device_kind="cuda").weights - plain.weights  # of the fast kernels, at each use
    assert unpacked == pytest.approx(size_2b.projections * (FAST_NF4_BYTES - NF4_BYTES), abs=1)
    assert changed(device_kind="cuda", dequantize=True).weights == changed(dequantize=True).weights
    dense = changed(dequantize=True)
    assert dense.dense_copy == 2 * size_2b.adapted  # in the place of their blocks
    assert plain.weights - dense.weights == pytest.approx(size_2b.adapted * NF4_BYTES, abs=1)
    assert changed(emulated=True).logits - plain.logits == 4 * CPU_TILE[1] * size_2b.hidden
    varlen, sdpa, eager = (changed(attention=kernel).activations for kernel in ("varlen", "sdpa", "eager"))
    assert varlen < sdpa < eager and varlen < plain.activations < eager
    weights = 18 * 8 * 2 * 1024 * 512 * 3 // 4  # layers x heads x bytes x queries x keys, two blocks of 256
    assert plain.activations - varlen == pytest.approx(weights, abs=18)
    assert sdpa - varlen == 18 * 2 * 1024**2  # layers x bytes x queries x keys: the mask
    short = changed(num_tokens=256).activations
    assert changed(num_tokens=256, alone_tokens=1024).activations == plain.activations  # which runs alone
    assert changed(num_tokens=256, alone_tokens=1024, concurrent=2).activations == max(2 * short, plain.activations)
    recomputed = changed(num_tokens=256, alone_tokens=1024, recompute_alone=True).activations
    assert recomputed == max(short, changed(gradient_checkpointing=True).activations) < plain.activations / 2
    two = changed(concurrent=2)
    assert (two.activations, two.logits) == (2 * plain.activations, 2 * plain.logits)
    assert (two.gradients, two.dense_copy) == (3 * plain.adapter, plain.dense_copy)
    assert plain.total == sum(vars(plain).values())
    assert len(plain.lines()) == len(plain.parts) + 1 and plain.lines()[-1].startswith("peak")


def test_the_memory_that_graphs_keep_does_not_serve_the_call_before_a_recording(size_2b: ModelSize) -> None:
    run = RunShape(precision="bf16", load_in_4bit=True, num_tokens=1024, alone_tokens=2048, device_kind="cuda")
    plain, graphs = (estimate_memory(replace(size_2b, kernels=name), run) for name in ("triton", "graphs"))
    assert (graphs.activations, graphs.logits) == (2 * plain.activations, 2 * plain.logits)
    assert graphs.gradients == 3 * graphs.adapter
    assert (graphs.weights, graphs.optimizer) == (plain.weights, plain.optimizer)


def test_deterministic_attention_needs_copies_of_the_query_gradient(size_2b: ModelSize) -> None:
    """FlashAttention 2's workspace, by hand: (splits, T + 128 x documents, 8 heads, 256) in fp32, beside the gradients."""
    base: dict[str, Any] = {"precision": "bf16", "load_in_4bit": True, "device_kind": "cuda", "attention": "varlen"}

    def activations(num_tokens: int, **more: Any) -> int:
        return estimate_memory(size_2b, RunShape(**base, num_tokens=num_tokens, **more)).activations

    saved = sum(size_2b.saved_tensors)
    gradients = 4 * 2 * 4096 * 2048
    one_row = 17 * (4096 + 128) * 8 * 256 * 4  # ceil(132 / 8) splits
    assert activations(4096) == pytest.approx(4096 * saved + one_row + gradients, abs=1)
    four_rows = 5 * (4096 + 4 * 128) * 8 * 256 * 4  # ceil(132 / 32)
    mlp = 3 * 2 * 16_384 * 4096
    assert activations(4096, num_documents=4) == pytest.approx(4096 * saved + max(mlp, four_rows + gradients), abs=1)
    assert activations(4096, multiprocessors=28) == pytest.approx(4096 * saved + mlp, abs=1)  # of a small card
    assert activations(4096, num_documents=4, alone_tokens=4096) == activations(4096)  # a long row is one document


def test_small_tensors_take_more_of_a_cpus_heap(size_2b):
    """glibc maps tensors of 32 MiB or more separately; smaller ones leave gaps, which CUDA's allocator does not."""
    shape: dict[str, Any] = {"precision": "bf16", "load_in_4bit": True, "saved_attention_tokens": 512}
    small, large = (RunShape(**shape, num_tokens=tokens) for tokens in (256, 2048))
    saved = {run.num_tokens: sum(size_2b.saved_tensors) * run.num_tokens for run in (small, large)}
    in_heap, on_pages = (estimate_memory(size_2b, run).activations / saved[run.num_tokens] for run in (small, large))
    assert in_heap > 1.5 and on_pages < 0.8 * in_heap
    on_gpu = estimate_memory(
        size_2b, RunShape(**{**vars(small), "device_kind": "cuda", "saved_attention_tokens": 0})
    ).activations
    assert on_gpu < 1.1 * saved[256]


def test_the_plan_names_gpus_that_fit(size_2b):
    run = RunShape(precision="bf16", load_in_4bit=True, num_tokens=2048, attention="varlen")
    six, eight, *larger = fitting_settings(size_2b, run)
    assert "--gradient_checkpointing on" in six and "as it is" in eight
    assert len(larger) == 3 and all("as it is" in line for line in larger)
    assert "does not fit" in fitting_settings(size_2b, run, cards_gib=[1])[0]
    long = replace(run, num_tokens=4096, num_documents=4, device_kind="cuda")
    (line,) = fitting_settings(size_2b, replace(long, attention="per_document"), cards_gib=[24])
    assert line.endswith(f"as it is ({estimate_memory(size_2b, long).total / GIB:.1f} GiB)")  # without a mask
    for field, kernel in ({"written_out": True}, "eager"), ({"tower": 1}, "sdpa"):  # soft caps, images: as a GPU would
        size = replace(size_2b, **field)
        (line,) = fitting_settings(size, replace(long, attention="per_document"), cards_gib=[999])
        assert line.endswith(f"as it is ({estimate_memory(size, replace(long, attention=kernel)).total / GIB:.1f} GiB)")
    long_rows = RunShape(**{**vars(run), "alone_tokens": 8192})
    (line,) = fitting_settings(size_2b, long_rows, cards_gib=[3.6])
    assert "--max_length 512 --pack_tokens 512" in line  # where no row is longer than 512
    assert line == fitting_settings(size_2b, run, cards_gib=[3.6])[0]


def test_nothing_is_allocated_and_wrong_targets_are_refused(size_2b):
    before = torch.tensor(0).untyped_storage().nbytes()
    assert (
        before == 8
        and estimate_memory(size_2b, RunShape(precision="bf16", load_in_4bit=True, num_tokens=1024)).total < 9 * GIB
    )
    with pytest.raises(InputError, match="lora_target_modules"):
        measure_model(tiny_config(), LoraSettings(target_modules=("no_such",)), precision="fp32", kernels="fast")


def test_dora_adds_its_magnitudes_to_the_estimate():
    plain = measure_model(tiny_config(), NO_DROPOUT, precision="fp32", kernels="fast")
    dora = measure_model(tiny_config(), LoraSettings(dropout=0.0, use_dora=True), precision="fp32", kernels="fast")
    out_features = 2 * (256 + 64 + 64 + 256 + 512 + 512 + 256)
    assert dora.adapter - plain.adapter == out_features
    assert dora.adapter_small == plain.adapter_small + out_features


def test_the_vision_tower_is_counted_apart_and_not_loaded_in_training() -> None:
    lora = LoraSettings(target_modules=("auto",))
    text, images = (
        measure_model(image_config(), lora, precision="fp32", kernels="reference", images=shown)
        for shown in (False, True)
    )
    parts = (image_model().model.vision_tower, image_model().model.multi_modal_projector)
    num_tower = sum(parameter.numel() for part in parts for parameter in part.parameters())
    assert (text.tower, images.tower) == (0, num_tower)
    held = [size.projections + size.other_weights for size in (text, images)]
    assert held[0] - held[1] == num_tower
    assert images.adapter == text.adapter and images.targets == text.targets
    estimate = estimate_memory(images, RunShape(precision="fp32", load_in_4bit=False, num_tokens=64))
    assert estimate.tower > 4 * num_tower
    assert estimate.lines()[-1].endswith("while the vision tower reads images, before")
    huge = replace(estimate, tower=10 * estimate.total)
    assert huge.total == huge.weights + huge.process + huge.tower
