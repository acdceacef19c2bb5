"""What products in tiles share: the order of a result's tiles, and how a warp's sums leave it.

Tiles go down the tokens in groups of 16, so that blocks that run together share most of what they read. A warp turns
sixteen rows of its sums at a time in shared memory, so that what follows a product walks along rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..primitives import WARP, sld_f32, sst_f32, warp_barrier
from ..tensor import divided
from .base import lane
from .linear import finish_fast

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["GROUP", "strip", "tile_at"]

GROUP = 16


def tile_at(tile: Any, down: Any, across: Any) -> Any:
    """Row and column of a tile of `down` by `across`."""
    group = divided(tile, GROUP * across)
    inside, rows = tile - group * GROUP * across, min(GROUP, down - GROUP * group)
    column = divided(inside, rows)
    return GROUP * group + inside - column * rows, column


def strip(width: int) -> tuple[Callable[..., None], int]:
    """What finishes 16 rows of `width` sums of a warp, and the bytes of shared memory that it takes."""
    row = width + 4  # numbers between rows: those of a column are in banks of their own

    def leave(
        at: Any, acc: Any, first: Any, m0: Any, n0: Any, tokens: Any, arena: Any, y: Any, b: Any, times: Any,
        residual: Any, n: Any, act: Any,
    ) -> None:  # fmt: skip
        """*warp* Sums acc[first] and on, as products have them, through shared memory to y[m0, n0] and on."""
        to = at + 4 * (lane() // 4 * row + lane() % 4 * 2)
        for j in range(width // 8):
            sst_f32(to + 32 * j, acc[first + 4 * j])
            sst_f32(to + 32 * j + 4, acc[first + 4 * j + 1])
            sst_f32(to + 32 * j + 32 * row, acc[first + 4 * j + 2])
            sst_f32(to + 32 * j + 32 * row + 4, acc[first + 4 * j + 3])
        warp_barrier()
        for e in range(lane(), 16 * width, WARP):
            m, c = m0 + e // width, n0 + e % width
            if m < tokens and c < n:
                value = sld_f32(at + 4 * (e // width * row + e % width))
                finish_fast(arena, m, c, value, n, y, b, times, residual, act)
        warp_barrier()

    return leave, 64 * row
