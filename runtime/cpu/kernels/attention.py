"""Grouped-query attention over the paged KV cache (`runtime/kvcache.py` says how it lies).

The queries of one sequence and KV head, of all tokens and of all heads of its group, are walked many at a time, so that
keys and values are read once for all of them; a few of these stand in registers together. A thread owns whole queries.
Keys are walked in blocks of sixteen aligned to slots, in their order whatever pages they lie in, so a query's bits do
not depend on the chunk or batch that it came in, nor on its neighbours. Scores are kept, their maximum subtracted, then
p v summed. What a window excludes is not read.

`attention_biased` is the same walk; between the product and the maximum its scores are capped and a bias is added, and
its windows reach to both sides of a token. `attention_relative` is it too: before a query's scores are scaled, a line
of others is added, which are picked by distance from `head_products` of it and of the keys with a table.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...kvcache import DIMS, KEYS, KV_BYTES, PAGE, QUERIES
from ...ops import slots
from ...step import (
    Q_COUNT,
    Q_ENCODED,
    Q_ENCODER,
    Q_FIRST,
    Q_TABLES,
    S_N_SEQUENCES,
    S_SEQUENCES,
    S_TOKENS,
    SEQUENCE_WORDS,
    T_FIRST,
    T_LAST,
    T_SEQUENCE,
    T_SLOT,
    TOKEN_WORDS,
)
from ..attention_tiles import (
    BLOCKS,
    BOUND,
    TILE,
    VECTORS,
    bias_tile,
    fold_lanes,
    scores_tile,
    tile_folds,
    values_tiles,
    within,
)
from ..lanes import (
    absolute,
    add,
    div,
    larger_size,
    largest_size,
    ld,
    ld_i32,
    ldf,
    load,
    load_tail,
    maximum,
    mul,
    prefetch,
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
from ..target import tile_shape
from ..tiles import product_tile
from .base import arg, farg, kernel, rows_of, share, template, token_word
from .elementwise import exp, tanh

F = np.float32
C_K, C_V, C_XK, C_XV, C_HEADS, C_D, C_CONTEXT, C_PAGES, C_GROUP = slots("kv_write")
Y, SCRATCH, Q, KC, VC, HEADS, KV_HEADS, D, CONTEXT, PAGES, GROUP, WINDOW, SCALE = slots("attention")
CAP, TABLE, LENGTH, BEFORE, BY_KEY = slots("attention_biased")[len(slots("attention")) :]
C2P, P2C, ROWS, ROWS_BEFORE, N_ROWS = slots("attention_relative")[len(slots("attention")) :]
P_Y, P_X, P_TABLE, P_HEADS, P_D, P_N = slots("head_products")
TALL, WIDE = tile_shape()
VECTOR = 4 * KEYS  # bytes of sixteen floats
HALF = VECTORS // 2
ROW = 24  # where among a query's bounds the address of its line of biases lies
SUMS = 3 * VECTOR + VECTOR  # of a query, a tile's together: its sum; where its keys begin; where they end; partial sums


@template
def _sequence(step: Any, q: Any) -> Any:
    """Address of a sequence's words."""
    return ld(step + 8 * S_SEQUENCES) + 8 * SEQUENCE_WORDS * q


