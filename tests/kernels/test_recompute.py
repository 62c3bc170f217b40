"""Recomputed activations equal those of the forward pass, also where autograd recomputes them in another thread.

On CUDA the backward pass runs in a thread of autograd's own, which does not see the caller's context variables. Here
the backward pass is called in another thread, which shows the same on a CPU.
"""

from __future__ import annotations

from threading import Thread
from typing import Any

import pytest
import torch
from support import tiny_model
from torch import Tensor
from windows import make_window, relative, tuned

from medsum_core.data.collator import pack_rows
from medsum_core.kernels import FAST_MODEL_TYPES, choose
from medsum_core.kernels.layers.dropout import dropout_seed
from medsum_core.model.attention import document_attention
from medsum_core.model.forward import head_weight, recompute_activations
from medsum_core.model.lora import LoraSettings, trainable_parameters
from medsum_core.training.loss import note_nll

ROWS = make_window(5)
NUM_TOKENS = sum(row.num_tokens for row in ROWS)
MODES = {"off": None, "long, with a long row": NUM_TOKENS - 1, "long, with a short row": NUM_TOKENS, "on": 0}


def gradient_of_another_thread(kind: str, kernels: str, longer_than: int | None) -> list[Tensor]:
    model = tuned(tiny_model(kind), LoraSettings(dropout=0.3), kernels=kernels)
    chosen = choose(kernels)
    if longer_than is not None:
        chosen.recompute(model, longer_than=longer_than)
    torch.manual_seed(3)
    batch = pack_rows(ROWS)
    with document_attention(model, functions=chosen.attention):
        with dropout_seed(11):
            nll = note_nll(chosen.hidden_states(model, batch), batch.targets_BT, head_weight(model))
        torch.manual_seed(4)  # recomputation must not draw from this state
        thread = Thread(target=nll.backward)
        thread.start()
        thread.join()
    return [parameter.grad for _, parameter in trainable_parameters(model) if parameter.grad is not None]


@pytest.mark.parametrize("mode", list(MODES)[1:])
@pytest.mark.parametrize("kind", FAST_MODEL_TYPES)
@pytest.mark.parametrize("kernels", ["reference", "fast"])
def test_recomputed_layers_drop_the_same_elements_in_another_thread(kernels: str, kind: str, mode: str) -> None:
    expected = gradient_of_another_thread(kind, kernels, MODES["off"])
    assert relative(gradient_of_another_thread(kind, kernels, MODES[mode]), expected) <= 1e-6


def test_layers_of_a_short_micro_batch_are_not_run_again() -> None:
    model, calls = tuned(tiny_model(), kernels="reference").train(), list[int]()
    layer: Any = model.get_submodule("base_model.model.model.layers.0.self_attn.o_proj")
    layer.register_forward_hook(lambda *_: calls.append(1))
    recompute_activations(model, longer_than=14)
    counts = []
    for length in (7, 8):  # of two rows
        calls.clear()
        model(torch.ones(2, length, dtype=torch.int64), use_cache=False).logits.sum().backward()
        counts.append(len(calls))
    assert counts == [1, 2]
