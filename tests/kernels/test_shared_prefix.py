"""The common prefix of a window's rows: which tokens it has, and that computing it once changes no gradient."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from support import tiny_model
from torch import Tensor
from windows import make_example, make_run, make_window, plain_peft, reference_gradient, relative, tuned

from medsum_core.data.collator import pack_rows, pad_rows
from medsum_core.data.masking import IGNORE_INDEX, Example
from medsum_core.kernels import FAST_MODEL_TYPES, accumulate, choose
from medsum_core.kernels.cpu.shared_prefix import prefix_states, split_prefix
from medsum_core.kernels.layers import hidden_states, recompute_activations
from medsum_core.model.attention import document_attention
from medsum_core.model.lora import LoraSettings
from train_loop import train_step

N = IGNORE_INDEX
COMPILED = choose("fast").attention


def shares_prefix(run: Any) -> bool:
    return bool(run.accumulate.shares_prefix)


def example(ids: list[int], num_prompt: int) -> Example:
    targets = [N] * (num_prompt - 1) + ids[num_prompt:] + [N]
    return replace(
        make_example(1, 0, seed=1), input_ids=tuple(ids), targets=tuple(targets), num_prompt_tokens=num_prompt
    )


def with_prefix(rows: list[Example], num_shared: int) -> list[Example]:
    """The rows with the same `num_shared` tokens before each."""
    shared = make_example(num_shared, 0, seed=9).input_ids
    return [
        replace(
            row,
            input_ids=shared + row.input_ids,
            targets=(N,) * num_shared + row.targets,
            num_prompt_tokens=num_shared + row.num_prompt_tokens,
        )
        for row in rows
    ]


def gradient(model: Any, window: list[Example], **settings: Any) -> tuple[float, list[Tensor]]:
    run: Any = make_run(model, **settings)
    torch.manual_seed(3)
    stats = train_step(run, window, learning_rate=0.0)
    return stats.loss, run.optimizer.gradients


def test_the_prefix_of_packed_rows_is_split_off() -> None:
    rows = [example([7, 8, 9, 20, 21], 4), example([7, 8, 5, 30], 3)]
    prefix, (batch,) = split_prefix([pack_rows(rows)])
    assert prefix is not None
    assert (prefix.input_ids_BT.tolist(), prefix.position_ids_BT.tolist()) == ([[7, 8]], [[0, 1]])
    assert (prefix.targets_BT.tolist(), prefix.document_lengths, prefix.num_targets) == ([[N, N]], ((2,),), 0)
    assert batch.input_ids_BT.tolist() == [[9, 20, 21, 5, 30]]
    assert batch.position_ids_BT.tolist() == [[2, 3, 4, 2, 3]]
    assert batch.targets_BT.tolist() == [[N, 21, N, 30, N]]
    assert (batch.document_lengths, batch.num_tokens, batch.num_targets) == (((3, 2),), 5, 2)


def test_the_prefix_of_padded_rows_is_split_off() -> None:
    rows = [example([7, 8, 9, 20, 21], 4), example([7, 8, 5], 2)]
    prefix, (batch,) = split_prefix([pad_rows(rows, pad_token_id=0)])
    assert prefix is not None and prefix.input_ids_BT.tolist() == [[7]]  # position 1 of the second row has a target
    assert batch.input_ids_BT.tolist() == [[8, 9, 20, 21], [8, 5, 0, 0]]
    assert (batch.document_lengths, batch.num_tokens) == (((4,), (2,)), 6)


@pytest.mark.parametrize(
    ("rows", "length"),
    [
        ([[7, 8, 9], [7, 8, 9]], 2),  # each document keeps at least a token
        ([[7, 8, 9], [7, 8]], 1),
        ([[7, 8, 9], [5, 8, 9]], 0),
        ([[7, 8, 9]], 0),  # a single document
    ],
)
def test_the_prefix_is_the_longest_that_leaves_each_document_a_token(rows: list[list[int]], length: int) -> None:
    batches = [pack_rows([example(ids, len(ids))]) for ids in rows]
    prefix, left = split_prefix(batches)
    assert (0 if prefix is None else prefix.num_tokens) == length
    assert [batch.num_tokens for batch in left] == [len(ids) - length for ids in rows]
    assert split_prefix([]) == (None, [])


def test_rows_that_would_get_different_lengths_are_unchanged() -> None:
    one = pad_rows([example([7, 8, 9, 7, 8, 5], 6), example([7, 8, 9, 7, 8, 5], 6)], pad_token_id=0)
    batch = replace(one, document_lengths=((3, 3), (6,)))
    assert split_prefix([batch]) == (None, [batch])


@pytest.mark.parametrize("num_concurrent", [1, 2])
@pytest.mark.parametrize("pack_tokens", [48, 400])
@pytest.mark.parametrize("num_shared", [11, 40])  # shorter and longer than the sliding window of 32
@pytest.mark.parametrize("kind", FAST_MODEL_TYPES)
def test_the_gradient_equals_that_of_whole_rows(
    kind: str, num_shared: int, pack_tokens: int, num_concurrent: int
) -> None:
    model, window = tuned(tiny_model(kind)), with_prefix(make_window(8), num_shared)
    expected_loss, expected = reference_gradient(plain_peft(tiny_model(kind), model), window)
    loss, found = gradient(model, window, pack_tokens=pack_tokens, num_concurrent=num_concurrent)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    assert relative(found, expected) <= 1e-5


@pytest.mark.parametrize("targets", [("q_proj", "v_proj"), ("down_proj",)])
def test_keys_and_values_of_the_first_layer_may_depend_on_no_adapter(targets: tuple[str, ...]) -> None:
    settings, window = LoraSettings(r=16, dropout=0.0, target_modules=targets), with_prefix(make_window(4), 11)
    model = tuned(tiny_model(), settings)
    _, expected = reference_gradient(plain_peft(tiny_model(), model, settings), window)
    _, found = gradient(model, window, pack_tokens=60)
    assert relative(found, expected) <= 1e-5


def test_the_prefix_is_computed_once_a_window(monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []
    model, plain = tuned(tiny_model()), accumulate.hidden_states
    monkeypatch.setattr(
        accumulate,
        "hidden_states",
        lambda model, batch, **more: counts.append(batch.num_tokens) or plain(model, batch, **more),
    )
    rows = make_window(8)
    gradient(model, with_prefix(rows, 11), pack_tokens=60)
    assert sum(counts) == sum(row.num_tokens for row in rows)
    counts.clear()
    gradient(model, with_prefix(rows, 11), pack_tokens=0)  # rows are not packed: no shared prefix
    assert sum(counts) == sum(row.num_tokens + 11 for row in rows)


@pytest.mark.parametrize("dropout", [0.0, 0.05])
def test_recomputed_activations_change_no_gradient(dropout: float) -> None:
    model = tuned(tiny_model("gemma3_text"), LoraSettings(r=16, dropout=dropout))
    window = with_prefix(make_window(6), 12)
    expected = gradient(model, window, pack_tokens=80)
    recompute_activations(model)
    found = gradient(model, window, pack_tokens=80)
    assert found[0] == pytest.approx(expected[0], rel=1e-6) and relative(found[1], expected[1]) <= 1e-6


def test_with_dropout_the_gradient_of_a_window_is_reproducible() -> None:
    model = tuned(tiny_model(), LoraSettings(r=16, dropout=0.05))
    window = with_prefix(make_window(6), 12)
    (_, one), (_, other) = (gradient(model, window, pack_tokens=60, num_concurrent=2) for _ in range(2))
    assert all(torch.equal(first, second) for first, second in zip(one, other, strict=True))


def test_documents_after_a_prefix_do_not_attend_to_each_other() -> None:
    model = tuned(tiny_model("gemma3_text"))
    rows = with_prefix(make_window(3), 12)
    other = with_prefix([make_example(20, 4, seed=77)], 12)[0]
    found = []
    for window in (rows, [other, *rows[1:]]):
        prefix, (batch,) = split_prefix([pack_rows(window)])
        assert prefix is not None
        with torch.no_grad(), document_attention(model, functions=COMPILED):
            hidden_BTH = hidden_states(model, batch, prefix=prefix_states(model, prefix))
        last = batch.document_lengths[0][-1]
        found.append(hidden_BTH[0, -last:][batch.targets_BT[0, -last:] != N])
    assert len(found[0]) > 0 and torch.equal(*found)


def test_only_the_cpu_kernel_takes_a_prefix() -> None:
    model, rows = tuned(tiny_model()), with_prefix(make_window(3), 12)
    prefix, (batch,) = split_prefix([pack_rows(rows)])
    assert prefix is not None
    for kernel in ("sdpa", "eager"):
        assert not shares_prefix(make_run(model, pack_tokens=60, attention=kernel))
        with document_attention(model, kernel, functions=COMPILED), torch.no_grad():
            states = prefix_states(model, prefix)
            with pytest.raises(ValueError, match="prefix"):
                hidden_states(model, batch, prefix=states)
    assert shares_prefix(make_run(model, pack_tokens=60)) and not shares_prefix(make_run(model, pack_tokens=0))
