"""A window's gradient by graphs that are recorded once, on a CPU: its operations are recorded and repeated instead.

`called` is the same accumulator without a recording: each replay calls the function. To the bit, a replay must do what
a call does. Triton's functions are those of `triton_standin.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from meta_device import WaitRecorder, collating_aside, gradient_step, meta_patches, meta_run, recording
from peft import PeftModel
from recorded_operations import Borrowed, Operations, record
from support import tiny_model
from torch import Tensor
from triton_standin import standin
from windows import (
    flat,
    make_example,
    make_run,
    make_window,
    plain_peft,
    randomise_adapter,
    reference_gradient,
    relative,
)

from medsum_core.data.collator import split_window
from medsum_core.data.masking import Example
from medsum_core.errors import InputError
from medsum_core.kernels import FAST_MODEL_TYPES, check_settings, choose
from medsum_core.kernels.gpu import buckets, graphs
from medsum_core.kernels.gpu.graph_accumulator import GraphAccumulator
from medsum_core.model.lora import LoraSettings, attach_lora, trainable_parameters
from medsum_core.training.loss import note_nll
from train_loop import train_step

ATTENTION = {"gemma2": "eager"}  # SDPA has no soft-capping
WINDOWS = [make_window(7), [*make_window(5), make_example(9, 0, seed=77)], make_window(16)[::-1]]  # of one shape, ...
LONG = [make_example(110, 30, seed=9), *make_window(3)]  # ... and of another


@pytest.fixture(autouse=True)
def _small_buckets(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, multiple in (("TOKENS", 128), ("READ", 64), ("LEAST_DOCUMENTS", 32)):
        monkeypatch.setattr(buckets, name, multiple)
    with standin():
        yield


def called(function: Callable[[], Any]) -> Callable[[], Any]:
    function()
    return function


class Accumulated:
    """Loss and gradients of windows, by an accumulator that records with `record`, or calls."""

    def __init__(
        self,
        kind: str,
        record: Any,
        *,
        scaler: Any = None,
        dropout: float = 0.0,
        attention: str | None = None,
        prepare: Callable[[PeftModel], Any] = lambda model: None,
        **base: Any,
    ) -> None:
        self.base = tiny_model(kind, **base).requires_grad_(False)
        self.model = attach_lora(self.base, LoraSettings(r=16, dropout=dropout), base_name="tiny")
        choose("graphs", "cuda").apply(self.model, keep_dense=False)
        prepare(randomise_adapter(self.model))
        self.recordings = 0
        self.parameters = [parameter for _, parameter in trainable_parameters(self.model)]
        self._record = record
        self._accumulate = GraphAccumulator(
            self.model,
            self.parameters,
            device=torch.device("cpu"),
            scaler=scaler or torch.amp.GradScaler("cpu", enabled=False),
            attention=attention or ATTENTION.get(kind, "sdpa"),
            record=self._counted,
        )

    def _counted(self, function: Any) -> Any:
        self.recordings += 1
        return self._record(function)

    def __call__(self, window: list[Example], *, seed: int = 0, pack_tokens: int = 96) -> tuple[Tensor, list[Tensor]]:
        """Nats a target, and the gradient of the mean."""
        torch.manual_seed(seed)
        num_targets = sum(row.num_targets for row in window)
        batches = split_window(window, batch_size=1, pack_tokens=pack_tokens, pad_token_id=0)
        nll = self._accumulate(batches, num_targets=num_targets, objective=note_nll, reads_targets_only=True)
        return nll / num_targets, [
            parameter.grad.clone() for parameter in self.parameters if parameter.grad is not None
        ]


@pytest.mark.parametrize("kind", FAST_MODEL_TYPES)
def test_replays_have_the_gradient_of_transformers_over_full_logits(kind: str) -> None:
    accumulated = Accumulated(kind, record)
    reference = plain_peft(tiny_model(kind, attn_implementation="eager"), accumulated.model)
    for window in (*WINDOWS, LONG, WINDOWS[0]):
        loss, expected = reference_gradient(reference, window)
        found, gradients = accumulated(window)
        assert found.item() == pytest.approx(loss, rel=1e-5)
        assert relative(gradients, expected) <= 1e-5
    assert accumulated.recordings == 2  # for 25 micro-batches


@pytest.mark.parametrize(("kind", "dtype"), [("gemma", torch.float32), ("llama", torch.bfloat16)], ids=str)
def test_a_replay_does_to_the_bit_what_a_call_does_with_masks_of_its_own(kind: str, dtype: torch.dtype) -> None:
    replayed, plain = (Accumulated(kind, way, dropout=0.3, dtype=dtype) for way in (record, called))
    found = []
    for seed, window in enumerate([*WINDOWS, WINDOWS[0]]):
        for one, other in zip(*(flat_results(each(window, seed=seed)) for each in (replayed, plain)), strict=True):
            assert torch.equal(one, other)
        found.append(flat(replayed(window, seed=seed)[1]))
        assert torch.equal(found[-1], flat(replayed(window, seed=seed)[1]))
    assert relative(found[0], found[3]) > 0.1  # the same window with the masks of another seed


def prepared(model: PeftModel) -> PeftModel:
    """As a user's `prepare_model` may: other norms, and an adapter of which a part is frozen."""
    for name, parameter in model.named_parameters():
        if "layernorm" in name:
            parameter.data += 0.5
        if "layers.0" in name or "v_proj.lora_A" in name:
            parameter.requires_grad_(False)
    return model


