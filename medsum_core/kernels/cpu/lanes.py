"""Micro-batches of a window side by side: a lane is a thread with its part of a CPU's cores.

Between two matrix products a micro-batch leaves all cores but one waiting: for Python, for memory, for small tensors.
Two micro-batches fill each other's gaps. Which lane takes which micro-batch is settled beforehand, and sums are taken
in a fixed order: the same window gives the same bits each time.
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


class Lanes:
    """`count` threads that live as long as this object; a single lane is the caller's own thread, with all cores."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._pool = _pool(count) if count > 1 else None

    def map(self, work: Callable[..., Result], *shares: Sequence[Any]) -> list[Result]:
        """`work` of each lane's share, in their order. Raises what a share raised, once all lanes stand still."""
        if self._pool is None:
            return list(map(work, *shares))
        futures = [self._pool.submit(work, *share) for share in zip(*shares, strict=True)]
        wait(futures)
        return [future.result() for future in futures]


class GradientSum:
    """A summed loss, float32, and its gradient in each parameter (None: not reached), added up in order."""

    def __init__(self, num_parameters: int, device: torch.device) -> None:
        self.nll = torch.zeros((), device=device)
        self.gradients: list[Tensor | None] = [None] * num_parameters

    def add(self, nll: Tensor, gradients: Sequence[Tensor | None]) -> None:
        """Add another loss and its gradient; neither is kept or changed."""
        self.nll = self.nll + nll.detach()
        for place, new in enumerate(gradients):
            total = self.gradients[place]
            if new is not None:  # autograd may hand out one tensor for two parameters: the first is copied
                self.gradients[place] = new.clone() if total is None else total.add_(new)


def share_out(
    micro_batches: Sequence[MicroBatch], num_lanes: int, *, pack_tokens: int
) -> tuple[list[int], list[list[int]]]:
    """The places of the micro-batches that run alone, with all cores, and of those that each lane takes, in its order.

    Alone: what is longer than a packed row (`pack_tokens`, 0: nothing), lest its activations come on top of another's.
    The others, about equal work a lane: heaviest first, each to the lane with the least so far, then exchanges that
    bring two lanes closer. Every second lane takes its own from the lightest up: so the two heaviest do not meet.
    """
    work = [_work(batch) for batch in micro_batches]
    if num_lanes == 1:
        return [], [list(range(len(work)))]
    alone = [place for place, batch in enumerate(micro_batches) if 0 < pack_tokens < batch.num_tokens]
    heaviest_first = sorted(set(range(len(work))) - set(alone), key=lambda place: (-work[place], place))
    lanes: list[list[int]] = [[] for _ in range(num_lanes)]
    for place in heaviest_first:
        min(lanes, key=lambda lane: sum(work[index] for index in lane)).append(place)
    while _exchange(lanes, work):
        pass
    ranked = sorted(sorted(heaviest_first.index(place) for place in lane) for lane in lanes)
    ordered = [[heaviest_first[rank] for rank in lane] for lane in ranked]
    return alone, [lane if number % 2 == 0 else lane[::-1] for number, lane in enumerate(ordered)]


def _pool(count: int) -> ThreadPoolExecutor:
    """The threads, each with its part of the cores. A thread's number of cores is set from within it."""
    num_cores = torch.get_num_threads()
    pool, all_started = ThreadPoolExecutor(count, thread_name_prefix="lane"), Barrier(count)

    def start() -> None:
        all_started.wait()  # or the first thread would take the second one's turn
        torch.get_num_threads()  # a thread's first look takes the process's number, also after `set_num_threads`
        torch.set_num_threads(max(1, num_cores // count))

    wait([pool.submit(start) for _ in range(count)])
    torch.set_num_threads(num_cores)  # the last call decides for threads to come
    return pool


def _exchange(lanes: list[list[int]], work: Sequence[float]) -> bool:
    """Have the busiest lane give a micro-batch to the idlest, for one of its own or for none; False if none helps."""
    loads = [sum(work[place] for place in lane) for lane in lanes]
    busiest, idlest = lanes[loads.index(max(loads))], lanes[loads.index(min(loads))]
    half_gap = (max(loads) - min(loads)) / 2
    returned: list[tuple[int, ...]] = [(), *((place,) for place in idlest)]
    moves = [(given, back, work[given] - sum(work[place] for place in back)) for given in busiest for back in returned]
    given, back, moved = min(moves, key=lambda move: abs(half_gap - move[2]), default=(0, (), 0.0))
    if abs(half_gap - moved) > half_gap - 1:  # less than a token's time
        return False
    busiest.remove(given)
    busiest.extend(back)
    idlest[:] = [place for place in idlest if place not in back] + [given]
    return True


def _work(batch: MicroBatch) -> float:
    """The time that a micro-batch takes, in that of a token: a note's goes through the head too, attention is square.

    Fitted to the embedded model's on a CPU; the constant is what every micro-batch takes.
    """
    pairs = sum(length**2 for lengths in batch.document_lengths for length in lengths)
    return 140 + batch.num_tokens + 1.3 * batch.num_targets + pairs / 3000
