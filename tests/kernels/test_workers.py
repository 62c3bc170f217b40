"""Concurrent micro-batches: a reproducible gradient with the same dropout masks, and evenly divided work."""

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

from medsum_core.data.collator import pack_rows
from medsum_core.kernels import accumulate
from medsum_core.kernels.cpu import workers
from medsum_core.kernels.cpu.workers import GradientSum, Workers, assign_micro_batches
from medsum_core.kernels.layers import recompute_activations
from medsum_core.model.lora import LoraSettings
from train_loop import train_step

DROPOUT = LoraSettings(r=16, dropout=0.3)


def gradient(*, num_workers: int, recompute: bool = False, seed: int = 3, pack_tokens: int = 96) -> list[torch.Tensor]:
    """The gradient of a packed window of a tiny model with dropout."""
    model = tuned(tiny_model(), DROPOUT)
    if recompute:
        recompute_activations(model)
    run = make_run(model, pack_tokens=pack_tokens, num_concurrent=num_workers)
    torch.manual_seed(seed)
    train_step(run, make_window(12), learning_rate=0.0)
    found: Any = run.optimizer
    return list(found.gradients)


@pytest.mark.parametrize("pack_tokens", [96, 24])  # 24: some rows are longer and run alone
def test_two_workers_drop_the_same_elements_as_one(pack_tokens: int) -> None:
    one = gradient(num_workers=1, pack_tokens=pack_tokens)
    assert relative(gradient(num_workers=2, pack_tokens=pack_tokens), one) <= 1e-5
    assert relative(gradient(num_workers=2, pack_tokens=pack_tokens, seed=4), one) > 1e-2


def test_recomputed_activations_drop_the_same_elements_in_each_worker() -> None:
    one = gradient(num_workers=1)
    for num_workers in (1, 2):
        assert relative(gradient(num_workers=num_workers, recompute=True), one) <= 1e-5


def test_only_long_rows_recompute_their_activations() -> None:
    model, calls = tuned(tiny_model(), DROPOUT), []
    base: Any = model.get_base_model()
    base.model.layers[0].self_attn.o_proj.register_forward_hook(lambda *_: calls.append(1))
    run: Any = make_run(model, pack_tokens=20, num_concurrent=2)
    window = [make_example(length, 3, seed=length) for length in (27, 15, 14)]  # packed rows of 30, 18 and 17 tokens
    gradients = []
    for longer_than, expected in ((10_000, 3), (20, 4), (0, 6)):
        recompute_activations(model, longer_than=longer_than)
        torch.manual_seed(3)
        train_step(run, window, learning_rate=0.0)
        gradients.append(run.optimizer.gradients)
        assert len(calls) == expected
        calls.clear()
    for other in gradients[1:]:
        assert all(torch.equal(left, right) for left, right in zip(gradients[0], other, strict=True))


def test_the_gradient_of_two_workers_does_not_depend_on_which_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    first = gradient(num_workers=2)
    for slow in ("worker_0", "worker_1"):

        def add(self: GradientSum, nll: Any, gradients: Any, slow: str = slow, plain: Any = GradientSum.add) -> None:
            if threading.current_thread().name == slow:
                time.sleep(0.05)
            plain(self, nll, gradients)

        with monkeypatch.context() as patch:
            patch.setattr(GradientSum, "add", add)
            again = gradient(num_workers=2)
        assert all(torch.equal(left, right) for left, right in zip(again, first, strict=True))


def test_torchs_generator_advances_alike_with_any_number_of_workers() -> None:
    states = []
    for num_workers in (1, 2):
        gradient(num_workers=num_workers)
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


