"""What attention adds to its scores by the places of key and query: classes of distances (T5), slopes (ALiBi).

For each head a line of float32, made once per load as rotary tables are; a kernel reads sixteen neighbouring keys'
numbers at once. The class of a distance is that of float32 arithmetic, with which the models were trained.

Sources: Raffel et al. 2019, arXiv:1910.10683, 2.1 (T5); Press et al. 2021, arXiv:2108.12409 (ALiBi).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ..dataclass import dataclass
from ..once import once
from .kvcache import KEYS
from .spec import Buckets, Slopes, Weight

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

__all__ = ["Bias", "BiasTable", "buckets_of"]


def buckets_of(sizes: Buckets, distance: NDArray[np.int64]) -> NDArray[np.int64]:
    """The class of each distance key - query: exact below half of them, then logarithmic up to `longest`."""
    n = sizes.n // 2 if sizes.both_ways else sizes.n
    exact = n // 2
    far = np.abs(distance) if sizes.both_ways else np.maximum(-distance, 0)
    by_log = np.log(np.maximum(far, exact) / exact) / math.log(sizes.longest / exact) * (n - exact)
    large = exact + by_log.astype(np.float32).astype(np.int64)
    near: NDArray[np.int64] = np.where(far < exact, far, np.minimum(large, n - 1))
    return near + n * (distance > 0) if sizes.both_ways else near


def _bf16(x: NDArray[Any]) -> Array:
    """To nearest even."""
    bits = x.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16 << 16).view(np.float32).astype(np.float64)


@dataclass(frozen=True, eq=False)
class Bias:
    """One of `Stack.biases`, with its table of classes [buckets, n_heads] if it has one."""

    sizes: Buckets | Slopes
    table: Weight | None = None
    heads: tuple[int, ...] | None = None  # those that are left; None: all

    @property
    def by_key(self) -> bool:
        """Whether the key's position counts, not its distance from the query."""
        return isinstance(self.sizes, Slopes) and self.sizes.rounded

    def exact(self, at: NDArray[np.int64]) -> Array:
        """float64 [n_heads, ...] at distances key - query, or at positions of keys (`by_key`)."""
        every = self._every(at)
        return every if self.heads is None else every[list(self.heads)]

    def _every(self, at: NDArray[np.int64]) -> Array:
        if isinstance(self.sizes, Buckets):
            assert self.table is not None  # noqa: S101 - `forward.supported`
            rows: Array = self.table.f64()[buckets_of(self.sizes, at)]
            return np.moveaxis(rows, -1, 0)
        slopes: Array = np.array(self.sizes.of_heads).reshape(-1, *[1] * at.ndim)
        if self.sizes.rounded:
            slopes, at = _bf16(slopes), _bf16(at).astype(np.int64)
        lines: Array = slopes * at
        return (_bf16(lines) if self.sizes.rounded else lines) * self.sizes.scale


@dataclass(frozen=True, eq=False)
class BiasTable:
    """A `Bias` of `n_heads` for texts of at most `n_positions`, as kernels read it: [n_heads, `length`].

    Number `before` of a line is that of distance (or position) 0. Kernels read whole blocks of keys for several queries
    at a time, so a line has room on both sides; what they read there counts for nothing.
    """

    bias: Bias
    n_heads: int
    n_positions: int

    @property
    def before(self) -> int:
        """Numbers of a line before that of 0."""
        return (0 if self.bias.by_key else self.n_positions) + KEYS

    @property
    def length(self) -> int:
        """Numbers of a line."""
        return self.before + self.n_positions + 2 * KEYS

    @once
    def weight(self) -> Weight:
        """float32, 0 beyond any text's distances."""
        reach = self.n_positions - 1
        first = 0 if self.bias.by_key else -reach
        lines = np.zeros((self.n_heads, self.length), np.float32)
        inside = slice(self.before + first, self.before + reach + 1)
        lines[:, inside] = self.bias.exact(np.arange(first, reach + 1))
        return Weight("bias", "f32", lines.shape, lines, mapped=False)

    @property
    def nbytes(self) -> int:
        """Bytes of `weight`."""
        return 4 * self.n_heads * self.length
