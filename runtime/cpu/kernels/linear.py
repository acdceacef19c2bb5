"""y = act(x w^T + b) * times + residual, weights [n, k] read in place.

Decode (one row) walks two long unbroken streams of weight rows, half of the thread's share apart: every break in a
stream costs a restart of the prefetcher. The hardware's prefetcher also stops at the end of a 4 KiB page, and a mapped
file has no larger ones: so the loop asks for the line `ahead` bytes further on. A few tokens take tiles of rows where
they lie; for many, rows are packed into the first cache and tokens in the second pass by (`runtime/blocking.py`).
Nothing of this changes a bit.

Products of BF16 pairs (FAST) have a rule of their own (`pairs.py`). The thread's mode is set where sums begin and set
back before anything else is computed.
"""

from __future__ import annotations

from typing import Any

from ...blocking import COLUMNS, MANY, TOKEN_BLOCK, carry_floats, columns_of, panel_floats, piece_of
from ...ops import FAST, slots
from ..emitters import SIZES
from ..lanes import WIDE, add, load_tail, load_wide, mul, store_bf16, store_tail, store_wide
from ..target import tile_shape
from ..tiles import dot_tile, pack_tile, product_tile
from .base import arg, jit, kernel, rows_of, share, template
from .elementwise import activated
from .flushing import modes

Y, SCRATCH, X, W, B, TIMES, RESIDUAL, DN, DK, ACT = slots("linear")
R_Y, R_X, R_K = slots("round_bf16")
ROWS, TOKENS = tile_shape()
STREAMS = 2  # rows that a decode step walks at once
_piece_of, _panel_floats, _carry_floats, _columns_of = map(jit, (piece_of, panel_floats, carry_floats, columns_of))


@template
def _load_wide(at: Any, _: Any) -> Any:
    return load_wide(at)


@template
def _store_wide(at: Any, v: Any, _: Any) -> None:
    store_wide(at, v)


def _finish(load: Any, store: Any) -> Any:
    """act(y + b) * times + residual on as many columns as `load` takes, of which `left` are there.

    Of y at `base` + y and all others that lie as it does, but for the bias, the columns begin `at` bytes on.
    """

    @template
    def finish(base: Any, y: Any, at: Any, bias: Any, act: Any, times: Any, residual: Any, left: Any) -> None:
        v = load(base + y + at, left)
        if bias != 0:
            v = add(v, load(bias, left))
        v = activated(v, act)
        if times >= 0:
            v = mul(v, load(base + times + at, left))
        if residual >= 0:
            v = add(load(base + residual + at, left), v)
        store(base + y + at, v, left)

    return finish


_finish_wide, _finish_tail = _finish(_load_wide, _store_wide), _finish(load_tail, store_tail)


@jit
def epilogue(p: Any, base: Any, rows: Any, columns: Any) -> None:
    """act(y + b) * times + residual on a piece of y that was just written; rows and columns are (first, end)."""
    bias, act, n_all, y = arg(p, B), arg(p, ACT), arg(p, DN), arg(p, Y)
    times, residual = arg(p, TIMES), arg(p, RESIDUAL)
    if bias == 0 and act == 0 and times < 0 and residual < 0:
        return
    first, end = columns
    wide_end = first + (end - first) // WIDE * WIDE
    for m in range(rows[0], rows[1]):
        for n in range(first, wide_end, WIDE):
            b = bias + 4 * n if bias != 0 else bias
            _finish_wide(base, y, 4 * (m * n_all + n), b, act, times, residual, WIDE)
        for n in range(wide_end, end, 16):
            b = bias + 4 * n if bias != 0 else bias
            _finish_tail(base, y, 4 * (m * n_all + n), b, act, times, residual, end - n)


