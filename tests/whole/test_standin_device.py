"""The forward pass, the loss, the backward pass and an evaluation once on the meta device, in the place of a GPU.

Meta tensors have a shape and a device but no data: a tensor made or left on the CPU shows at once, here as a line in a
record of all operations. Two things may be on the CPU: a window before it is moved, and the seed of a layer's dropout,
one number that comes from torch's generator so that resuming repeats it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from bitsandbytes.functional import QuantState
from bitsandbytes.nn import Linear4bit, Params4bit
from support import tiny_config
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM
from windows import make_window

import train_loop
from medsum_core.data import collator
from medsum_core.data.collator import MicroBatch
from medsum_core.kernels import choose
from medsum_core.kernels.layers.dropout import DroppedElements
from medsum_core.model import attention, forward
from medsum_core.model.lora import LoraSettings, attach_lora, trainable_parameters
from medsum_core.training import validation

META = torch.device("meta")
MOVES = ("aten._to_copy", "aten.copy_")  # from the CPU to the device
SEEDS = ("aten.randint", "aten._local_scalar_dense")


class GradientReadyError(Exception):
    """Raised where a window's gradient is complete: what follows looks at numbers, which meta tensors do not have."""


class CpuRecorder(TorchDispatchMode):
    """Names each operation that takes or makes a CPU tensor, those above aside."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.num_operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        taken, name = on_cpu((args, kwargs)), str(func)
        self.num_operations += 1
        self.note(name, taken if not name.startswith(MOVES) else [])
        result = func(*args, **(kwargs or {}))  # some operations refuse a mix of devices, most compute with it
        self.note(name, on_cpu(result))
        return result

    def note(self, name: str, tensors: list[Tensor]) -> None:
        is_seed = name.startswith(SEEDS) and all(tensor.dim() == 0 for tensor in tensors)
        if tensors and not is_seed:
            self.found.append(f"{name} {[tuple(tensor.shape) for tensor in tensors]}")


def on_cpu(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor) and leaf.device.type == "cpu"]


@contextmanager
def collating_aside(recorder: CpuRecorder) -> Iterator[Callable[..., list[MicroBatch]]]:
    """`split_window`, which rightly works on the CPU, outside of the record."""

    def collate(*args: Any, **settings: Any) -> list[MicroBatch]:
        with _disable_current_modes():
            batches = collator.split_window(*args, **settings)
            assert all(batch.read_M.device.type == "cpu" for batch in batches)  # found before they are moved
            return batches

    before = validation.split_window
    validation.split_window = collate  # type: ignore[assignment]
    try:
        with recorder:
            yield collate
    finally:
        validation.split_window = before


@pytest.fixture(autouse=True)
def _shapes_for_meta(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Selecting by a mask takes all elements where there is no data; dropout draws from no meta generator."""

    def draw(self: Any, num_elements: int, *, rate: float, seed: int, device: torch.device) -> None:
        assert 0 < rate < 1 and isinstance(seed, int)
        self._keep = torch.empty(num_elements, dtype=torch.bool, device=device)

    monkeypatch.setattr(DroppedElements, "__init__", draw)
    for module in (train_loop, forward):  # there is no autocast for meta tensors: the adapter is in 16 bits already
        monkeypatch.setattr(module, "autocast", lambda model: nullcontext())
    with torch.fx.experimental._config.patch(meta_nonzero_assume_all_nonzero=True):
        yield


