"""Element-wise operations for CPUs, each a loop compiled by numba that passes over memory once.

Letters: R rows, H features, S query heads that share a key-value head, K keys, W vocabulary entries.

PyTorch's operators would pass over memory five to ten times for one of these, and each call costs about 5 microseconds
next to a matrix product of 500: a third of a training step. Values are computed in fp32 (fp64 where the input is) and
rounded once, or where transformers rounds in between. numpy has no bf16, so bf16 is passed as int16 with the same bits.
A kernel runs on the calling thread and releases the GIL. All are in this file because numba's cache on disk notices
changes in the file that it compiles, not in files imported there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from numba import njit, types
from numba.extending import intrinsic, overload
from torch import Tensor

Array = npt.NDArray[Any]


def compiled(function: Callable[..., Any]) -> Any:
    """A kernel, compiled at its first call and cached on disk where numba may write to a folder."""
    # The compiler can vectorise the loops only if it may reorder sums and fuse multiply-adds.
    options: Any = {"nogil": True, "error_model": "numpy", "fastmath": {"reassoc", "contract", "nsz"}}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # numba: "no locator available"
        return njit(**options)(function)


def array_of(x: Tensor) -> Array:
    """A numpy view of a CPU tensor; bf16 and fp16 as int16 with the same bits."""
    x = x.detach()
    return x.view(torch.int16).numpy() if x.dtype.itemsize == 2 else x.numpy()


def rows_of(x: Tensor) -> Array:
    """The same of a tensor (..., H) reshaped to (R, H); a copy where it is not contiguous."""
    return array_of(x.reshape(-1, x.shape[-1]).contiguous())


def on_cpu(x: Tensor) -> bool:
    """Whether these kernels can compute with `x`: on the CPU and not fp16."""
    return x.device.type == "cpu" and x.dtype != torch.float16


def _same_bits(source: Any, target: Any) -> Any:
    """A function for compiled code that reinterprets the bits of a `source` as a `target`."""

    def typed(_: Any, value: Any) -> Any:
        def cast(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.bitcast(arguments[0], context.get_value_type(target))

        return target(source), cast

    return intrinsic(typed)


float_of_bits = _same_bits(types.uint32, types.float32)
bits_of_float = _same_bits(types.float32, types.uint32)


def wide(x: Any) -> Any:
    """An element in the type of the computation: bf16 becomes fp32. Like the next four for compiled code only."""
    raise NotImplementedError


def narrow(value: Any, like: Any) -> Any:
    """A number in the type of `like`; bf16 is rounded to nearest, ties to even."""
    raise NotImplementedError


def rank(x: Any) -> Any:
    """An integer with the same order as the elements: its maximum can be vectorised, that of floats cannot."""
    raise NotImplementedError


def of_rank(number: Any, like: Any) -> Any:
    """The element with that `rank`, in the type of `like`."""
    raise NotImplementedError


def exponential(x: Any) -> Any:
    """exp(x); fp32 within 2 units in the last place, with x clamped to [-87, 88]."""
    raise NotImplementedError


@overload(wide, strict=False)
def _wide(x: Any) -> Any:
    if x == types.int16:
        return lambda x: float_of_bits(np.uint32(np.uint16(x)) << np.uint32(16))
    return lambda x: x


@overload(narrow, strict=False)
def _narrow(value: Any, like: Any) -> Any:
    if like == types.int16:

        def rounded(value: Any, like: Any) -> Any:
            bits = bits_of_float(np.float32(value))
            odd = (bits >> np.uint32(16)) & np.uint32(1)
            nearest = (bits + np.uint32(0x7FFF) + odd) >> np.uint32(16)
            return np.int16(nearest if value == value else np.uint32(0x7FC0))  # NaN stays NaN

        return rounded
    if like == types.float32:
        return lambda value, like: np.float32(value)
    return lambda value, like: value


@overload(rank, strict=False)
def _rank(x: Any) -> Any:
    if x == types.int16:
        return lambda x: x ^ ((x >> np.int16(15)) & np.int16(0x7FFF))
    if x == types.float32:
        return lambda x: (
            np.int32(bits_of_float(x)) ^ ((np.int32(bits_of_float(x)) >> np.int32(31)) & np.int32(0x7FFFFFFF))
        )
    return lambda x: x


@overload(of_rank, strict=False)
def _of_rank(number: Any, like: Any) -> Any:
    if like == types.int16:
        return lambda number, like: np.int16(number ^ ((number >> np.int16(15)) & np.int16(0x7FFF)))
    if like == types.float32:
        return lambda number, like: float_of_bits(np.uint32(number ^ ((number >> np.int32(31)) & np.int32(0x7FFFFFFF))))
    return lambda number, like: number


@overload(exponential, strict=False)
def _exponential(x: Any) -> Any:
    if x == types.float64:
        return lambda x: math.exp(x)

    def by_polynomial(x: Any) -> Any:  # Cephes' expf: 2^k times a polynomial of the remainder
        x = np.float32(-87.0) if x < np.float32(-87.0) else x
        x = np.float32(88.0) if x > np.float32(88.0) else x
        k = np.floor(x * np.float32(1.44269504) + np.float32(0.5))
        r = x - k * np.float32(0.693359375) + k * np.float32(2.12194440e-4)
        p = np.float32(1.9875691500e-4) * r + np.float32(1.3981999507e-3)
        p = p * r + np.float32(8.3334519073e-3)
        p = p * r + np.float32(4.1665795894e-2)
        p = p * r + np.float32(1.6666665459e-1)
        p = p * r + np.float32(5.0000001201e-1)
        return (p * r * r + r + np.float32(1)) * float_of_bits(np.uint32(np.int32(k) + np.int32(127)) << np.uint32(23))

    return by_polynomial


@compiled
def rms_inverse(x_RH: Array, eps: float, inverse_R: Array) -> None:
    """1 / sqrt(mean(x^2) + eps) of each row."""
    for r in range(x_RH.shape[0]):
        total = wide(x_RH[r, 0]) * wide(x_RH[r, 0])
        for h in range(1, x_RH.shape[1]):
            total += wide(x_RH[r, h]) * wide(x_RH[r, h])
        inverse_R[r] = 1 / np.sqrt(total / x_RH.shape[1] + eps)


@compiled
def rms_scaled(x_RH: Array, inverse_R: Array, scale_H: Array, rounds_first: bool, y_RH: Array) -> None:
    """y = x * inverse * scale. `rounds_first`: x * inverse is rounded to the type of x before it is scaled."""
    for r in range(x_RH.shape[0]):
        inverse = inverse_R[r]
        for h in range(x_RH.shape[1]):
            normed = wide(x_RH[r, h]) * inverse
            if rounds_first:
                normed = wide(narrow(normed, x_RH[r, h]))
            y_RH[r, h] = narrow(normed * wide(scale_H[h]), y_RH[r, h])


@compiled
def rms_backward(dy_RH: Array, x_RH: Array, inverse_R: Array, scale_H: Array, dx_RH: Array) -> None:
    """The gradient of x from that of y."""
    for r in range(x_RH.shape[0]):
        inverse = inverse_R[r]
        along = inverse - inverse  # zero, in its type
        for h in range(x_RH.shape[1]):
            along += wide(dy_RH[r, h]) * wide(scale_H[h]) * wide(x_RH[r, h])
        along = along * inverse * inverse / type(inverse)(x_RH.shape[1])
        for h in range(x_RH.shape[1]):
            dnormed = wide(dy_RH[r, h]) * wide(scale_H[h])
            dx_RH[r, h] = narrow((dnormed - wide(x_RH[r, h]) * along) * inverse, dx_RH[r, h])


@compiled
def gated(gate: Array, up: Array, slope: float, cube: float, y: Array) -> None:
    """y = g sigmoid(z) * up with z = slope (g + cube g^3): SiLU, or GELU by tanh(z / 2) = 2 sigmoid(z) - 1.

    The activation is rounded before the product. Flat arrays.
    """
    slope_, cube_ = type(wide(gate[0]))(slope), type(wide(gate[0]))(cube)
    one = type(wide(gate[0]))(1)
    for i in range(gate.size):
        g = wide(gate[i])
        sigmoid = one / (one + exponential(-slope_ * (g + cube_ * g * g * g)))
        y[i] = narrow(wide(narrow(g * sigmoid, y[i])) * wide(up[i]), y[i])


@compiled
def gated_backward(
    gate: Array, up: Array, dproduct: Array, slope: float, cube: float, dgate: Array, dup: Array
) -> None:
    """The gradients of gate and up from that of their product."""
    slope_, cube_ = type(wide(gate[0]))(slope), type(wide(gate[0]))(cube)
    one, three = type(wide(gate[0]))(1), type(wide(gate[0]))(3)
    for i in range(gate.size):
        g, u, d = wide(gate[i]), wide(up[i]), wide(dproduct[i])
        sigmoid = one / (one + exponential(-slope_ * (g + cube_ * g * g * g)))
        activated = wide(narrow(g * sigmoid, dup[i]))
        derivative = sigmoid + g * sigmoid * (one - sigmoid) * slope_ * (one + three * cube_ * g * g)
        dup[i] = narrow(activated * d, dup[i])
        dgate[i] = narrow(d * u * derivative, dgate[i])


@compiled
def causal_softmax(
    scores_RK: Array, scale: float, num_shared: int, seen_before: int, window: int, weight_RK: Array
) -> None:
    """weight = softmax(scale * scores) over the keys that a row's query may see, 0 elsewhere; overwrites the scores.

    Row r is query r // S. It sees keys up to number `seen_before` + r // S, the last `window` of them.
    """
    factor = type(scores_RK[0, 0])(scale)
    for r in range(scores_RK.shape[0]):
        last = seen_before + r // num_shared
        first = max(0, last - window + 1)
        seen_k, weight_k = scores_RK[r, first : last + 1], weight_RK[r, first : last + 1]
        top = rank(seen_k[0])
        for k in range(seen_k.size):
            top = max(top, rank(seen_k[k]))
        largest = of_rank(top, seen_k[0])
        total = largest - largest
        for k in range(seen_k.size):
            seen_k[k] = exponential((seen_k[k] - largest) * factor)
            total += seen_k[k]
        inverse = type(factor)(1) / total
        for k in range(seen_k.size):
            weight_k[k] = narrow(seen_k[k] * inverse, weight_k[k])
        weight_RK[r, :first] = 0
        weight_RK[r, last + 1 :] = 0


@compiled
def softmax_backward(weight_RK: Array, dweight_RK: Array, scale: float, dscore_RK: Array) -> None:
    """The gradient of the scores before scaling, from that of the attention weights."""
    for r in range(weight_RK.shape[0]):
        along = wide(weight_RK[r, 0]) * wide(dweight_RK[r, 0])
        factor = type(along)(scale)
        for k in range(1, weight_RK.shape[1]):
            along += wide(weight_RK[r, k]) * wide(dweight_RK[r, k])
        for k in range(weight_RK.shape[1]):
            dscore = (wide(dweight_RK[r, k]) - along) * wide(weight_RK[r, k]) * factor
            dscore_RK[r, k] = narrow(dscore, dscore_RK[r, k])


@compiled
def running_softmax(
    logits_RW: Array, columns_R: Array, largest_R: Array, total_R: Array, target_logit_R: Array, rescale_R: Array
) -> None:
    """Add a tile of logits to the running softmax of its rows; overwrites it with the probabilities so far.

    Updates `largest`, the `total` of exp(logit - largest) and `target_logit`. A row's target is column `columns` of the
    tile, if it is inside; its probability is set to 0. `rescale` becomes the factor by which the probabilities of
    earlier tiles must be multiplied.
    """
    exp_W = np.empty(logits_RW.shape[1], largest_R.dtype)
    for r in range(logits_RW.shape[0]):
        column, before = columns_R[r], largest_R[r]
        is_here = 0 <= column < logits_RW.shape[1]
        if is_here:
            target_logit_R[r] = wide(logits_RW[r, column])
        top = rank(logits_RW[r, 0])
        for w in range(logits_RW.shape[1]):
            top = max(top, rank(logits_RW[r, w]))
        largest = max(before, wide(of_rank(top, logits_RW[r, 0])))
        total = largest - largest
        for w in range(logits_RW.shape[1]):
            exp_W[w] = exponential(wide(logits_RW[r, w]) - largest)
            total += exp_W[w]
        earlier = total_R[r] * exponential(before - largest)
        total += earlier
        for w in range(logits_RW.shape[1]):
            logits_RW[r, w] = narrow(exp_W[w] / total, logits_RW[r, w])
        if is_here:
            logits_RW[r, column] = 0
        largest_R[r], total_R[r], rescale_R[r] = largest, total, earlier / total
