"""GPTQ: every column is rounded in turn, and those that are still to come take up its error.

min ||W X - Q X||^2 (Frantar et al. 2022, arXiv:2210.17323, algorithm 1). H = X X^T + 0.01 mean(diag H) I, and U upper
with H^-1 = U^T U, rows and columns of H in the order in which columns are rounded: those of the largest diag H first.
Column j becomes q_j, the nearest on its group's grid, and w_:,l -= (w_:,j - q_j) / U_jj * U_jl for every l after j.

In int8 and int4 a number that is zero stays zero, whatever its column is to take up: the zeros that a cut has
left. int4a may have no zero. `joint.py` chooses zeros, too.

A group is 32 columns side by side as they are stored, whatever the order. Its scales are chosen first, from the numbers
as they were, with each column's error weighted by diag H, and stay (`loader/grid.py`).

Rows do not depend on each other. They come in blocks that depend on the matrix alone, so the number of threads that
share them changes nothing. H, U and the update of later columns are NumPy's, by its BLAS, in float64: the same on one
machine, but perhaps not in the last bit on another.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ...dataclass import dataclass
from ...loader.grid import grid_of, lay
from ...loader.quantize import pack_rows
from ...runtime.quantized import GROUP

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ...loader.grid import Grid
    from ...loader.quantize import PackRows

    F32 = NDArray[np.float32]
    F64 = NDArray[np.float64]

__all__ = ["DAMPING", "TIED_DAMPING", "by_hessian", "by_squares", "take", "upper_of"]

#: Of the Hessian's mean diagonal, added to all of it.
DAMPING = 0.01
#: Of a tied head, whose rows are looked up, too: there each column's error counts alike.
TIED_DAMPING = 1.0
#: Columns that are rounded before those after them are changed, all at once.
TOGETHER = 32
#: Columns of such a product.
ROWS = 256


def by_squares(squares: F64, damping: float = DAMPING) -> PackRows | None:
    """Rounding to nearest, by scales for which an error in column j counts squares[j], damped; None: all are zero."""
    mean = float(squares.mean()) if squares.size else 0.0
    if not mean > 0:
        return None
    return partial(pack_rows, weight=(squares / mean + damping).astype(np.float32))


def by_hessian(hessian: F64, damping: float = DAMPING) -> PackRows | None:
    """GPTQ, by float64 [in, in] = sum of x x^T; None where it is all zeros."""
    diagonal = np.diag(hessian)
    mean = float(diagonal.mean()) if diagonal.size else 0.0
    if not mean > 0:
        return None
    order = np.argsort(-diagonal, kind="stable")
    h = (hessian / mean)[np.ix_(order, order)]
    h[np.diag_indices_from(h)] += damping
    return _Gptq(order, upper_of(h), (diagonal / mean + damping).astype(np.float32))


def upper_of(h: F64) -> F64:
    """Return U with h^-1 = U^T U.

    h = R R^T with R upper, which is Cholesky's factor from the last column on, and U = R^-1.
    """
    a, k = np.ascontiguousarray(h[::-1, ::-1]), len(h)
    x = np.eye(k)
    for at in range(0, k, TOGETHER):
        here, rest = slice(at, at + TOGETHER), slice(at + TOGETHER, k)
        inverse = np.linalg.inv(np.linalg.cholesky(a[here, here]))
        for first in range(0, at + TOGETHER, ROWS):  # x is lower
            part = slice(first, min(first + ROWS, at + TOGETHER))
            x[here, part] = inverse @ x[here, part]
        below = np.zeros((max(0, k - at - TOGETHER), len(inverse)))
        take(below, -a[rest, here], inverse.T)
        for first in range(0, len(below), ROWS):
            take(a[rest, rest][first:, first : first + ROWS], below[first:], below[first : first + ROWS].T)
        for first in range(0, at + TOGETHER, ROWS):
            part = slice(first, min(first + ROWS, at + TOGETHER))
            take(x[rest, part], below, x[here, part])
    return np.ascontiguousarray(x[::-1, ::-1])


def take(w: F64, left: F64, right: F64) -> None:
    """Compute w -= left @ right, `TOGETHER` rows at a time.

    BLAS does such products by one thread, which here is faster.
    """
    whole = len(w) // TOGETHER * TOGETHER
    if whole:
        parts = w[:whole].reshape(-1, TOGETHER, w.shape[1])
        parts -= left[:whole].reshape(-1, TOGETHER, left.shape[1]) @ right
    w[whole:] -= left[whole:] @ right


@dataclass(frozen=True)
class _Gptq:
    """A matrix's inputs: the order of its columns, U, and what an error in each counts."""

    order: NDArray[np.int64]
    upper: F64
    weight: F32

    def __call__(self, numbers: NDArray[Any], stored: str, dtype: str, out: NDArray[np.uint8]) -> bool:
        """As `pack_rows`."""
        grid = grid_of(numbers, stored, dtype, out.shape[0], self.weight)
        if grid is not None:
            lay(self._rounded(grid), grid.head, dtype, out)
        return grid is not None

    def _rounded(self, grid: Grid) -> F64:
        """Whole numbers [32, rows, groups]."""
        _, rows, groups = grid.x.shape
        # [32, rows, groups] -> [columns, rows], in the order of rounding
        w = grid.x.transpose(2, 0, 1).reshape(groups * GROUP, rows)[self.order].astype(np.float64)
        q = np.zeros((groups * GROUP, rows))  # columns that fill up a group
        scale, low = (np.ascontiguousarray(part.T, np.float64) for part in (grid.scale, grid.low))  # [groups, rows]
        by = np.divide(1.0, scale, out=np.zeros_like(scale), where=scale != 0)
        group = self.order // GROUP
        kept = (w != 0) | (grid.levels[0] == 0)  # int4a has no zero of its own
        for at in range(0, len(w), TOGETHER):
            block, upper = w[at : at + TOGETHER], self.upper[at : at + TOGETHER, at:]
            errors = np.empty_like(block)
            for j, g in enumerate(group[at : at + TOGETHER]):
                whole = np.where(kept[at + j], np.clip(np.rint((block[j] - low[g]) * by[g]), *grid.levels), 0.0)
                q[self.order[at + j]] = whole
                errors[j] = (block[j] - (whole * scale[g] + low[g])) / upper[j, j]
                block[j + 1 :] -= upper[j, j + 1 : len(block), None] * errors[j]
            take(w[at + TOGETHER :], upper[:, TOGETHER:].T, errors)
        return q.reshape(groups, GROUP, rows).transpose(1, 2, 0)
