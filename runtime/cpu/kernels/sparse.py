"""Products with sparse matrices (`runtime/sparse.py`), walked as the dense ones are; the same bits.

Decode reads the kept numbers and their bits. Prefill spreads a group of a row once for a tile's tokens.
"""

from __future__ import annotations

from typing import Any

from ...ops import slots
from ..sparse_tiles import sparse_tile
from ..target import tile_shape
from .base import arg, kernel, rows_of, share, template
from .linear import COLUMNS, L2_BYTES, STREAMS, epilogue

Y, X, W, _, _, _, DN, DK, _ = slots("linear")
ROWS, TOKENS = tile_shape()


def _linear(kind: str) -> Any:
    full, one_token = sparse_tile(ROWS, TOKENS, kind), sparse_tile(ROWS, 1, kind)
    one_row, single = sparse_tile(1, TOKENS, kind), sparse_tile(1, 1, kind)
    stream = sparse_tile(STREAMS, 1, kind, 2048)

    @template
    def body(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
        m_all, n_all, k, w = rows_of(p, step), arg(p, DN), arg(p, DK), arg(p, W)
        x, y = base + arg(p, X), base + arg(p, Y)
        n0, n1 = share(n_all, ROWS, t, nt), share(n_all, ROWS, t + 1, nt)
        ldx, ldy = k * 4, n_all * 4
        if m_all == 1:
            h = (n1 - n0) // STREAMS
            for n in range(n0, n0 + h):
                stream(w, n_all, n, h, x, ldx, k, y + 4 * n, ldy, 4 * h)
            for n in range(n0 + STREAMS * h, n1):
                single(w, n_all, n, 1, x, ldx, k, y + 4 * n, ldy, 4)
            epilogue(p, base, (0, 1), (n0, n1))
            return
        block = max(TOKENS, (L2_BYTES // ldx) // TOKENS * TOKENS)
        for b0 in range(0, m_all, block):
            b1 = min(m_all, b0 + block)
            m_tiles = b0 + (b1 - b0) // TOKENS * TOKENS
            for c0 in range(n0, n1, COLUMNS):
                c1 = min(n1, c0 + COLUMNS)
                n_tiles = c0 + (c1 - c0) // ROWS * ROWS
                for n in range(c0, n_tiles, ROWS):
                    for m in range(b0, m_tiles, TOKENS):
                        full(w, n_all, n, 1, x + m * ldx, ldx, k, y + m * ldy + 4 * n, ldy, 4)
                    for m in range(m_tiles, b1):
                        one_token(w, n_all, n, 1, x + m * ldx, ldx, k, y + m * ldy + 4 * n, ldy, 4)
                for n in range(n_tiles, c1):
                    for m in range(b0, m_tiles, TOKENS):
                        one_row(w, n_all, n, 1, x + m * ldx, ldx, k, y + m * ldy + 4 * n, ldy, 4)
                    for m in range(m_tiles, b1):
                        single(w, n_all, n, 1, x + m * ldx, ldx, k, y + m * ldy + 4 * n, ldy, 4)
                epilogue(p, base, (b0, b1), (c0, c1))

    return body


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
