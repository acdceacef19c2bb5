"""Products with sparse matrices (`runtime/sparse.py`), walked as the dense ones are; the same bits.

Decode reads the kept numbers and their bits. Prefill spreads some rows into the thread's scratch, once for all tokens.
"""

from __future__ import annotations

from typing import Any

from ...blocking import COLUMNS
from ...ops import slots
from ...sparse import LANES
from ..emitters import SIZES
from ..lanes import ld
from ..sparse_tiles import sparse_rows, spread_row
from .base import arg, kernel, template
from .linear import STREAMS, in_streams, walk

_, _, _, W, _, _, _, DN, DK, _ = slots("linear")


def _linear(kind: str) -> Any:
    size = SIZES[kind]
    row, rows, spread = sparse_rows(1, kind), sparse_rows(STREAMS, kind, 2048), spread_row(kind)

    @template
    def one(w: Any, n_all: Any, n: Any, x: Any, k: Any, y: Any) -> None:
        row(w, n_all, n, 1, x, k, y + 4 * n, 4)

    @template
    def streams(w: Any, n_all: Any, n: Any, h: Any, x: Any, k: Any, y: Any) -> None:
        rows(w, n_all, n, h, x, k, y + 4 * n, 4 * h)

    @template
    def floats(k: Any) -> Any:
        return COLUMNS * ((k + LANES - 1) // LANES * LANES) * size // 4

    @template
    def columns(_: Any) -> Any:
        return COLUMNS

    @template
    def panel(p: Any, scratch: Any, n0: Any, n1: Any) -> Any:
        w, k = arg(p, W), arg(p, DK)
        ahead = ld(w + 8 * n1) - ld(w + 8 * n0)
        width = (k + LANES - 1) // LANES * LANES * size
        for n in range(n0, n1):
            spread(w, arg(p, DN), n, k, scratch + (n - n0) * width, ahead)
        return scratch, width, scratch, scratch

    return walk(kind, in_streams(one, streams), panel, floats, columns)


_linear_f32, _linear_bf16, _linear_f16 = (_linear(kind) for kind in ("f32", "bf16", "f16"))


@kernel
def linear_f32_sparse(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """F32 weights, those that are kept."""
    _linear_f32(p, base, step, t, nt)


@kernel
def linear_bf16_sparse(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """BF16 weights, those that are kept."""
    _linear_bf16(p, base, step, t, nt)


@kernel
def linear_f16_sparse(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """F16 weights, those that are kept."""
    _linear_f16(p, base, step, t, nt)
