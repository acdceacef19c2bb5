"""Which numbers of a matrix stay, by its `Pattern`: chosen by magnitude, from the bits as the kernels will read them.

Magnitudes are the bits without the sign, as unsigned integers: ordered as the numbers are, with no rounding, and what
is not a number is the largest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .sparsity import Pattern

    Mask = NDArray[np.bool_]

__all__ = ["keep", "largest"]

#: Up to this many, each is compared with each.
FEW = 16


def keep(numbers: NDArray[Any], pattern: Pattern) -> Mask:
    """What stays of rows [n, k] in the kernels' dtype (BF16 as uint16): bool [n, k]. n: whole blocks."""
    sizes = _magnitudes(numbers)
    n, k = sizes.shape
    if pattern.kind == "stored":
        stays: Mask = sizes != 0
        return stays
    if pattern.kind == "dense":
        return np.ones((n, k), np.bool_)
    if pattern.kind == "n:m":
        return largest(sizes.reshape(n, -1, pattern.m), pattern.n).reshape(n, k)
    if not pattern.block:
        return largest(sizes, pattern.per_row(k))
    scores = _block_scores(numbers, pattern)
    mask = largest(scores, pattern.per_row(scores.shape[1]))
    return mask.repeat(pattern.rows, 0).repeat(pattern.columns, 1)


def largest(scores: NDArray[Any], count: int) -> Mask:
    """The `count` largest along the last axis; of equals, those further left."""
    k = scores.shape[-1]
    if count >= k:
        return np.ones(scores.shape, np.bool_)
    if k <= FEW:
        beaten_by = np.zeros(scores.shape, np.uint8)
        for i in range(k):
            for j in range(i + 1, k):
                later = scores[..., j] > scores[..., i]
                beaten_by[..., i] += later
                beaten_by[..., j] += ~later
        return beaten_by < count
    least = np.partition(scores, k - count, -1)[..., k - count, None] if count else scores.max(-1, keepdims=True)
    above, equal = scores > least, scores == least
    room = count - above.sum(-1, keepdims=True)
    mask: Mask = above | (equal & (np.cumsum(equal, -1) <= room))
    return mask


def _magnitudes(numbers: NDArray[Any]) -> NDArray[np.unsignedinteger[Any]]:
    bits = numbers.view(f"u{numbers.itemsize}")
    magnitudes: NDArray[np.unsignedinteger[Any]] = bits & bits.dtype.type(np.iinfo(bits.dtype).max >> 1)
    return magnitudes


def _block_scores(numbers: NDArray[Any], pattern: Pattern) -> NDArray[np.float64]:
    """Sum of squares of every block, float64 [n / rows, k / columns]; one column after the other, then one row."""
    bf16 = numbers.dtype == np.uint16
    wide = np.left_shift(numbers, 16, dtype=np.uint32).view(np.float32) if bf16 else numbers
    n, k = wide.shape
    with np.errstate(invalid="ignore"):
        squares = np.square(wide, dtype=np.float64)
        blocks = squares.reshape(n // pattern.rows, pattern.rows, k // pattern.columns, pattern.columns)
        scores = np.zeros((n // pattern.rows, k // pattern.columns))
        for row in range(pattern.rows):
            for column in range(pattern.columns):
                scores += blocks[:, row, :, column]
    return np.where(np.isnan(scores), np.inf, scores)
