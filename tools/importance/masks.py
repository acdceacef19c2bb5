"""Which weights of a matrix stay, by magnitude or by Wanda; shares of them, or N of every M.

A matrix is float64 [out, in]. Equal scores: the weight further to the right goes first.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from ...dataclass import dataclass
from ...errors import InputError
from ...loader.prune.masks import largest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    F64 = NDArray[np.float64]
    Mask = NDArray[np.bool_]

__all__ = ["Sparsity", "keep", "magnitude", "parse_sparsity", "wanda"]


@dataclass(frozen=True)
class Sparsity:
    """`share` of the weights become zero; or, of every `m` inputs side by side, all but `n` (`m` 0: no pattern)."""

    share: float
    n: int = 0
    m: int = 0

    def __str__(self) -> str:
        """As it is written on the command line."""
        return f"{self.n}:{self.m}" if self.m else f"{self.share:g}"


def parse_sparsity(text: str) -> Sparsity:
    """Read "0.5" (half of the weights go) or "2:4" (2 of every 4 stay). Errors: `InputError`."""
    pattern = re.fullmatch(r"([0-9]{1,3}):([0-9]{1,3})", text)
    if pattern and 0 < int(pattern[1]) < int(pattern[2]):
        n, m = int(pattern[1]), int(pattern[2])
        return Sparsity(1 - n / m, n, m)
    if re.fullmatch(r"[0-9]*\.?[0-9]{1,9}", text) and 0 < float(text) < 1:
        return Sparsity(float(text))
    msg = f"--sparsity {text}: expected a share between 0 and 1 such as 0.5, or a pattern such as 2:4"
    raise InputError(msg)


def magnitude(w: F64, sparsity: Sparsity) -> F64:
    """|w_ij|, compared over the whole matrix (Han et al. 2015, arXiv:1506.02626): the weights with zeros in place."""
    scores = np.abs(w)
    if sparsity.m:
        return np.where(keep(scores, sparsity), w, 0.0)
    return np.where(keep(scores.reshape(1, -1), sparsity).reshape(w.shape), w, 0.0)


def wanda(w: F64, norms: F64, sparsity: Sparsity) -> F64:
    """|w_ij| ||x_j||_2, compared within a row (Sun et al. 2023, arXiv:2306.11695): the weights with zeros in place.

    `norms` float64 [in]: `Statistics.norm` of what the matrix reads.
    """
    return np.where(keep(np.abs(w) * norms, sparsity), w, 0.0)


def keep(scores: F64, sparsity: Sparsity) -> Mask:
    """Scores [n, k] -> what stays of every row: all but the lowest floor(share k), or n of each m side by side.

    A rest of fewer than m at a row's end keeps n of them, too.
    """
    if not sparsity.m:
        return largest(scores, scores.shape[1] - int(scores.shape[1] * sparsity.share))
    rows, k = scores.shape
    padded = np.full((rows, -(-k // sparsity.m) * sparsity.m), -np.inf)
    padded[:, :k] = scores
    return largest(padded.reshape(-1, sparsity.m), sparsity.n).reshape(rows, -1)[:, :k]