def walk(kind: str, others: Any, streams: Any, panel: Any, spread_floats: Any, columns: Any) -> Any:
    """The body of a product; its rows come from the caller, dense ones of `kind` or such as become dense on the way.

    For one token `streams(w, n_all, n, h, x, k, y)` does h rows from n on and those n + h, ... on, together, and
    `others(w, n_all, n, n1, x, k, y)` rows n to n1, one after the other;
    `panel(p, scratch, n0, n1)` gives where rows n0 to n1 lie dense, how far apart, and where in memory the next ones
    begin and end. It may fill `spread_floats(k)` of the scratch, and gets `columns(k)` rows at most.
    """
    fast = kind == FAST
    x_size, size = 2 if fast else 4, SIZES[kind]
    direct, packed = (product_tile(ROWS, TOKENS, kind, packed=p) for p in (False, True))
    pack = pack_tile(ROWS, kind)
    begin, end, again = modes(fast=fast)

    @template
    def few(p: Any, base: Any, m_all: Any, scratch: Any, n0: Any, n1: Any) -> None:
        n_all, k = arg(p, DN), arg(p, DK)
        x, y, ldx, ldy = base + arg(p, X), base + arg(p, Y), (k + 31) // 32 * 64 if fast else k * 4, n_all * 4
        chunk = columns(k)
        for c0 in range(n0, n1, chunk):
            c1 = min(n1, c0 + chunk)
            w, ldw, soon, last = panel(p, scratch, c0, c1)
            calls = (c1 - c0 + ROWS - 1) // ROWS * ((m_all + TOKENS - 1) // TOKENS)
            much = ((last - soon) // calls + 63) // 64 * 64  # rows side by side are no stream that hardware follows
            mode = begin()
            for n in range(c0, c1, ROWS):
                for m in range(0, m_all, TOKENS):
                    direct(w + (n - c0) * ldw, ldw, c1 - n, x + m * ldx, ldx, m_all - m, k, y + m * ldy + 4 * n, ldy,
                           0, 3, soon, much)  # fmt: skip
                    soon += much
            if end(mode) != 0:
                again(p, base, 0, m_all, c0, c1)
            epilogue(p, base, (0, m_all), (c0, c1))

    @template
    def many(p: Any, base: Any, m_all: Any, scratch: Any, n0: Any, n1: Any) -> None:
        n_all, k = arg(p, DN), arg(p, DK)
        x, y, ldx, ldy = base + arg(p, X), base + arg(p, Y), (k + 31) // 32 * 64 if fast else k * 4, n_all * 4
        piece = _piece_of(k)
        place = scratch + 4 * spread_floats(k)
        carry = place + 4 * _panel_floats(piece)
        tiles, blocks = (m_all + TOKENS - 1) // TOKENS, (m_all + TOKEN_BLOCK - 1) // TOKEN_BLOCK
        chunk = columns(k)
        for c0 in range(n0, n1, chunk):
            c1 = min(n1, c0 + chunk)
            w, ldw, soon, last = panel(p, scratch, c0, c1)
            calls = (c1 - c0 + ROWS - 1) // ROWS * tiles * ((k + piece - 1) // piece)
            much = ((last - soon) // calls + 63) // 64 * 64
            for i in range(blocks):
                m0, m1 = tiles * i // blocks * TOKENS, min(m_all, tiles * (i + 1) // blocks * TOKENS)
                mode = begin()
                for k0 in range(0, k, piece):
                    part, width = (1 if k0 == 0 else 0) + (2 if k0 + piece >= k else 0), min(piece, k - k0)
                    at = carry
                    for n in range(c0, c1, ROWS):
                        pack(w + (n - c0) * ldw + k0 * size, ldw, c1 - n, width, place)
                        for m in range(m0, m1, TOKENS):
                            packed(place, 0, c1 - n, x + m * ldx + k0 * x_size, ldx, m1 - m, width,
                                   y + m * ldy + 4 * n, ldy, at, part, soon, much)  # fmt: skip
                            at += 64 * ROWS * TOKENS
                            soon += much
                if end(mode) != 0:
                    again(p, base, m0, m1, c0, c1)
                epilogue(p, base, (m0, m1), (c0, c1))

    @template
    def body(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
        m_all, n_all, k, w = rows_of(p, step), arg(p, DN), arg(p, DK), arg(p, W)
        n0, n1 = share(n_all, ROWS, t, nt), share(n_all, ROWS, t + 1, nt)
        if m_all > 1:
            floats = spread_floats(k) + _panel_floats(_piece_of(k)) + _carry_floats(k, m_all)
            scratch = base + arg(p, SCRATCH) + 4 * t * floats
            if m_all < MANY:
                few(p, base, m_all, scratch, n0, n1)
            else:
                many(p, base, m_all, scratch, n0, n1)
        elif m_all == 1:  # none: a piece of the prompt that is not its last
            x, y, h = base + arg(p, X), base + arg(p, Y), (n1 - n0) // STREAMS
            mode = begin()
            streams(w, n_all, n0, h, x, k, y)
            others(w, n_all, n0 + STREAMS * h, n1, x, k, y)
            if end(mode) != 0:
                again(p, base, 0, m_all, n0, n1)
            epilogue(p, base, (0, m_all), (n0, n1))

    return body


@template
def _none(_: Any) -> Any:
    return 0


def _linear(kind: str, unroll: int, ahead: int) -> Any:
    size = SIZES[kind]
    row, rows = dot_tile(1, kind), dot_tile(STREAMS, kind, unroll, ahead)

    @template
    def others(w: Any, _: Any, n: Any, n1: Any, x: Any, k: Any, y: Any) -> None:
        row(w + n * k * size, 0, x, k, y + 4 * n, 4, n1 - n)

    @template
    def streams(w: Any, _: Any, n: Any, h: Any, x: Any, k: Any, y: Any) -> None:
        rows(w + n * k * size, h * k * size, x, k, y + 4 * n, 4 * h, h)

    @template
    def panel(p: Any, _: Any, n0: Any, n1: Any) -> Any:
        ldw = arg(p, DK) * size
        at = arg(p, W) + n0 * ldw
        soon = at + min(n1 - n0, COLUMNS) * ldw  # near enough to be in the second cache still when it is needed
        return at, ldw, soon, min(soon + (n1 - n0) * ldw, arg(p, W) + arg(p, DN) * ldw)

    return walk(kind, others, streams, panel, _none, _columns_of)


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
    """BF16 weights and a BF16 input, by pairs (`pairs.py`)."""
    _linear_fast(p, base, step, t, nt)


@kernel
def round_bf16(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """y = bf16(x), rows filled up with zeros to whole 32s."""
    rows, k, x, y = rows_of(p, step), arg(p, R_K), base + arg(p, R_X), base + arg(p, R_Y)
    each = (k + 31) // 32 * 2  # vectors of a row
    for i in range(share(rows * each, 1, t, nt), share(rows * each, 1, t + 1, nt)):
        r, j = i // each, i % each * 16
        store_bf16(y + 32 * i, load_tail(x + 4 * (r * k + j), k - j))
