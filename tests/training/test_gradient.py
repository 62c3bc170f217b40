"""However a window is split (micro-batches, packing, processes), its gradient is that of one full batch."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from support import tiny_model
from torch import Tensor
from transformers import PreTrainedModel
from two_processes import windows_and_updates
from windows import Recorder, make_example, make_run, make_window, plain_peft, reference_gradient, relative, tuned

import train_loop
from medsum_core.data.masking import Example
from medsum_core.model.attention import PACKABLE_MODEL_TYPES
from medsum_core.model.lora import LoraSettings
from medsum_core.training.loss import note_nll
from medsum_core.training.metrics import StepStats
from medsum_core.training.optimizer import set_lr
from medsum_core.training.optimizer_state import optimizer_state
from medsum_core.training.run import Run
from train_loop import train_step

SPLITS = {"16x1": (1, 0), "4x4": (4, 0), "1x16": (16, 0), "packed": (1, 96), "packed in one": (1, 10_000)}
BOUND = 1e-5


def base_of(kind: str) -> PreTrainedModel:
    model = tiny_model(kind)
    model.set_attn_implementation("eager")
    return model


def step(model: PeftModel, window: list[Example], split: str, **settings: Any) -> tuple[StepStats, list[Tensor]]:
    batch_size, pack_tokens = SPLITS[split]
    run = make_run(model, batch_size=batch_size, pack_tokens=pack_tokens, **settings)
    stats = train_step(run, window, learning_rate=0.0)
    assert isinstance(run.optimizer, Recorder)
    return stats, run.optimizer.gradients


@pytest.mark.parametrize("kind", PACKABLE_MODEL_TYPES)
def test_every_split_of_a_window_has_the_gradient_of_one_full_batch(kind: str) -> None:
    model = tuned(base_of(kind))
    reference = plain_peft(base_of(kind), model)
    rows = make_window(16)
    without_targets = make_example(9, 0, seed=77)
    windows = {
        "full": rows,
        "short last one": rows[:5],
        "single row": rows[3:4],
        "rows without a target": [without_targets, *rows[:3], without_targets],
    }
    for name, window in windows.items():
        loss, expected = reference_gradient(reference, window)
        for split, num_concurrent in [*((split, 1) for split in SPLITS), ("packed", 2), ("4x4", 2)]:
            stats, gradients = step(model, window, split, num_concurrent=num_concurrent)
            assert abs(stats.loss - loss) <= BOUND * loss, (name, split, num_concurrent)
            assert relative(gradients, expected) <= BOUND, (name, split, num_concurrent)
            assert stats.num_targets == sum(row.num_targets for row in window)
            assert stats.num_tokens == sum(row.num_tokens for row in window)
            assert not stats.skipped and stats.seconds > 0


def test_every_split_has_the_same_gradient_with_activation_checkpointing_and_each_kernel() -> None:
    from medsum_core.kernels.layers import recompute_activations

    window = make_window(7)
    model = tuned(base_of("gemma3_text"))
    _, expected = step(model, window, "16x1")
    recompute_activations(model)
    for kernel in ("per_document", "sdpa", "eager"):
        for split in ("4x4", "packed"):
            assert relative(step(model, window, split, attention=kernel)[1], expected) <= BOUND


def test_the_gradient_is_clipped_once_for_the_whole_window() -> None:
    model, window = tuned(tiny_model()), make_window(6)
    free, gradients = step(model, window, "16x1")
    clipped, shorter = step(model, window, "4x4", max_grad_norm=free.grad_norm / 4)
    assert clipped.grad_norm == pytest.approx(free.grad_norm, rel=1e-5)  # the norm before clipping is reported
    assert relative([4 * gradient for gradient in shorter], gradients) <= 1e-4


@pytest.mark.parametrize("optim", ["paged_adamw_8bit", "adamw_torch"])
def test_splits_give_the_same_losses_over_several_updates(optim: str) -> None:
    rows = make_window(12)
    losses = []
    for split in ("16x1", "packed"):
        batch_size, pack_tokens = SPLITS[split]
        run = make_run(tuned(tiny_model()), batch_size=batch_size, pack_tokens=pack_tokens, optim=optim)
        losses.append([train_step(run, rows[at : at + 4], learning_rate=2e-4).loss for at in (0, 4, 8)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


# ---- two processes ---------------------------------------------------------------------------------------------------


def test_two_processes_equal_one(tmp_path: Path) -> None:
    script = Path(__file__).parents[1] / "helpers" / "two_processes.py"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(script.parents[2]),
        "CUDA_VISIBLE_DEVICES": "",
    }
    command = [sys.executable, str(script), str(tmp_path), port]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    expected, rank, world = windows_and_updates()
    assert (rank, world) == (0, 1)
    ranks = [load_file(tmp_path / f"{rank}.safetensors") for rank in (0, 1)]
    for found in ranks:
        for window in ("even", "odd", "single"):
            names = [name for name in expected if name.startswith(f"{window}.")]
            assert len(names) == 1 + 2 * 7 * 2
            assert relative([found[name] for name in names], [expected[name] for name in names]) <= 1e-6
    for name, tensor in ranks[0].items():  # what they train stays one adapter, to the last bit
        assert torch.equal(tensor, ranks[1][name]), name
    after = [name for name in expected if name.startswith("after.")]
    assert relative([ranks[0][name] for name in after], [expected[name] for name in after]) <= 1e-3


# ---- windows that change nothing -------------------------------------------------------------------------------------


def everything(run: Run) -> dict[str, Any]:
    """All that an update may change, as a copy."""
    tensors, scalars = optimizer_state(run.optimizer, [name for name, _ in run.parameters])
    return {
        "parameters": {name: parameter.detach().clone() for name, parameter in run.parameters},
        "state": tensors,
        "steps": scalars,
        "rates": [group["lr"] for group in run.optimizer.param_groups],
    }


def assert_same(found: Any, expected: Any) -> None:
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key in expected:
            assert_same(found[key], expected[key])
    else:
        assert torch.equal(found, expected) if isinstance(expected, Tensor) else found == expected


def trained_run(optim: str = "paged_adamw_8bit", **settings: Any) -> Run:
    """A run after one update, so that the optimiser has moments that a further update would move."""
    run = make_run(tuned(tiny_model()), optim=optim, max_grad_norm=1.0, **settings)
    train_step(run, make_window(3), learning_rate=1e-3)
    return run


@pytest.mark.parametrize("optim", ["paged_adamw_8bit", "adamw_torch"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_changes_nothing(value: float, optim: str) -> None:
    run = trained_run(optim)
    before = everything(run)
    assert any(tensor.dtype == torch.uint8 for tensor in before["state"].values()) == (optim == "paged_adamw_8bit")
    parameter = run.tensors[3]

    def poison(gradient: Tensor) -> Tensor:
        gradient = gradient.clone()
        gradient.view(-1)[17] = value
        return gradient

    handle = parameter.register_hook(poison)
    stats = train_step(run, make_window(4), learning_rate=5e-4)
    assert stats.skipped
    assert_same(everything(run), before)
    handle.remove()
    assert not train_step(run, make_window(4), learning_rate=5e-4).skipped  # and leaves nothing behind
    assert not torch.equal(parameter, before["parameters"][run.parameters[3][0]])


def test_a_loss_that_is_not_finite_changes_nothing() -> None:
    run = trained_run()
    before = everything(run)

    def broken(*parts: Any, **options: Any) -> Tensor:
        return note_nll(*parts, **options) + torch.tensor(float("inf"))  # its gradient is finite

    stats = train_step(run, make_window(4), learning_rate=5e-4, objective=broken)
    assert stats.skipped and stats.loss == float("inf")
    assert_same(everything(run), before)


def test_a_window_without_a_target_changes_nothing() -> None:
    run = trained_run()
    before = everything(run)

    def never(*parts: Any, **options: Any) -> Tensor:
        raise AssertionError("a sum over nothing was divided by nothing")

    window = [make_example(9, 0, seed=1), make_example(5, 0, seed=2)]
    stats = train_step(run, window, learning_rate=5e-4, objective=never)
    assert stats.skipped and stats.num_targets == 0 and stats.num_tokens == 14
    assert stats.num_tokens / stats.seconds > 0  # the loop divides by it
    assert_same(everything(run), before)


# ---- fp16 ------------------------------------------------------------------------------------------------------------


def scaled_run(factor: float) -> Run:
    return trained_run(scaler=torch.amp.GradScaler("cpu", init_scale=factor, growth_interval=1000))


def test_a_scaled_loss_gives_the_same_update() -> None:
    plain, scaled = trained_run(), scaled_run(1024.0)
    stats = [train_step(run, make_window(4), learning_rate=5e-4) for run in (plain, scaled)]
    assert stats[0].grad_norm == pytest.approx(stats[1].grad_norm, rel=1e-6)
    assert not stats[1].skipped and scaled.scaler.get_scale() == 1024.0
    for (_, one), (_, other) in zip(plain.parameters, scaled.parameters, strict=True):
        assert relative(one, other) <= 1e-5


def test_an_overflow_halves_the_scale_and_changes_nothing_else() -> None:
    run = scaled_run(1024.0)
    before = everything(run)
    handle = run.tensors[0].register_hook(lambda gradient: gradient * float("inf"))
    assert train_step(run, make_window(4), learning_rate=5e-4).skipped
    assert run.scaler.get_scale() == 512.0
    assert_same(everything(run), before)
    handle.remove()
    assert not train_step(run, make_window(4), learning_rate=5e-4).skipped
    assert run.scaler.get_scale() == 512.0


@pytest.mark.parametrize("attention", ["per_document", "sdpa"])
def test_an_fp16_base_gives_the_gradient_of_an_fp32_base_even_where_it_is_small(attention: str) -> None:
    """As on a GPU before Ampere. The head's small weights make small gradients, as for a note that the model predicts well."""
    window, found = make_window(8), []
    for dtype in (torch.float32, torch.float16):
        base = base_of("llama")
        head = base.get_output_embeddings()
        head.weight = torch.nn.Parameter(head.weight.detach() * 2**-18)
        base = base.to(torch.float16).to(dtype)  # weights that fp16 represents exactly
        scaler = torch.amp.GradScaler("cpu", init_scale=65536.0)
        model = tuned(base, kernels="reference")
        stats, gradients = step(model, window, "packed", kernels="reference", attention=attention, scaler=scaler)
        assert not stats.skipped and {gradient.dtype for gradient in gradients} == {torch.float32}
        found.append(gradients)
    assert relative(found[1], found[0]) < 1e-2


