"""The rows of a window are divided by tokens: each row goes to one process, and the processes get similar work."""

from __future__ import annotations

from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from windows import make_example

from medsum_core.data.masking import Example
from medsum_core.training.distributed import local_rows


def shares(lengths: list[int], num_processes: int) -> list[list[Example]]:
    rows = [make_example(length - 1, 1, seed=number) for number, length in enumerate(lengths)]
    found = []
    for process in range(num_processes):
        accelerator: Any = SimpleNamespace(process_index=process, num_processes=num_processes)
        found.append(list(local_rows(rows, accelerator)))
    assert sorted(row.id for share in found for row in share) == sorted(row.id for row in rows)
    places = [[rows.index(row) for row in share] for share in found]
    assert places == [sorted(share) for share in places]
    return found


def longest(found: list[list[Example]]) -> int:
    return max(sum(row.num_tokens for row in share) for share in found)


@given(st.lists(st.integers(2, 60), max_size=7), st.integers(1, 3))
def test_the_longest_share_is_at_most_a_third_above_the_shortest_possible(
    lengths: list[int], num_processes: int
) -> None:
    least = min(
        max(
            sum(length for length, owner in zip(lengths, owners, strict=True) if owner == p)
            for p in range(num_processes)
        )
        for owners in product(range(num_processes), repeat=len(lengths))
    )
    assert 3 * longest(shares(lengths, num_processes)) <= 4 * least


@pytest.mark.parametrize("num_processes", [2, 4, 8])
def test_uneven_rows_are_divided_evenly(num_processes: int) -> None:
    lengths = [30 + (37 * row) % 101 for row in range(16)]
    mean = sum(lengths) / num_processes
    assert longest(shares(lengths, num_processes)) <= 1.12 * mean


def test_a_process_may_be_left_without_rows() -> None:
    assert [len(share) for share in shares([5, 9], 3)] == [1, 1, 0]
