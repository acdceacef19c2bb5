"""Rows picked by number: embeddings, positions, rotation, the last rows, the greedy id."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..primitives import (
    barrier,
    block,
    blocks,
    ld_bf16,
    ld_f16,
    ld_f32,
    ld_i64,
    sld_f32,
    sld_i32,
    sst_f32,
    sst_i32,
    st_f32,
    st_i64,
    thread,
    threads,
)
from ..step import S_IDS, S_RESULT, S_ROWS, S_T, S_TOKENS, T_TAKE, TOKEN_WORDS
from .base import F, ceil, kernel, position_of, rows_of, small

if TYPE_CHECKING:
    from collections.abc import Callable

THREADS = 256
#: Places of no number: where there is none, and where one of them is NaN, which no id may win over.
NONE, WRONG = -1, -2
WIDE = 1024  # threads of the block that looks for the largest logit


def _embed(load: Any, size: int) -> Callable[..., None]:
    def body(arena: Any, step: Any, rows: Any, y: Any, w: Any, d: Any) -> None:
        """y[r] = w[ids[r]], a block for each row."""
        ids = ld_i64(step + 8 * S_IDS)
        r, n = block(), rows_of(step, rows)
        while r < n:
            src = w + ld_i64(ids + 8 * r) * d * size
            for j in range(thread(), d, threads()):
                st_f32(arena + y + 4 * (r * d + j), load(src + size * j))
            r += blocks()

    return body


def _positions(load: Any, size: int) -> Callable[..., None]:
    def body(arena: Any, step: Any, rows: Any, y: Any, w: Any, d: Any) -> None:
        """y[r] = w[position of r]."""
        i, n = block() * threads() + thread(), rows_of(step, rows) * d
        while i < n:
            st_f32(arena + y + 4 * i, load(w + size * (position_of(step, small(i) // d) * d + small(i) % d)))
            i += blocks() * threads()

    return body


for _kind, _load, _size in (("f32", ld_f32, 4), ("bf16", ld_bf16, 2), ("f16", ld_f16, 2)):
    kernel(THREADS, lambda rows, _: rows, name=f"embed_{_kind}")(_embed(_load, _size))
    kernel(THREADS, lambda rows, v: ceil(rows * v["d"], THREADS), name=f"embed_positions_{_kind}")(
        _positions(_load, _size)
    )


@kernel(THREADS, lambda rows, v: ceil(rows * v["heads"] * v["d_head"] // 2, THREADS))
def rope(arena: Any, step: Any, rows: Any, y: Any, x: Any, table: Any, heads: Any, d_head: Any) -> None:
    """Rotate pairs (i, i + d_head/2) of every head, a thread for each; table[position][d_head/2][cos, sin]."""
    half = d_head // 2
    item, n = block() * threads() + thread(), rows_of(step, rows) * heads * half
    while item < n:
        r, i = item // (heads * half), item % half
        at = 4 * (item // half * d_head + i)
        angle = table + 8 * (position_of(step, r) * half + i)
        c, s = ld_f32(angle), ld_f32(angle + 4)
        a, b = ld_f32(arena + x + at), ld_f32(arena + x + at + 4 * half)
        st_f32(arena + y + at, a * c - b * s)
        st_f32(arena + y + at + 4 * half, b * c + a * s)
        item += blocks() * threads()


@kernel(THREADS, lambda rows, v: ceil(rows * v["d"], THREADS))
def take_rows(arena: Any, step: Any, rows: Any, y: Any, x: Any, d: Any) -> None:
    """y = x[T - R:]; of a batch the tokens that it names."""
    n, tokens = rows_of(step, rows), ld_i64(step + 8 * S_TOKENS)
    first = ld_i64(step + 8 * S_T) - ld_i64(step + 8 * S_ROWS)
    i = block() * threads() + thread()
    while i < n * d:
        r = first + i // d
        if tokens != 0:
            r = ld_i64(tokens + 8 * (TOKEN_WORDS * (i // d) + T_TAKE))
        st_f32(arena + y + 4 * i, ld_f32(arena + x + 4 * (r * d + i % d)))
        i += blocks() * threads()


def before(v: Any, at: Any, top: Any, best: Any) -> Any:
    """Whether a number and its place come before the best so far: `WRONG`, the larger, the first of equals, `NONE`."""
    return best != WRONG and at != NONE and (at == WRONG or best == NONE or v > top or (v == top and at < best))


def first_largest(x: Any, first: Any, n: Any, stride: Any) -> Any:
    """A thread's largest of every `stride`-th number, and its place: the first of equals, `WRONG` where one is NaN."""
    top, best, wrong = F(-np.inf), NONE, False
    i = first
    while i < n:
        v = ld_f32(x + 4 * i)
        wrong = wrong or v != v  # noqa: PLR0124 - so is NaN
        if v > top or (v == top and best < 0):
            top, best = v, i
        i += stride
    return top, WRONG if wrong else best


def largest(me: Any, top: Any, best: Any) -> Any:
    """*block* In its first thread: which of all threads' numbers and places comes `before` all others."""
    sst_f32(4 * me, top)
    sst_i32(4 * (WIDE + me), best)
    barrier()
    half = threads() // 2
    while half > 0:
        if me < half:
            v, i = sld_f32(4 * (me + half)), sld_i32(4 * (WIDE + me + half))
            if before(v, i, top, best):
                top, best = v, i
                sst_f32(4 * me, top)
                sst_i32(4 * (WIDE + me), best)
        barrier()
        half //= 2
    return top, best


@kernel(WIDE, lambda _, __: 1, 8 * WIDE)
def argmax(arena: Any, step: Any, rows: Any, x: Any, n: Any) -> None:
    """Of the last row, the first of equals; -1 where there is none: no rows, or one is NaN. One block's work."""
    me, count = thread(), rows_of(step, rows)
    mine = first_largest(arena + x + 4 * (count - 1) * n, me, n if count > 0 and block() == 0 else 0, threads())
    winner = largest(me, mine[0], mine[1])
    if me == 0 and block() == 0:
        st_i64(step + 8 * S_RESULT, max(winner[1], -1))
