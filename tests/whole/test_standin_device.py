"""The forward pass, the loss, the backward pass and an evaluation on the meta device, as a stand-in for a GPU.

Meta tensors have a shape and a device but no data, so an operation on a tensor that is still on the CPU can be recorded.
Only two things may be on the CPU: a window before it is moved, and the seed of a layer's dropout, a number that is drawn
from torch's generator so that resuming repeats it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import torch
from meta_device import COPIES, META, SEEDS, OneProcess, collating_aside, gradient_step, meta_patches, meta_run
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from windows import make_window

from medsum_core.data.collator import MicroBatch
from medsum_core.model import attention
from medsum_core.training import validation


class CpuRecorder(TorchDispatchMode):
    """Records each operation that takes or returns a CPU tensor, except for the two that are allowed."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.num_operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        taken, name = on_cpu((args, kwargs)), str(func)
        self.num_operations += 1
        self.note(name, taken if not name.startswith(COPIES) else [])
        result = func(*args, **(kwargs or {}))  # most operations accept a mix of devices here
        self.note(name, on_cpu(result))
        return result

    def note(self, name: str, tensors: list[Tensor]) -> None:
        is_seed = name.startswith(SEEDS) and all(tensor.dim() == 0 for tensor in tensors)
        if tensors and not is_seed:
            self.found.append(f"{name} {[tuple(tensor.shape) for tensor in tensors]}")


def on_cpu(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor) and leaf.device.type == "cpu"]


@pytest.fixture(autouse=True)
def _meta() -> Iterator[None]:
    with meta_patches():
        yield


def record(run: Any, *, recorder: CpuRecorder | None = None) -> CpuRecorder:
    """A training step up to its gradient, then an evaluation."""
    recorder, window = recorder or CpuRecorder(), make_window(3)
    with collating_aside(recorder) as collate:
        gradient_step(run, window, collate=collate)
        accelerator: Any = OneProcess()
        validation.evaluate_loss(
            run.model,
            window,
            accelerator=accelerator,
            kernels=run.kernels,
            attention=run.attention,
            **run.collate_settings,
        )
    return recorder


def record_faulty(run: Any) -> list[str]:
    """What is recorded for a run with a planted fault, which may also raise an error in torch."""
    recorder = CpuRecorder()
    with suppress(RuntimeError):
        record(run, recorder=recorder)
    return recorder.found


CASES = [
    ("gemma", "per_document", 96),
    ("gemma", "varlen", 96),
    ("gemma", "varlen", 0),
    ("gemma", "sdpa", 0),
    ("gemma3_text", "per_document", 0),
    ("gemma3_text", "sdpa", 96),
    ("gemma2", "eager", 96),
    ("llama", "sdpa", 96),
]


@pytest.mark.parametrize("kernels", ["reference", "fast"])
@pytest.mark.parametrize(("kind", "attention", "pack_tokens"), CASES)
def test_all_tensors_are_on_the_device(kind: str, attention: str, pack_tokens: int, kernels: str) -> None:
    run = meta_run(kind, attention, pack_tokens=pack_tokens, kernels=kernels)
    recorder = record(run)
    assert recorder.found == []
    assert recorder.num_operations > 400
    trained = [parameter for parameter in run.model.parameters() if parameter.requires_grad]
    assert trained and all(parameter.grad is not None and parameter.grad.device == META for parameter in trained)


@pytest.mark.parametrize("kernels", ["reference", "fast"])
def test_all_tensors_are_on_the_device_over_a_4_bit_base(kernels: str) -> None:
    assert record(meta_run(load_in_4bit=True, kernels=kernels)).found == []


@pytest.mark.parametrize("kernel", ["per_document", "varlen"])
def test_a_batch_that_is_not_moved_is_found(monkeypatch: pytest.MonkeyPatch, kernel: str) -> None:
    monkeypatch.setattr(MicroBatch, "to", lambda batch, device: batch)
    assert record_faulty(meta_run(attention=kernel))


@pytest.mark.parametrize("name", ["input_ids_BT", "position_ids_BT", "targets_BT"])
def test_a_tensor_of_a_batch_that_is_not_moved_is_found(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    move = MicroBatch.to

    def without_one_tensor(batch: MicroBatch, device: torch.device) -> MicroBatch:
        moved = move(batch, device)
        moved.__dict__[name] = getattr(batch, name)
        return moved

    monkeypatch.setattr(MicroBatch, "to", without_one_tensor)
    assert record_faulty(meta_run())


def test_a_mask_made_on_the_cpu_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    block_mask = attention.block_mask

    def on_the_cpu(starts: Tensor, *args: Any, **settings: Any) -> Tensor:
        return block_mask(torch.zeros(starts.shape, dtype=starts.dtype), *args, **settings)

    monkeypatch.setattr(attention, "block_mask", on_the_cpu)
    assert record_faulty(meta_run())