def test_the_gradient_is_that_of_a_prepared_model() -> None:
    accumulated = Accumulated("gemma", record, prepare=prepared)
    reference = prepared(plain_peft(tiny_model("gemma", attn_implementation="eager"), accumulated.model))
    loss, expected = reference_gradient(reference, WINDOWS[0])
    found, gradients = accumulated(WINDOWS[0])
    assert found.item() == pytest.approx(loss, rel=1e-5) and relative(gradients, expected) <= 1e-5


def test_all_that_a_replay_reads_lives_as_long_as_the_graph() -> None:
    borrowed, scaler = Borrowed(), torch.amp.GradScaler("cpu")
    accumulated = Accumulated("gemma3_text", borrowed, scaler=scaler, dropout=0.1, dtype=torch.bfloat16)
    for window in (WINDOWS[0], LONG, WINDOWS[1]):
        accumulated(window)
    assert len(borrowed.num_tensors) == 2 and min(borrowed.num_tensors) > 70


def test_a_process_without_rows_has_a_gradient_of_0_and_a_scale_to_divide_it_by() -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    accumulated = Accumulated("gemma", record, scaler=scaler)
    how: dict[str, Any] = {"num_targets": 9, "objective": note_nll, "reads_targets_only": True}
    nll = accumulated._accumulate([], **how)
    gradients = [parameter.grad for parameter in accumulated.parameters]
    assert nll == 0 and all(gradient is not None and not gradient.any() for gradient in gradients)
    scaler.unscale_(torch.optim.SGD(accumulated.parameters))
    rows = split_window(WINDOWS[0], batch_size=1, pack_tokens=96, pad_token_id=0)
    assert accumulated._accumulate(rows, **how) > 0 == nll  # which is still that of its own window


def flat_results(results: tuple[Tensor, list[Tensor]]) -> list[Tensor]:
    return [results[0], *results[1]]


def test_a_replay_uses_the_adapter_and_the_loss_scale_as_they_are_now() -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    ways = [Accumulated("gemma", way, scaler=scaler, dtype=torch.bfloat16) for way in (record, called)]
    before = [flat_results(each(WINDOWS[0])) for each in ways]
    scaler.update(8.0)
    with torch.no_grad():
        for parameter in (parameter for each in ways for parameter in each.parameters):
            parameter.mul_(1.5)
    after = [flat_results(each(WINDOWS[0])) for each in ways]
    for results in (before, after):
        assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))
    assert after[0][0] != before[0][0] and flat(after[0][1:]).norm() > 1.5 * flat(before[0][1:]).norm()


