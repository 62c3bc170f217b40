"""A run on the meta device, in the place of a GPU: shapes and a device, no data; and what reads a record of it.

A tensor made or left on the CPU shows there at once, and so does whatever a GPU would be waited for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from bitsandbytes.functional import QuantState
from bitsandbytes.nn import Linear4bit, Params4bit
from support import tiny_config
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM, PretrainedConfig

import train_loop
from medsum_core.data import collator
from medsum_core.data.collator import MicroBatch
from medsum_core.data.masking import Example
from medsum_core.kernels import choose
from medsum_core.kernels.layers.dropout import DroppedElements
from medsum_core.kernels.layers.triton_choice import triton_for
from medsum_core.model import forward
from medsum_core.model.lora import LoraSettings, attach_lora, trainable_parameters
from medsum_core.training import validation

META = torch.device("meta")
SEEDS = ("aten.randint", "aten._local_scalar_dense")  # of dropout: one number, from torch's generator on the CPU
COPIES = ("aten._to_copy", "aten.copy_")
READS = ("aten.nonzero", "aten._local_scalar_dense", "aten.masked_select", "aten.equal", "aten._unique", "aten.unique")
FROM_NUMBERS = (torch.tensor, torch.as_tensor, torch.asarray)
NO_LAUNCH = ("aten.empty", "aten.new_empty", "aten.detach", "aten.alias", "aten._unsafe_view", "aten.lift_fresh")


class GradientReadyError(Exception):
    """Raised where a window's gradient is complete: what follows looks at numbers, which meta tensors do not have."""


class WaitRecorder(TorchDispatchMode):
    """Names each operation before whose end the program could not go on, were the meta tensors on a GPU.

    Those that read a result, select by a mask, copy from the CPU without `non_blocking`, or to it. A tensor that is
    made of Python's numbers never comes here: `with_numbers` of `recording` notes it. Also counts launches.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.launches: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, str(func)
        taken = [leaf.device for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        result = func(*args, **kwargs)
        made = [leaf.device for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        if META in taken and (name.startswith(READS) or _selects_by_mask(name, args)):
            self.found.append(name)
        blocks = not (kwargs.get("non_blocking") or (name.startswith("aten.copy_") and args[2:] == (True,)))
        if name.startswith(COPIES) and META in made and torch.device("cpu") in taken and blocks:
            self.found.append(name)
        if META in taken + made and not (func.is_view or name.startswith(NO_LAUNCH)):
            self.launches.append(name)
        return result


class _NumberRecorder(TorchFunctionMode):
    def __init__(self, found: list[str]) -> None:
        super().__init__()
        self._found = found

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in FROM_NUMBERS and result.device == META:
            self._found.append(f"torch.{func.__name__}")
        return result


def _selects_by_mask(name: str, args: Any) -> bool:
    indices = [leaf for leaf in tree_leaves(args[1:]) if isinstance(leaf, Tensor) and leaf.dtype == torch.bool]
    return name.startswith(("aten.index.Tensor", "aten.index_put")) and bool(indices)


@contextmanager
def recording(recorder: WaitRecorder) -> Iterator[WaitRecorder]:
    """Everything within the block is recorded, tensors made of Python's numbers too."""
    with _NumberRecorder(recorder.found), recorder:
        yield recorder


@contextmanager
def collating_aside(recorder: Any) -> Iterator[Callable[..., list[MicroBatch]]]:
    """`split_window`, which rightly works on the CPU, outside of the record that `recorder` makes of the block."""

    def collate(*args: Any, **settings: Any) -> list[MicroBatch]:
        with _disable_current_modes():
            batches = collator.split_window(*args, **settings)
            for batch in batches:  # found before they are moved
                assert {batch.read_M.device.type, batch.document_starts.device.type} == {"cpu"}
            return batches

    before = validation.split_window
    validation.split_window = collate  # type: ignore[assignment]
    try:
        with recorder:
            yield collate
    finally:
        validation.split_window = before


@contextmanager
def meta_patches() -> Iterator[None]:
    """Dropout draws from no meta generator; there is no autocast for meta tensors: the adapter is in 16 bits there.

    A fused norm, which is one kernel on a GPU, would come as several operations.
    """

    plain_draw = DroppedElements.__init__

    def draw(self: Any, num_elements: int, *, rate: float, seed: Any, device: torch.device) -> None:
        assert 0 < rate < 1 and isinstance(seed, int if triton_for(device) is None else Tensor)
        self._keep = self._triton = None
        if triton_for(device) is not None:
            plain_draw(self, num_elements, rate=rate, seed=seed, device=device)
        else:
            self._keep = torch.empty(num_elements, dtype=torch.bool, device=device).bernoulli_(1 - rate)

    def fused_rms_norm(x: Tensor, shape: list[int], weight: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
        return torch.empty_like(x).copy_(x), x.new_empty((*x.shape[:-1], 1))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DroppedElements, "__init__", draw)
        patch.setattr(torch.ops.aten, "_fused_rms_norm", fused_rms_norm)
        for module in (train_loop, forward):
            patch.setattr(module, "autocast", lambda model: nullcontext())
        yield


def meta_run(
    kind: str | PretrainedConfig = "gemma",
    attention: str = "sdpa",
    *,
    kernels: str = "fast",
    pack_tokens: int = 96,
    load_in_4bit: bool = False,
) -> Any:
    """What `train_step` reads of a run, all of it on the meta device. `kind`: of a tiny model, or a configuration."""
    config = tiny_config(kind) if isinstance(kind, str) else kind
    with META:
        base = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).requires_grad_(False)
        if load_in_4bit:
            _quantise(base)
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


def gradient_step(run: Any, window: list[Example], **settings: Any) -> None:
    """A training step up to its gradient."""
    with pytest.raises(GradientReadyError), pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_loop, "sum_gradients", _stop_here)
        train_loop.train_step(run, window, learning_rate=1e-4, **settings)


def _stop_here(*_: Any) -> None:
    raise GradientReadyError


def _quantise(base: nn.Module) -> None:
    """NF4 projections without data, doubly quantised, with the fields that bitsandbytes gives them on the device."""
    for parent in list(base.modules()):
        for name, layer in list(parent.named_children()):
            if type(layer) is not nn.Linear or name == "lm_head":
                continue
            packed = Linear4bit(layer.in_features, layer.out_features, bias=False, quant_type="nf4")
            packed.weight = Params4bit(
                torch.empty(layer.weight.numel() // 2, 1, dtype=torch.uint8), requires_grad=False
            )
            packed.weight.quant_state = _quant_state(layer.weight)
            setattr(parent, name, packed)


def _quant_state(weight: Tensor) -> QuantState:
    num_blocks = weight.numel() // 64
    return QuantState(
        absmax=torch.empty(num_blocks, dtype=torch.uint8),
        shape=weight.shape,
        code=torch.empty(16),
        blocksize=64,
        quant_type="nf4",
        dtype=weight.dtype,
        offset=torch.empty(()),
        state2=QuantState(
            absmax=torch.empty(-(-num_blocks // 256)), code=torch.empty(256), blocksize=256, dtype=torch.float32
        ),
    )
