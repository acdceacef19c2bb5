"""What is written to the paged KV cache (`runtime/kvcache.py` says how it lies): rows of keys and of values.

A key's numbers lie far apart there. Where a step has all sixteen tokens of a block, their keys are turned in registers
and written as whole vectors; a token alone writes its own one by one.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...kvcache import KEYS, KV_BYTES, PAGE
from ...ops import slots
from ...step import Q_ENCODER, Q_TABLES, T_FIRST, T_SEQUENCE, T_SLOT
from ..lanes import (
    absolute,
    larger_size,
    largest_size,
    ld,
    ld_i32,
    ldf,
    load,
    load_tail,
    mul,
    splat,
    st_bf16,
    st_int8,
    stf,
    store,
    store_bf16,
    store_int8,
    zero,
)
from ..rounding import turn_keys
from .base import arg, jit, kernel, plain, rows_of, sequence_words, share, template, token_word

F = np.float32
C_K, C_V, C_XK, C_XV, C_HEADS, C_D, C_CONTEXT, C_PAGES, C_GROUP = slots("kv_write")


def _kv_write(kind: str, put: Any, put_vector: Any) -> Any:
    """The body of a dtype's two kernels; `cross` is not 0 of an encoder's text: its pages have places of its own."""
    size, scaled = KV_BYTES[kind], kind == "int8"
    turn = turn_keys("f32" if scaled else kind)  # a key with a scale of its own is written alone

    @template  # a key and its value: k and v are where they begin, `scales` where the scales of both go
    def one(xk: Any, xv: Any, d: Any, k: Any, v: Any, scales: Any) -> None:
        row = (d + 15) // 16 * 16 * size
        fk, fv = F(1.0), F(1.0)
        if scaled:
            fk, fv = _scale(xk, d, scales[0]), _scale(xv, d, scales[1])
        for j in range(row // size):
            c = j & 7
            pair = (c & 1) << 2 | c & 2 | c >> 2  # PAIRS.index(c)
            at = (pair * (row // size // 8) + (j >> 4) * 2 + (j >> 3 & 1)) * KEYS
            put(k + at * size, F(ldf(xk + 4 * j) * fk) if j < d else F(0.0))
        for j in range(0, d, 16):
            put_vector(v + j * size, mul(load_tail(xv + 4 * j, d - j), splat(fv)))

    @template  # of tokens `ldx` bytes apart; d is whole vectors
    def block(xk: Any, xv: Any, ldx: Any, d: Any, k: Any, v: Any) -> None:
        place = d * KEYS * size // 8
        for j in range(0, d, 16):
            turn(xk + 4 * j, ldx, k + j * 2 * size, place)
        for key in range(KEYS):
            for j in range(0, d, 16):
                put_vector(v + (key * (PAGE // KEYS) * d + j) * size, load(xv + key * ldx + 4 * j))

    @jit
    def body(p: Any, base: Any, step: Any, t: Any, nt: Any, cross: Any) -> None:
        rows, heads, d = rows_of(p, step), arg(p, C_HEADS), arg(p, C_D)
        table_word = Q_ENCODER if cross != 0 else Q_TABLES
        row = (d + 15) // 16 * 16 * size
        page_bytes, group = PAGE * (row + (4 if scaled else 0)), 4 * (arg(p, C_CONTEXT) // PAGE) * arg(p, C_GROUP)
        item, end = share(rows * heads, KEYS, t, nt), share(rows * heads, KEYS, t + 1, nt)
        while item < end:
            head, r = item // rows, item % rows
            first = token_word(step, r, T_FIRST) if cross != 0 else 0
            sequence = token_word(step, r, T_SEQUENCE)
            slot, x = token_word(step, r, T_SLOT) - first, 4 * (r * heads + head) * d
            table = ld(sequence_words(step, sequence) + 8 * table_word) + group
            page = (head * arg(p, C_PAGES) + ld_i32(table + 4 * (slot // PAGE))) * page_bytes
            k, v, key = base + arg(p, C_K) + page, base + arg(p, C_V) + page, slot % PAGE
            xk, xv, scale = base + arg(p, C_XK) + x, base + arg(p, C_XV) + x, PAGE * row + 4 * key
            scales = k + scale, v + scale
            k += key // KEYS * KEYS * row + key % KEYS * size
            v += (key % KEYS * (PAGE // KEYS) + key // KEYS) * row
            left = min(rows - r, end - item)
            if not scaled and d % KEYS == 0 and key % KEYS == 0 and left >= KEYS and _follow(step, r, sequence):
                block(xk, xv, 4 * heads * d, d, k, v)
                item += KEYS
            else:
                one(xk, xv, d, k, v, scales)
                item += 1

    return body


@template
def _follow(step: Any, r: Any, sequence: Any) -> Any:
    """Whether tokens r to r + 15 are neighbours in this sequence."""
    last = r + KEYS - 1
    same = token_word(step, last, T_SEQUENCE) == sequence
    return same and token_word(step, last, T_SLOT) - token_word(step, r, T_SLOT) == KEYS - 1


@template
def _scale(x: Any, d: Any, at: Any) -> Any:
    """Write max|x| / 127; what to multiply by, its inverse, or 0 for a row of zeros.

    NaN is written where one of x is NaN or infinite: a byte cannot say so.
    """
    top = zero()
    for j in range(0, d, 16):
        top = larger_size(absolute(load_tail(x + 4 * j, d - j)), top)
    high = largest_size(top)
    stf(at, F(F(high / F(127.0)) + F(high - high)))
    return F(F(127.0) / high) if high > F(0.0) else F(0.0)


_write_f32, _write_bf16 = _kv_write("f32", stf, store), _kv_write("bf16", st_bf16, store_bf16)
_write_int8 = _kv_write("int8", st_int8, store_int8)


@kernel
def kv_write_f32(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """Keys and values as they are."""
    _write_f32(p, base, step, t, nt, plain(0))


@kernel
def kv_write_bf16(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """Rounded to nearest even."""
    _write_bf16(p, base, step, t, nt, plain(0))


@kernel
def kv_write_int8(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """Rounded to 127ths of a key's largest number."""
    _write_int8(p, base, step, t, nt, plain(0))


@kernel
def cross_write_f32(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """As kv_write_f32, into the pages of the encoder's text, by its place there."""
    _write_f32(p, base, step, t, nt, plain(1))


@kernel
def cross_write_bf16(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """As kv_write_bf16, into the pages of the encoder's text, by its place there."""
    _write_bf16(p, base, step, t, nt, plain(1))


@kernel
def cross_write_int8(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """As kv_write_int8, into the pages of the encoder's text, by its place there."""
    _write_int8(p, base, step, t, nt, plain(1))
