"""Causal grouped-query attention over the tiled KV cache.

The cache of a layer is [kv_head][key block][d_head/16][16 keys][16 dims], zero-padded: a tile is one kilobyte in a
row. A thread owns whole (head, query) outputs. Keys are walked in blocks of sixteen aligned to absolute positions, so
a query's bits do not depend on the chunk that it came in. Scores are kept, their maximum subtracted, then p v summed.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...ops import slots
from ..lanes import (
    add,
    between,
    div,
    fold,
    largest,
    ld,
    load,
    load_tail,
    maximum,
    mul,
    splat,
    store,
    store_tail,
    sub,
    zero,
)
from ..tiles import KV_TILE, scores16, weighted_sum
from .base import S_START, arg, farg, kernel, rows_of, share
from .elementwise import exp

F = np.float32
C_CACHE, C_X, C_HEADS, C_D, C_CONTEXT = slots("kv_write")
Y, SCORES, Q, KC, VC, HEADS, KV_HEADS, D, CONTEXT, WINDOW, SCALE = slots("attention")


@kernel
def kv_write(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """cache[head, start + row] = x[row, head]."""
    rows, heads, d, context = rows_of(p, step), arg(p, C_HEADS), arg(p, C_D), arg(p, C_CONTEXT)
    start, per_key = ld(step + 8 * S_START), (d + 15) // 16 * 64
    for item in range(share(rows * heads, 1, t, nt), share(rows * heads, 1, t + 1, nt)):
        pos, head = start + item // heads, item % heads
        x = base + arg(p, C_X) + 4 * item * d
        y = base + arg(p, C_CACHE) + (head * context + (pos & -16)) * per_key + (pos & 15) * 64
        for j in range(0, d, 16):
            store(y + KV_TILE // 16 * j, load_tail(x + 4 * j, d - j))


@kernel
def attention(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """softmax(q k^T * scale) v over keys max(0, pos - window + 1) .. pos."""
    rows, heads, d, start = rows_of(p, step), arg(p, HEADS), arg(p, D), ld(step + 8 * S_START)
    context, kv_heads, window, scale = arg(p, CONTEXT), arg(p, KV_HEADS), arg(p, WINDOW), splat(farg(p, SCALE))
    per_key, buf, low = (d + 15) // 16 * 64, base + arg(p, SCORES) + 4 * context * t, F(-np.inf)
    for item in range(share(rows * heads, 1, t, nt), share(rows * heads, 1, t + 1, nt)):
        h, r = item // rows, item % rows
        g, n = h * kv_heads // heads, start + r + 1
        lo = max(0, n - window)
        first = lo & -16
        q, y = base + arg(p, Q) + 4 * (r * heads + h) * d, base + arg(p, Y) + 4 * (r * heads + h) * d
        kc, vc = base + arg(p, KC) + g * context * per_key, base + arg(p, VC) + g * context * per_key
        top = splat(low)
        for j in range(first, n, 16):
            s = between(mul(scores16(q, kc + j * per_key, d), scale), lo - j, n - j, low)
            store(buf + 4 * j, s)
            top = maximum(top, s)
        top, total = splat(largest(top)), zero()
        for j in range(first, n, 16):
            e = between(exp(sub(load(buf + 4 * j), top)), lo - j, n - j, F(0.0))
            store(buf + 4 * j, e)
            total = add(total, e)
        norm = splat(fold(total))
        for j in range(0, d, 16):
            store_tail(y + 4 * j, div(weighted_sum(buf, vc + KV_TILE // 16 * j, 16 * per_key, first, n), norm), d - j)
