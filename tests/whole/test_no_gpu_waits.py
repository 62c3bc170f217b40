"""Nothing inside a training step waits for a GPU, up to where its loss and its gradient's norm are read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from meta_device import (
    META,
    OneProcess,
    WaitRecorder,
    collating_aside,
    gradient_step,
    meta_patches,
    meta_run,
    recording,
)
from support import tiny_model
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from windows import make_run, make_window, tuned

from medsum_core.data.collator import MicroBatch
from medsum_core.data.masking import IGNORE_INDEX
from medsum_core.model import attention
from medsum_core.training import loss, validation
from train_loop import train_step

CASES = [
    ("gemma", "varlen", 96),
    ("gemma3_text", "varlen", 0),
    ("gemma", "per_document", 96),
    ("gemma3_text", "per_document", 96),
    ("gemma", "sdpa", 96),
    ("gemma2", "eager", 96),
]


@pytest.fixture(autouse=True)
def _meta() -> Iterator[None]:
    with meta_patches():
        yield


def waits(run: Any, *, evaluates: bool = False) -> list[str]:
    """The operations for which a training step (up to its gradient) or an evaluation would wait."""
    recorder, window = WaitRecorder(), make_window(6)
    accelerator: Any = OneProcess()
    with collating_aside(recording(recorder)) as collate:
        if evaluates:
            settings = {"kernels": run.kernels, "attention": run.attention, **run.collate_settings}
            validation.evaluate_loss(run.model, window, accelerator=accelerator, **settings)
        else:
            gradient_step(run, window, collate=collate)
    assert len(recorder.launches) > 200
    return recorder.found


@pytest.mark.parametrize("kernels", ["reference", "fast"])
@pytest.mark.parametrize(("kind", "attention_name", "pack_tokens"), CASES)
def test_a_training_step_and_an_evaluation_wait_for_nothing(
    kind: str, attention_name: str, pack_tokens: int, kernels: str
) -> None:
    run = meta_run(kind, attention_name, pack_tokens=pack_tokens, kernels=kernels)
    assert waits(run) == []
    assert waits(run, evaluates=True) == []


def test_on_a_gpu_the_fast_kernels_use_torchs_attention_per_document(monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiled attention is for CPUs: it stores each block's scores, which SDPA's kernels do not."""
    attend, calls = attention.attend_per_document, []

    def counted(*heads: Any, **settings: Any) -> Any:
        calls.append(heads[1].device.type)
        return attend(*heads, **settings)

    monkeypatch.setattr(attention, "DOCUMENT_ATTENTION", {"per_document": counted})
    run = meta_run("gemma", "per_document", pack_tokens=10_000, kernels="fast")
    for evaluates in (False, True):
        waits(run, evaluates=evaluates)
        assert calls == ["meta"] * run.model.config.num_hidden_layers
        calls.clear()


@pytest.mark.parametrize("kernels", ["reference", "fast"])
def test_a_step_over_a_4_bit_base_waits_for_nothing(kernels: str) -> None:
    assert waits(meta_run("gemma", "varlen", load_in_4bit=True, kernels=kernels)) == []


def test_a_blocking_copy_of_the_batch_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    move = MicroBatch.to

    def blocking(batch: MicroBatch, device: torch.device) -> MicroBatch:
        moved = move(batch, device)
        moved.__dict__["targets_BT"] = batch.targets_BT.to(device)
        return moved

    monkeypatch.setattr(MicroBatch, "to", blocking)
    assert set(waits(meta_run("gemma", "varlen"))) == {"aten._to_copy.default"}


def test_a_tensor_made_from_lengths_in_each_layer_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    attend = attention.DOCUMENT_ATTENTION["varlen"]
    without_starts = {"varlen": lambda *heads, document_starts, **settings: attend(*heads, **settings)}
    monkeypatch.setattr(attention, "DOCUMENT_ATTENTION", without_starts)
    run = meta_run("gemma", "varlen", pack_tokens=10_000)
    assert waits(run) == ["torch.tensor"] * run.model.config.num_hidden_layers


def test_targets_selected_by_a_mask_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(hidden_BTH: Tensor, targets_BT: Tensor, read_M: Tensor | None) -> tuple[Tensor, Tensor]:
        wanted_BT = targets_BT != IGNORE_INDEX
        return hidden_BTH[wanted_BT], targets_BT[wanted_BT]

    monkeypatch.setattr(loss, "_read", read)
    with torch.fx.experimental._config.patch(meta_nonzero_assume_all_nonzero=True):
        assert waits(meta_run("gemma", "varlen"))


def test_a_number_read_from_the_device_is_found() -> None:
    recorder = WaitRecorder()
    with recording(recorder), torch.fx.experimental._config.patch(meta_nonzero_assume_all_nonzero=True):
        torch.ones(3, device=META).nonzero()
        torch.ones(3, device=META)[torch.ones(3, dtype=torch.bool, device=META)]
    assert recorder.found == ["aten.nonzero.default", "aten.index.Tensor"]


class NumberReads(TorchDispatchMode):
    """Counts `.item()`, `bool()` and the like, each of which reads one number."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += str(func).startswith("aten._local_scalar_dense")
        return func(*args, **(kwargs or {}))


def test_a_step_reads_no_single_number_from_the_device() -> None:
    """Loss and norm are read together, as one list; on the CPU here, since meta tensors have no values."""
    run = make_run(tuned(tiny_model(), kernels="reference"), kernels="reference", optim="paged_adamw_8bit")
    with NumberReads() as reads:
        assert not train_step(run, make_window(4), learning_rate=1e-3).skipped
    assert reads.count == 0
