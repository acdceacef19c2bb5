"""Zeros that are chosen while the columns are rounded: SparseGPT's joint form (Frantar and Alistarh 2023, section 3.5).

H, U and the order of the columns are GPTQ's (`gptq.py`). (w_ij / U_jj)^2 is what a zero costs once the columns before j
have been dealt with, and decides: among `BLOCK` columns and the rows of a panel together, or among each m columns side
by side. What stays is rounded, and the columns after take up both errors, the zeros' and the rounding's.

Panels are the rows that are packed together: whatever blocks the threads take are whole panels, and change nothing.
SparseGPT's own program compares all rows of a matrix.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ...dataclass import dataclass
from ...errors import InputError
from ...loader.roles import PLACES, role_of
from ...loader.underflow import widened
from ...runtime.quantized import PANEL
from ..importance.masks import keep, wanda
from ..importance.sparsegpt import BLOCK

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from ...loader.quantize import PackRows
    from ...loader.source import Source
    from ..importance.masks import Sparsity

    F64 = NDArray[np.float64]
    Mask = NDArray[np.bool_]

__all__ = ["ByMagnitude", "Choice", "in_order", "may_have_zeros", "refuse_no_zeros"]


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
        msg = f"--sparsity {sparsity}: no matrix of a layer is rounded, and only these get zeros; name one in --quantize"
        raise InputError(msg)


def in_order(diagonal: F64, sparsity: Sparsity | None) -> NDArray[np.int64]:
    """Columns of the largest diag H first; with n:m, whole groups of m by their largest, and a rest last."""
    m = 0 if sparsity is None else sparsity.m
    if not m:
        return np.argsort(-diagonal, kind="stable")
    whole = len(diagonal) // m * m
    inside = np.argsort(-diagonal[:whole].reshape(-1, m), axis=1, kind="stable") + m * np.arange(whole // m)[:, None]
    groups = np.argsort(-diagonal[inside[:, 0]], kind="stable")
    rest = whole + np.argsort(-diagonal[whole:], kind="stable")
    return np.concatenate([inside[groups].reshape(-1), rest])


@dataclass(frozen=True)
class Choice:
    """What stays of a matrix's columns [columns, rows], in the order in which they are rounded, of `n` rows."""

    sparsity: Sparsity | None
    diagonal: F64
    n: int

    def together(self, most: int) -> int:
        """Columns between two changes of all later ones: whole groups of m."""
        m = 0 if self.sparsity is None else self.sparsity.m
        return most if not m else max(m, most // m * m)

    def make(self, w: F64, kept: Mask, j: int) -> None:
        """At the first column of a block: clear `kept` where a number of it becomes zero. Zeros go first."""
        if self.sparsity is None or j % (self.sparsity.m or BLOCK):
            return
        part = slice(j, j + (self.sparsity.m or BLOCK))
        scores = ((w[part] / self.diagonal[part, None]) ** 2).T  # [rows, columns]
        scores[~kept[part].T] = -1.0
        if self.sparsity.m:
            kept[part] &= keep(scores, self.sparsity).T
            return
        whole = self.n // PANEL * PANEL
        for span, rows in ((slice(whole), PANEL), (slice(whole, self.n), self.n - whole)):
            mine = scores[span]
            if mine.size:
                kept[part, span] &= keep(mine.reshape(-1, rows * mine.shape[1]), self.sparsity).reshape(mine.shape).T


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
