"""What the tests of the loop share: rows of random tokens, a run without files, and a reference for its gradient."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from accelerate import Accelerator
from peft import PeftModel, get_peft_model
from support import TINY_VOCAB
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from medsum_core.config.arguments import TrainArguments
from medsum_core.data.collator import pad_rows
from medsum_core.data.masking import IGNORE_INDEX, Example
from medsum_core.kernels import choose
from medsum_core.model.adapter_files import adapter_tensors, load_adapter_tensors
from medsum_core.model.lora import LoraSettings, attach_lora, lora_config, trainable_parameters
from medsum_core.quiet_libraries import quiet_libraries
from medsum_core.training.optimizer import build_optimizer
from medsum_core.training.run import Run

NO_DROPOUT = LoraSettings(r=16, dropout=0.0)


def make_example(num_prompt: int, num_note: int, *, seed: int, vocab: int = TINY_VOCAB) -> Example:
    """Random tokens; the last `num_note` of them are targets (none: a row without a target)."""
    draws = torch.randint(6, vocab, (num_prompt + num_note,), generator=torch.Generator().manual_seed(seed))
    tokens = draws.tolist()
    targets = [IGNORE_INDEX] * len(tokens)
    for index in range(num_prompt, len(tokens)):
        targets[index - 1] = tokens[index]
    return Example(
        id=f"row-{seed}",
        input_ids=tuple(tokens),
        targets=tuple(targets),
        num_prompt_tokens=num_prompt,
        num_turns_dropped=0,
    )


def make_window(num_rows: int = 16, *, vocab: int = TINY_VOCAB, longest: int = 40) -> list[Example]:
    """Rows of very uneven prompts and notes."""
    return [
        make_example(4 + (7 * row) % (longest - 16), 1 + (5 * row) % 12, seed=100 + row, vocab=vocab)
        for row in range(num_rows)
    ]


def randomise_adapter(model: PeftModel, seed: int = 5) -> PeftModel:
    """LoRA's B starts as zero, which hides half of a gradient: draw both matrices."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, parameter in trainable_parameters(model):
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return model


def tuned(
    base: PreTrainedModel,
    settings: LoraSettings = NO_DROPOUT,
    *,
    keep_dense: bool = False,
    kernels: str = "fast",
    device: torch.device | str = "cpu",
) -> PeftModel:
    """The base, frozen, with a random adapter in training mode and the kernels of that name for that device."""
    base.requires_grad_(False)
    if base.device != torch.device(device):
        base.to(device)  # type: ignore[arg-type]
    model = attach_lora(base, settings, base_name="tiny")
    choose(kernels, base.device.type).apply(model, keep_dense=keep_dense)
    return randomise_adapter(model)


def plain_peft(base: PreTrainedModel, like: PeftModel, settings: LoraSettings = NO_DROPOUT) -> PeftModel:
    """The same adapter on another copy of the base, with PEFT's own forward."""
    base.requires_grad_(False)
    with quiet_libraries():
        model = get_peft_model(base, lora_config(settings, base_name="tiny"))
    assert isinstance(model, PeftModel)
    load_adapter_tensors(model, adapter_tensors(like))
    return model.train()


class Recorder(torch.optim.SGD):
    """An optimiser that records the gradients it is given and changes nothing."""

    gradients: list[Tensor]

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.gradients = [parameter.grad.clone() for group in self.param_groups for parameter in group["params"]]


def make_run(
    model: PeftModel,
    *,
    batch_size: int = 1,
    pack_tokens: int = 0,
    kernels: str = "fast",
    num_concurrent: int = 1,
    optim: str | None = None,
    attention: str = "per_document",
    max_grad_norm: float = 0.0,
    scaler: Any = None,
    device: torch.device | str = "cpu",
) -> Run:
    """A run that reads and writes nothing. Without `optim` its optimiser only records the gradients."""
    parameters = trainable_parameters(model)
    train = TrainArguments(per_device_train_batch_size=batch_size, max_grad_norm=max_grad_norm)
    config: Any = SimpleNamespace(train=train)
    renderer: Any = SimpleNamespace(pad_token_id=0)
    tensors = [parameter for _, parameter in parameters]
    scaler = scaler or torch.amp.GradScaler("cpu", enabled=False)
    chosen = choose(kernels, torch.device(device).type)
    fast: Any = {"device": torch.device(device), "scaler": scaler, "attention": attention, "pack_tokens": pack_tokens}
    return Run(
        config=config,
        folder=Path("unused"),
        accelerator=Accelerator(cpu=torch.device(device).type == "cpu"),
        model=model,
        optimizer=build_optimizer(parameters, name=optim, learning_rate=1e-3) if optim else Recorder(tensors, lr=1.0),
        scaler=scaler,
        parameters=parameters,
        rows=(),
        validation=(),
        validation_records=(),
        renderer=renderer,
        attention=attention,
        pack_tokens=pack_tokens,
        kernels=chosen,
        accumulate=chosen.accumulator and chosen.accumulator(model, tensors, num_concurrent=num_concurrent, **fast),
        resolved={},
    )


def reference_gradient(model: PeftModel, window: Sequence[Example]) -> tuple[float, list[Tensor]]:
    """Loss and adapter gradients from transformers' own forward of one padded batch, over full logits."""
    batch = pad_rows(window, pad_token_id=0).to(model.device)
    lengths = torch.tensor([row.num_tokens for row in window])
    attention_mask = (torch.arange(batch.input_ids_BT.shape[1]) < lengths[:, None]).long().to(model.device)
    logits = model(input_ids=batch.input_ids_BT, attention_mask=attention_mask, use_cache=False).logits
    nll = cross_entropy(logits.flatten(0, 1), batch.targets_BT.flatten(), ignore_index=IGNORE_INDEX, reduction="sum")
    loss = nll / sum(row.num_targets for row in window)
    parameters = [parameter for _, parameter in trainable_parameters(model)]
    return loss.item(), list(torch.autograd.grad(loss, parameters))


def reference_losses(model: PeftModel, window: Sequence[Example]) -> tuple[float, float]:
    """By transformers' own forward: the loss a target, and that of each row's last target (the stop token) alone."""
    stops = [replace(row, targets=(*[IGNORE_INDEX] * (row.num_tokens - 2), *row.targets[-2:])) for row in window]
    return reference_gradient(model, window)[0], reference_gradient(model, stops)[0]


@contextmanager
def tensors_saved() -> Iterator[list[Tensor]]:
    """The list to which every tensor is added that the block's operations save for their backward pass."""
    saved: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield saved


def relative(found: Tensor | Sequence[Tensor], expected: Tensor | Sequence[Tensor]) -> float:
    """|found - expected| / |expected| over all elements."""
    one, other = (flat(part) for part in (found, expected))
    return float((one - other).norm() / other.norm().clamp_min(1e-30))


def flat(tensors: Tensor | Sequence[Tensor]) -> Tensor:
    """All elements end to end, in double precision."""
    parts = [tensors] if isinstance(tensors, Tensor) else tensors
    return torch.cat([part.detach().double().reshape(-1) for part in parts])
