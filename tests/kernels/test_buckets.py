"""Micro-batches padded to the shapes of CUDA graphs: what they look like, and that every padding counts nothing."""

from __future__ import annotations

import pytest
import torch
from windows import make_window

from medsum_core.data.collator import MicroBatch, pack_rows, pad_rows
from medsum_core.data.masking import IGNORE_INDEX, Example
from medsum_core.errors import InputError
from medsum_core.kernels.gpu import buckets
from medsum_core.kernels.gpu.buckets import padded_to_bucket

NONE = IGNORE_INDEX


def example(name: str, ids: list[int], targets: list[int]) -> Example:
    return Example(
        id=name, input_ids=tuple(ids), targets=tuple(targets), num_prompt_tokens=len(ids), num_turns_dropped=0
    )


def test_a_padded_row_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, multiple in (("TOKENS", 8), ("READ", 4)):
        monkeypatch.setattr(buckets, name, multiple)
    batch = pack_rows([example("a", [5, 6, 7], [NONE, 7, NONE]), example("b", [8, 9], [9, NONE])])
    padded = padded_to_bucket(batch)
    assert padded.input_ids_BT.tolist() == [[5, 6, 7, 8, 9, 0, 0, 0]]
    assert padded.position_ids_BT.tolist() == [[0, 1, 2, 0, 1, 0, 1, 2]]
    assert padded.targets_BT.tolist() == [[NONE, 7, NONE, 9, NONE, NONE, NONE, NONE]]
    assert padded.read_M.tolist() == [1, 3, 0, 2]  # the targets, then others: each position once
    assert padded.document_starts.tolist() == [0, 3, 5, 8, 8]  # documents a, b, the padding, and an empty one
    assert padded.document_starts.dtype == batch.document_starts.dtype == torch.int32
    assert (padded.ids, padded.num_targets, padded.num_tokens) == (("a", "b"), 2, 5)


def shape(batch: MicroBatch) -> tuple[int, int, int]:
    return batch.input_ids_BT.shape[1], len(batch.read_M), len(batch.document_starts) - 1


def test_few_shapes_hold_all_rows() -> None:
    assert shape(padded_to_bucket(pack_rows(make_window(16)))) == (512, 256, 32)
    assert shape(padded_to_bucket(pack_rows(make_window(1)))) == (512, 256, 4)
    full = example("full", [5] * 512, [6] * 512)
    assert shape(padded_to_bucket(pack_rows([full]))) == (512, 512, 4)
    assert shape(padded_to_bucket(pack_rows([full, full]))) == (1024, 1024, 4)
    assert shape(padded_to_bucket(pack_rows([full, example("one more", [5], [6])]))) == (1024, 768, 4)
    many = [example(str(number), [5], [NONE]) for number in range(31)]
    assert shape(padded_to_bucket(pack_rows(many))) == (512, 256, 32)  # with the padding 32 documents
    assert shape(padded_to_bucket(pack_rows([*many, many[0]]))) == (512, 256, 64)


def test_a_row_of_padding_is_read_without_a_target() -> None:
    padded = padded_to_bucket(pack_rows([example("none", [5], [NONE])]))
    assert padded.read_M.tolist() == list(range(256)) and set(padded.targets_BT.flatten().tolist()) == {NONE}


def test_several_rows_are_refused() -> None:
    with pytest.raises(InputError, match="leave --pack_tokens out"):
        padded_to_bucket(pad_rows(make_window(2), pad_token_id=0))
