"""Zeros and rounding together, by one Hessian: SparseGPT's choice, then what is left is fitted and rounded.

H = X X^T + 0.01 mean(diag H) I and U are GPTQ's (`gptq.py`), columns in the file's order; at most 256 rows at once:

1. Zeros are chosen as SparseGPT does (Frantar and Alistarh 2023, arXiv:2301.00774, algorithm 1): (w_ij / U_jj)^2 is
   what a zero costs once the columns before j are done. It decides among `BLOCK` columns of these rows, or each m
   columns.
2. What is left, v, is fitted to the matrix as it was, w: `FITTING` sweeps over the columns, each time
   v_j -= (H (v - w))_j / H_jj: the least of tr((v - w)^T H (v - w)) over one number, so no step makes it larger.
3. Scales are those that fit v; v is rounded to nearest, and `ROUNDING` more sweeps take each number to the whole one
   that is best with the others as they are (coordinate descent: Behdin et al. 2023, arXiv:2309.01885).

A number that is zero in the file stays zero. The paper's own joint form (section 3.5) rounds each column within step 1,
once; what that costs is in docs/quantising.md.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ...dataclass import dataclass
from ...errors import InputError
from ...loader.grid import grid_of, lay
from ...loader.roles import PLACES, role_of
from ...loader.underflow import widened
from ...runtime.quantized import GROUP
from ..importance.masks import keep, wanda
from ..importance.sparsegpt import BLOCK
from .gptq import DAMPING, TOGETHER, take, upper_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

    from ...loader.grid import Grid
    from ...loader.quantize import PackRows
    from ...loader.source import Source
    from ..importance.masks import Sparsity

    F32 = NDArray[np.float32]
    F64 = NDArray[np.float64]
    Mask = NDArray[np.bool_]
    #: (a column's number, what would be best there) -> what it becomes.
    Become = Callable[[int, F64], F64]

__all__ = ["ByMagnitude", "by_hessian_with_zeros", "may_have_zeros", "refuse_no_zeros"]

#: Sweeps over the columns, of floats and of whole numbers.
FITTING, ROUNDING = 10, 3


def may_have_zeros(name: str) -> bool:
    """Whether a matrix of this name gets zeros: those of the layers, as `miaotui prune` has them."""
    _, layers, key = name.rpartition("layers.")
    return bool(layers) and role_of(key) in PLACES


def refuse_no_zeros(sparsity: Sparsity, sources: Iterable[Source]) -> None:
    """`InputError` where no matrix that is rounded gets zeros, or one in a form that has no zero."""
    mine = [source for source in sources if may_have_zeros(source.name)]
    without = next((source for source in mine if source.dtype == "int4a"), None)
    if without is not None:
        msg = f"--sparsity {sparsity}: {without.name} becomes int4a, which may have no zero; expected int8 or int4"
        raise InputError(msg)
    if not mine:
        msg = f"--sparsity {sparsity}: no matrix of a layer is rounded, and only these get zeros; --quantize names none"
        raise InputError(msg)


def by_hessian_with_zeros(hessian: F64, sparsity: Sparsity, damping: float = DAMPING) -> PackRows | None:
    """Zeros and rounding by float64 [in, in] = sum of x x^T; None where it is all zeros."""
    diagonal = np.diag(hessian)
    mean = float(diagonal.mean()) if diagonal.size else 0.0
    if not mean > 0:
        return None
    h = hessian / mean
    h[np.diag_indices_from(h)] += damping
    return Joint(h, upper_of(h), sparsity)


@dataclass(frozen=True)
class Joint:
    """A matrix's inputs: H, damped and its mean diagonal 1, and U. Matrices are [columns, rows] in here."""

    h: F64
    upper: F64
    sparsity: Sparsity

    def __call__(self, numbers: NDArray[Any], stored: str, dtype: str, out: NDArray[np.uint8]) -> bool:
        """As `pack_rows`, to int8 or int4."""
        w = np.ascontiguousarray(widened(numbers, stored).T, np.float64)
        if not np.isfinite(w).all():
            return False
        left, stays = self.cut(w)
        self.sweep(left, w, FITTING, partial(_as_it_is, stays))
        weight = np.diag(self.h).astype(np.float32)
        grid = grid_of(np.ascontiguousarray(left.T, np.float32), "F32", dtype, out.shape[0], weight)
        if grid is not None:
            lay(self.rounded(grid, w, stays), grid.head, dtype, out)
        return grid is not None

    def cut(self, w: F64) -> tuple[F64, Mask]:
        """SparseGPT: what is left of the numbers, and which may be other than zero."""
        left, stays, step = w.copy(), w != 0, self.sparsity.m or BLOCK
        together = max(step, TOGETHER // step * step) if self.sparsity.m else TOGETHER
        for at in range(0, len(w), together):
            block, upper = left[at : at + together], self.upper[at : at + together, at:]
            errors = np.empty_like(block)
            for j in range(len(block)):
                if (at + j) % step == 0:
                    self._choose(left, stays, slice(at + j, at + j + step))
                errors[j] = np.where(stays[at + j], 0.0, block[j]) / upper[j, j]
                block[j + 1 :] -= upper[j, j + 1 : len(block), None] * errors[j]
            take(left[at + together :], upper[:, together:].T, errors)
        return np.where(stays, left, 0.0), stays

    def _choose(self, w: F64, stays: Mask, part: slice) -> None:
        """Clear `stays` where a number of these columns becomes zero. What is zero in the file goes first."""
        scores = ((w[part] / np.diag(self.upper)[part, None]) ** 2).T  # [rows, columns]
        scores[~stays[part].T] = -1.0
        flat = scores if self.sparsity.m else scores.reshape(1, -1)
        stays[part] &= keep(flat, self.sparsity).reshape(scores.shape).T

    def sweep(self, v: F64, w: F64, times: int, become: Become) -> None:
        """Change `v`, so that v^T X is nearer to w^T X: every column in turn to the best one, as far as it may be."""
        slope = self.h @ (v - w)
        for at in list(range(0, len(w), TOGETHER)) * times:
            here = slice(at, at + TOGETHER)
            h, mine, change = self.h[here, here], slope[here].copy(), np.empty_like(v[here])
            for j in range(len(mine)):
                new = become(at + j, v[at + j] - mine[j] / h[j, j])
                change[j] = new - v[at + j]
                v[at + j] = new
                mine[j + 1 :] += h[j, j + 1 :, None] * change[j]
            take(slope, -self.h[:, here], change)

    def rounded(self, grid: Grid, w: F64, stays: Mask) -> F64:
        """Whole numbers [32, rows, groups] on a grid that was made for what is left of `w`."""
        _, rows, groups = grid.x.shape
        k, n = w.shape
        scale = np.ascontiguousarray(grid.scale[:n].T, np.float64)  # [groups, rows]
        by = np.divide(1.0, scale, out=np.zeros_like(scale), where=scale != 0)
        q = np.zeros((groups * GROUP, rows))  # rows that fill up a panel, and columns a group

        def whole(j: int, x: F64) -> F64:
            g = j // GROUP
            steps: F64 = np.where(stays[j], np.clip(np.rint(x * by[g]), *grid.levels), 0.0)
            q[j, :n] = steps
            value: F64 = steps * scale[g]
            return value

        left = grid.x.transpose(2, 0, 1).reshape(groups * GROUP, rows)[:k, :n]
        v = np.stack([whole(j, left[j].astype(np.float64)) for j in range(k)])
        self.sweep(v, w, ROUNDING, whole)
        return q.reshape(groups, GROUP, rows).transpose(1, 2, 0)


def _as_it_is(stays: Mask, j: int, x: F64) -> F64:
    left: F64 = np.where(stays[j], x, 0.0)
    return left


@dataclass(frozen=True)
class ByMagnitude:
    """Of a matrix of whose input nothing is known: in each row the largest stay, and are rounded as `pack` does."""

    sparsity: Sparsity
    pack: PackRows

    def __call__(self, numbers: NDArray[Any], stored: str, dtype: str, out: NDArray[np.uint8]) -> bool:
        """As `pack_rows`."""
        w = widened(numbers, stored)
        if not np.isfinite(w).all():
            return False
        left = wanda(w.astype(np.float64), np.ones(w.shape[1]), self.sparsity)
        return self.pack(left.astype(np.float32), "F32", dtype, out)