def test_a_run_of_several_updates_equals_one_without_recordings(monkeypatch: pytest.MonkeyPatch) -> None:
    trained = []
    for way in (record, called):
        monkeypatch.setattr(graphs, "CudaGraphs", lambda way=way: way)
        model = attach_lora(tiny_model("gemma").requires_grad_(False), LoraSettings(dropout=0.1), base_name="tiny")
        choose("graphs", "cuda").apply(model, keep_dense=False)
        settings: dict[str, Any] = {"pack_tokens": 96, "attention": "sdpa", "max_grad_norm": 1.0}
        run = make_run(randomise_adapter(model), kernels="graphs", optim="adamw_torch", **settings)
        run.kernels = replace(run.kernels, head=None)  # a CPU's compiled loops, which a GPU does not use
        torch.manual_seed(3)
        losses = [train_step(run, window, learning_rate=1e-2).loss for window in (*WINDOWS, LONG)]
        trained.append((losses, flat([parameter for _, parameter in run.parameters])))
    assert trained[0][0] == trained[1][0] and torch.equal(trained[0][1], trained[1][1])


class Issued(Operations):
    """Each operation's name, with its arguments; a tensor as its shape, dtype, strides and device."""

    def named(self) -> list[str]:
        def shown(value: Any) -> Any:
            if isinstance(value, Tensor):
                return value.shape, value.dtype, value.stride(), value.device.type
            return [shown(part) for part in value] if isinstance(value, (list, tuple)) else value

        return [f"{func} {shown(args)} {sorted((kwargs or {}).items())}" for func, args, kwargs, _ in self.calls]


@pytest.fixture
def issued(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., list[list[str]]]]:
    """The operations of what would be recorded for each window, by a run of its own on the meta device."""

    def of_windows(windows: list[list[Example]], **settings: Any) -> list[list[str]]:
        found: list[list[str]] = []

        def kept(function: Callable[[], Any]) -> Callable[[], None]:
            with Issued() as operations:
                function()
            found.append(operations.named())
            return lambda: None

        monkeypatch.setattr(graphs, "CudaGraphs", lambda: kept)
        for window in windows:
            run = meta_run("gemma", "varlen", kernels="graphs", pack_tokens=10_000, **settings)
            with collating_aside(WaitRecorder()) as collate:
                gradient_step(run, window, collate=collate)
        return found

    monkeypatch.setattr(buckets, "TOKENS", 512)
    monkeypatch.setattr(buckets, "READ", 256)
    with standin("meta"), meta_patches():
        yield of_windows


@pytest.mark.parametrize("load_in_4bit", [False, True])
def test_windows_of_one_shape_issue_the_same_operations_on_a_gpu(load_in_4bit: bool, issued: Any) -> None:
    """So the graph of one is right for the others: nothing that differs is a number among the arguments."""
    longer = [make_example(600, 30, seed=9)]
    first, second, third, other = issued([*WINDOWS, longer], load_in_4bit=load_in_4bit)
    assert len(first) > 300 and first == second == third
    assert other != first


def test_a_window_waits_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "CudaGraphs", lambda: called)
    recorder = WaitRecorder()
    with standin("meta"), meta_patches():
        run = meta_run("gemma", "varlen", kernels="graphs")
        with collating_aside(recording(recorder)) as collate:
            gradient_step(run, WINDOWS[2], collate=collate)
    assert recorder.found == [] and len(recorder.launches) > 300


def test_what_a_graph_cannot_repeat_is_refused() -> None:
    fits: dict[str, Any] = {
        "attention": "varlen",
        "pack_tokens": 96,
        "gradient_checkpointing": "off",
        "use_dora": False,
    }
    check_settings("graphs", **fits)
    for name, value in (
        ("attention", "per_document"),
        ("attention", "of a user"),
        ("pack_tokens", 0),
        ("gradient_checkpointing", "long"),
        ("use_dora", True),
    ):
        check_settings("triton", **fits | {name: value})
        with pytest.raises(InputError, match=r"--kernels graphs: .*; use --kernels triton"):
            check_settings("graphs", **fits | {name: value})
    with pytest.raises(ValueError, match=r"per_document.*lengths of documents"):
        Accumulated("gemma", record, attention="per_document")


def test_an_objective_of_ones_own_is_refused() -> None:
    with pytest.raises(InputError, match="use --kernels triton"):
        Accumulated("gemma", record)._accumulate([], num_targets=1, objective=note_nll, reads_targets_only=False)
