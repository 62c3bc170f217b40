"""Evaluation loss weighted by tokens: one sum over all targets, divided once. Leaves the model as it found it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from peft import PeftModel
from torch import nn
from tqdm import tqdm

from medsum_core.data.collator import MicroBatch, split_window
from medsum_core.data.masking import IGNORE_INDEX, Example
from medsum_core.model.attention import document_attention
from medsum_core.model.base import head_softcap, head_weight, hidden_states
from medsum_core.training.loss import note_token_nll


@dataclass(frozen=True, kw_only=True)
class EvalResult:
    """Mean negative log-likelihood a note token, and that of the stop token alone (nats)."""

    loss: float
    stop_loss: float
    num_targets: int


def evaluate_loss(
    model: PeftModel,
    examples: Sequence[Example],
    *,
    accelerator: Accelerator,
    kernel: str,
    batch_size: int,
    pack_tokens: int,
    pad_token_id: int,
) -> EvalResult:
    """The loss of all examples, shared out over the processes. All of them get the same result.

    Nothing random is drawn and every module's mode is put back, so that training goes on as if it had not been called.
    """
    mine = examples[accelerator.process_index :: accelerator.num_processes]
    batches = split_window(mine, batch_size=batch_size, pack_tokens=pack_tokens, pad_token_id=pad_token_id)
    sums = torch.zeros(4, dtype=torch.float64, device=accelerator.device)  # nats, targets, of stop tokens, stop tokens
    with evaluation_mode(model), document_attention(model, kernel), torch.no_grad():
        for batch in tqdm(batches, desc="evaluating", leave=False, disable=not accelerator.is_main_process):
            sums += _batch_sums(model, batch.to(accelerator.device))
    nats, targets, stop_nats, stops = accelerator.reduce(sums, "sum").tolist()
    return EvalResult(loss=nats / targets, stop_loss=stop_nats / stops, num_targets=int(targets))


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """`model.eval()` for the time of the block; each module's own mode afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _batch_sums(model: PeftModel, batch: MicroBatch) -> torch.Tensor:
    hidden_BTH = hidden_states(model, batch)
    nll_N = note_token_nll(hidden_BTH, batch.targets_BT, head_weight(model), softcap=head_softcap(model))
    last_N = _last_of_document(batch)
    pieces = [nll_N, torch.ones_like(nll_N), nll_N[last_N], last_N]
    return torch.stack([piece.double().sum() for piece in pieces])  # on the device: no wait for it at each batch


def _last_of_document(batch: MicroBatch) -> torch.Tensor:
    """(N,) bool over the targets in order: is it the stop token, the target of a document's last position but one?"""
    last_BT = torch.zeros_like(batch.targets_BT, dtype=torch.bool)
    for row, lengths in enumerate(batch.document_lengths):
        ends = torch.tensor(lengths, device=last_BT.device).cumsum(0)
        last_BT[row, ends - 2] = True
    return last_BT[batch.targets_BT != IGNORE_INDEX]
