"""SparseGPT: zeros chosen and the other weights moved, so that the matrix's outputs change least."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .masks import keep

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .masks import Sparsity

    F64 = NDArray[np.float64]

__all__ = ["sparsegpt"]

DAMPENING = 0.01  # of the Hessian's mean diagonal
BLOCK = 128  # columns whose zeros are chosen together


def sparsegpt(w: F64, hessian: F64, sparsity: Sparsity, block: int = BLOCK) -> F64:
    """min ||W X - W' X||^2 with zeros in W' (Frantar and Alistarh 2023, arXiv:2301.00774, algorithm 1).

    H = X X^T + 0.01 mean(diag H) I, and U upper with H^-1 = U^T U. Columns j from the left: w_ij / U_jj is what a zero
    costs, (w_ij / U_jj)^2 decides, over `block` columns and all rows at once, or over each m; then the columns after
    take up the error: w_i,j: -= (w_ij - w'_ij) / U_jj * U_j,j:. w float64 [out, in], hessian [in, in] = sum of x x^T.
    A column that was never anything but zero costs nothing and becomes zero.
    """
    w, h = w.copy(), hessian.copy()
    dead = np.diag(h) == 0
    h[dead, dead] = 1
    w[:, dead] = 0
    h[np.diag_indices_from(h)] += DAMPENING * np.diag(h).mean()
    upper = np.linalg.cholesky(np.linalg.inv(h)).T
    diagonal = np.diag(upper)
    mask = np.zeros(w.shape, bool)
    step = sparsity.m or block
    for j in range(w.shape[1]):
        if j % step == 0:
            scores = (w[:, j : j + step] / diagonal[j : j + step]) ** 2
            kept = keep(scores if sparsity.m else scores.reshape(1, -1), sparsity)
            mask[:, j : j + step] = kept.reshape(scores.shape)
        error = np.where(mask[:, j], 0.0, w[:, j]) / diagonal[j]
        w[:, j:] -= np.outer(error, upper[j, j:])
    return np.where(mask, w, 0.0)
