"""What adapters add to a product: each token has that of its sequence, or none.

Both sums go through the one reduction order, a token at a time, so that a token's bits do not depend on the adapters
of the others in its pass. Without an adapter `lora_up` does what the end of `linear` does, in the same order.
"""

from __future__ import annotations

from typing import Any

from ...lora import L_BIAS, L_DOWN, L_IDS, L_RANK, L_RATIO, L_SCALE, L_UP, L_WORDS
from ...ops import slots
from ...step import Q_ADAPTER, S_T, T_ID, T_ROW, T_SEQUENCE
from ..emitters import ZERO, N, ir_below, ir_fma, ir_fold, ir_least, ir_load, off
from ..flow import c64, ir_loop
from ..lanes import add, fma, i64, lanes, ld, ldf, load_tail, mul, op, splat, stf, store_tail, zero
from ..target import tile_shape
from ..tiles import dot_tile
from .base import arg, jit, kernel, rows_of, sequence_words, share, token_word
from .elementwise import activated

E_Y, E_X, E_TABLE, E_D = slots("lora_embed")
D_Y, D_X, D_TABLE, D_RANK, D_K = slots("lora_down")
U_Y, U_X, U_H, U_TABLE, U_B, U_TIMES, U_RESIDUAL, U_N, U_RANK, U_ACT = slots("lora_up")
ROWS, _ = tile_shape()
#: Columns that some tokens pass by together: what they need of a matrix of rank 16 is 16 KiB.
COLUMNS, TOKENS = 256, 8
_row, _rows = dot_tile(1, "f32"), dot_tile(ROWS, "f32")


@jit
def _row_of(p: Any, step: Any, i: Any) -> Any:
    """The row of the step's token i in this instruction's tensors; -1: it has none."""
    return token_word(step, i, T_ROW) if arg(p, 2) != 0 else i


@jit
def _words_of(step: Any, table: Any, i: Any) -> Any:
    """Address of the words of token i's adapter; 0 where it has none here."""
    number = ld(sequence_words(step, token_word(step, i, T_SEQUENCE)) + 8 * Q_ADAPTER)
    if number == 0:
        return number
    words = table + 8 * L_WORDS * (number - 1)
    return words if ld(words + 8 * L_RANK) != 0 or ld(words + 8 * L_BIAS) != 0 else 0 * words


@jit
def _first(ids: Any, n: Any, least: Any) -> Any:
    """Of n ascending numbers the place of the first that is not below `least`; n: there is none."""
    low, high = 0 * n, n
    while low < high:
        middle = (low + high) // 2
        if ldf(ids + 4 * middle) < least:
            low = middle + 1
        else:
            high = middle
    return low


