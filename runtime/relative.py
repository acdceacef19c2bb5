"""Which row of a table of distances stands for query - key: DeBERTa's relative positions.

Source: He et al. 2021, arXiv:2006.03654 (one row a distance); arXiv:2111.09543, and the authors' code (logarithmic
beyond half of them, so that few rows reach far). Logarithms are of float32, as transformers takes them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..dataclass import dataclass
from ..once import once
from .spec import Distances, Weight

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["DistanceTable", "row_of"]


def row_of(sizes: Distances, distance: NDArray[np.int64]) -> NDArray[np.int64]:
    """The row of each distance query - key, from 0 to 2 n - 1; those that reach too far have the last."""
    if sizes.longest is not None:
        half, far, one = sizes.n // 2, np.abs(distance), np.float32(1)
        share = _log(np.maximum(far, half) / half) / _log(np.array([(sizes.longest - 1) / half]))
        by_log = (np.ceil(share * np.float32(half - one)) + np.float32(half)).astype(np.int64)
        distance = np.where(far <= half, distance, np.sign(distance) * by_log)
    rows: NDArray[np.int64] = np.clip(distance + sizes.n, 0, 2 * sizes.n - 1)
    return rows


def _log(x: NDArray[np.float64]) -> NDArray[np.float32]:
    """Of x rounded to float32, rounded again."""
    return np.log(x.astype(np.float32).astype(np.float64)).astype(np.float32)


@dataclass(frozen=True)
class DistanceTable:
    """`row_of` for texts of at most `n_positions`, as kernels read it: int32, of distance -(n_positions - 1) on."""

    sizes: Distances
    n_positions: int

    @property
    def before(self) -> int:
        """Numbers before that of distance 0."""
        return self.n_positions - 1

    @once
    def weight(self) -> Weight:
        """The bits of int32, which nothing takes for numbers: kernels know its address alone."""
        rows = row_of(self.sizes, np.arange(-self.before, self.n_positions)).astype(np.int32)
        return Weight("distances", "f32", rows.shape, rows.view(np.float32), mapped=False)

    @property
    def nbytes(self) -> int:
        """Bytes of `weight`."""
        return 4 * (2 * self.n_positions - 1)
