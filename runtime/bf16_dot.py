"""What a product of BF16 pairs is, to the bit, in NumPy: the CPU's kernels of `linear_bf16_dot` have these bits.

A number of `linear_bf16_dot`'s result is a sum of sixteen lanes. Lane l takes the pairs (2l, 2l + 1) of each 32
columns, in increasing order: first the odd column, then the even one, each by a fused multiply-add. Columns that are
not there are +0. Then lanes l and l + 8 are added, then l and l + 4, l + 2, l + 1. A step rounds once, to nearest, ties
to even, as if exponents had no lower end; what is then smaller than 2^-126 becomes a zero of its sign, as does a
denormal operand. (Which NaN comes out is not said.)

Attention takes the same steps (`attention_bf16_dot`): `attention_scores` and `attention_values` say of what. Between
them, and after them, is usual arithmetic.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["attention_scores", "attention_values", "flushed", "fma", "fold", "linear_bf16_dot", "to_bf16"]

F32 = np.float32
LEAST = F32(2.0**-126)
LANES, COLUMNS = 16, 32


def to_bf16(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """To the nearest BF16, ties to even; denormals stay, as the op `round_bf16` has it."""
    bits = np.ascontiguousarray(x).view(np.uint32)
    rounded: NDArray[np.float32] = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16 << 16).view(F32)
    return np.where(np.isnan(x), x, rounded)


def flushed(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Zeros of their sign for denormals."""
    return np.where(np.abs(x) < LEAST, np.copysign(F32(0), x), x)


def fma(x: NDArray[np.float32], y: NDArray[np.float32], z: NDArray[np.float32]) -> NDArray[np.float32]:
    """X * y + z of BF16 x and y.

    In float64 the product is exact, and the sum is rounded to odd, so that rounding it again does no harm.
    Source: Boldo and Melquiond 2008, IEEE Transactions on Computers 57(4) (rounding to odd).
    """
    product = flushed(x).astype(np.float64) * flushed(y)
    addend = flushed(z).astype(np.float64)
    total = np.asarray(product + addend)
    part = total - product
    lost = (product - (total - part)) + (addend - part)
    bits = total.view(np.int64)
    inexact = np.isfinite(total) & (lost != 0) & (bits & 1 == 0)
    odd = np.where(inexact, bits + np.where((lost > 0) == (total > 0), 1, -1), bits).view(np.float64)
    tiny = np.abs((odd * 2.0**100).astype(F32)) < 2.0**-26
    return np.where(tiny, np.copysign(F32(0), total).astype(F32), odd.astype(F32))


def fold(lanes: NDArray[np.float32]) -> NDArray[np.float32]:
    """[..., 16], or [..., 8] -> [...]: the one tree."""
    h = lanes.shape[-1] // 2
    while h:
        lanes, h = flushed(lanes[..., :h] + lanes[..., h : 2 * h]), h // 2
    return lanes[..., 0]


def linear_bf16_dot(x: NDArray[np.float32], w: NDArray[np.float32]) -> NDArray[np.float32]:
    """[t, k], [n, k] of BF16 numbers -> [t, n]; x is rounded to BF16 first."""
    x, w = (np.pad(a, ((0, 0), (0, -a.shape[1] % COLUMNS))) for a in (to_bf16(x), w))
    acc = np.zeros((len(x), len(w), LANES), F32)
    with np.errstate(all="ignore"):
        for k in range(0, x.shape[1], COLUMNS):
            for odd in (1, 0):
                pairs = slice(k + odd, k + COLUMNS, 2)
                acc = fma(x[:, None, pairs], w[None, :, pairs], acc)
        return fold(acc)


def attention_scores(q: NDArray[np.float32], k: NDArray[np.float32]) -> NDArray[np.float32]:
    """[m, d], [n, d] of BF16 numbers -> [m, n]; q is rounded to BF16 first.

    A score is a sum of eight lanes. Lane c takes dimensions 16 i + c and 16 i + c + 8, the odd one of a pair, in
    increasing order of i. Then lanes c and c + 4 are added, then c and c + 2, c + 1.
    """
    q, k = (np.pad(a, ((0, 0), (0, -a.shape[1] % LANES))) for a in (to_bf16(q), k))
    h, acc = LANES // 2, np.zeros((len(q), len(k), LANES // 2), F32)
    with np.errstate(all="ignore"):
        for i in range(0, q.shape[1], LANES):
            for pair in (slice(i + h, i + LANES), slice(i, i + h)):
                acc = fma(q[:, None, pair], k[None, :, pair], acc)
        return fold(acc)


def attention_values(w: NDArray[np.float32], v: NDArray[np.float32], first: int) -> NDArray[np.float32]:
    """[m, n], [n, d] of BF16 numbers -> [m, 16, d], before lanes are folded; w is rounded to BF16 first.

    The keys are those of slots `first` and on. Lane l takes slots 32 i + l and 32 i + l + 16, the odd one of a pair, in
    increasing order of i; a slot that is not seen is +0, and a pair of such no step.
    """
    slots = np.arange(first, first + len(v))
    acc = np.zeros((len(w), LANES, v.shape[1]), F32)
    pairs, weights = np.zeros((2, LANES, v.shape[1]), F32), np.zeros((2, len(w), LANES), F32)
    with np.errstate(all="ignore"):
        for i in np.unique(slots // COLUMNS):
            here = slots // COLUMNS == i
            half, lane = slots[here] // LANES % 2, slots[here] % LANES
            pairs[:], weights[:] = 0, 0
            pairs[half, lane], weights[half, :, lane] = v[here], to_bf16(w)[:, here].T
            some = np.unique(lane)
            for odd in (1, 0):
                acc[:, some] = fma(weights[odd][:, some, None], pairs[odd][None, some], acc[:, some])
    return acc
