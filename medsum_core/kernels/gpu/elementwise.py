"""Element-wise operations for GPUs: Triton kernels that pass over memory once, and functions that launch them.

Letters: R rows, H features; B rows of a batch, T tokens of a row, N heads, D head size.

torch's operators would launch two to ten kernels for one of these, and on a large GPU the time of a small window is
that of its launches. The arithmetic is that of `cpu/elementwise.py`: values are computed in fp32 and rounded once, or
where transformers rounds in between. fp64 is refused. All sums have a fixed order, so results are bit-identical.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton import cdiv, next_power_of_2

BLOCK = 1024  # elements of a flat array that one Triton program computes


@triton.jit
def _rms_norm(
    x_RH: tl.tensor,
    scale_H: tl.tensor,
    y_RH: tl.tensor,
    inverse_R: tl.tensor,
    H: int,
    eps: tl.float32,
    ROUNDS_FIRST: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    row, h = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    x = tl.load(x_RH + row * H + h, mask=h < H, other=0.0)
    wide = x.to(tl.float32)
    inverse = 1 / tl.sqrt(tl.sum(wide * wide, axis=0) / H + eps)
    normed = wide * inverse
    if ROUNDS_FIRST:
        normed = normed.to(x.dtype).to(tl.float32)
    scale = tl.load(scale_H + h, mask=h < H, other=0.0).to(tl.float32)
    tl.store(y_RH + row * H + h, (normed * scale).to(y_RH.dtype.element_ty), mask=h < H)
    tl.store(inverse_R + row, inverse)


@triton.jit
def _rms_norm_backward(
    dy_RH: tl.tensor,
    x_RH: tl.tensor,
    inverse_R: tl.tensor,
    scale_H: tl.tensor,
    dx_RH: tl.tensor,
    H: int,
    BLOCK: tl.constexpr,
) -> None:
    row, h = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    x = tl.load(x_RH + row * H + h, mask=h < H, other=0.0).to(tl.float32)
    dy = tl.load(dy_RH + row * H + h, mask=h < H, other=0.0).to(tl.float32)
    scale = tl.load(scale_H + h, mask=h < H, other=0.0).to(tl.float32)
    inverse = tl.load(inverse_R + row)
    dnormed = dy * scale
    along = tl.sum(dnormed * x, axis=0) * inverse * inverse / H
    tl.store(dx_RH + row * H + h, ((dnormed - x * along) * inverse).to(dx_RH.dtype.element_ty), mask=h < H)


@triton.jit
def _gated(
    gate: tl.tensor,
    up: tl.tensor,
    y: tl.tensor,
    size: tl.int64,
    SLOPE: tl.constexpr,
    CUBE: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    g = tl.load(gate + i, mask=i < size, other=0.0).to(tl.float32)
    u = tl.load(up + i, mask=i < size, other=0.0).to(tl.float32)
    activated = (g * tl.sigmoid(SLOPE * (g + CUBE * g * g * g))).to(y.dtype.element_ty).to(tl.float32)
    tl.store(y + i, (activated * u).to(y.dtype.element_ty), mask=i < size)


@triton.jit
def _gated_backward(
    gate: tl.tensor,
    up: tl.tensor,
    dproduct: tl.tensor,
    dgate: tl.tensor,
    dup: tl.tensor,
    size: tl.int64,
    SLOPE: tl.constexpr,
    CUBE: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    g = tl.load(gate + i, mask=i < size, other=0.0).to(tl.float32)
    u = tl.load(up + i, mask=i < size, other=0.0).to(tl.float32)
    d = tl.load(dproduct + i, mask=i < size, other=0.0).to(tl.float32)
    sigmoid = tl.sigmoid(SLOPE * (g + CUBE * g * g * g))
    activated = (g * sigmoid).to(dup.dtype.element_ty).to(tl.float32)
    derivative = sigmoid + g * sigmoid * (1 - sigmoid) * SLOPE * (1 + 3 * CUBE * g * g)
    tl.store(dup + i, (activated * d).to(dup.dtype.element_ty), mask=i < size)
    tl.store(dgate + i, (d * u * derivative).to(dgate.dtype.element_ty), mask=i < size)


@triton.jit
def _rotated(
    x: tl.tensor,
    cos: tl.tensor,
    sin: tl.tensor,
    out: tl.tensor,
    T: int,
    N: int,
    HALF: int,
    num_angles: int,
    x_b: int,
    x_t: int,
    x_n: int,
    SIGN: tl.constexpr,
    HEADS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    token = tl.program_id(0).to(tl.int64)
    n, d = tl.arange(0, HEADS)[:, None], tl.arange(0, BLOCK)[None, :]
    inside = (n < N) & (d < HALF)
    # A head's second half lies HALF elements after its first. `num_angles` is T where all rows share their positions.
    of_x = x + token // T * x_b + token % T * x_t + n * x_n + d
    of_out = out + (token * N + n) * 2 * HALF + d
    of_cos, of_sin = cos + token % num_angles * 2 * HALF + d, sin + token % num_angles * 2 * HALF + d
    first = tl.load(of_x, mask=inside).to(tl.float32)
    second = tl.load(of_x + HALF, mask=inside).to(tl.float32)
    cos_first, sin_first = tl.load(of_cos, mask=d < HALF).to(tl.float32), tl.load(of_sin, mask=d < HALF).to(tl.float32)
    cos_second = tl.load(of_cos + HALF, mask=d < HALF).to(tl.float32)
    sin_second = tl.load(of_sin + HALF, mask=d < HALF).to(tl.float32)
    dtype = out.dtype.element_ty
    tl.store(of_out, (first * cos_first - SIGN * second * sin_first).to(dtype), mask=inside)
    tl.store(of_out + HALF, (second * cos_second + SIGN * first * sin_second).to(dtype), mask=inside)


@triton.jit
def _is_kept(seed: tl.tensor, block: int, rate: tl.float32, BLOCK: tl.constexpr) -> tl.tensor:
    """Which elements of the block dropout keeps. Philox (Salmon et al. 2011) gives four numbers per counter.

    `seed` is read from memory: a number among a kernel's arguments would be the same in each replay of a CUDA graph.
    """
    a, b, c, d = tl.rand4x(tl.load(seed), block * (BLOCK // 4) + tl.arange(0, BLOCK // 4))
    return tl.reshape(tl.join(tl.join(a, c), tl.join(b, d)), [BLOCK]) >= rate


@triton.jit
def _kept(
    x: tl.tensor,
    y: tl.tensor,
    size: tl.int64,
    period: tl.int64,
    seed: tl.tensor,
    rate: tl.float32,
    BLOCK: tl.constexpr,
) -> None:
    block = tl.program_id(0)
    i = block.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    of_x = block.to(tl.int64) * BLOCK % period + tl.arange(0, BLOCK)  # x is repeated: a block crosses one end at most
    of_x = tl.where(of_x < period, of_x, of_x - period)
    kept = tl.where(_is_kept(seed, block, rate, BLOCK), tl.load(x + of_x, mask=i < size), 0.0)
    tl.store(y + i, kept.to(y.dtype.element_ty), mask=i < size)


@triton.jit
def _add_kept(
    total: tl.tensor, x: tl.tensor, size: tl.int64, seed: tl.tensor, rate: tl.float32, BLOCK: tl.constexpr
) -> None:
    block = tl.program_id(0)
    i = block.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    kept = tl.where(_is_kept(seed, block, rate, BLOCK), tl.load(x + i, mask=i < size).to(tl.float32), 0.0)
    before = tl.load(total + i, mask=i < size).to(tl.float32)
    tl.store(total + i, (before + kept).to(total.dtype.element_ty), mask=i < size)


def rms_norm(x: Tensor, scale_H: Tensor, eps: float, rounds_first: bool) -> tuple[Tensor, Tensor]:
    """y = x * inverse * scale of x (..., H), and inverse = 1 / sqrt(mean(x^2) + eps), (...) in fp32.

    `rounds_first`: x * inverse is rounded to the dtype of x before it is scaled, and a wider scale widens y.
    """
    x = _contiguous(x)
    dtype = torch.promote_types(x.dtype, scale_H.dtype) if rounds_first else x.dtype
    y, inverse = torch.empty_like(x, dtype=dtype), x.new_empty(x.shape[:-1], dtype=torch.float32)
    H = x.shape[-1]
    _rms_norm[(inverse.numel(),)](x, scale_H, y, inverse, H, eps, rounds_first, **_row_block(H))
    return y, inverse


def rms_norm_backward(dy: Tensor, x: Tensor, inverse_rms: Tensor, scale_H: Tensor) -> Tensor:
    """The gradient of x from that of y."""
    dy, x = _contiguous(dy), _contiguous(x)
    dx, H = torch.empty_like(x), x.shape[-1]
    _rms_norm_backward[(inverse_rms.numel(),)](dy, x, inverse_rms, scale_H, dx, H, **_row_block(H))
    return dx


def gated(gate: Tensor, up: Tensor, slope: float, cube: float) -> Tensor:
    """g sigmoid(z) * up with z = slope (g + cube g^3); the activation is rounded before the product."""
    gate, up = _contiguous(gate), _contiguous(up)
    y = torch.empty_like(gate)
    _gated[_blocks(y)](gate, up, y, y.numel(), slope, cube, BLOCK)
    return y


def gated_backward(gate: Tensor, up: Tensor, dproduct: Tensor, slope: float, cube: float) -> tuple[Tensor, Tensor]:
    """The gradients of gate and up from that of their product."""
    gate, up, dproduct = _contiguous(gate), _contiguous(up), _contiguous(dproduct)
    dgate, dup = torch.empty_like(gate), torch.empty_like(up)
    _gated_backward[_blocks(gate)](gate, up, dproduct, dgate, dup, gate.numel(), slope, cube, BLOCK)
    return dgate, dup


def rotated(x_BTND: Tensor, cos_BT1D: Tensor, sin_BT1D: Tensor, sign: int) -> Tensor:
    """x rotated by the angles, or for a sign of -1 by their negatives. Angles of a single row apply to all B rows."""
    x = x_BTND if x_BTND.stride(-1) == 1 else _contiguous(x_BTND)
    cos, sin = _contiguous(cos_BT1D), _contiguous(sin_BT1D)
    B, T, N, D = x.shape
    out, num_angles = x.new_empty(x.shape, dtype=torch.promote_types(x.dtype, cos.dtype)), cos.shape[0] * T
    sizes = {"HEADS": next_power_of_2(N), "BLOCK": next_power_of_2(D // 2)}
    _rotated[(B * T,)](x, cos, sin, out, T, N, D // 2, num_angles, *x.stride()[:3], sign, **sizes)
    return out


def without_dropped(x: Tensor, rate: float, seed: Tensor, out: Tensor | None = None) -> Tensor:
    """x with each element set to zero with probability `rate`; determined by seed, rate and the element's index.

    `seed`: () int64, on the device of x. Written to `out`, which may be x itself, or to a new tensor. An x that is
    expanded over its first dimension is not copied.
    """
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device) if out is None else out
    x = x[0] if x.ndim > 1 and x.stride(0) == 0 and x[0].numel() >= BLOCK else x
    _kept[_blocks(y)](x.contiguous(), y.view(-1), y.numel(), max(x.numel(), BLOCK), seed, rate, BLOCK)
    return y


def add_kept(total: Tensor, x: Tensor, rate: float, seed: Tensor) -> None:
    """Add `without_dropped(x)` to a contiguous `total`, in place."""
    _add_kept[_blocks(total)](total.view(-1), x.contiguous(), x.numel(), seed, rate, BLOCK)


def _contiguous(x: Tensor) -> Tensor:
    if x.dtype == torch.float64:
        raise TypeError("the Triton kernels compute in fp32 and would round fp64 tensors: use --kernels fast")
    return x.contiguous()


def _blocks(x: Tensor) -> tuple[int]:
    return (cdiv(x.numel(), BLOCK),)


def _row_block(num_features: int) -> dict[str, int]:
    """One program per row, at most 512 elements per warp."""
    block = next_power_of_2(num_features)
    return {"BLOCK": block, "num_warps": min(max(block // 512, 1), 16)}
