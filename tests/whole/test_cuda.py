"""The main laws on a GPU, with the kernels and the optimiser that only a GPU has; skipped without one.

python -m pytest -q tests/whole/test_cuda.py tests/whole/test_crash.py
"""

from __future__ import annotations

import copy
import itertools
import math
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from decoding_models import KINDS, STOPS, reference, small_model, some_prompts
from on_gpu import CUDA, HAS_VARLEN, as_in_a_run, needs_gpu, needs_varlen
from support import tiny_model
from test_crash import check_equal
from test_crash import train as train_by_script
from torch import Tensor
from windows import flat, make_example, make_run, make_window, plain_peft, reference_gradient, relative, tuned

from benchmarks.forked_runs import make_inputs
from medsum_core.generation.generate import generate
from medsum_core.kernels import FAST_MODEL_TYPES, FAST_PATHS, GRAPHS, choose
from medsum_core.kernels.decoding.decoder_layers import packed_decoder
from medsum_core.kernels.gpu import graphed_steps, graphs
from medsum_core.model.attention import PACKABLE_MODEL_TYPES, attend_block_mask, attend_varlen
from medsum_core.model.base import load_base
from medsum_core.model.lora import LoraSettings
from medsum_core.training.optimizer_state import load_optimizer_state, optimizer_state
from train_loop import train_step

pytestmark = needs_gpu

SPLITS = {"16x1": (1, 0), "4x4": (4, 0), "packed": (1, 96), "packed in one": (1, 10_000)}
DROPOUT = LoraSettings(r=16, dropout=0.05)
MAX_HALVINGS = 8  # of the GradScaler's initial scale, 65,536


@pytest.fixture(autouse=True)
def _as_in_a_run() -> Iterator[None]:
    with as_in_a_run():
        yield


def gradient(
    model: Any, window: Any, split: str, kernel: str, kernels: str = "fast", *, scaler: Any = None
) -> list[Tensor]:
    """The window's gradient; with a GradScaler, after as many halvings of its scale as it needs, as in a run."""
    batch_size, pack_tokens = SPLITS[split]
    settings: Any = {"batch_size": batch_size, "pack_tokens": pack_tokens, "attention": kernel, "kernels": kernels}
    run = make_run(model, device=CUDA, scaler=scaler, **settings)
    tries = 1 if scaler is None else MAX_HALVINGS
    assert any(not train_step(run, window, learning_rate=0.0).skipped for _ in range(tries))
    gradients: list[Tensor] = run.optimizer.gradients  # type: ignore[attr-defined]
    assert all(tensor.device == CUDA for tensor in gradients)
    return gradients


PATHS = [
    *(("reference", kind) for kind in PACKABLE_MODEL_TYPES),
    *((kernels, kind) for kernels in FAST_PATHS for kind in FAST_MODEL_TYPES),
]


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize(("kernels", "kind"), PATHS)
def test_every_split_of_a_window_has_the_gradient_of_one_full_batch(kernels: str, kind: str, kernel: str) -> None:
    if kind == "gemma2" and kernel == "sdpa":
        pytest.skip("SDPA has no soft-capping")
    model = tuned(tiny_model(kind, attn_implementation="eager"), kernels=kernels, device=CUDA)
    base = tiny_model(kind, attn_implementation="eager").to(CUDA)
    window = make_window(16)
    _, expected = reference_gradient(plain_peft(base, model), window)
    for split, (batch_size, _) in SPLITS.items():
        if kernels == GRAPHS and batch_size > 1:
            continue  # takes packed rows only
        assert relative(gradient(model, window, split, kernel, kernels), expected) <= 1e-5, split


@pytest.mark.parametrize(("kernels", "kind"), [path for path in PATHS if path[0] != GRAPHS])
def test_recomputed_activations_drop_the_same_elements(kernels: str, kind: str) -> None:
    window, found = make_window(6), []
    for recompute in (False, True):
        base = tiny_model(kind, attn_implementation="eager")
        model = tuned(base, LoraSettings(dropout=0.3), kernels=kernels, device=CUDA)
        if recompute:
            choose(kernels, "cuda").recompute(model)
        torch.manual_seed(3)
        found.append(gradient(model, window, "packed", "eager", kernels))
    assert relative(found[1], found[0]) <= 1e-6