@pytest.mark.parametrize("kernels", ["reference", "fast"])
def test_a_process_without_rows_takes_part_in_a_scaled_update(kernels: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # The very first window may be shorter than the number of processes: the others' gradients come with the sum.
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    run = make_run(tuned(tiny_model(), kernels=kernels), kernels=kernels, optim="adamw_torch", scaler=scaler)
    monkeypatch.setattr(train_loop, "local_rows", lambda window, accelerator: [])

    def receive(parameters: list[Tensor], accelerator: Any) -> None:
        for parameter in parameters:
            parameter.grad = torch.full_like(parameter, 64.0)

    monkeypatch.setattr(train_loop, "sum_gradients", receive)
    monkeypatch.setattr(train_loop, "sum_over_processes", lambda value, accelerator: value + 3.0)
    stats = train_step(run, make_window(1), learning_rate=1e-3)
    assert not stats.skipped
    assert stats.grad_norm == pytest.approx(sum(parameter.numel() for parameter in run.tensors) ** 0.5, rel=1e-5)


def test_a_split_changes_dropout_only() -> None:
    model, window = tuned(tiny_model(), LoraSettings(r=16, dropout=0.3)), make_window(4)
    torch.manual_seed(1)
    _, one = step(model, window, "16x1")
    torch.manual_seed(1)
    _, again = step(model, window, "16x1")
    torch.manual_seed(1)
    _, other = step(model, window, "4x4")
    assert all(torch.equal(left, right) for left, right in zip(one, again, strict=True))
    assert relative(other, one) > 1e-3


def test_setting_the_rate_is_left_to_a_real_update() -> None:
    run = trained_run()
    set_lr(run.optimizer, 0.125)
    train_step(run, [make_example(9, 0, seed=1)], learning_rate=5e-4)
    assert {group["lr"] for group in run.optimizer.param_groups} == {0.125}
    train_step(run, make_window(2), learning_rate=5e-4)
    assert {group["lr"] for group in run.optimizer.param_groups} == {5e-4}