@kernel
def lora_embed(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """Threads share tokens. The rank's terms are added one after the other, each to sixteen columns at once."""
    tokens, d = rows_of(p, step), arg(p, E_D)
    for i in range(share(tokens, 1, t, nt), share(tokens, 1, t + 1, nt)):
        words, token = _words_of(step, arg(p, E_TABLE), i), token_word(step, i, T_ID)
        x, y = base + arg(p, E_X) + 4 * i * d, base + arg(p, E_Y) + 4 * i * d
        rank, up, down = 0 * words, 0 * words, 0 * words
        if words != 0:
            rank, ids = ld(words + 8 * L_RANK), ld(words + 8 * L_IDS)
            up, down = ld(words + 8 * L_UP), ld(words + 8 * L_DOWN)
            if ids != 0:
                k = _first(ids, rank, token)
                if k < rank and ldf(ids + 4 * k) == token:
                    x = down + 4 * k * d
        for j in range(0, d, 16):
            v = load_tail(x + 4 * j, d - j)
            if up != 0:
                total = zero()
                for r in range(rank):
                    weight = splat(ldf(up + 4 * (token * rank + r)))
                    total = fma(weight, load_tail(down + 4 * (r * d + j), d - j), total)
                v = fma(splat(ldf(words + 8 * L_SCALE)), total, v)
            store_tail(y + 4 * j, v, d - j)


@kernel
def lora_down(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """Threads share the pairs of a few rows of the matrix, which stay in the first cache, and a token."""
    tokens, most, k = ld(step + 8 * S_T), arg(p, D_RANK), arg(p, D_K)
    blocks = (most + ROWS - 1) // ROWS
    for item in range(share(tokens * blocks, 1, t, nt), share(tokens * blocks, 1, t + 1, nt)):
        i, a = item % tokens, item // tokens * ROWS
        row, words = _row_of(p, step, i), _words_of(step, arg(p, D_TABLE), i)
        if row >= 0 and words != 0:
            x, y = base + arg(p, D_X) + 4 * row * k, base + arg(p, D_Y) + 4 * row * most
            w, end = ld(words + 8 * L_DOWN), ld(words + 8 * L_RANK)
            if a + ROWS <= end:
                _rows(w + 4 * a * k, 4 * k, x, k, y + 4 * a, 4, 1)
            else:
                _row(w + 4 * a * k, 0, x, k, y + 4 * a, 4, end - a)


@op(lanes, *[i64] * 5)
def _sixteen(b: Any, w: Any, ldw: Any, left: Any, x: Any, k_dim: Any) -> Any:
    """Sixteen rows of w, `left` of which are there, times x: the sums of a tile, in lanes. The last stands for others.

    A rank is a step or two, so that folding is most of it; sixteen rows share all of the fold's shuffles.
    """
    last = b.sub(left, c64(1))
    ws = [b.add(w, b.mul(ldw, ir_least(b, c64(r), last))) for r in range(N)]

    def body(k: Any, acc: list[Any], mask: Any = None) -> list[Any]:
        xv = ir_load(b, off(b, x, k, 4), mask=mask)
        return [ir_fma(b, ir_load(b, off(b, a, k, 4), "f32", mask), xv, y) for a, y in zip(ws, acc, strict=True)]

    full = b.and_(k_dim, c64(-N))
    acc = ir_loop(b, c64(0), full, N, [ZERO] * N, body)
    acc = ir_loop(b, full, k_dim, N, acc, lambda k, a: body(k, a, ir_below(b, b.sub(k_dim, k), N)))
    return ir_fold(b, acc)


@jit
def _finish(p: Any, base: Any, at: Any, j: Any, v: Any, bias: Any) -> Any:
    """act(v + b) * times + residual on sixteen columns from j on, `at` bytes into all tensors of this shape."""
    left, times, residual = arg(p, U_N) - j, arg(p, U_TIMES), arg(p, U_RESIDUAL)
    if bias != 0:
        v = add(v, load_tail(bias + 4 * j, left))
    v = activated(v, arg(p, U_ACT))
    if times >= 0:
        v = mul(v, load_tail(base + times + at, left))
    if residual >= 0:
        v = add(load_tail(base + residual + at, left), v)
    return v


@kernel
def lora_up(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """Threads share columns; what some of these need stays in the first cache while a few tokens pass by."""
    tokens, most, n, table = ld(step + 8 * S_T), arg(p, U_RANK), arg(p, U_N), arg(p, U_TABLE)
    n0, n1 = share(n, 16, t, nt), share(n, 16, t + 1, nt)
    for t0 in range(0, tokens, TOKENS):
        for c0 in range(n0, n1, COLUMNS):
            for i in range(t0, min(t0 + TOKENS, tokens)):
                row, words = _row_of(p, step, i), _words_of(step, table, i)
                if row >= 0:
                    at = 4 * row * n
                    x, y, h = base + arg(p, U_X) + at, base + arg(p, U_Y) + at, base + arg(p, U_H) + 4 * row * most
                    bias, ids, rank, k = arg(p, U_B), 0 * words, 0 * words, 0 * words
                    if words != 0:
                        rank, ids = ld(words + 8 * L_RANK), ld(words + 8 * L_IDS)
                        if ld(words + 8 * L_BIAS) != 0:
                            bias = ld(words + 8 * L_BIAS)
                        if ids != 0:
                            k = _first(ids, rank, c0)
                    for j in range(c0, min(c0 + COLUMNS, n1), 16):
                        v = load_tail(x + 4 * j, n - j)
                        if ids != 0:
                            store_tail(y + 4 * j, v, n - j)
                            while k < rank and ldf(ids + 4 * k) < j + 16:
                                stf(y + 4 * int(ldf(ids + 4 * k)), ldf(h + 4 * k))
                                k += 1
                            v = load_tail(y + 4 * j, n - j)
                        elif rank != 0:
                            ratio, up = ld(words + 8 * L_RATIO), ld(words + 8 * L_UP) + 4 * j * rank
                            v = fma(splat(ldf(words + 8 * L_SCALE)), _sixteen(up, 4 * rank, n - j, h, rank), v)
                            if ratio != 0:
                                v = mul(v, load_tail(ratio + 4 * j, n - j))
                        store_tail(y + 4 * j, _finish(p, base, at + 4 * j, j, v, bias), n - j)
