"""By what the columns of a matrix are multiplied before it is rounded, and its inputs divided.

A column that is multiplied is rounded finer; one whose input is large should be, and the others pay for it.

- `awq` (Lin et al. 2023, arXiv:2306.00978): s_j = r_j^a, r_j the root of the mean square of x_j; of twenty exponents a
  from 0 to 0.95 the one with the least error of the products, sum over the matrices of tr(E H E^T), with
  E = Q(W diag(s)) diag(s)^-1 - W.
- `smooth` (Xiao et al. 2022, arXiv:2211.10438): s_j = r_j^0.5 / w_j^0.5, w_j the largest |w| of column j in any of the
  matrices. It is for inputs that are rounded: they become more alike, and the weights less.

Both with the geometric mean of the largest and the smallest at 1, and every s between 1/64 and 64.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...loader.source import Rows
from ...loader.underflow import widened
from ...runtime.quantized import quantized_shape, unpack

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from ...loader.checkpoint import Checkpoint
    from ...loader.quantize import PackRows
    from ...loader.source import Source

    F32 = NDArray[np.float32]
    F64 = NDArray[np.float64]

__all__ = ["ALPHA", "awq", "rows_of", "smooth"]

#: What awq tries.
EXPONENTS = tuple(i / 20 for i in range(20))
#: How much of the inputs' range smooth moves.
ALPHA = 0.5
#: The most that a column is multiplied or divided by.
MOST = 64.0
#: Of the largest, what counts as the least that an input or a column can be.
LEAST = 1e-4
#: Rows of a matrix that awq tries, and of which each number of them lies side by side.
ROWS, TOGETHER = 1024, 16


def awq(
    hessian: F64,
    columns: NDArray[np.int64],
    sources: Sequence[Source],
    checkpoint: Checkpoint,
    pack: PackRows,
) -> F64:
    """The factor of column j is number `columns[j]` of what is returned. `hessian`: the sum of x x^T.

    A matrix of many rows is judged by `ROWS` of them.
    """
    matrices = [(np.concatenate(list(rows_of(s, checkpoint, ROWS))), s.dtype) for s in sources]
    squares = shared(np.diag(hessian), columns)
    small = (hessian / max(float(np.diag(hessian).mean()), 1e-300)).astype(np.float32)
    best, least = np.ones(len(squares)), np.inf
    for exponent in EXPONENTS:
        s = _normal(_least(np.sqrt(squares)) ** exponent)
        by = s[columns].astype(np.float32)
        error = sum(_error(w, by, dtype, small, pack) for w, dtype in matrices)
        if error < least:
            best, least = s, error
    return best


def shared(total: F64, columns: NDArray[np.int64]) -> F64:
    """The mean over the columns that have a number in common."""
    mean: F64 = np.bincount(columns, total) / np.bincount(columns)
    return mean


def smooth(total: F64, columns: NDArray[np.int64], sources: Sequence[Source], checkpoint: Checkpoint) -> F64:
    """As `awq`, by `total` the sums of x^2, and the largest number of each column."""
    squares = shared(total, columns)
    most = np.zeros(len(columns))
    for source in sources:
        for part in rows_of(source, checkpoint, source.shape[0]):
            sizes = np.abs(part)  # one that is not finite is told where it is rounded
            most = np.maximum(most, np.where(np.isfinite(sizes), sizes, 0).max(0))
    largest = np.zeros(len(squares))
    np.maximum.at(largest, columns, most)
    return _normal(_least(np.sqrt(squares)) ** ALPHA / _least(largest) ** (1 - ALPHA))


def rows_of(source: Source, checkpoint: Checkpoint, most: int) -> Iterator[F32]:
    """Rows of a matrix as float32, at most about `most` of them, from all over it."""
    rows, dtype = Rows(source, checkpoint.array(source.tensor.name)), source.tensor.dtype
    step = TOGETHER * max(1, source.shape[0] // most)
    for at in range(0, source.shape[0], step):
        yield widened(rows[at : at + TOGETHER if most < source.shape[0] else at + step], dtype)


def _error(w: F32, by: F32, dtype: str, hessian: F32, pack: PackRows) -> float:
    """tr(E H E^T), infinite where a scale does not fit."""
    out = np.zeros(quantized_shape(dtype, w.shape), np.uint8)
    if not pack(w * by, "F32", dtype, out):
        return float("inf")
    e = (unpack(out, dtype, w.shape) / by - w).astype(np.float32)
    return float(((e @ hessian) * e).sum(dtype=np.float64))


def _least(x: F64) -> F64:
    """Nothing is zero."""
    return np.maximum(x, LEAST * float(x.max()) or 1.0)


def _normal(s: F64) -> F64:
    """The largest and the smallest with a geometric mean of one, and within bounds."""
    s = s / np.sqrt(s.max() * s.min())
    return np.clip(s, 1 / MOST, MOST)
