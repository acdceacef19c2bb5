"""y = act(x w^T + b) * times + residual, weights [n, k] read where they lie.

Decode (one row) walks two long unbroken streams of weight rows, half of the thread's share apart: every break in a
stream costs a restart of the prefetcher. The hardware's prefetcher also stops at the end of a 4 KiB page, and a mapped
file has no larger ones: so the loop asks for the line `ahead` bytes further on. Prefill walks tiles, tokens in blocks
that stay in L2. Nothing of this changes a bit.
"""

from __future__ import annotations

from typing import Any

from ...ops import ACTS, FAST, slots
from ..lanes import SIZES, add, load_tail, mul, store_bf16, store_tail
from ..target import tile_shape
from ..tiles import dot_tile
from .base import arg, jit, kernel, rows_of, share, template
from .elementwise import gelu, gelu_tanh, relu, silu

Y, SCRATCH, X, W, B, TIMES, RESIDUAL, DN, DK, ACT = slots("linear")
R_Y, R_X, R_K = slots("round_bf16")
SILU, GELU, GELU_TANH, RELU = range(1, len(ACTS) + 1)
ROWS, TOKENS = tile_shape()
L2_BYTES = 262144  # of activations per token block
COLUMNS = 64  # of the result before what follows the product is applied: still in the first cache
STREAMS = 2  # rows that a decode step walks at once


@jit
def epilogue(p: Any, base: Any, rows: Any, columns: Any) -> None:
    """act(y + b) * times + residual on a piece of y that was just written; rows and columns are (first, end)."""
    bias, act, n_all = arg(p, B), arg(p, ACT), arg(p, DN)
    times, residual = arg(p, TIMES), arg(p, RESIDUAL)
    if bias == 0 and act == 0 and times < 0 and residual < 0:
        return
    for m in range(rows[0], rows[1]):
        for n in range(columns[0], columns[1], 16):
            at, left = 4 * (m * n_all + n), columns[1] - n
            v = load_tail(base + arg(p, Y) + at, left)
            if bias != 0:
                v = add(v, load_tail(bias + 4 * n, left))
            if act == SILU:
                v = silu(v)
            elif act == GELU:
                v = gelu(v)
            elif act == GELU_TANH:
                v = gelu_tanh(v)
            elif act == RELU:
                v = relu(v)
            if times >= 0:
                v = mul(v, load_tail(base + times + at, left))
            if residual >= 0:
                v = add(load_tail(base + residual + at, left), v)
            store_tail(base + arg(p, Y) + at, v, left)


def walk(kind: str, one: Any, streams: Any, panel: Any) -> Any:
    """The body of a product; its rows come from the caller, dense ones of `kind` or such as become dense on the way.

    `one(w, n_all, n, x, k, y)` does row n for one token, `streams(w, n_all, n, h, x, k, y)` rows n, n + h, ...;
    `panel(p, base, t, n, rows)` gives where rows n, n + 1, ... lie dense, and how far apart.
    """
    full, one_token = dot_tile(ROWS, TOKENS, kind), dot_tile(ROWS, 1, kind)
    one_row, single = dot_tile(1, TOKENS, kind), dot_tile(1, 1, kind)

    @template
    def body(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
        m_all, n_all, k, w = rows_of(p, step), arg(p, DN), arg(p, DK), arg(p, W)
        x, y = base + arg(p, X), base + arg(p, Y)
        n0, n1 = share(n_all, ROWS, t, nt), share(n_all, ROWS, t + 1, nt)
        ldx, ldy = (k + 31) // 32 * 64 if kind == FAST else k * 4, n_all * 4
        if m_all == 1:
            h = (n1 - n0) // STREAMS
            for n in range(n0, n0 + h):
                streams(w, n_all, n, h, x, k, y)
            for n in range(n0 + STREAMS * h, n1):
                one(w, n_all, n, x, k, y)
            epilogue(p, base, (0, 1), (n0, n1))
            return
        block = max(TOKENS, (L2_BYTES // ldx) // TOKENS * TOKENS)
        for c0 in range(n0, n1, COLUMNS):
            c1 = min(n1, c0 + COLUMNS)
            n_tiles = c0 + (c1 - c0) // ROWS * ROWS
            w, ldw = panel(p, base, t, c0, c1)
            for b0 in range(0, m_all, block):
                b1 = min(m_all, b0 + block)
                m_tiles = b0 + (b1 - b0) // TOKENS * TOKENS
                for n in range(c0, n_tiles, ROWS):
                    at = w + (n - c0) * ldw
                    for m in range(b0, m_tiles, TOKENS):
                        full(at, ldw, x + m * ldx, ldx, k, y + m * ldy + 4 * n, ldy, 4)
                    for m in range(m_tiles, b1):
                        one_token(at, ldw, x + m * ldx, ldx, k, y + m * ldy + 4 * n, ldy, 4)
                for n in range(n_tiles, c1):
                    at = w + (n - c0) * ldw
                    for m in range(b0, m_tiles, TOKENS):
                        one_row(at, ldw, x + m * ldx, ldx, k, y + m * ldy + 4 * n, ldy, 4)
                    for m in range(m_tiles, b1):
                        single(at, ldw, x + m * ldx, ldx, k, y + m * ldy + 4 * n, ldy, 4)
                epilogue(p, base, (b0, b1), (c0, c1))

    return body


def _linear(kind: str, unroll: int, ahead: int) -> Any:
    size = SIZES[kind]
    row, rows = dot_tile(1, 1, kind), dot_tile(STREAMS, 1, kind, unroll, ahead, apart=True)

    @template
    def one(w: Any, _: Any, n: Any, x: Any, k: Any, y: Any) -> None:
        row(w + n * k * size, 0, x, 0, k, y + 4 * n, 0, 4)

    @template
    def streams(w: Any, _: Any, n: Any, h: Any, x: Any, k: Any, y: Any) -> None:
        rows(w + n * k * size, h * k * size, x, 0, k, y + 4 * n, 0, 4 * h)

    @template
    def panel(p: Any, _base: Any, _t: Any, n: Any, _: Any) -> Any:
        return arg(p, W) + n * arg(p, DK) * size, arg(p, DK) * size

    return walk(kind, one, streams, panel)


_linear_f32 = _linear("f32", unroll=4, ahead=1536)
_linear_bf16, _linear_f16, _linear_fast = (_linear(kind, unroll=2, ahead=3072) for kind in ("bf16", "f16", FAST))


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


@kernel
def linear_bf16_dot(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """BF16 weights and a BF16 input, in the CPU's own order."""
    _linear_fast(p, base, step, t, nt)


@kernel
def round_bf16(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """y = bf16(x), rows filled up with zeros to whole 32s."""
    rows, k, x, y = rows_of(p, step), arg(p, R_K), base + arg(p, R_X), base + arg(p, R_Y)
    each = (k + 31) // 32 * 2  # vectors of a row
    for i in range(share(rows * each, 1, t, nt), share(rows * each, 1, t + 1, nt)):
        r, j = i // each, i % each * 16
        store_bf16(y + 32 * i, load_tail(x + 4 * (r * k + j), k - j))
