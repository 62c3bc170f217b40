"""How the rows of a window become micro-batches, with all token ids written out. Needs no weights, takes seconds.

A window is the rows of one optimizer update; it is split into micro-batches, padded or packed. However it is split,
each target of each row is in exactly one micro-batch.
"""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medsum_core.data.collator import MicroBatch, pack_rows, pad_rows, split_window
from medsum_core.data.masking import Example

X = -100  # IGNORE_INDEX: no target at this position
PAD = 0


def example(id: str, input_ids: tuple[int, ...], targets: tuple[int, ...]) -> Example:
    return Example(id=id, input_ids=input_ids, targets=targets, num_prompt_tokens=2, num_turns_dropped=0)


LONG = example("long", (2, 31, 41, 42, 7), (X, 41, 42, 7, X))
SHORT = example("short", (2, 32, 7), (X, 7, X))


def of_length(id: str, length: int) -> Example:
    ids = tuple(range(10, 10 + length))
    return example(id, ids, (*ids[1:], X))


def test_padding_on_the_right_has_no_target_and_belongs_to_no_document() -> None:
    batch = pad_rows([LONG, SHORT], pad_token_id=PAD)
    assert batch.input_ids_BT.tolist() == [
        [2, 31, 41, 42, 7],
        [2, 32, 7, PAD, PAD],
    ]
    assert batch.targets_BT.tolist() == [
        [X, 41, 42, 7, X],
        [X, 7, X, X, X],
    ]
    # Positions also count over the padding: nothing attends to it.
    assert batch.position_ids_BT.tolist() == [[0, 1, 2, 3, 4], [0, 1, 2, 3, 4]]
    assert batch.document_lengths == ((5,), (3,))
    assert batch.ids == ("long", "short")
    assert (batch.num_targets, batch.num_tokens) == (4, 8)  # padding does not count


def test_the_pad_token_may_be_the_stop_token() -> None:
    batch = pad_rows([LONG, SHORT], pad_token_id=7)
    assert batch.input_ids_BT.tolist()[1] == [2, 32, 7, 7, 7]
    assert batch.targets_BT.tolist()[1] == [X, 7, X, X, X]


def test_packed_documents_are_concatenated_and_none_predicts_the_next() -> None:
    batch = pack_rows([LONG, SHORT, SHORT])
    assert batch.input_ids_BT.tolist() == [[2, 31, 41, 42, 7, 2, 32, 7, 2, 32, 7]]
    assert batch.targets_BT.tolist() == [[X, 41, 42, 7, X, X, 7, X, X, 7, X]]
    #              the token before each <bos> has no target: ^           ^
    assert batch.position_ids_BT.tolist() == [[0, 1, 2, 3, 4, 0, 1, 2, 0, 1, 2]]
    assert batch.document_lengths == ((5, 3, 3),)
    assert batch.ids == ("long", "short", "short")
    assert (batch.num_targets, batch.num_tokens) == (5, 11)


@pytest.mark.parametrize("device", [None, "cpu"])
def test_targets_and_document_starts_are_places_in_the_flat_batch(device: str | None) -> None:
    for batch, read, starts in (
        (pad_rows([LONG, SHORT], pad_token_id=PAD), [1, 2, 3, 6], [0, 5, 8, 10]),  # the padding: a third document
        (pack_rows([LONG, SHORT]), [1, 2, 3, 6], [0, 5, 8]),
    ):
        found = batch.to(device) if device else batch
        assert found.read_M.tolist() == read
        assert found.document_starts.tolist() == starts
        assert (found.read_M.dtype, found.document_starts.dtype) == (torch.int64, torch.int32)
        assert torch.equal(found.targets_BT, batch.targets_BT) and found.ids == batch.ids


def test_tensors_are_int64() -> None:
    for batch in (pad_rows([LONG], pad_token_id=PAD), pack_rows([LONG])):
        assert {batch.input_ids_BT.dtype, batch.position_ids_BT.dtype, batch.targets_BT.dtype} == {torch.int64}


def test_without_packing_a_window_is_split_in_order_and_the_last_batch_may_be_short() -> None:
    rows = [of_length(name, 3) for name in "abcde"]
    batches = split_window(rows, batch_size=2, pack_tokens=0, pad_token_id=PAD)
    assert [batch.ids for batch in batches] == [("a", "b"), ("c", "d"), ("e",)]


def test_packing_is_best_fit_decreasing() -> None:
    rows = [of_length(name, length) for name, length in [("a", 5), ("b", 6), ("c", 9), ("d", 2), ("e", 15)]]
    batches = split_window(rows, batch_size=1, pack_tokens=13, pad_token_id=PAD)
    # Longest first: e (15) exceeds pack_tokens and is alone; c (9); b (6); a (5) fits beside b only; d (2) fits beside
    # both and joins the fuller one. The largest micro-batch comes first: the others fit into the memory that it frees.
    assert [batch.ids for batch in batches] == [("e",), ("b", "a", "d"), ("c",)]
    assert [batch.document_lengths for batch in batches] == [((15,),), ((6, 5, 2),), ((9,),)]


@given(
    lengths=st.lists(st.integers(2, 30), min_size=1, max_size=20),
    batch_size=st.integers(1, 8),
    pack_tokens=st.integers(0, 60),
)
@settings(deadline=None, max_examples=80)
def test_every_split_of_a_window_has_each_target_once(lengths: list[int], batch_size: int, pack_tokens: int) -> None:
    rows = [of_length(str(index), length) for index, length in enumerate(lengths)]
    batches = split_window(rows, batch_size=batch_size, pack_tokens=pack_tokens, pad_token_id=PAD)
    assert sorted(name for batch in batches for name in batch.ids) == sorted(row.id for row in rows)
    assert sum(batch.num_targets for batch in batches) == sum(row.num_targets for row in rows)
    assert sum(batch.num_tokens for batch in batches) == sum(lengths)
    assert pairs_of(batches) == Counter(pair for row in rows for pair in trained_pairs(row.input_ids, row.targets))
    for batch in batches:
        assert batch.num_targets == int((batch.targets_BT != X).sum())
        assert len(batch.document_lengths) == len(batch.input_ids_BT)
        if pack_tokens:
            assert batch.num_tokens <= pack_tokens or len(batch.ids) == 1


def trained_pairs(input_ids, targets) -> list[tuple[int, int]]:
    return [(token, target) for token, target in zip(input_ids, targets, strict=True) if target != X]


def pairs_of(batches: list[MicroBatch]) -> Counter[tuple[int, int]]:
    """(input token, target) of all rows, with their counts."""
    rows = [
        (batch.input_ids_BT[b].tolist(), batch.targets_BT[b].tolist())
        for batch in batches
        for b in range(len(batch.input_ids_BT))
    ]
    return Counter(pair for ids, targets in rows for pair in trained_pairs(ids, targets))