def quantise(base: nn.Module) -> None:
    """NF4 projections without data, with the fields that bitsandbytes gives them on the device."""
    for parent in list(base.modules()):
        for name, layer in list(parent.named_children()):
            if type(layer) is not nn.Linear or name == "lm_head":
                continue
            packed = Linear4bit(layer.in_features, layer.out_features, bias=False, quant_type="nf4")
            packed.weight = Params4bit(
                torch.empty(layer.weight.numel() // 2, 1, dtype=torch.uint8), requires_grad=False
            )
            packed.weight.quant_state = QuantState(
                absmax=torch.empty(layer.weight.numel() // 64),
                shape=layer.weight.shape,
                code=torch.empty(16),
                blocksize=64,
                quant_type="nf4",
                dtype=layer.weight.dtype,
            )
            setattr(parent, name, packed)


def meta_run(
    kind: str = "gemma",
    attention: str = "sdpa",
    *,
    kernels: str = "fast",
    pack_tokens: int = 96,
    load_in_4bit: bool = False,
) -> Any:
    """What `train_step` reads of a run, all of it on the meta device."""
    with META:
        base = AutoModelForCausalLM.from_config(tiny_config(kind), dtype=torch.bfloat16).requires_grad_(False)
        if load_in_4bit:
            quantise(base)
        model = attach_lora(base, LoraSettings(dropout=0.05), base_name="")
        chosen = choose(kernels, "cuda")
        chosen.apply(model, keep_dense=False)
        if kernels == "reference":
            model.to(torch.bfloat16)
    tensors = [parameter for _, parameter in trainable_parameters(model)]
    scaler = torch.amp.GradScaler("cuda", enabled=False)
    fast: Any = {"device": META, "scaler": scaler, "attention": attention, "pack_tokens": pack_tokens}
    return SimpleNamespace(
        model=model,
        device=META,
        accelerator=OneProcess(),
        attention=attention,
        collate_settings={"batch_size": 2, "pack_tokens": pack_tokens, "pad_token_id": 0},
        kernels=chosen,
        accumulate=chosen.accumulator and chosen.accumulator(model, tensors, num_concurrent=1, **fast),
        tensors=tensors,
        scaler=scaler,
    )


class OneProcess:
    """Accelerate's part in an evaluation; the sums, which hold no numbers here, come back as ones."""

    process_index, num_processes, is_main_process, device = 0, 1, False, META

    def reduce(self, sums: Tensor, reduction: str) -> Tensor:
        assert sums.device == META and reduction == "sum"
        with _disable_current_modes():
            return torch.ones(sums.shape)


def _stop_here(*_: Any) -> None:
    raise GradientReadyError


def record(run: Any, *, recorder: CpuRecorder | None = None) -> CpuRecorder:
    """A training step up to its gradient, then an evaluation."""
    recorder, window = recorder or CpuRecorder(), make_window(3)
    with collating_aside(recorder) as collate:
        with pytest.raises(GradientReadyError), pytest.MonkeyPatch.context() as patch:
            patch.setattr(train_loop, "sum_gradients", _stop_here)
            train_loop.train_step(run, window, learning_rate=1e-4, collate=collate)
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
    """The record of a run with a planted fault, which may end in an error of torch's."""
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
def test_everything_is_on_the_device(kind: str, attention: str, pack_tokens: int, kernels: str) -> None:
    run = meta_run(kind, attention, pack_tokens=pack_tokens, kernels=kernels)
    recorder = record(run)
    assert recorder.found == []
    assert recorder.num_operations > 400
    trained = [parameter for parameter in run.model.parameters() if parameter.requires_grad]
    assert trained and all(parameter.grad is not None and parameter.grad.device == META for parameter in trained)


@pytest.mark.parametrize("kernels", ["reference", "fast"])
def test_everything_is_on_the_device_over_a_4_bit_base(kernels: str) -> None:
    assert record(meta_run(load_in_4bit=True, kernels=kernels)).found == []


@pytest.mark.parametrize("kernel", ["per_document", "varlen"])
def test_a_batch_that_is_not_moved_is_found(monkeypatch: pytest.MonkeyPatch, kernel: str) -> None:
    monkeypatch.setattr(MicroBatch, "to", lambda batch, device: batch)
    assert record_faulty(meta_run(attention=kernel))


@pytest.mark.parametrize("name", ["input_ids_BT", "position_ids_BT", "targets_BT"])
def test_a_tensor_of_a_batch_that_is_not_moved_is_found(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    move = MicroBatch.to

    def forgetful(batch: MicroBatch, device: torch.device) -> MicroBatch:
        return replace(move(batch, device), **{name: getattr(batch, name)})

    monkeypatch.setattr(MicroBatch, "to", forgetful)
    assert record_faulty(meta_run())


def test_a_mask_made_on_the_cpu_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    block_mask = attention.block_mask

    def on_the_cpu(*args: Any, device: torch.device, **settings: Any) -> Tensor:
        return block_mask(*args, device=torch.device("cpu"), **settings)

    monkeypatch.setattr(attention, "block_mask", on_the_cpu)
    assert record_faulty(meta_run())
