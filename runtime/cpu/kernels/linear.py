"""y = x w^T + b, weights [n, k] read where they lie.

Decode (one row) walks two long unbroken streams of weight rows, half of the thread's share apart: every break in a
stream costs a restart of the prefetcher. The hardware's prefetcher also stops at the end of a 4 KiB page, and a mapped
file has no larger ones: so the loop asks for the line `ahead` bytes further on. Prefill walks tiles, tokens in blocks
that stay in L2. Nothing of this changes a bit.
"""

from __future__ import annotations

from typing import Any

from ...ops import slots
from ..lanes import SIZES, add, load_tail, store_tail
from ..target import tile_shape
from ..tiles import dot_tile
from .base import arg, jit, kernel, rows_of, share, template

Y, X, W, B, DN, DK = slots("linear")
ROWS, TOKENS = tile_shape()
L2_BYTES = 262144  # of activations per token block
STREAMS = 2  # rows that a decode step walks at once


@jit
def add_bias(bias: Any, y: Any, m_all: Any, ldy: Any, n0: Any, n1: Any) -> None:
    """Y[m, n0:n1] += bias[n0:n1]."""
    for m in range(m_all):
        for n in range(n0, n1, 16):
            at, left = y + m * ldy + 4 * n, n1 - n
            store_tail(at, add(load_tail(at, left), load_tail(bias + 4 * n, left)), left)


def _linear(kind: str, unroll: int, ahead: int) -> Any:
    size = SIZES[kind]
    full, one_token = dot_tile(ROWS, TOKENS, kind), dot_tile(ROWS, 1, kind)
    one_row, single = dot_tile(1, TOKENS, kind), dot_tile(1, 1, kind)
    stream = dot_tile(STREAMS, 1, kind, unroll, ahead)

    @template
    def body(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
        m_all, n_all, k, w = rows_of(p, step), arg(p, DN), arg(p, DK), arg(p, W)
        x, y = base + arg(p, X), base + arg(p, Y)
        n0, n1 = share(n_all, ROWS, t, nt), share(n_all, ROWS, t + 1, nt)
        ldw, ldx, ldy = k * size, k * 4, n_all * 4
        if m_all == 1:
            h = (n1 - n0) // STREAMS
            for n in range(n0, n0 + h):
                stream(w + n * ldw, h * ldw, x, ldx, k, y + 4 * n, ldy, 4 * h)
            for n in range(n0 + STREAMS * h, n1):
                single(w + n * ldw, ldw, x, ldx, k, y + 4 * n, ldy, 4)
        else:
            n_tiles = n0 + (n1 - n0) // ROWS * ROWS
            block = max(TOKENS, (L2_BYTES // ldx) // TOKENS * TOKENS)
            for b0 in range(0, m_all, block):
                b1 = min(m_all, b0 + block)
                m_tiles = b0 + (b1 - b0) // TOKENS * TOKENS
                for n in range(n0, n_tiles, ROWS):
                    for m in range(b0, m_tiles, TOKENS):
                        full(w + n * ldw, ldw, x + m * ldx, ldx, k, y + m * ldy + 4 * n, ldy, 4)
                    for m in range(m_tiles, b1):
                        one_token(w + n * ldw, ldw, x + m * ldx, ldx, k, y + m * ldy + 4 * n, ldy, 4)
                for n in range(n_tiles, n1):
                    for m in range(b0, m_tiles, TOKENS):
                        one_row(w + n * ldw, ldw, x + m * ldx, ldx, k, y + m * ldy + 4 * n, ldy, 4)
                    for m in range(m_tiles, b1):
                        single(w + n * ldw, ldw, x + m * ldx, ldx, k, y + m * ldy + 4 * n, ldy, 4)
        if arg(p, B) != 0:
            add_bias(arg(p, B), y, m_all, ldy, n0, n1)

    return body


_linear_f32 = _linear("f32", unroll=4, ahead=1536)
_linear_bf16, _linear_f16 = (_linear(kind, unroll=2, ahead=3072) for kind in ("bf16", "f16"))


@kernel
def linear_f32(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """F32 weights."""
    _linear_f32(p, base, step, t, nt)


@kernel
def linear_bf16(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """BF16 weights, widened in registers."""
    _linear_bf16(p, base, step, t, nt)


@kernel
def linear_f16(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """F16 weights, widened in registers."""
    _linear_f16(p, base, step, t, nt)