@needs_varlen
@pytest.mark.parametrize("kernels", ["reference", *FAST_PATHS])
@pytest.mark.parametrize("kind", ["gemma", "gemma3_text", "llama"])
def test_the_packed_16_bit_gradient_has_the_direction_of_the_fp32_one(kind: str, kernels: str) -> None:
    window = make_window(16, longest=120)
    _, expected = reference_gradient(plain_peft(tiny_model(kind).to(CUDA), tuned(tiny_model(kind))), window)
    model = tuned(tiny_model(kind, dtype=torch.bfloat16), kernels=kernels, device=CUDA)
    for split in ("16x1", "packed", "packed in one"):
        found = torch.cat([part.flatten() for part in gradient(model, window, split, "varlen", kernels)])
        exact = torch.cat([part.flatten() for part in expected])
        assert torch.cosine_similarity(found.double(), exact.double(), dim=0) >= 0.999, split


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", ["gemma3_text", "llama"])
def test_tritons_layers_have_the_gradient_of_their_eager_twins(kind: str, dtype: torch.dtype) -> None:
    window, found = make_window(6), []
    for kernels in FAST_PATHS:
        model = tuned(tiny_model(kind, dtype=dtype), kernels=kernels, device=CUDA)
        found.append(gradient(model, window, "packed", "sdpa", kernels))
    for other in found[1:]:
        assert relative(other, found[0]) <= {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 3e-2}[dtype]


