"""Decoder layers: the last one computes only the positions that the loss reads, as transformers does; others are NaN."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from support import tiny_model
from torch import Tensor, nn
from transformers import PreTrainedModel
from windows import make_example, make_run, make_window, plain_peft, relative, tuned

from medsum_core.data.collator import MicroBatch, pack_rows, pad_rows
from medsum_core.data.masking import IGNORE_INDEX
from medsum_core.errors import InputError
from medsum_core.kernels import FAST_MODEL_TYPES, choose
from medsum_core.kernels.cpu import arena
from medsum_core.kernels.layers import hidden_states, recompute_activations
from medsum_core.kernels.layers.decoder_layer import use_training_layers
from medsum_core.kernels.layers.gated_mlp import gated_down
from medsum_core.model.attention import document_attention
from medsum_core.model.forward import inner_model
from train_loop import train_step

ROWS = make_window(4)
COMPILED = choose("fast").attention


def hidden(model: Any, batch: MicroBatch) -> Tensor:
    with torch.no_grad(), document_attention(model, functions=COMPILED):
        return hidden_states(model, batch)


@pytest.mark.parametrize("batch", [pad_rows(ROWS, pad_token_id=0), pack_rows(ROWS)], ids=["padded", "packed"])
@pytest.mark.parametrize("kind", FAST_MODEL_TYPES)
def test_read_positions_equal_transformers_own_and_the_others_are_nan(kind: str, batch: MicroBatch) -> None:
    model = tuned(tiny_model(kind))
    expected = hidden(plain_peft(tiny_model(kind), model), batch)
    found = hidden(model, batch)
    is_read = batch.targets_BT != IGNORE_INDEX
    assert 0 < int(is_read.sum()) < is_read.numel() and bool(expected.isfinite().all())
    assert relative(found[is_read], expected[is_read]) <= 1e-5
    assert bool(found[~is_read].isnan().all())


def test_read_positions_of_a_batch_written_out() -> None:
    rows = [make_example(3, 2, seed=1), make_example(1, 1, seed=2)]
    # targets: _ _ n n _   and   n _ , padded to five
    assert pad_rows(rows, pad_token_id=0).read_M.tolist() == [2, 3, 5]
    assert pack_rows(rows).read_M.tolist() == [2, 3, 5]
    moved = pack_rows(rows).to("meta")
    assert moved.read_M.device.type == "meta" and moved.read_M.shape == (3,)


def test_only_read_positions_go_through_the_last_mlp(monkeypatch: pytest.MonkeyPatch) -> None:
    batch, model = pack_rows(ROWS), tuned(tiny_model("gemma3_text"))
    counts: list[int] = []

    def counted(mlp: Any, gate: Tensor, up: Tensor) -> Tensor:
        counts.append(gate.shape[:-1].numel())
        return gated_down(mlp, gate, up)

    monkeypatch.setattr("medsum_core.kernels.layers.decoder_layer.gated_down", counted)
    hidden(model, batch)
    assert counts == [batch.num_tokens, batch.num_targets]


def test_no_normed_hidden_state_is_saved_for_the_backward_pass() -> None:
    """Everything of that size that Gemma 3's layers save, counted by its features."""
    batch, model = pack_rows(ROWS[:1]), tuned(tiny_model("gemma3_text"))
    inner: Any = inner_model(model)
    layer = inner.layers[0]
    saved: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        saved[tensor.data_ptr()] = tensor
        return tensor

    with (
        document_attention(model, functions=COMPILED),
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
    ):
        hidden_states(model, batch)
    sizes = [tensor.numel() // batch.num_tokens for tensor in saved.values() if tensor.numel() % batch.num_tokens == 0]
    attention, num_layers = layer.self_attn, len(inner.layers)
    expected: Counter[int] = Counter()
    for count, features in (
        # queries before their norm, attention's output (of the last layer: read positions); rotated ones are recomputed
        (2 * num_layers - 1, attention.q_proj.out_features),
        (2 * num_layers, attention.k_proj.out_features),  # keys before their norm, values
        # the inputs of the norms but for the sum before the MLP, which is computed again; the last layer: read positions
        (3 * num_layers - 2, inner.config.hidden_size),
        (2 * num_layers - 2, layer.mlp.up_proj.out_features),  # gate and up
        (1, inner.config.hidden_size),  # the last norm's input
        (4, attention.head_dim),  # cos and sin of both kinds of layer
    ):
        expected[features] += count
    assert {features: sizes.count(features) for features in expected} == expected


def sum_over_all_positions(hidden_BTH: Tensor, targets_BT: Tensor, head_VH: Tensor, *, softcap: float | None) -> Tensor:
    return (hidden_BTH @ head_VH.T).float().logsumexp(-1).sum()


class _NanSum(torch.autograd.Function):
    """The sum without NaNs, with a gradient everywhere: only the gradient shows that it reads missing positions."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.nansum()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0] * torch.ones_like(ctx.saved_tensors[0])


def hidden_sum(hidden_BTH: Tensor, targets_BT: Tensor, head_VH: Tensor, *, softcap: float | None) -> Tensor:
    found: Tensor = _NanSum.apply(hidden_BTH)
    return found


@pytest.mark.parametrize("objective", [sum_over_all_positions, hidden_sum])
@pytest.mark.parametrize("num_concurrent", [1, 2])
def test_an_objective_that_reads_a_position_without_a_target_is_an_error_and_changes_nothing(
    num_concurrent: int, objective: Any
) -> None:
    run = make_run(tuned(tiny_model()), num_concurrent=num_concurrent)
    before = [parameter.detach().clone() for parameter in run.tensors]
    with pytest.raises(InputError, match="--kernels reference"):
        train_step(run, ROWS, learning_rate=1.0, objective=objective)
    assert all(torch.equal(one, other) for one, other in zip(before, run.tensors, strict=True))


def test_a_micro_batch_without_any_target_is_run() -> None:
    model = tuned(tiny_model("gemma3_text"))
    batch = pack_rows([make_example(9, 0, seed=3)])
    assert batch.read_M.tolist() == [] and bool(hidden(model, batch).isnan().all())


def test_without_read_m_all_positions_are_computed() -> None:
    model, batch = tuned(tiny_model("gemma2")), pack_rows(ROWS[:1])
    base: PreTrainedModel = inner_model(model)
    with torch.no_grad():
        found = base(input_ids=batch.input_ids_BT, use_cache=False).last_hidden_state
        expected = inner_model(plain_peft(tiny_model("gemma2"), model))(input_ids=batch.input_ids_BT, use_cache=False)
    assert relative(found, expected.last_hidden_state) <= 1e-5


def test_a_key_value_cache_together_with_read_m_is_refused() -> None:
    model, batch = tuned(tiny_model()), pack_rows(ROWS[:1])
    with torch.no_grad(), pytest.raises(ValueError, match="no key-value cache"):
        inner_model(model)(input_ids=batch.input_ids_BT, read_M=batch.read_M, use_cache=True)


@pytest.mark.parametrize("kind", ["gemma", "gemma2"])
def test_arenas_of_recomputed_activations_do_not_grow_with_the_layers(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """A layer's output and its weights' gradients outlive its activations and are stored elsewhere."""
    monkeypatch.setattr(arena.ACTIVATIONS, "num_bytes", 5 * 2**16)  # a size that no other block has

    def num_arenas(num_layers: int) -> int:
        monkeypatch.setattr(arena, "_blocks", {})
        monkeypatch.setattr(arena.ACTIVATIONS, "block", None)
        model = tuned(tiny_model(kind, num_hidden_layers=num_layers))
        recompute_activations(model)
        assert not train_step(make_run(model, pack_tokens=96), ROWS, learning_rate=0.0).skipped
        return len(arena._blocks[arena.ACTIVATIONS.num_bytes])

    assert num_arenas(12) == num_arenas(4)


def test_layers_of_an_unknown_class_are_unchanged() -> None:
    model = tuned(tiny_model())
    layers: Any = inner_model(model).layers
    for layer in layers:
        del layer.forward
        layer.__class__ = type("SomeDecoderLayer", (type(layer),), {})
    assert use_training_layers(inner_model(model)) == 0
    assert use_training_layers(nn.Sequential(nn.Linear(2, 2))) == 0  # no attribute `layers`
    assert all("forward" not in vars(layer) for layer in layers)
