"""Products with sparse matrices (`runtime/sparse.py`): a warp for each row, a thread for each group of 16 columns.

A thread finds its numbers behind those of the threads before it: it counts its bits, and the warp adds up the counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...sparse import LANES
from ..primitives import (
    WARP,
    first_one,
    fma,
    ld_bf16,
    ld_f16,
    ld_f32,
    ld_i64,
    ld_u16,
    ones,
    warp_before_i,
    warp_sum,
    warp_sum_i,
)
from .base import F, all_warps, ceil, first_item, kernel, lane, rows_of
from .linear import THREADS, WARPS, finish

if TYPE_CHECKING:
    from collections.abc import Callable


def _linear(load: Any, size: int) -> Callable[..., None]:
    def row_dot(mask_row: Any, numbers: Any, x: Any, groups: Any) -> Any:
        """*warp* This thread's part of a row times x."""
        total = F(0.0)
        for first in range(0, groups, WARP):
            g = first + lane()
            mask = ld_u16(mask_row + 2 * g) if g < groups else 0
            count = ones(mask)
            at = numbers + size * warp_before_i(count)
            while mask != 0:
                total = fma(load(at), ld_f32(x + 4 * (LANES * g + first_one(mask))), total)
                at += size
                mask &= mask - 1
            numbers += size * warp_sum_i(count)
        return total

    def body(
        arena: Any, step: Any, rows: Any, y: Any, x: Any, w: Any, b: Any, times: Any, residual: Any, n: Any, k: Any,
        act: Any,
    ) -> None:  # fmt: skip
        tokens, groups = rows_of(step, rows), (k + LANES - 1) // LANES
        masks = w + 8 * (n + 1)
        for i in range(first_item(), n, all_warps()):
            numbers = w + ld_i64(w + 8 * i)
            for m in range(tokens):
                total = warp_sum(row_dot(masks + 2 * i * groups, numbers, arena + x + 4 * m * k, groups))
                if lane() == 0:
                    finish(arena, m, i, total, n, y, b, times, residual, act)

    return body


for _kind, _load, _size in (("f32", ld_f32, 4), ("bf16", ld_bf16, 2), ("f16", ld_f16, 2)):
    kernel(THREADS, lambda _, v: ceil(v["n"], WARPS), name=f"linear_{_kind}_sparse")(_linear(_load, _size))
