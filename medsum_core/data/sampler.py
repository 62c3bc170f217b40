"""The order of the rows, and which of them make up each window (the rows of one optimiser update)."""

from __future__ import annotations

import numpy as np


def epoch_order(num_examples: int, *, seed: int, epoch: int) -> list[int]:
    """The order of an epoch's rows: a permutation that depends on these three numbers only, not on library versions.

    It sorts raw 64-bit numbers of PCG64, whose stream numpy guarantees not to change; numpy's `permutation` may change.
    """
    draws = np.random.PCG64(np.random.SeedSequence([seed, epoch])).random_raw(num_examples)
    return [int(index) for index in np.argsort(draws, kind="stable")]


def window_indices(num_examples: int, *, seed: int, epoch: int, window_rows: int) -> list[list[int]]:
    """An epoch's order cut into windows of `window_rows` indices; the last may be shorter. Every row occurs once."""
    order = epoch_order(num_examples, seed=seed, epoch=epoch)
    return [order[start : start + window_rows] for start in range(0, num_examples, window_rows)]
