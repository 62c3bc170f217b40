"""The order of rows depends on seed and epoch only; the windows of an epoch hold every row once."""

from __future__ import annotations

import pytest
import torch

from medsum_core.data.sampler import epoch_order, window_indices


def test_epoch_order_is_a_fixed_permutation() -> None:
    # Constants, not computed: an order that changes with a library's version would break resuming and comparisons.
    assert epoch_order(8, seed=42, epoch=0) == [4, 1, 3, 6, 0, 7, 2, 5]
    assert epoch_order(8, seed=42, epoch=1) == [1, 2, 5, 3, 6, 0, 4, 7]
    assert epoch_order(8, seed=43, epoch=0) == [2, 1, 5, 7, 4, 0, 6, 3]
    assert epoch_order(0, seed=42, epoch=0) == []


def test_epoch_order_neither_reads_nor_moves_other_generators() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = epoch_order(100, seed=1, epoch=2)
    torch.rand(3)
    assert epoch_order(100, seed=1, epoch=2) == first
    torch.set_rng_state(before)
    epoch_order(100, seed=1, epoch=2)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("window_rows", [1, 4, 16, 40])
def test_an_epoch_visits_every_row_once_and_its_last_window_may_be_short(window_rows: int) -> None:
    windows = window_indices(35, seed=7, epoch=3, window_rows=window_rows)
    assert [index for window in windows for index in window] == epoch_order(35, seed=7, epoch=3)
    assert sorted(index for window in windows for index in window) == list(range(35))
    assert {len(window) for window in windows[:-1]} <= {window_rows}
    assert len(windows[-1]) == (35 % window_rows or window_rows)
