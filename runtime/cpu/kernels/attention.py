"""Causal grouped-query attention over the KV cache (`runtime/kvcache.py` says how it lies).

The queries of one KV head, of all tokens and of all heads of its group, are walked many at a time, so that keys and
values are read once for all of them; a few of these stand in registers together. A thread owns whole queries. Keys are
walked in blocks of sixteen aligned to absolute positions, so a query's bits do not depend on the chunk that it came in,
nor on its neighbours. Scores are kept, their maximum subtracted, then p v summed. What a window excludes is not read.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...kvcache import DIMS, KEYS, KV_BYTES, QUERIES
from ...ops import slots
from ..attention_tiles import BLOCKS, BOUND, TILE, VECTORS, fold_lanes, scores_tile, tile_folds, values_tile, within
from ..lanes import (
    absolute,
    add,
    div,
    largest,
    ld,
    ldf,
    load,
    load_tail,
    maximum,
    mul,
    splat,
    st,
    st_bf16,
    st_int8,
    stf,
    store,
    store_bf16,
    store_int8,
    store_tail,
    sub,
    zero,
)
from .base import S_START, arg, farg, kernel, rows_of, share, template
from .elementwise import exp

F = np.float32
C_K, C_V, C_XK, C_XV, C_HEADS, C_D, C_CONTEXT = slots("kv_write")
Y, SCRATCH, Q, KC, VC, HEADS, KV_HEADS, D, CONTEXT, WINDOW, SCALE = slots("attention")
VECTOR = 4 * KEYS  # bytes of sixteen floats
SUMS = 3 * VECTOR + VECTOR  # of a query, a tile's together: its sum; where its keys begin; where they end; partial sums


def _kv_write(kind: str, put: Any, put_vector: Any) -> Any:
    size, scaled = KV_BYTES[kind], kind == "int8"

    @template
    def body(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
        rows, heads, d, context = rows_of(p, step), arg(p, C_HEADS), arg(p, C_D), arg(p, C_CONTEXT)
        start, row = ld(step + 8 * S_START), (d + 15) // 16 * 16 * size
        head_bytes = context * (row + (4 if scaled else 0))
        for item in range(share(rows * heads, 1, t, nt), share(rows * heads, 1, t + 1, nt)):
            head, pos = item // rows, start + item % rows
            x = 4 * (item % rows * heads + head) * d
            k, v = base + arg(p, C_K) + head * head_bytes, base + arg(p, C_V) + head * head_bytes
            xk, xv, fk, fv = base + arg(p, C_XK) + x, base + arg(p, C_XV) + x, F(1.0), F(1.0)
            if scaled:
                fk, fv = _scale(xk, d, k + context * row + 4 * pos), _scale(xv, d, v + context * row + 4 * pos)
            k += (pos >> 4) * KEYS * row + (pos & 15) * size
            v += ((pos & 15) * (context // KEYS) + (pos >> 4)) * row
            for j in range(row // size):
                c = j & 7
                pair = (c & 1) << 2 | c & 2 | c >> 2  # PAIRS.index(c)
                at = (pair * (row // size // 8) + (j >> 4) * 2 + (j >> 3 & 1)) * KEYS
                put(k + at * size, F(ldf(xk + 4 * j) * fk) if j < d else F(0.0))
            for j in range(0, d, 16):
                put_vector(v + j * size, mul(load_tail(xv + 4 * j, d - j), splat(fv)))

    return body


@template
def _scale(x: Any, d: Any, at: Any) -> Any:
    """Write max|x| / 127; what to multiply by, its inverse, or 0 for a row of zeros."""
    top = zero()
    for j in range(0, d, 16):
        top = maximum(absolute(load_tail(x + 4 * j, d - j)), top)
    high = largest(top)
    stf(at, F(high / F(127.0)))
    return F(F(127.0) / high) if high > F(0.0) else F(0.0)


def _softmax(rows: int) -> Any:
    """Scores of a tile's queries, [group of keys][block][16 lanes], to exp(score - largest); their sums to `sums`."""
    keys, fold_rows, top_rows = tile_folds(rows)

    @template
    def body(line: Any, ldp: Any, scale: Any, bounds: Any, sums: Any) -> None:
        lows, ends, tile_low, tile_end, low, end = sums + VECTOR, sums + 2 * VECTOR, ld(bounds), 0, 0, ld(bounds + 8)
        for lane in range(KEYS):
            at = bounds + BOUND * (lane % rows)
            stf(lows + 4 * lane, F(ld(at + 16)))
            stf(ends + 4 * lane, F(ld(at + 8)))
            tile_low, tile_end = min(tile_low, ld(at)), max(tile_end, ld(at + 8))
            low, end = max(low, ld(at + 16)), min(end, ld(at + 8))
        lov, nv, top = load(lows), load(ends), splat(F(-np.inf))
        for group in range(rows):
            at, key = line + group * ldp, group * (KEYS // rows)
            for j in range(tile_low, tile_end, 16):
                s = mul(load(at + 4 * j), scale)
                if j < low or j + 16 > end:
                    s = within(s, keys(F(j + key)), lov, nv, F(-np.inf))
                store(at + 4 * j, s)
                top = maximum(top, s)
        top = top_rows(top)
        for group in range(rows):
            at, key, total = line + group * ldp, group * (KEYS // rows), zero()
            for j in range(tile_low, tile_end, 16):
                e = exp(sub(load(at + 4 * j), top))
                if j < low or j + 16 > end:
                    e = within(e, keys(F(j + key)), lov, nv, F(0.0))
                store(at + 4 * j, e)
                total = add(total, e)
            store(sums + (3 + group) * VECTOR, total)
        store(sums, fold_rows(sums + 3 * VECTOR))

    return body


def _attention(kind: str) -> Any:
    size, scaled = KV_BYTES[kind], kind == "int8"
    scores, scores_of_block = scores_tile(TILE, BLOCKS, kind), scores_tile(TILE, 1, kind)
    scores_of_one = scores_tile(1, 1, kind)
    softmax, softmax_of_one = _softmax(TILE), _softmax(1)
    values, values_of_one = values_tile(TILE, VECTORS, kind), values_tile(1, VECTORS, kind)
    vector, vector_of_one = values_tile(TILE, 1, kind), values_tile(1, 1, kind)

    @template
    def body(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
        rows, heads, kv_heads, d = rows_of(p, step), arg(p, HEADS), arg(p, KV_HEADS), arg(p, D)
        start, context, window = ld(step + 8 * S_START), arg(p, CONTEXT), arg(p, WINDOW)
        group, d_pad, scale = heads // kv_heads, (d + 15) // 16 * 16, splat(farg(p, SCALE))
        row = d_pad * size
        head_bytes, lane_bytes = context * (row + (4 if scaled else 0)), context // KEYS * row
        # this thread's scratch, for each query: scores, itself, partial results, bounds, sums
        ldp, ldq, part = 4 * context, 4 * d_pad, 4 * KEYS * DIMS
        buf = base + arg(p, SCRATCH) + t * QUERIES * (ldp + ldq + part + BOUND + SUMS)
        queries = buf + QUERIES * ldp
        parts = queries + QUERIES * ldq
        bounds = parts + QUERIES * part
        sums = bounds + QUERIES * BOUND
        each = rows * group  # queries of a KV head
        turn = QUERIES  # fewer where threads would wait for each other
        while turn > TILE and kv_heads * ((each + turn - 1) // turn) < 4 * nt:
            turn //= 2
        padded = each if rows == 1 else (each + turn - 1) // turn * turn
        i, end = share(kv_heads * padded, 1, t, nt), share(kv_heads * padded, 1, t + 1, nt)
        if rows > 1:  # later tokens see more keys: threads take turns
            i, end = t * turn, kv_heads * padded
        while i < end:
            g, f = i // padded, i % padded
            count = min(QUERIES if rows == 1 else turn, each - f, end - i)
            wide = TILE if count > 1 else 1
            tiled = (count + wide - 1) // wide * wide  # a tile's absent queries are the last one again
            kc, vc = base + arg(p, KC) + g * head_bytes, base + arg(p, VC) + g * head_bytes
            lowest, highest = context, 0
            for m in range(tiled):
                at = f + min(m, count - 1)
                n = start + at // group + 1
                lo = max(0, n - window)
                x = base + arg(p, Q) + 4 * (at // group * heads + g * group + at % group) * d
                y = queries + m // wide * wide * ldq + m % wide * VECTOR
                for j in range(0, d_pad, 16):
                    store(y + 4 * wide * j, load_tail(x + 4 * j, d - j))
                st(bounds + BOUND * m, lo & -16)
                st(bounds + BOUND * m + 8, n)
                st(bounds + BOUND * m + 16, lo)
                lowest, highest = min(lowest, lo & -16), max(highest, n)
            keys_end = kc + (highest + 15) // 16 * 16 * row
            jump = vc + lowest // KEYS * row - keys_end
            j = lowest
            while j < highest:
                k, scales, many = kc + j * row, kc + context * row + 4 * j, 1
                left = keys_end - k
                if rows > 1 and wide > 1 and j + 16 * (BLOCKS - 1) < highest:
                    many = BLOCKS
                    for m in range(0, tiled, TILE):
                        q, out = queries + m * ldq, buf + m * ldp + 4 * j
                        scores(q, k, scales, d_pad, out, ldp, left, jump, parts)
                elif wide > 1:
                    for m in range(0, tiled, TILE):
                        q, out = queries + m * ldq, buf + m * ldp + 4 * j
                        scores_of_block(q, k, scales, d_pad, out, ldp, left, jump, parts)
                else:
                    scores_of_one(queries, k, scales, d_pad, buf + 4 * j, ldp, left, jump, parts)
                j += 16 * many
            for m in range(0, tiled, wide):
                if wide > 1:
                    softmax(buf + m * ldp, ldp, scale, bounds + BOUND * m, sums + m * SUMS)
                else:
                    softmax_of_one(buf, ldp, scale, bounds, sums)
            j = 0
            while j < d_pad:
                many = VECTORS if j + 16 * VECTORS <= d_pad else 1
                stride = many * VECTOR * tiled
                for lane in range(KEYS):
                    v, scales = vc + lane * lane_bytes + j * size, vc + context * row
                    for m in range(0, tiled, wide):
                        limits = bounds + BOUND * m
                        b0, b1, b2, b3 = ld(limits) // KEYS, 0, context, 0
                        for q in range(wide):
                            first, n = ld(limits + BOUND * q), ld(limits + BOUND * q + 8)
                            b0, b1 = min(b0, first // KEYS), max(b1, first // KEYS)
                            b2, b3 = min(b2, n // KEYS), max(b3, (n + 15) // KEYS)
                        b2 = max(b1, b2)
                        w = buf + m * ldp + lane // (KEYS // wide) * ldp + lane % (KEYS // wide) * (4 * wide)
                        out = parts + lane * stride + m * many * VECTOR
                        if wide > 1:
                            if many > 1:
                                values(w, lane, v, row, lane_bytes, scales, limits, b0, b1, b2, b3, out)
                            else:
                                vector(w, lane, v, row, lane_bytes, scales, limits, b0, b1, b2, b3, out)
                        elif many > 1:
                            values_of_one(w, lane, v, row, lane_bytes, scales, limits, b0, b1, b2, b3, out)
                        else:
                            vector_of_one(w, lane, v, row, lane_bytes, scales, limits, b0, b1, b2, b3, out)
                for m in range(count):
                    at = f + m
                    y = base + arg(p, Y) + 4 * (at // group * heads + g * group + at % group) * d
                    norm = splat(ldf(sums + m // wide * wide * SUMS + 4 * (m % wide)))
                    for c in range(many):
                        k = j + 16 * c
                        a = div(fold_lanes(parts + (m * many + c) * VECTOR, stride), norm)
                        store_tail(y + 4 * k, a, d - k)
                j += 16 * many
            i += count if rows == 1 else nt * turn

    return body


_write_f32, _write_bf16 = _kv_write("f32", stf, store), _kv_write("bf16", st_bf16, store_bf16)
_write_int8 = _kv_write("int8", st_int8, store_int8)
_attention_f32, _attention_bf16, _attention_int8 = (_attention(kind) for kind in KV_BYTES)


@kernel
def kv_write_f32(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """Keys and values as they are."""
    _write_f32(p, base, step, t, nt)


@kernel
def kv_write_bf16(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """Rounded to nearest even."""
    _write_bf16(p, base, step, t, nt)


@kernel
def kv_write_int8(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """Rounded to 127ths of a key's largest number."""
    _write_int8(p, base, step, t, nt)


@kernel
def attention_f32(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """softmax(q k^T * scale) v over keys max(0, pos - window + 1) .. pos."""
    _attention_f32(p, base, step, t, nt)


@kernel
def attention_bf16(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """As attention_f32, the cache widened in registers."""
    _attention_bf16(p, base, step, t, nt)


@kernel
def attention_int8(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """As attention_f32; a key's scale multiplies its score, a value's its weight."""
    _attention_int8(p, base, step, t, nt)
