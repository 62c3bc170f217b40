"""Concurrent micro-batches: worker threads, each with its share of a CPU's cores.

Between two matrix products a micro-batch leaves all cores but one waiting for Python and memory; a second micro-batch
uses them. Which worker computes which micro-batch is decided beforehand, and sums are taken in a fixed order: the same
window gives the same bits each time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from threading import Barrier
from typing import Any, TypeVar

import torch
from torch import Tensor

from medsum_core.data.collator import MicroBatch

Result = TypeVar("Result")


class Workers:
    """`count` threads that live as long as this object; with 1, the calling thread and all cores."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._pool = _pool(count) if count > 1 else None

    def map(self, work: Callable[..., Result], *shares: Sequence[Any]) -> list[Result]:
        """The results of `work`, called with each worker's share, in order. Raises its error when all have finished."""
        if self._pool is None:
            return list(map(work, *shares))
        futures = [self._pool.submit(work, *share) for share in zip(*shares, strict=True)]
        wait(futures)
        return [future.result() for future in futures]


class GradientSum:
    """A summed loss, float32, and the summed gradient of each parameter (None: the loss does not depend on it)."""

    def __init__(self, num_parameters: int, device: torch.device) -> None:
        self.nll = torch.zeros((), device=device)
        self._places = range(num_parameters)
        self._sums: dict[int, Tensor] = {}

    @property
    def gradients(self) -> list[Tensor | None]:
        """The sums, in the order of the parameters."""
        return [self._sums.get(place) for place in self._places]

    def add(self, nll: Tensor, gradients: Sequence[Tensor | None]) -> None:
        """Add another loss and its gradients, which are not changed; the sums share no memory with them."""
        self.nll = self.nll + nll.detach()
        new = {place: gradient for place, gradient in enumerate(gradients) if gradient is not None}
        first, again = new.keys() - self._sums.keys(), new.keys() & self._sums.keys()
        if again:  # `_foreach` needs a few launches on a GPU instead of one per parameter
            torch._foreach_add_([self._sums[place] for place in again], [new[place] for place in again])
        if first:  # copied: autograd may return one tensor for two parameters
            copies = torch._foreach_mul([new[place] for place in first], 1)
            self._sums.update(zip(first, copies, strict=True))


def assign_micro_batches(
    micro_batches: Sequence[MicroBatch], num_workers: int, *, pack_tokens: int
) -> tuple[list[int], list[list[int]]]:
    """Indices of the micro-batches that run alone on all cores, and of those of each worker, in order of execution.

    A row longer than `pack_tokens` (0: none) runs alone: two at once could exceed the memory estimate. The others are
    divided by estimated work: heaviest first, each to the worker with the least so far, then exchanges between the
    busiest and the least busy. Every second worker starts with its lightest, so that the heaviest ones of two workers
    do not run at the same time.
    """
    work = [_work(batch) for batch in micro_batches]
    if num_workers == 1:
        return [], [list(range(len(work)))]
    alone = [place for place, batch in enumerate(micro_batches) if 0 < pack_tokens < batch.num_tokens]
    heaviest_first = sorted(set(range(len(work))) - set(alone), key=lambda place: (-work[place], place))
    shares: list[list[int]] = [[] for _ in range(num_workers)]
    for place in heaviest_first:
        min(shares, key=lambda share: sum(work[index] for index in share)).append(place)
    while _exchange(shares, work):
        pass
    ranked = sorted(sorted(heaviest_first.index(place) for place in share) for share in shares)
    ordered = [[heaviest_first[rank] for rank in share] for share in ranked]
    return alone, [share if number % 2 == 0 else share[::-1] for number, share in enumerate(ordered)]


def _pool(count: int) -> ThreadPoolExecutor:
    """The threads, each with its share of the cores. torch's number of threads is set from within each thread."""
    num_cores = torch.get_num_threads()
    pool, all_started = ThreadPoolExecutor(count, thread_name_prefix="worker"), Barrier(count)

    def start() -> None:
        all_started.wait()  # else the first thread could run this function twice and the second never
        torch.get_num_threads()  # the first call in a thread resets it to the process's number
        torch.set_num_threads(max(1, num_cores // count))

    wait([pool.submit(start) for _ in range(count)])
    torch.set_num_threads(num_cores)  # the last call also decides for threads started later
    return pool


def _exchange(shares: list[list[int]], work: Sequence[float]) -> bool:
    """Move a micro-batch from the busiest worker to the least busy, or swap two; False if that improves nothing."""
    loads = [sum(work[place] for place in share) for share in shares]
    busiest, least_busy = shares[loads.index(max(loads))], shares[loads.index(min(loads))]
    half_gap = (max(loads) - min(loads)) / 2
    swaps: list[tuple[int, ...]] = [(), *((place,) for place in least_busy)]
    moves = [(given, back, work[given] - sum(work[place] for place in back)) for given in busiest for back in swaps]
    given, back, moved = min(moves, key=lambda move: abs(half_gap - move[2]), default=(0, (), 0.0))
    if abs(half_gap - moved) > half_gap - 1:  # less than a token's time
        return False
    busiest.remove(given)
    busiest.extend(back)
    least_busy[:] = [place for place in least_busy if place not in back] + [given]
    return True


def _work(batch: MicroBatch) -> float:
    """Estimated time of a micro-batch, in prompt tokens: note tokens also pass the head, attention is quadratic.

    Fitted to times of the embedded model on a CPU. The constant is the fixed cost of a micro-batch.
    """
    pairs = sum(length**2 for lengths in batch.document_lengths for length in lengths)
    return 140 + batch.num_tokens + 1.3 * batch.num_targets + pairs / 3000
