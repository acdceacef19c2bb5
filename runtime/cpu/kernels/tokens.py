"""Rows picked by number: embeddings, positions, rotation, the last rows, the greedy id."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...ops import slots
from ..emitters import SIZES
from ..lanes import (
    between,
    largest,
    ld,
    ldf,
    load_tail,
    load_tail_bf16,
    load_tail_f16,
    maximum,
    splat,
    st,
    stf,
    store_tail,
)  # fmt: skip
from .base import S_IDS, S_RESULT, S_ROWS, S_START, S_T, arg, kernel, rows_of, share, template

F = np.float32
E_Y, E_W, E_D = slots("embed")
R_Y, R_X, R_TABLE, R_HEADS, R_D = slots("rope")
T_Y, T_X, T_D = slots("take_last")
A_X, A_N = slots("argmax")


def _embed(load_kind: Any, size: int, by_position: bool) -> Any:
    @template
    def body(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
        rows, d = rows_of(p, step), arg(p, E_D)
        ids, start, y = ld(step + 8 * S_IDS), ld(step + 8 * S_START), base + arg(p, E_Y)
        for r in range(share(rows, 1, t, nt), share(rows, 1, t + 1, nt)):
            row = start + r if by_position else ld(ids + 8 * r)
            src = arg(p, E_W) + row * d * size
            for j in range(0, d, 16):
                store_tail(y + 4 * (r * d + j), load_kind(src + size * j, d - j), d - j)

    return body


_embed_f32, _embed_bf16, _embed_f16 = (
    _embed(f, SIZES[k], False) for f, k in ((load_tail, "f32"), (load_tail_bf16, "bf16"), (load_tail_f16, "f16"))
)
_position_f32, _position_bf16, _position_f16 = (
    _embed(f, SIZES[k], True) for f, k in ((load_tail, "f32"), (load_tail_bf16, "bf16"), (load_tail_f16, "f16"))
)


@kernel
def embed_f32(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """y[r] = w[ids[r]]."""
    _embed_f32(p, base, step, t, nt)


@kernel
def embed_bf16(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """y[r] = w[ids[r]]."""
    _embed_bf16(p, base, step, t, nt)


@kernel
def embed_f16(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """y[r] = w[ids[r]]."""
    _embed_f16(p, base, step, t, nt)


@kernel
def embed_positions_f32(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """y[r] = w[start + r]."""
    _position_f32(p, base, step, t, nt)


@kernel
def embed_positions_bf16(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """y[r] = w[start + r]."""
    _position_bf16(p, base, step, t, nt)


@kernel
def embed_positions_f16(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """y[r] = w[start + r]."""
    _position_f16(p, base, step, t, nt)


@kernel
def rope(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """Rotate pairs (i, i + d_head/2) of every head; table[position][d_head/2][cos, sin]."""
    heads, d, start = arg(p, R_HEADS), arg(p, R_D), ld(step + 8 * S_START)
    h, items = d // 2, rows_of(p, step) * heads
    for item in range(share(items, 1, t, nt), share(items, 1, t + 1, nt)):
        x, y = base + arg(p, R_X) + 4 * item * d, base + arg(p, R_Y) + 4 * item * d
        table = arg(p, R_TABLE) + 8 * h * (start + item // heads)
        for i in range(h):
            c, s, a, b = ldf(table + 8 * i), ldf(table + 8 * i + 4), ldf(x + 4 * i), ldf(x + 4 * (i + h))
            stf(y + 4 * i, F(F(a * c) - F(b * s)))
            stf(y + 4 * (i + h), F(F(b * c) + F(a * s)))


@kernel
def take_last(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """Y = x[T - R:]."""
    rows, d = ld(step + 8 * S_ROWS), arg(p, T_D)
    x = base + arg(p, T_X) + 4 * d * (ld(step + 8 * S_T) - rows)
    for r in range(share(rows, 1, t, nt), share(rows, 1, t + 1, nt)):
        for j in range(0, d, 16):
            at = 4 * (r * d + j)
            store_tail(base + arg(p, T_Y) + at, load_tail(x + at, d - j), d - j)


@kernel
def argmax(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """Of the last row, the first of equals; -1 where there is none (no rows, or only NaN)."""
    rows = rows_of(p, step)
    if t != 0:
        return
    best = -1
    if rows > 0:
        n = arg(p, A_N)
        x, low = base + arg(p, A_X) + 4 * (rows - 1) * n, F(-np.inf)
        top = splat(low)
        for j in range(0, n, 16):
            top = maximum(between(load_tail(x + 4 * j, n - j), 0, n - j, low), top)
        highest, i = largest(top), 0
        while i < n and ldf(x + 4 * i) != highest:
            i += 1
        best = i if i < n else -1
    st(step + 8 * S_RESULT, best)