def _kv_write(kind: str, put: Any, put_vector: Any, *, cross: bool = False) -> Any:
    size, scaled, table_word = KV_BYTES[kind], kind == "int8", Q_ENCODER if cross else Q_TABLES

    @template
    def body(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
        rows, heads, d = rows_of(p, step), arg(p, C_HEADS), arg(p, C_D)
        row = (d + 15) // 16 * 16 * size
        page_bytes, group = PAGE * (row + (4 if scaled else 0)), 4 * (arg(p, C_CONTEXT) // PAGE) * arg(p, C_GROUP)
        for item in range(share(rows * heads, 1, t, nt), share(rows * heads, 1, t + 1, nt)):
            head, r = item // rows, item % rows
            first = token_word(step, r, T_FIRST) if cross else 0  # of its text: its pages there are its own
            slot, x = token_word(step, r, T_SLOT) - first, 4 * (r * heads + head) * d
            table = ld(_sequence(step, token_word(step, r, T_SEQUENCE)) + 8 * table_word) + group
            page = (head * arg(p, C_PAGES) + ld_i32(table + 4 * (slot // PAGE))) * page_bytes
            k, v, key = base + arg(p, C_K) + page, base + arg(p, C_V) + page, slot % PAGE
            xk, xv, fk, fv = base + arg(p, C_XK) + x, base + arg(p, C_XV) + x, F(1.0), F(1.0)
            if scaled:
                fk, fv = _scale(xk, d, k + PAGE * row + 4 * key), _scale(xv, d, v + PAGE * row + 4 * key)
            k += key // KEYS * KEYS * row + key % KEYS * size
            v += (key % KEYS * (PAGE // KEYS) + key // KEYS) * row
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
    """Write max|x| / 127; what to multiply by, its inverse, or 0 for a row of zeros.

    NaN is written where one of x is NaN or infinite: a byte cannot say so.
    """
    top = zero()
    for j in range(0, d, 16):
        top = larger_size(absolute(load_tail(x + 4 * j, d - j)), top)
    high = largest_size(top)
    stf(at, F(F(high / F(127.0)) + F(high - high)))
    return F(F(127.0) / high) if high > F(0.0) else F(0.0)


def _final(rows: int, kind: str) -> Any:
    """What becomes of scores before the softmax: scaled; if "biased", then capped, then the bias added.

    If "relative": first the query's line of other scores is added.
    """
    biases = bias_tile(rows)

    @template
    def together(p: Any, s: Any, scale: Any, bounds: Any, key: Any) -> Any:
        return mul(add(s, biases(bounds + ROW, key)), scale)

    @template
    def scaled(p: Any, s: Any, scale: Any, bounds: Any, key: Any) -> Any:
        return mul(s, scale)

    @template
    def adjusted(p: Any, s: Any, scale: Any, bounds: Any, key: Any) -> Any:
        s, cap = mul(s, scale), farg(p, CAP)
        if cap > F(0.0):
            s = mul(splat(cap), tanh(div(s, splat(cap))))
        if arg(p, TABLE) != 0:
            s = add(s, biases(bounds + ROW, key))
        return s

    return {"": scaled, "biased": adjusted, "relative": together}[kind]


def _softmax(rows: int, kind: str) -> Any:
    """Scores of a tile's queries, [group of keys][block][16 lanes], to exp(score - largest); their sums to `sums`."""
    keys, fold_rows, top_rows = tile_folds(rows)
    final = _final(rows, kind)

    @template
    def body(p: Any, line: Any, ldp: Any, scale: Any, bounds: Any, sums: Any) -> None:
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
                s = final(p, load(at + 4 * j), scale, bounds, j + key)
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


@template
def _seen(p: Any, words: Any, token: Any) -> Any:
    """The first slot that a token sees through the layer's window, and the one after the last."""
    end = ld(token + 8 * T_LAST) + 1
    return max(ld(token + 8 * T_FIRST), end - arg(p, WINDOW)), end


@template
def _encoded(p: Any, words: Any, token: Any) -> Any:
    """All of the encoder's text."""
    return 0, ld(words + 8 * Q_ENCODED)


@template
def _seen_around(p: Any, words: Any, token: Any) -> Any:
    """As `_seen`, of a window on both sides."""
    slot, window = ld(token + 8 * T_SLOT), arg(p, WINDOW)
    return max(ld(token + 8 * T_FIRST), slot - window + 1), min(ld(token + 8 * T_LAST) + 1, slot + window)


@template
def _row(p: Any, token: Any, head: Any) -> Any:
    """Where the bias of a query's scores at slot 0 would lie."""
    origin = ld(token + 8 * T_FIRST) if arg(p, BY_KEY) != 0 else ld(token + 8 * T_SLOT)
    return arg(p, TABLE) + 4 * (head * arg(p, LENGTH) + arg(p, BEFORE) - origin)


def _plan_of(seen: Any) -> Any:
    """How threads divide a batch: keys that lone tokens see, a head each; and queries of a turn of the others."""

    @template
    def plan(p: Any, step: Any, nt: Any) -> Any:
        kv_heads, heads, tokens = arg(p, KV_HEADS), arg(p, HEADS), ld(step + 8 * S_TOKENS)
        keys, turn, more = 0, QUERIES, True
        for q in range(ld(step + 8 * S_N_SEQUENCES)):
            words = _sequence(step, q)
            if ld(words + 8 * Q_COUNT) == 1:
                low, end = seen(p, words, tokens + 8 * TOKEN_WORDS * ld(words + 8 * Q_FIRST))
                keys += end - low
        while turn > TILE and more:  # fewer where threads would wait for each other
            tiles = 0
            for q in range(ld(step + 8 * S_N_SEQUENCES)):
                n = ld(_sequence(step, q) + 8 * Q_COUNT)
                tiles += (n * (heads // kv_heads) + turn - 1) // turn if n > 1 else 0
            more = 0 < kv_heads * tiles < 4 * nt
            turn = turn // 2 if more else turn
        return keys, turn

    return plan


@template
def _fill(p: Any, base: Any, words: Any, token: Any, head: Any, line: Any) -> Any:
    """The scores of a query by distance, those of its text's first key at its slot in `line`."""
    heads, kv_heads, n = arg(p, HEADS), arg(p, KV_HEADS), arg(p, N_ROWS)
    tokens, at = ld(words + 8 * Q_FIRST), arg(p, ROWS) + 4 * arg(p, ROWS_BEFORE)
    slot, low, end = ld(token + 8 * T_SLOT), ld(token + 8 * T_FIRST), ld(token + 8 * T_LAST) + 1
    query = ((tokens + slot - low) * heads + head) * n
    key, step = (tokens * kv_heads + head // (heads // kv_heads)) * n, kv_heads * n
    both, of_query, of_key = arg(p, C2P) >= 0 and arg(p, P2C) >= 0, base + arg(p, C2P), base + arg(p, P2C)
    for j in range(low, end):
        row = ld_i32(at + 4 * (slot - j))
        if both:
            s = F(ldf(of_query + 4 * (query + row)) + ldf(of_key + 4 * (key + (j - low) * step + row)))
        elif arg(p, C2P) >= 0:
            s = ldf(of_query + 4 * (query + row))
        elif arg(p, P2C) >= 0:
            s = ldf(of_key + 4 * (key + (j - low) * step + row))
        else:
            s = F(0.0)
        stf(line + 4 * j, s)


def _attention(kind: str, *, scores_kind: str = "", cross: bool = False) -> Any:
    size, scaled, table_word = KV_BYTES[kind], kind == "int8", Q_ENCODER if cross else Q_TABLES
    biased, relative = scores_kind == "biased", scores_kind == "relative"
    scores, scores_of_block = scores_tile(TILE, BLOCKS, kind), scores_tile(TILE, 1, kind)
    scores_of_one = scores_tile(1, 1, kind)
    softmax, softmax_of_one = _softmax(TILE, scores_kind), _softmax(1, scores_kind)
    seen = _encoded if cross else _seen_around if scores_kind else _seen
    plan = _plan_of(seen)
    values, values_of_lane = values_tiles(TILE, VECTORS, kind)
    values_of_one, values_of_one_lane = values_tiles(1, VECTORS, kind)
    half, half_of_lane = values_tiles(TILE, HALF, kind)  # heads of 32 dimensions
    half_of_one, half_of_one_lane = values_tiles(1, HALF, kind)
    vector, vector_of_lane = values_tiles(TILE, 1, kind)
    vector_of_one, vector_of_one_lane = values_tiles(1, 1, kind)

    @template
    def body(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
        heads, kv_heads, d = arg(p, HEADS), arg(p, KV_HEADS), arg(p, D)
        context, tokens = arg(p, CONTEXT), ld(step + 8 * S_TOKENS)
        group, d_pad, scale = heads // kv_heads, (d + 15) // 16 * 16, splat(farg(p, SCALE))
        row = d_pad * size
        page_bytes = PAGE * (row + (4 if scaled else 0))
        head_bytes = arg(p, PAGES) * page_bytes
        # this thread's scratch, for each query: scores, itself, partial results, bounds, sums
        ldp, ldq, part = 4 * context, 4 * d_pad, 4 * KEYS * DIMS
        line = ldp if relative else 0  # and scores by distance
        buf = base + arg(p, SCRATCH) + t * QUERIES * (ldp + ldq + part + BOUND + SUMS + line)
        queries = buf + QUERIES * ldp
        parts = queries + QUERIES * ldq
        bounds = parts + QUERIES * part
        sums = bounds + QUERIES * BOUND
        lines = sums + QUERIES * SUMS
        keys, turn = plan(p, step, nt)
        mine, mine_end, before, tiles = heads * keys * t // nt, heads * keys * (t + 1) // nt, 0, 0
        for sequence in range(ld(step + 8 * S_N_SEQUENCES)):
            words = _sequence(step, sequence)
            first, many_tokens = tokens + 8 * TOKEN_WORDS * ld(words + 8 * Q_FIRST), ld(words + 8 * Q_COUNT) > 1
            table = ld(words + 8 * table_word) + 4 * (context // PAGE) * arg(p, GROUP)
            each = ld(words + 8 * Q_COUNT) * group  # queries of a KV head
            if many_tokens:  # later tokens see more keys: threads take turns
                padded = (each + turn - 1) // turn * turn
                i, end, stride = (t + nt - tiles % nt) % nt * turn, kv_heads * padded, nt * turn
                tiles += end // turn
            else:  # a run of queries for each thread, as many keys
                low, high = seen(p, words, first)
                padded, stride = each, 0
                i = min(heads, max(0, mine - before) // (high - low))
                end = min(heads, max(0, mine_end - before) // (high - low))
                before += heads * (high - low)
            while i < end:
                g, f = i // padded, i % padded
                count = min(turn if many_tokens else QUERIES, each - f, end - i)
                wide = TILE if count > 1 else 1
                tiled = (count + wide - 1) // wide * wide  # a tile's absent queries are the last one again
                kc, vc = base + arg(p, KC) + g * head_bytes, base + arg(p, VC) + g * head_bytes
                lowest, highest = context, 0
                for m in range(tiled):
                    at = f + min(m, count - 1)
                    token = at // group
                    lo, n = seen(p, words, first + 8 * TOKEN_WORDS * token)
                    if biased:
                        row_at = _row(p, first + 8 * TOKEN_WORDS * token, g * group + at % group)
                        st(bounds + BOUND * m + ROW, row_at)
                    if relative:
                        st(bounds + BOUND * m + ROW, lines + line * min(m, count - 1))
                        if m < count:
                            _fill(p, base, words, first + 8 * TOKEN_WORDS * token, g * group + at % group,
                                  lines + line * m)  # fmt: skip
                    token += ld(words + 8 * Q_FIRST)
                    x = base + arg(p, Q) + 4 * (token * heads + g * group + at % group) * d
                    y = queries + m // wide * wide * ldq + m % wide * VECTOR
                    for j in range(0, d_pad, 16):
                        store(y + 4 * wide * j, load_tail(x + 4 * j, d - j))
                    st(bounds + BOUND * m, lo & -16)
                    st(bounds + BOUND * m + 8, n)
                    st(bounds + BOUND * m + 16, lo)
                    lowest, highest = min(lowest, lo & -16), max(highest, n)
                j = lowest
                while j < highest:
                    page, at_end = j // PAGE, min(highest, (j // PAGE + 1) * PAGE)
                    k_page = kc + ld_i32(table + 4 * page) * page_bytes
                    scales, keys_end = k_page + PAGE * row, k_page + (at_end - page * PAGE + 15) // 16 * 16 * row
                    if at_end < highest:
                        jump = kc + ld_i32(table + 4 * (page + 1)) * page_bytes
                        if scaled:
                            for at in range(0, 4 * PAGE, 64):
                                prefetch(jump + PAGE * row + at)
                        jump -= keys_end
                    else:
                        jump = vc + ld_i32(table + 4 * (lowest // PAGE)) * page_bytes - keys_end
                    while j < at_end:
                        k, blocks = k_page + (j - page * PAGE) * row, 1
                        key_scales, left = scales + 4 * (j - page * PAGE), keys_end - k
                        if many_tokens and wide > 1 and j + 16 * (BLOCKS - 1) < at_end:
                            blocks = BLOCKS
                            for m in range(0, tiled, TILE):
                                q, out = queries + m * ldq, buf + m * ldp + 4 * j
                                scores(q, k, key_scales, d_pad, out, ldp, left, jump, parts)
                        elif wide > 1:
                            for m in range(0, tiled, TILE):
                                q, out = queries + m * ldq, buf + m * ldp + 4 * j
                                scores_of_block(q, k, key_scales, d_pad, out, ldp, left, jump, parts)
                        else:
                            scores_of_one(queries, k, key_scales, d_pad, buf + 4 * j, ldp, left, jump, parts)
                        j += 16 * blocks
                for m in range(0, tiled, wide):
                    limits, edges = bounds + BOUND * m, sums + m * SUMS + VECTOR
                    if wide > 1:
                        softmax(p, buf + m * ldp, ldp, scale, limits, sums + m * SUMS)
                    else:
                        softmax_of_one(p, buf, ldp, scale, limits, sums)
                    b0, b1, b2, b3 = context, 0, context, 0
                    for q in range(wide):
                        low, n = ld(limits + BOUND * q + 16), ld(limits + BOUND * q + 8)
                        b0, b1 = min(b0, low // KEYS), max(b1, (low + 15) // KEYS)
                        b2, b3 = min(b2, n // KEYS), max(b3, (n + 15) // KEYS)
                    st(edges, b0)
                    st(edges + 8, b1)
                    st(edges + 16, max(b1, b2))
                    st(edges + 24, b3)
                j = 0
                while j < d_pad:
                    many = VECTORS if j + 16 * VECTORS <= d_pad else HALF if j + 16 * HALF <= d_pad else 1
                    lane_bytes = many * VECTOR * tiled
                    if many_tokens:
                        for lane in range(KEYS):
                            for m in range(0, tiled, wide):
                                w, out = buf + m * ldp, parts + m * many * VECTOR
                                limits, edges = bounds + BOUND * m, sums + m * SUMS + VECTOR
                                if wide > 1:
                                    if many == HALF and HALF > 1:
                                        half_of_lane(w, ldp, vc, table, page_bytes, row, j * size, limits, edges,
                                                     lane, out, lane_bytes)  # fmt: skip
                                    elif many > 1:
                                        values_of_lane(w, ldp, vc, table, page_bytes, row, j * size, limits, edges,
                                                       lane, out, lane_bytes)  # fmt: skip
                                    else:
                                        vector_of_lane(w, ldp, vc, table, page_bytes, row, j * size, limits, edges,
                                                       lane, out, lane_bytes)  # fmt: skip
                                elif many == HALF and HALF > 1:
                                    half_of_one_lane(w, ldp, vc, table, page_bytes, row, j * size, limits, edges,
                                                     lane, out, lane_bytes)  # fmt: skip
                                elif many > 1:
                                    values_of_one_lane(w, ldp, vc, table, page_bytes, row, j * size, limits, edges,
                                                       lane, out, lane_bytes)  # fmt: skip
                                else:
                                    vector_of_one_lane(w, ldp, vc, table, page_bytes, row, j * size, limits, edges,
                                                       lane, out, lane_bytes)  # fmt: skip
                    else:
                        for at in range(0, KEYS * lane_bytes, VECTOR):
                            store(parts + at, zero())
                        for page in range(lowest // PAGE, (highest + PAGE - 1) // PAGE):
                            for m in range(0, tiled, wide):
                                w, out = buf + m * ldp, parts + m * many * VECTOR
                                limits, edges = bounds + BOUND * m, sums + m * SUMS + VECTOR
                                if wide > 1:
                                    if many == HALF and HALF > 1:
                                        half(w, ldp, vc, table, page_bytes, row, j * size, limits, edges, page, out,
                                             lane_bytes)  # fmt: skip
                                    elif many > 1:
                                        values(w, ldp, vc, table, page_bytes, row, j * size, limits, edges, page, out,
                                               lane_bytes)  # fmt: skip
                                    else:
                                        vector(w, ldp, vc, table, page_bytes, row, j * size, limits, edges, page, out,
                                               lane_bytes)  # fmt: skip
                                elif many == HALF and HALF > 1:
                                    half_of_one(w, ldp, vc, table, page_bytes, row, j * size, limits, edges, page,
                                                out, lane_bytes)  # fmt: skip
                                elif many > 1:
                                    values_of_one(w, ldp, vc, table, page_bytes, row, j * size, limits, edges, page,
                                                  out, lane_bytes)  # fmt: skip
                                else:
                                    vector_of_one(w, ldp, vc, table, page_bytes, row, j * size, limits, edges, page,
                                                  out, lane_bytes)  # fmt: skip
                    for m in range(count):
                        at = f + m
                        token = ld(words + 8 * Q_FIRST) + at // group
                        y = base + arg(p, Y) + 4 * (token * heads + g * group + at % group) * d
                        norm = splat(ldf(sums + m // wide * wide * SUMS + 4 * (m % wide)))
                        for c in range(many):
                            k = j + 16 * c
                            a = div(fold_lanes(parts + (m * many + c) * VECTOR, lane_bytes), norm)
                            store_tail(y + 4 * k, a, d - k)
                    j += 16 * many
                i += stride if many_tokens else count

    return body


_write_f32, _write_bf16 = _kv_write("f32", stf, store), _kv_write("bf16", st_bf16, store_bf16)
_write_int8 = _kv_write("int8", st_int8, store_int8)
_attention_f32, _attention_bf16, _attention_int8 = (_attention(kind) for kind in KV_BYTES)
_biased_f32, _biased_bf16, _biased_int8 = (_attention(kind, scores_kind="biased") for kind in KV_BYTES)
_relative_f32, _relative_bf16, _relative_int8 = (_attention(kind, scores_kind="relative") for kind in KV_BYTES)
_product = product_tile(TALL, WIDE, "f32", packed=False)
_cross_write_f32, _cross_write_bf16, _cross_write_int8 = (
    _kv_write(kind, put, put_vector, cross=True)
    for kind, put, put_vector in (("f32", stf, store), ("bf16", st_bf16, store_bf16), ("int8", st_int8, store_int8))
)
_cross_f32, _cross_bf16, _cross_int8 = (_attention(kind, cross=True) for kind in KV_BYTES)


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
    """softmax(q k^T * scale) v over the keys from max(first, last - window + 1) to last."""
    _attention_f32(p, base, step, t, nt)


@kernel
def attention_bf16(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """As attention_f32, the cache widened in registers."""
    _attention_bf16(p, base, step, t, nt)


@kernel
def attention_int8(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """As attention_f32; a key's scale multiplies its score, a value's its weight."""
    _attention_int8(p, base, step, t, nt)


@kernel
def attention_biased_f32(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """softmax(cap(q k^T * scale) + bias) v over the keys nearer than the window, from first to last."""
    _biased_f32(p, base, step, t, nt)


@kernel
def attention_biased_bf16(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """As attention_biased_f32, the cache widened in registers."""
    _biased_bf16(p, base, step, t, nt)


@kernel
def attention_biased_int8(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """As attention_biased_f32; a key's scale multiplies its score, a value's its weight."""
    _biased_int8(p, base, step, t, nt)


@kernel
def head_products(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """A head's rows of the table stay in the first cache while all tokens pass."""
    rows, heads, d, n = rows_of(p, step), arg(p, P_HEADS), arg(p, P_D), arg(p, P_N)
    ld_x, ld_y, each = 4 * heads * d, 4 * heads * n, (n + TALL - 1) // TALL
    for item in range(share(heads * each, 1, t, nt), share(heads * each, 1, t + 1, nt)):
        head, i = item // each, item % each * TALL
        w, x = base + arg(p, P_TABLE) + i * ld_x + 4 * head * d, base + arg(p, P_X) + 4 * head * d
        y = base + arg(p, P_Y) + 4 * (head * n + i)
        for m in range(0, rows, WIDE):
            _product(w, ld_x, n - i, x + m * ld_x, ld_x, rows - m, d, y + m * ld_y, ld_y, 0, 3, 0, 0)


@kernel
def attention_relative_f32(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """softmax((q k^T + c2p + p2c) * scale) v over the keys of a text that came whole."""
    _relative_f32(p, base, step, t, nt)


@kernel
def attention_relative_bf16(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """As attention_relative_f32, the cache widened in registers."""
    _relative_bf16(p, base, step, t, nt)


@kernel
def attention_relative_int8(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """As attention_relative_f32; a key's scale multiplies its score, a value's its weight."""
    _relative_int8(p, base, step, t, nt)


@kernel
def cross_write_f32(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """As kv_write_f32, into the pages of the encoder's text, by its place there."""
    _cross_write_f32(p, base, step, t, nt)


@kernel
def cross_write_bf16(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """As kv_write_bf16, into the pages of the encoder's text, by its place there."""
    _cross_write_bf16(p, base, step, t, nt)


@kernel
def cross_write_int8(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """As kv_write_int8, into the pages of the encoder's text, by its place there."""
    _cross_write_int8(p, base, step, t, nt)


@kernel
def cross_attention_f32(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """As attention_f32, over every key of the encoder's text."""
    _cross_f32(p, base, step, t, nt)


@kernel
def cross_attention_bf16(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """As attention_bf16, over every key of the encoder's text."""
    _cross_bf16(p, base, step, t, nt)


@kernel
def cross_attention_int8(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """As attention_int8, over every key of the encoder's text."""
    _cross_int8(p, base, step, t, nt)
