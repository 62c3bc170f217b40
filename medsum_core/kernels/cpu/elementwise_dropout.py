"""Dropout on a CPU, compiled by numba: random numbers, geometric steps and writing zeros in one loop."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba.extending import overload

from medsum_core.kernels.cpu.elementwise import Array, bits_of_float, compiled, float_of_bits


def logarithm(x: Any) -> Any:
    """log(x) of an fp32 x in (0, 1], within 2 units in the last place. For compiled code only."""
    raise NotImplementedError


@overload(logarithm, strict=False)
def _logarithm(_: Any) -> Any:
    def by_polynomial(x: Any) -> Any:  # Cephes' logf: x = 2^e (1 + m), m from sqrt(1/2) - 1 to sqrt(2) - 1
        bits = bits_of_float(x)
        fraction = float_of_bits((bits & np.uint32(0x7FFFFF)) | np.uint32(0x3F000000))
        is_low = fraction < np.float32(0.707106781)
        e = np.float32(np.int32(bits >> np.uint32(23)) - np.int32(127 if is_low else 126))
        m = (fraction + fraction if is_low else fraction) - np.float32(1)
        p = np.float32(7.0376836292e-2) * m - np.float32(1.1514610310e-1)
        p = p * m + np.float32(1.1676998740e-1)
        p = p * m - np.float32(1.2420140846e-1)
        p = p * m + np.float32(1.4249322787e-1)
        p = p * m - np.float32(1.6668057665e-1)
        p = p * m + np.float32(2.0000714765e-1)
        p = p * m - np.float32(2.4999993993e-1)
        p = p * m + np.float32(3.3333331174e-1)
        rest = p * m * m * m - np.float32(0.5) * m * m - e * np.float32(2.12194440e-4)
        return m + rest + e * np.float32(0.693359375)

    return by_polynomial


@compiled
def _mixed(state: Any) -> Any:
    """SplitMix64's output for a state (Steele, Lea, Flood 2014): uint64 to uint64."""
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


@compiled
def zero_some(x: Array, seed: np.uint64, steepness: float) -> None:
    """Set elements of a flat array to zero, each 1 + floor(log(u) * steepness) places after the one before.

    u: uniform in (0, 1], 24 bits of SplitMix64 from `seed` (uint64). Which elements depends on seed and steepness
    (fp32) alone, not on the array's size.
    """
    golden = np.uint64(0x9E3779B97F4A7C15)
    steps = np.empty(256, np.int64)  # computed in batches, so that the loop is vectorised
    furthest = np.float32(x.size)
    state, place = _mixed(seed), -1
    while True:
        for j in range(steps.size):
            bits = _mixed(state + np.uint64(j) * golden) >> np.uint64(40)
            u = (np.float32(np.int32(bits)) + np.float32(1)) * np.float32(2.0**-24)
            skipped = np.floor(logarithm(u) * steepness)
            steps[j] = np.int64(skipped if skipped < furthest else furthest) + 1
        state += np.uint64(steps.size) * golden
        for j in range(steps.size):
            place += steps[j]
            if place >= x.size:
                return
            x[place] = 0