@pytest.mark.parametrize(
    ("kernel", "dtype"), [("sdpa", torch.float32), pytest.param("varlen", torch.bfloat16, marks=needs_varlen)]
)
@pytest.mark.parametrize("kind", ["gemma3_text", "llama"])
def test_replaying_a_graph_does_to_the_bit_what_a_call_does(
    kind: str, kernel: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With dropout masks of its own in each micro-batch: tests/kernels/test_graph_accumulator.py, on a CPU.

    The second window has another shape, and the third repeats the graph that was recorded before it.
    """
    windows, found = [make_window(7), make_window(16, longest=120), make_window(7)], []
    for record in (graphs.CudaGraphs, lambda: lambda function: function):
        monkeypatch.setattr(graphs, "CudaGraphs", record)
        model = tuned(tiny_model(kind, dtype=dtype), LoraSettings(dropout=0.3), kernels=GRAPHS, device=CUDA)
        run = make_run(model, device=CUDA, kernels=GRAPHS, attention=kernel, pack_tokens=1024)
        torch.manual_seed(3)
        for window in windows:
            assert not train_step(run, window, learning_rate=0.0).skipped
            found.append(flat(run.optimizer.gradients))  # type: ignore[attr-defined]
    assert all(torch.equal(one, other) for one, other in zip(found[:3], found[3:], strict=True))
    assert relative(found[2], found[0]) > 0.1


def test_tritons_dropout_masks_are_those_of_its_interpreter() -> None:
    """So the laws of masks that tests/kernels/triton_interpreted.py checks hold here too."""
    elementwise = pytest.importorskip("medsum_core.kernels.gpu.elementwise", reason="needs triton")
    seed = torch.tensor(2**61 + 5, device=CUDA)
    kept = elementwise.without_dropped(torch.ones(3000, device=CUDA), 0.002, seed)
    assert (kept == 0).nonzero().flatten().tolist() == [540, 741, 794, 1212, 1564, 1630, 1685]


@needs_varlen
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("window", [None, 8, 512])
@pytest.mark.parametrize(("heads", "groups", "size"), [(8, 1, 256), (4, 1, 256), (9, 3, 64)])
def test_the_variable_length_kernel_equals_attention_with_a_block_mask(
    heads: int, groups: int, size: int, window: int | None, dtype: torch.dtype
) -> None:
    lengths = ((700, 1, 8, 9, 130), (5, 600))  # the second row has padding
    chance = torch.Generator().manual_seed(0)
    shapes = [(2, count, 848, size) for count in (heads, groups, groups)]
    inputs = [torch.randn(shape, generator=chance).to(CUDA, dtype) for shape in shapes]
    dout = torch.randn((2, 848, heads, size), generator=chance).to(CUDA, dtype)
    dout[1, sum(lengths[1]) :] = 0  # the padding has no gradient
    results = []
    for attend, precise in ((attend_varlen, dtype), (attend_block_mask, torch.float64)):
        tensors = [tensor.to(precise).requires_grad_() for tensor in inputs]
        settings: dict[str, Any] = {"eager": True} if precise == torch.float64 else {}
        out, _ = attend(torch.nn.Module(), *tensors, None, document_lengths=lengths, sliding_window=window, **settings)
        results.append([out[dout != 0], *torch.autograd.grad(out, tensors, dout.to(precise))])
    for found, expected in zip(*results, strict=True):
        assert relative(found, expected) <= (1e-2 if dtype == torch.bfloat16 else 2e-3)


BITS = [
    pytest.param("varlen", torch.bfloat16, marks=needs_varlen),
    ("sdpa", torch.float32),
    ("per_document", torch.float16),  # the setting of a T4, which has no bf16 units
]


@pytest.mark.parametrize(("kernel", "dtype"), BITS)
def test_the_gradient_of_a_packed_window_is_reproducible_to_the_bit(kernel: str, dtype: torch.dtype) -> None:
    """By default attention's backward pass adds to a gradient in the order in which its blocks finish.

    The documents span several blocks: two addends would have the same sum in either order.
    """
    window = [make_example(num_tokens, 30, seed=num_tokens) for num_tokens in (1900, 700, 1500, 40, 1800)]
    for kind, kernels in itertools.product(("gemma", "gemma3_text"), ("reference", *FAST_PATHS)):
        if kernels == GRAPHS and kernel == "per_document":
            continue  # refused
        model = tuned(tiny_model(kind, dtype=dtype), DROPOUT, kernels=kernels, device=CUDA)
        found = []
        for _ in range(4):
            torch.manual_seed(3)
            found.append([tensor.clone() for tensor in gradient(model, window, "packed in one", kernel, kernels)])
        for other in found[1:]:
            assert all(torch.equal(one, two) for one, two in zip(found[0], other, strict=True))


def test_restored_paged_optimiser_state_is_paged_and_continues_bit_for_bit() -> None:
    def fresh() -> Any:
        wide = tiny_model(
            dtype=torch.bfloat16, intermediate_size=8192
        )  # bitsandbytes pages state of 100,000 elements or more
        model = tuned(wide, device=CUDA)
        return make_run(model, pack_tokens=96, optim="paged_adamw_8bit", attention="sdpa", device=CUDA)

    rows = make_window(12)
    straight, resumed = fresh(), fresh()
    train_step(straight, rows[:4], learning_rate=1e-3)
    names = [name for name, _ in straight.parameters]
    saved = copy.deepcopy(optimizer_state(straight.optimizer, names))
    for (_, parameter), (_, trained) in zip(resumed.parameters, straight.parameters, strict=True):
        parameter.data.copy_(trained)
    load_optimizer_state(resumed.optimizer, names, *saved)
    states = list(resumed.optimizer.state.values())
    assert any(getattr(state["state1"], "is_paged", False) for state in states)
    for run in (straight, resumed):
        train_step(run, rows[4:8], learning_rate=1e-3)
        train_step(run, rows[8:], learning_rate=1e-3)
    for (name, one), (_, other) in zip(straight.parameters, resumed.parameters, strict=True):
        assert torch.equal(one, other), name
    found, expected = (optimizer_state(run.optimizer, names)[0] for run in (resumed, straight))
    assert all(torch.equal(found[key], expected[key]) for key in expected)


@pytest.mark.parametrize(
    ("precision", "kernels"),
    [("bf16", "fast"), ("fp16", "fast"), ("fp32", "fast"), ("fp16", "triton"), ("bf16", "graphs"), ("fp16", "graphs")],
)
def test_a_run_resumed_in_the_middle_ends_in_the_same_bytes(precision: str, kernels: str, tmp_path: Path) -> None:
    """In fp16 the GradScaler's scale is part of the state. tests/whole/test_crash.py resumes at every window."""
    if (precision == "bf16" or kernels == GRAPHS) and not HAS_VARLEN:
        pytest.skip("needs capability 8.0")
    make_inputs(tmp_path)
    flags = ("--precision", precision, "--kernels", kernels)
    straight = train_by_script(tmp_path, tmp_path / "straight", *flags)
    shutil.copytree(straight.folder, tmp_path / "resumed")
    shutil.rmtree(tmp_path / "resumed" / "adapter")
    for later in range(4, 7):
        shutil.rmtree(tmp_path / "resumed" / "checkpoints" / f"step-{later:06d}")
    resumed = train_by_script(tmp_path, tmp_path / "resumed", *flags)
    assert resumed.windows == straight.windows[3:]
    check_equal(resumed, straight)
    assert all(math.isfinite(line["grad_norm"]) for line in straight.outcome["metrics"] if "grad_norm" in line)


@pytest.mark.parametrize("keep_dense", [False, True], ids=["dequantised at each use", "dequantised once"])
@pytest.mark.parametrize("kernels", ["reference", *FAST_PATHS])
def test_an_nf4_base_has_the_gradient_of_plain_peft(base_folder: Path, kernels: str, keep_dense: bool) -> None:
    """Both models are quantised on the GPU: a CPU quantises the same weights slightly differently."""
    model, base = (load_base(str(base_folder), precision="fp32", load_in_4bit=True, device=CUDA) for _ in range(2))
    ours, window = tuned(model, kernels=kernels, keep_dense=keep_dense, device=CUDA), make_window(6)
    _, expected = reference_gradient(plain_peft(base, ours), window)
    for split in ("16x1", "packed"):
        assert relative(gradient(ours, window, split, "sdpa", kernels), expected) <= 1e-4, split


@pytest.mark.parametrize("kernels", ["reference", "fast"])
def test_dora_has_the_gradient_of_plain_peft(kernels: str) -> None:
    settings, window = LoraSettings(dropout=0.0, use_dora=True), make_window(6)
    model = tuned(tiny_model("llama"), settings, kernels=kernels, device=CUDA)
    _, expected = reference_gradient(plain_peft(tiny_model("llama").to(CUDA), model, settings), window)
    assert relative(gradient(model, window, "packed", "sdpa", kernels), expected) <= 1e-5


@pytest.mark.parametrize("kernel", ["per_document", "sdpa"])
@pytest.mark.parametrize("kernels", ["reference", *FAST_PATHS])
@pytest.mark.parametrize("kind", ["gemma", "llama"])
def test_the_scaled_fp16_gradient_has_direction_and_norm_of_the_fp32_one(kind: str, kernels: str, kernel: str) -> None:
    """As on a T4. The head's small weights make small gradients, as for a note that the model predicts well."""
    if kernels == GRAPHS and kernel == "per_document":
        pytest.skip("refused")
    found, window = [], make_window(8, longest=120)
    for dtype in (torch.float32, torch.float16):
        base = tiny_model(kind, tie_word_embeddings=False)
        head = base.get_output_embeddings()
        head.weight = torch.nn.Parameter(head.weight.detach() * 2**-18)
        base = base.to(torch.float16).to(dtype)  # weights that fp16 represents exactly
        scaler = torch.amp.GradScaler(CUDA.type) if dtype == torch.float16 else None
        model = tuned(base, kernels=kernels, device=CUDA)
        found.append(flat(gradient(model, window, "packed", kernel, kernels, scaler=scaler)))
    exact, scaled = found
    assert torch.cosine_similarity(scaled, exact, dim=0) >= 0.9999
    assert scaled.norm() / exact.norm() == pytest.approx(1, abs=1e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_batched_notes_equal_those_of_transformers(kind: str) -> None:
    for seed in range(4):
        model, prompts = small_model(kind, seed), some_prompts(seed, 4)
        limits: dict[str, Any] = {"max_new_tokens": 8}
        expected = {n: [reference(model, prompt, num_beams=n, **limits) for prompt in prompts] for n in (1, 4)}
        model.to(CUDA)
        for beams, notes in expected.items():
            found = generate(model, prompts, stop_token_ids=STOPS, batch_size=4, num_beams=beams, **limits)
            assert [note.token_ids for note in found] == [note.token_ids for note in notes]


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("kind", [*KINDS, "nf4", "nf4 dequantised once"])
def test_notes_with_cuda_graphs_are_those_without(
    kind: str, num_beams: int, base_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More prompts than slots, and keys beyond a graph's."""
    monkeypatch.setattr(graphed_steps, "ROUNDED_KEYS", 16)
    if kind.startswith("nf4"):
        model: Any = load_base(str(base_folder), precision="fp32", load_in_4bit=True, device=CUDA)
    else:
        model = small_model(kind).to(CUDA)
    options: dict[str, Any] = {"stop_token_ids": STOPS, "max_new_tokens": 24, "batch_size": 5, "num_beams": num_beams}
    decoder, found = partial(packed_decoder, dense=kind != "nf4"), []
    for chosen in (decoder, partial(decoder, record=graphs.CudaGraphs)):
        found.append(generate(model.eval(), some_prompts(0, 12), decoder=chosen, **options))
    assert [note.token_ids for note in found[1]] == [note.token_ids for note in found[0]]
    assert sum(len(note.token_ids) for note in found[0]) > 24