def test_workers_divide_the_cores_and_leave_the_callers_number_unchanged() -> None:
    before = torch.get_num_threads()
    pool = Workers(2)
    assert pool.map(lambda _: torch.get_num_threads(), ["a", "b"]) == [max(1, before // 2)] * 2
    assert torch.get_num_threads() == before
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert found == [before]  # a thread started later has all cores again


def test_results_are_in_the_order_of_the_shares_each_from_a_thread_of_its_own() -> None:
    def work(seconds: float) -> tuple[float, str]:
        time.sleep(seconds)
        return seconds, threading.current_thread().name

    found = Workers(2).map(work, [0.1, 0.0])
    assert [seconds for seconds, _ in found] == [0.1, 0.0]
    assert {name for _, name in found} == {"worker_0", "worker_1"}
    assert Workers(1).map(work, [0.0]) == [(0.0, threading.current_thread().name)]


def test_an_error_is_raised_once_all_workers_have_stopped() -> None:
    done = []

    def work(seconds: float) -> None:
        if not seconds:
            raise ValueError("the first")
        time.sleep(seconds)
        done.append(seconds)

    with pytest.raises(ValueError, match="the first"):
        Workers(2).map(work, [0.0, 0.1])
    assert done == [0.1]


def test_a_sum_skips_parameters_without_gradient_and_changes_no_input() -> None:
    total, part = GradientSum(3, torch.device("cpu")), torch.ones(2)
    total.add(torch.tensor(1.0), [None, part, part])
    total.add(torch.tensor(2.0), [None, part, None])
    assert total.nll.item() == 3 and total.gradients[0] is None
    assert [gradient.tolist() for gradient in total.gradients[1:] if gradient is not None] == [[2, 2], [1, 1]]
    assert part.tolist() == [1, 1]


@given(rows=st.lists(st.tuples(st.integers(1, 600), st.integers(1, 200)), max_size=7), num_workers=st.integers(1, 3))
def test_each_micro_batch_has_one_worker_and_the_work_is_within_grahams_bound(
    rows: list[tuple[int, int]], num_workers: int
) -> None:
    batches = [pack_rows([make_example(*row, seed=seed)]) for seed, row in enumerate(rows)]
    alone, shares = assign_micro_batches(batches, num_workers, pack_tokens=0)
    assert alone == []
    assert sorted(place for share in shares for place in share) == list(range(len(rows)))
    work = [workers._work(batch) for batch in batches]

    def longest(worker_of: Iterable[int]) -> float:
        loads = [0.0] * num_workers
        for worker, seconds in zip(worker_of, work, strict=True):
            loads[worker] += seconds
        return max(loads)

    worker_of = {place: worker for worker, share in enumerate(shares) for place in share}
    best = min(longest(choice) for choice in product(range(num_workers), repeat=len(rows)))
    assert longest(worker_of[place] for place in range(len(rows))) <= (4 / 3 - 1 / (3 * num_workers)) * best + 1e-6
    # Graham 1969: the bound for assigning the heaviest first; the exchanges after it only lower the maximum


def test_micro_batches_are_exchanged_until_the_work_is_even() -> None:
    batches = [pack_rows([make_example(length, 1, seed=length)]) for length in (388, 288, 188, 188, 188)]
    assert [round(workers._work(batch)) for batch in batches] == [581, 458, 342, 342, 342]
    _, shares = assign_micro_batches(batches, 2, pack_tokens=0)  # heaviest first only: 581 + 342 and 458 + 342 + 342
    assert [sorted(share) for share in shares] == [[0, 1], [2, 3, 4]]


def test_the_two_heaviest_micro_batches_do_not_run_at_the_same_time() -> None:
    batches = [pack_rows([make_example(length, 1, seed=length)]) for length in (500, 490, 100, 90)]
    assert assign_micro_batches(batches, 2, pack_tokens=0) == ([], [[0, 3], [2, 1]])
    assert assign_micro_batches(batches, 1, pack_tokens=0) == ([], [[0, 1, 2, 3]])


def test_a_row_longer_than_pack_tokens_runs_first_and_alone_on_all_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = [pack_rows([make_example(length, 1, seed=length)]) for length in (600, 512, 500, 300)]
    assert assign_micro_batches(batches, 2, pack_tokens=512) == ([0, 1], [[2], [3]])  # of 601 and 513 tokens
    assert assign_micro_batches(batches, 1, pack_tokens=512) == ([], [[0, 1, 2, 3]])
    assert assign_micro_batches(batches[:1], 2, pack_tokens=512) == ([0], [[], []])

    calls: list[tuple[int, str, int]] = []
    plain = accumulate.hidden_states

    def hidden_states(model: Any, batch: Any, **prefix: Any) -> torch.Tensor:
        calls.append((batch.num_tokens, threading.current_thread().name, torch.get_num_threads()))
        return plain(model, batch, **prefix)

    monkeypatch.setattr(accumulate, "hidden_states", hidden_states)
    window = [make_example(length, 3, seed=length) for length in (27, 15, 14)]
    train_step(make_run(tuned(tiny_model()), pack_tokens=20, num_concurrent=2), window, learning_rate=0.0)
    assert calls[0] == (30, threading.current_thread().name, torch.get_num_threads())
    assert sorted(tokens for tokens, _, _ in calls[1:]) == [17, 18]
    cores = max(1, torch.get_num_threads() // 2)
    assert {threads for _, _, threads in calls[1:]} == {cores}
    assert {name for _, name, _ in calls[1:]} <= {"worker_0", "worker_1"}  # one worker may take both


def test_the_pool_starts_all_its_threads() -> None:
    pool = workers._pool(3)
    assert len(pool._threads) == 3
