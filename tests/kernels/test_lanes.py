"""Micro-batches side by side: the same gradient, the same dropout, the same bits each time, and no thread out of turn."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import tiny_model
from windows import make_example, make_run, make_window, relative, tuned

import train_loop
from medsum_core.data.collator import pack_rows
from medsum_core.kernels.cpu import lanes
from medsum_core.kernels.cpu.lanes import GradientSum, Lanes, share_out
from medsum_core.model.base import LoraSettings, checkpoint_activations
from train_loop import train_step

DROPOUT = LoraSettings(r=16, dropout=0.3)


def gradient(*, num_lanes: int, recompute: bool = False, seed: int = 3, pack_tokens: int = 96) -> list[torch.Tensor]:
    """Of one packed window of a tiny model with dropout."""
    model = tuned(tiny_model(), DROPOUT)
    if recompute:
        checkpoint_activations(model)
    run = make_run(model, pack_tokens=pack_tokens, lanes=num_lanes)
    torch.manual_seed(seed)
    train_step(run, make_window(12), learning_rate=0.0)
    found: Any = run.optimizer
    return list(found.gradients)


@pytest.mark.parametrize("pack_tokens", [96, 24])  # 24: some rows are longer and run alone
def test_two_lanes_drop_the_same_elements_as_one(pack_tokens: int) -> None:
    one = gradient(num_lanes=1, pack_tokens=pack_tokens)
    assert relative(gradient(num_lanes=2, pack_tokens=pack_tokens), one) <= 1e-5
    assert relative(gradient(num_lanes=2, pack_tokens=pack_tokens, seed=4), one) > 1e-2


def test_recomputed_activations_drop_the_same_elements_in_each_lane() -> None:
    one = gradient(num_lanes=1)
    for num_lanes in (1, 2):
        assert relative(gradient(num_lanes=num_lanes, recompute=True), one) <= 1e-5


def test_long_rows_alone_compute_their_activations_again() -> None:
    model, calls = tuned(tiny_model(), DROPOUT), []
    base: Any = model.get_base_model()
    base.model.layers[0].self_attn.o_proj.register_forward_hook(lambda *_: calls.append(1))
    run: Any = make_run(model, pack_tokens=20, lanes=2)
    window = [make_example(length, 3, seed=length) for length in (27, 15, 14)]  # packed rows of 30, 18 and 17 tokens
    gradients = []
    for longer_than, expected in ((10_000, 3), (20, 4), (0, 6)):
        checkpoint_activations(model, longer_than=longer_than)
        torch.manual_seed(3)
        train_step(run, window, learning_rate=0.0)
        gradients.append(run.optimizer.gradients)
        assert len(calls) == expected
        calls.clear()
    for other in gradients[1:]:
        assert all(torch.equal(left, right) for left, right in zip(gradients[0], other, strict=True))


def test_two_lanes_give_the_same_bits_whichever_is_the_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    first = gradient(num_lanes=2)
    for slow in ("lane_0", "lane_1"):

        def add(self: GradientSum, nll: Any, gradients: Any, slow: str = slow, plain: Any = GradientSum.add) -> None:
            if threading.current_thread().name == slow:
                time.sleep(0.05)
            plain(self, nll, gradients)

        with monkeypatch.context() as patch:
            patch.setattr(GradientSum, "add", add)
            again = gradient(num_lanes=2)
        assert all(torch.equal(left, right) for left, right in zip(again, first, strict=True))


def test_a_draw_takes_as_much_of_torchs_generator_with_any_number_of_lanes() -> None:
    states = []
    for num_lanes in (1, 2):
        gradient(num_lanes=num_lanes)
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


def test_lanes_share_the_cores_and_leave_the_callers_own_alone() -> None:
    before = torch.get_num_threads()
    pool = Lanes(2)
    assert pool.map(lambda _: torch.get_num_threads(), ["a", "b"]) == [max(1, before // 2)] * 2
    assert torch.get_num_threads() == before
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert found == [before]  # a thread that comes later has all cores again


def test_results_come_in_the_order_of_the_shares_from_threads_of_their_own() -> None:
    def work(seconds: float) -> tuple[float, str]:
        time.sleep(seconds)
        return seconds, threading.current_thread().name

    found = Lanes(2).map(work, [0.1, 0.0])
    assert [seconds for seconds, _ in found] == [0.1, 0.0]
    assert {name for _, name in found} == {"lane_0", "lane_1"}
    assert Lanes(1).map(work, [0.0]) == [(0.0, threading.current_thread().name)]


def test_an_error_comes_when_all_lanes_stand_still() -> None:
    done = []

    def work(seconds: float) -> None:
        if not seconds:
            raise ValueError("the first")
        time.sleep(seconds)
        done.append(seconds)

    with pytest.raises(ValueError, match="the first"):
        Lanes(2).map(work, [0.0, 0.1])
    assert done == [0.1]


def test_a_sum_takes_unreached_parameters_as_nothing_and_changes_no_part() -> None:
    total, part = GradientSum(3, torch.device("cpu")), torch.ones(2)
    total.add(torch.tensor(1.0), [None, part, part])
    total.add(torch.tensor(2.0), [None, part, None])
    assert total.nll.item() == 3 and total.gradients[0] is None
    assert [gradient.tolist() for gradient in total.gradients[1:] if gradient is not None] == [[2, 2], [1, 1]]
    assert part.tolist() == [1, 1]


@given(rows=st.lists(st.tuples(st.integers(1, 600), st.integers(1, 200)), max_size=7), num_lanes=st.integers(1, 3))
def test_each_micro_batch_has_one_lane_and_the_lanes_about_equal_work(
    rows: list[tuple[int, int]], num_lanes: int
) -> None:
    batches = [pack_rows([make_example(*row, seed=seed)]) for seed, row in enumerate(rows)]
    alone, shares = share_out(batches, num_lanes, pack_tokens=0)
    assert alone == []
    assert sorted(place for share in shares for place in share) == list(range(len(rows)))
    work = [lanes._work(batch) for batch in batches]

    def longest(lane_of: Iterable[int]) -> float:
        loads = [0.0] * num_lanes
        for lane, seconds in zip(lane_of, work, strict=True):
            loads[lane] += seconds
        return max(loads)

    lane_of = {place: lane for lane, share in enumerate(shares) for place in share}
    best = min(longest(lanes) for lanes in product(range(num_lanes), repeat=len(rows)))
    assert longest(lane_of[place] for place in range(len(rows))) <= (4 / 3 - 1 / (3 * num_lanes)) * best + 1e-6
    # Graham 1969: so good is heaviest first alone; exchanges only lower the longest


def test_lanes_exchange_micro_batches_until_their_work_is_alike() -> None:
    batches = [pack_rows([make_example(length, 1, seed=length)]) for length in (388, 288, 188, 188, 188)]
    assert [round(lanes._work(batch)) for batch in batches] == [581, 458, 342, 342, 342]
    _, shares = share_out(batches, 2, pack_tokens=0)  # heaviest first only: 581 + 342 and 458 + 342 + 342
    assert [sorted(share) for share in shares] == [[0, 1], [2, 3, 4]]


def test_the_two_heaviest_micro_batches_do_not_meet() -> None:
    batches = [pack_rows([make_example(length, 1, seed=length)]) for length in (500, 490, 100, 90)]
    assert share_out(batches, 2, pack_tokens=0) == ([], [[0, 3], [2, 1]])
    assert share_out(batches, 1, pack_tokens=0) == ([], [[0, 1, 2, 3]])


def test_a_row_longer_than_a_packed_one_runs_before_the_lanes_with_all_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = [pack_rows([make_example(length, 1, seed=length)]) for length in (600, 512, 500, 300)]
    assert share_out(batches, 2, pack_tokens=512) == ([0, 1], [[2], [3]])  # of 601 and 513 tokens
    assert share_out(batches, 1, pack_tokens=512) == ([], [[0, 1, 2, 3]])
    assert share_out(batches[:1], 2, pack_tokens=512) == ([0], [[], []])

    calls: list[tuple[int, str, int]] = []
    plain = train_loop.hidden_states

    def hidden_states(model: Any, batch: Any, **prefix: Any) -> torch.Tensor:
        calls.append((batch.num_tokens, threading.current_thread().name, torch.get_num_threads()))
        return plain(model, batch, **prefix)

    monkeypatch.setattr(train_loop, "hidden_states", hidden_states)
    window = [make_example(length, 3, seed=length) for length in (27, 15, 14)]
    train_step(make_run(tuned(tiny_model()), pack_tokens=20, lanes=2), window, learning_rate=0.0)
    assert calls[0] == (30, threading.current_thread().name, torch.get_num_threads())
    assert sorted(tokens for tokens, _, _ in calls[1:]) == [17, 18]
    cores = max(1, torch.get_num_threads() // 2)
    assert {(name, threads) for _, name, threads in calls[1:]} == {("lane_0", cores), ("lane_1", cores)}


def test_the_pool_starts_all_its_threads_at_once() -> None:
    pool = lanes._pool(3)
    assert len(pool._threads) == 3
