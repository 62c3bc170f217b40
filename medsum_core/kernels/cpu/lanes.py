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
