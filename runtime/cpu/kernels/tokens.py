"""Rows picked by number: embeddings, positions, rotation, the rows with logits, their greedy ids."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...ops import slots
from ...step import (
    Q_COUNT,
    Q_FIRST,
    S_RESULTS,
    S_SEQUENCES,
    S_T,
    SEQUENCE_WORDS,
    T_ID,
    T_POSITION,
    T_ROW,
    T_SEQUENCE,
    T_TYPE,
)
from ..emitters import SIZES
from ..lanes import (
    add,
    between,
    div,
    fold,
    largest,
    ld,
    ldf,
    load_tail,
    load_tail_bf16,
    load_tail_f16,
    maximum,
    nan_or,
    splat,
    st,
    stf,
    store_tail,
    zero,
)  # fmt: skip
from .base import arg, jit, kernel, plain, rows_of, share, token_word

F = np.float32
E_Y, E_W, E_D = slots("embed")
R_Y, R_X, R_TABLE, R_HEADS, R_D = slots("rope")
P_Y, P_X, P_TABLE, P_HEADS, P_D, P_ROTARY, P_INTERLEAVED = slots("rope_part")
K_Y, K_X, K_D = slots("take_rows")
M_Y, M_X, M_D = slots("mean_rows")
U_Y, U_X, U_D, U_K = slots("unfold")
A_X, A_N = slots("argmax")


def _embed(load_kind: Any, size: int) -> Any:
    @jit
    def body(p: Any, base: Any, step: Any, t: Any, nt: Any, word: Any) -> None:
        rows, d = rows_of(p, step), arg(p, E_D)
        y = base + arg(p, E_Y)
        for r in range(share(rows, 1, t, nt), share(rows, 1, t + 1, nt)):
            src = arg(p, E_W) + token_word(step, r, word) * d * size
            for j in range(0, d, 16):
                store_tail(y + 4 * (r * d + j), load_kind(src + size * j, d - j), d - j)

    return body


#: Which row a token takes, a word of it says.
_embed_f32, _embed_bf16, _embed_f16 = (
    _embed(f, SIZES[k]) for f, k in ((load_tail, "f32"), (load_tail_bf16, "bf16"), (load_tail_f16, "f16"))
)


@kernel
def embed_f32(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """y[t] = w[id of token t]."""
    _embed_f32(p, base, step, t, nt, plain(T_ID))


@kernel
def embed_bf16(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """y[t] = w[id of token t]."""
    _embed_bf16(p, base, step, t, nt, plain(T_ID))


@kernel
def embed_f16(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """y[t] = w[id of token t]."""
    _embed_f16(p, base, step, t, nt, plain(T_ID))


@kernel
def embed_positions_f32(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """y[t] = w[position of token t]."""
    _embed_f32(p, base, step, t, nt, plain(T_POSITION))


@kernel
def embed_positions_bf16(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """y[t] = w[position of token t]."""
    _embed_bf16(p, base, step, t, nt, plain(T_POSITION))


@kernel
def embed_positions_f16(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """y[t] = w[position of token t]."""
    _embed_f16(p, base, step, t, nt, plain(T_POSITION))


@kernel
def embed_types_f32(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """y[t] = w[type of token t]."""
    _embed_f32(p, base, step, t, nt, plain(T_TYPE))


@kernel
def embed_types_bf16(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """y[t] = w[type of token t]."""
    _embed_bf16(p, base, step, t, nt, plain(T_TYPE))


@kernel
def embed_types_f16(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """y[t] = w[type of token t]."""
    _embed_f16(p, base, step, t, nt, plain(T_TYPE))


@kernel
def rope(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """Rotate pairs (i, i + d_head/2) of every head; table[position][d_head/2][cos, sin]."""
    heads, d = arg(p, R_HEADS), arg(p, R_D)
    h, items = d // 2, rows_of(p, step) * heads
    for item in range(share(items, 1, t, nt), share(items, 1, t + 1, nt)):
        x, y = base + arg(p, R_X) + 4 * item * d, base + arg(p, R_Y) + 4 * item * d
        table = arg(p, R_TABLE) + 8 * h * token_word(step, item // heads, T_POSITION)
        for i in range(h):
            c, s, a, b = ldf(table + 8 * i), ldf(table + 8 * i + 4), ldf(x + 4 * i), ldf(x + 4 * (i + h))
            stf(y + 4 * i, F(F(a * c) - F(b * s)))
            stf(y + 4 * (i + h), F(F(b * c) + F(a * s)))


@kernel
def rope_part(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """Rotate the first d_rotary of every head, pairs (i, i + d_rotary/2) or (2i, 2i + 1); copy the others."""
    heads, d, r, interleaved = arg(p, P_HEADS), arg(p, P_D), arg(p, P_ROTARY), arg(p, P_INTERLEAVED)
    h, items = r // 2, rows_of(p, step) * heads
    each, apart = (
        (8, 4) if interleaved else (4, 4 * h)
    )  # bytes from pair to pair, and from a pair's first to its second
    for item in range(share(items, 1, t, nt), share(items, 1, t + 1, nt)):
        x, y = base + arg(p, P_X) + 4 * item * d, base + arg(p, P_Y) + 4 * item * d
        table = arg(p, P_TABLE) + 8 * h * token_word(step, item // heads, T_POSITION)
        for i in range(h):
            at = each * i
            c, s, a, b = ldf(table + 8 * i), ldf(table + 8 * i + 4), ldf(x + at), ldf(x + at + apart)
            stf(y + at, F(F(a * c) - F(b * s)))
            stf(y + at + apart, F(F(b * c) + F(a * s)))
        for i in range(r, d):
            stf(y + 4 * i, ldf(x + 4 * i))


@kernel
def take_rows(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """y[row of token t] = x[t], of the tokens that have one."""
    tokens, d = ld(step + 8 * S_T), arg(p, K_D)
    for i in range(share(tokens, 1, t, nt), share(tokens, 1, t + 1, nt)):
        row = token_word(step, i, T_ROW)
        if row >= 0:
            x, y = base + arg(p, K_X) + 4 * d * i, base + arg(p, K_Y) + 4 * d * row
            for j in range(0, d, 16):
                store_tail(y + 4 * j, load_tail(x + 4 * j, d - j), d - j)


@kernel
def mean_rows(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """Each sixteenth token together, then these sums: the same bits wherever the text stands in its pass."""
    tokens, d = ld(step + 8 * S_T), arg(p, M_D)
    for i in range(share(tokens, 1, t, nt), share(tokens, 1, t + 1, nt)):
        row = token_word(step, i, T_ROW)
        if row >= 0:
            words = ld(step + 8 * S_SEQUENCES) + 8 * SEQUENCE_WORDS * token_word(step, i, T_SEQUENCE)
            n, x = ld(words + 8 * Q_COUNT), base + arg(p, M_X) + 4 * d * ld(words + 8 * Q_FIRST)
            for j in range(0, d, 16):
                total = zero()
                for lane in range(min(16, n)):
                    part = zero()
                    for token in range(lane, n, 16):
                        part = add(part, load_tail(x + 4 * (token * d + j), d - j))
                    total = add(total, part)
                store_tail(base + arg(p, M_Y) + 4 * (row * d + j), div(total, splat(F(n))), d - j)


@kernel
def unfold(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """y[t, i k + j] = x[t + j - (k-1)/2, i], zero where that token is none of t's text."""
    tokens, d, k = rows_of(p, step), arg(p, U_D), arg(p, U_K)
    for i in range(share(tokens, 1, t, nt), share(tokens, 1, t + 1, nt)):
        words = ld(step + 8 * S_SEQUENCES) + 8 * SEQUENCE_WORDS * token_word(step, i, T_SEQUENCE)
        first = ld(words + 8 * Q_FIRST)
        stop = first + ld(words + 8 * Q_COUNT)
        for j in range(k):
            token, y = i + j - k // 2, base + arg(p, U_Y) + 4 * (i * d * k + j)
            if first <= token < stop:
                x = base + arg(p, U_X) + 4 * token * d
                for c in range(d):
                    stf(y + 4 * c * k, ldf(x + 4 * c))
            else:
                for c in range(d):
                    stf(y + 4 * c * k, F(0.0))


@kernel
def argmax(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """Of each row, the first of equals; -1 where one of its numbers is NaN."""
    rows, n, low = rows_of(p, step), arg(p, A_N), F(-np.inf)
    for r in range(share(rows, 1, t, nt), share(rows, 1, t + 1, nt)):
        x, top, wrong = base + arg(p, A_X) + 4 * r * n, splat(low), zero()
        for j in range(0, n, 16):
            v = load_tail(x + 4 * j, n - j)
            top, wrong = maximum(between(v, 0, n - j, low), top), nan_or(v, wrong)
        highest, i = largest(top), 0 if fold(wrong) == F(0.0) else n
        while i < n and ldf(x + 4 * i) != highest:
            i += 1
        st(ld(step + 8 * S_RESULTS) + 8 * r, i if i < n else -1)
