"""Recomputed activations are those of the forward pass, also where autograd recomputes them in another thread.

On CUDA the backward pass runs in a thread of autograd's own, which sees no context variable of the caller. Here the
backward pass is called in another thread, which shows the same on a CPU.
"""

from __future__ import annotations

from threading import Thread

import pytest
import torch
from support import tiny_model
from torch import Tensor
from windows import make_window, relative, tuned

from medsum_core.data.collator import pack_rows
from medsum_core.kernels.layers.dropout import dropout_seed
from medsum_core.model.attention import PACKABLE_MODEL_TYPES, document_attention
from medsum_core.model.base import (
    LoraSettings,
    checkpoint_activations,
    head_weight,
    hidden_states,
    trainable_parameters,
)
from medsum_core.training.loss import note_nll

ROWS = make_window(5)
NUM_TOKENS = sum(row.num_tokens for row in ROWS)
MODES = {"off": None, "long, of a row that is": NUM_TOKENS - 1, "long, of a row that is not": NUM_TOKENS, "on": 0}


def gradient_of_another_thread(kind: str, longer_than: int | None) -> list[Tensor]:
    model = tuned(tiny_model(kind), LoraSettings(dropout=0.3))
    if longer_than is not None:
        checkpoint_activations(model, longer_than=longer_than)
    torch.manual_seed(3)
    batch = pack_rows(ROWS)
    with document_attention(model):
        with dropout_seed(11):
            nll = note_nll(hidden_states(model, batch), batch.targets_BT, head_weight(model))
        torch.manual_seed(4)  # what is recomputed must not be drawn from here
        thread = Thread(target=nll.backward)
        thread.start()
        thread.join()
    return [parameter.grad for _, parameter in trainable_parameters(model) if parameter.grad is not None]


@pytest.mark.parametrize("mode", list(MODES)[1:])
@pytest.mark.parametrize("kind", PACKABLE_MODEL_TYPES)
def test_recomputed_layers_drop_the_same_elements_in_another_thread(kind: str, mode: str) -> None:
    expected = gradient_of_another_thread(kind, MODES["off"])
    assert relative(gradient_of_another_thread(kind, MODES[mode]), expected) <= 1e-6
