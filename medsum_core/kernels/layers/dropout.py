"""Dropout masks drawn from a seed, so that none is saved for the backward pass.

Few elements are dropped, so on a CPU their positions are drawn instead of a number for every element: the distances
between them are geometric, floor(log(u) / log(1 - rate)) for a uniform u (Devroye 1986, X.2).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar

import numpy as np
import torch
from torch import Tensor

from medsum_core.kernels.cpu.arena import empty_like
from medsum_core.kernels.cpu.elementwise import array_of
from medsum_core.kernels.cpu.elementwise_dropout import zero_some
from medsum_core.kernels.layers.triton_choice import triton_for

SEED_BOUND = 2**62
Seed = int | Tensor  # Triton's functions read it from the device: () int64
_block_seed: ContextVar[Seed | None] = ContextVar("seed of the dropout within a block", default=None)


def draw_seeds(count: int) -> list[int]:
    """Seeds from torch's generator, whose state is in every checkpoint."""
    return [int(torch.randint(SEED_BOUND, ())) for _ in range(count)]


def layer_seeds(seed: int, num_layers: int, *, device: torch.device) -> Seed:
    """The argument of `dropout_seed` on that device: for Triton's functions each layer's seed, (num_layers,) int64."""
    return seed if triton_for(device) is None else torch.arange(seed, seed + num_layers, device=device)


@contextmanager
def dropout_seed(seed: Seed) -> Iterator[None]:
    """Within the block a layer's masks depend on `seed` and the layer alone, in this thread, forward and backward.

    `seed`: a number, or the seed of each layer (`layer_seeds`).
    The masks thus do not depend on the order of micro-batches or on other threads, and recomputed activations get the
    same masks (`recompute_contexts`).
    """
    token = _block_seed.set(seed)
    try:
        yield
    finally:
        _block_seed.reset(token)


def recompute_contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """`context_fn` of `torch.utils.checkpoint`: the recomputation has the seed of the forward pass, in any thread.

    On CUDA autograd recomputes layers in another thread, which does not see this thread's context variables
    (pytorch/pytorch#191777): without this it would draw other masks, and the gradient would be wrong.
    """
    seed = _block_seed.get()
    return nullcontext(), nullcontext() if seed is None else dropout_seed(seed)


def layer_seed(number: int) -> Seed:
    """The seed of layer `number` inside of `dropout_seed`; otherwise a new one from torch's generator."""
    seed = _block_seed.get()
    if seed is None:
        return draw_seeds(1)[0]
    return seed[number] if isinstance(seed, Tensor) else seed + number


class DroppedElements:
    """A mask that drops each of `num_elements` independently with probability `rate`; a function of its arguments.

    `rate` is exact to 1 part in 16 million. The same seed gives different masks on CPU and GPU, and in Triton's
    functions, which keep no mask: each draws it again from the seed.
    """

    def __init__(self, num_elements: int, *, rate: float, seed: Seed, device: torch.device) -> None:
        self._keep: Tensor | None = None
        self._triton = triton_for(device)
        if self._triton is not None:
            on_device = seed if isinstance(seed, Tensor) else torch.full((), seed, dtype=torch.int64, device=device)
            self._rate_and_seed = (rate, on_device)
            return
        assert isinstance(seed, int)
        if device.type == "cpu":
            self._seed = np.uint64(seed)
            self._steepness = np.float32(max(1 / math.log1p(-rate), -1e30))
        else:
            chance = torch.Generator(device).manual_seed(seed)
            self._keep = torch.empty(num_elements, dtype=torch.bool, device=device)
            self._keep.bernoulli_(1 - rate, generator=chance)

    def zero_(self, x: Tensor) -> Tensor:
        """Set the dropped elements of a contiguous `x` to zero, in place."""
        if self._triton is not None:
            return self._triton.without_dropped(x, *self._rate_and_seed, out=x)
        if self._keep is not None:
            return x.mul_(self._keep.view(x.shape))
        zero_some(array_of(x.view(-1)), self._seed, self._steepness)
        return x

    def add_kept_to(self, total: Tensor, x: Tensor) -> None:
        """Add the elements of a contiguous `x` that are not dropped to `total`; `x` is overwritten."""
        if self._triton is not None:
            self._triton.add_kept(total, x, *self._rate_and_seed)
        elif self._keep is None:
            total += self.zero_(x)
        else:
            total.addcmul_(x, self._keep.view(x.shape))

    def without(self, x: Tensor) -> Tensor:
        """A copy of `x` with the dropped elements at zero."""
        if self._triton is not None:
            return self._triton.without_dropped(x, *self._rate_and_seed)
        if self._keep is not None:
            return x * self._keep.view(x.shape)
        return self.zero_(empty_like(x).copy_(x))
