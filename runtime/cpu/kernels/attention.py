"""Grouped-query attention over the paged KV cache (`runtime/kvcache.py` says how it lies).

The queries of one sequence and KV head, of all tokens and of all heads of its group, are walked many at a time, so that
keys and values are read once for all of them; a few of these stand in registers together. A thread owns whole queries.
Keys are walked in blocks of sixteen aligned to slots, in their order whatever pages they lie in, so a query's bits do
not depend on the chunk or batch that it came in, nor on its neighbours. Scores are kept, their maximum subtracted, then
p v summed. What a window excludes is not read.

The other kinds (`attention_variants.py`) are the same walk. `attention_biased`: between the product and the maximum its
scores are capped and a bias is added, and its windows reach to both sides of a token. `attention_relative`: before a
query's scores are scaled, a line of others is added, which are picked by distance from `head_products` of it and of the
keys with a table.
"""

from __future__ import annotations

from typing import Any

from ...kvcache import DIMS, KEYS, KV_BYTES, PAGE, QUERIES
from ...ops import FAST
from ...step import Q_COUNT, Q_ENCODER, Q_FIRST, Q_TABLES, S_N_SEQUENCES, S_TOKENS, TOKEN_WORDS
from ..attention_tiles import (
    BLOCKS,
    BOUND,
    SCORES,
    SCORES_OF_BLOCK,
    SCORES_OF_ONE,
    TILE,
    VALUES,
    call_scores,
    call_values,
    pair_words,
    tiles_of,
)
from ..lanes import ld, ld_i32, load_tail, peek, prefetch, splat, st, store
from ..pairs import flush_mode, leave_flush_mode
from .attention_parts import SUMS, finish, pair_weights, whole_blocks, widest
from .attention_scores import (
    CONTEXT,
    GROUP,
    HEADS,
    KC,
    KV_HEADS,
    PAGES,
    ROW,
    SCALE,
    SCRATCH,
    VC,
    VECTOR,
    D,
    Q,
    fill,
    plan_of,
    row_of,
    seen_around,
    seen_back,
    softmax_of,
)
from .attention_split import is_split, split_folds, split_scores, split_values
from .base import arg, farg, jit, kernel, plain, sequence_words


def attention_of(scores_kind: str = "") -> Any:
    """The walk over a cache of any dtype; `scores_kind`: see `attention_scores.py`.

    It takes the bytes of a number, `tiles` (`attention_tiles.tiles_of`), whether the keys are an encoder's text's, and
    whether sums are by pairs (FAST), which only the plain kind has.
    """
    biased, relative = scores_kind == "biased", scores_kind == "relative"
    usual = not scores_kind
    top, weigh, total = softmax_of(TILE, scores_kind)
    top_of_one, weigh_of_one, total_of_one = softmax_of(1, scores_kind)
    seen = seen_around if scores_kind else seen_back
    plan = plan_of(seen)

    @jit
    def body(p: Any, base: Any, step: Any, t: Any, nt: Any, size: Any, tiles: Any, cross: Any, fast: Any) -> None:
        scaled, table_word = size == 1, Q_ENCODER if cross != 0 else Q_TABLES
        scores, scores_of_block = peek(tiles + SCORES), peek(tiles + SCORES_OF_BLOCK)
        scores_of_one = peek(tiles + SCORES_OF_ONE)
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
        keys, turn = plan(p, step, nt, cross)
        mine, mine_end, before, turns = heads * keys * t // nt, heads * keys * (t + 1) // nt, 0, 0
        for sequence in range(ld(step + 8 * S_N_SEQUENCES)):
            words = sequence_words(step, sequence)
            first, many_tokens = tokens + 8 * TOKEN_WORDS * ld(words + 8 * Q_FIRST), ld(words + 8 * Q_COUNT) > 1
            table = ld(words + 8 * table_word) + 4 * (context // PAGE) * arg(p, GROUP)
            each = ld(words + 8 * Q_COUNT) * group  # queries of a KV head
            if many_tokens:  # later tokens see more keys: threads take turns
                padded = (each + turn - 1) // turn * turn
                i, end, stride = (t + nt - turns % nt) % nt * turn, kv_heads * padded, nt * turn
                turns += end // turn
            else:  # a run of queries for each thread, as many keys
                low, high = seen(p, words, first, cross)
                padded, stride = each, 0
                i = min(heads, max(0, mine - before) // (high - low))
                end = min(heads, max(0, mine_end - before) // (high - low))
                before += heads * (high - low)
            while i < end:
                g, f = i // padded, i % padded
                count = min(turn if many_tokens else QUERIES, each - f, end - i)
                wide = TILE if count > 1 or (usual and fast != 0) else 1
                tiled = (count + wide - 1) // wide * wide  # a tile's absent queries are the last one again
                kc, vc = base + arg(p, KC) + g * head_bytes, base + arg(p, VC) + g * head_bytes
                lowest, highest = context, 0
                token, h = f // group, f % group
                first_place = (ld(words + 8 * Q_FIRST) + token) * heads + g * group + h
                place = first_place
                for m in range(tiled):
                    text_token = first + 8 * TOKEN_WORDS * token
                    lo, n = seen(p, words, text_token, cross)
                    if biased:
                        st(bounds + BOUND * m + ROW, row_of(p, text_token, g * group + h))
                    if relative:
                        st(bounds + BOUND * m + ROW, lines + line * min(m, count - 1))
                        if m < count:
                            fill(p, base, words, text_token, g * group + h, lines + line * m)
                    x = base + arg(p, Q) + 4 * place * d
                    y = queries + m // wide * wide * ldq + m % wide * VECTOR
                    for j in range(0, d_pad, 16):
                        if usual and fast != 0:
                            half = load_tail(x + 4 * j + 32, d - j - 8)
                            pair_words(y + 4 * wide * j, load_tail(x + 4 * j, d - j), half)
                        else:
                            store(y + 4 * wide * j, load_tail(x + 4 * j, d - j))
                    st(bounds + BOUND * m, lo & -16)
                    st(bounds + BOUND * m + 8, n)
                    st(bounds + BOUND * m + 16, lo)
                    lowest, highest = min(lowest, lo & -16), max(highest, n)
                    if m + 1 < count:
                        place, h = place + 1, h + 1
                        if h == group:
                            token, place, h = token + 1, place + heads - group, 0
                mode = flush_mode() if usual and fast != 0 else 0
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
                                call_scores(scores, q, k, key_scales, d_pad, out, ldp, left, jump, parts)
                        elif wide > 1:
                            for m in range(0, tiled, TILE):
                                q, out = queries + m * ldq, buf + m * ldp + 4 * j
                                call_scores(scores_of_block, q, k, key_scales, d_pad, out, ldp, left, jump, parts)
                        else:
                            out = buf + 4 * j
                            call_scores(scores_of_one, queries, k, key_scales, d_pad, out, ldp, left, jump, parts)
                        j += 16 * blocks
                if usual and fast != 0:
                    leave_flush_mode(mode)
                for m in range(0, tiled, wide):
                    limits, edges = bounds + BOUND * m, sums + m * SUMS + VECTOR
                    at, to = buf + m * ldp, sums + m * SUMS
                    if wide > 1:
                        top(p, at, ldp, scale, limits, to, plain(0), context)
                        weigh(at, ldp, limits, to, plain(0), plain(TILE), to + 3 * VECTOR)
                        store(to, total(to + 3 * VECTOR))
                    else:
                        top_of_one(p, at, ldp, scale, limits, to, plain(0), context)
                        weigh_of_one(at, ldp, limits, to, plain(0), plain(1), to + 3 * VECTOR)
                        store(to, total_of_one(to + 3 * VECTOR))
                    whole_blocks(limits, wide, context, edges)
                    if usual and fast != 0:
                        pair_weights(at, ldp, plain(0), plain(TILE), lowest, highest)
                first_page, last_page = lowest // PAGE, (highest - 1) // PAGE
                shared = many_tokens and wide > 1  # values, by several queries
                tile_by_tile = shared and first_page == last_page  # they stay in the first cache
                j = 0
                while j < d_pad:
                    many, functions = widest(tiles, wide, d_pad - j)
                    values = peek(functions + VALUES)
                    lane_bytes = many * VECTOR * (wide if tile_by_tile else tiled)
                    mode = flush_mode() if usual and fast != 0 else 0
                    for lane in range(KEYS if shared and not tile_by_tile else 0):
                        for m in range(0, tiled, wide):
                            limits, edges = bounds + BOUND * m, sums + m * SUMS + VECTOR
                            call_values(values, buf + m * ldp, ldp, vc, table, page_bytes, row, j * size, limits,
                                        edges, first_page, last_page + 1, parts + m * many * VECTOR, lane_bytes,
                                        1, lane, lane + 1)  # fmt: skip
                    for page in range(first_page, first_page if shared else last_page + 1):
                        for m in range(0, tiled, wide):
                            limits, edges = bounds + BOUND * m, sums + m * SUMS + VECTOR
                            call_values(values, buf + m * ldp, ldp, vc, table, page_bytes, row, j * size, limits,
                                        edges, page, page + 1, parts + m * many * VECTOR, lane_bytes,
                                        int(page == first_page), 0, KEYS)  # fmt: skip
                    if usual and fast != 0:
                        leave_flush_mode(mode)
                    place, h = first_place, f % group
                    for m in range(0, tiled, wide):
                        lanes = parts + m * many * VECTOR
                        if tile_by_tile:
                            mode = flush_mode() if usual and fast != 0 else 0
                            lanes, limits, edges = parts, bounds + BOUND * m, sums + m * SUMS + VECTOR
                            call_values(values, buf + m * ldp, ldp, vc, table, page_bytes, row, j * size, limits,
                                        edges, first_page, first_page + 1, lanes, lane_bytes, 1, 0,
                                        KEYS)  # fmt: skip
                            if usual and fast != 0:
                                leave_flush_mode(mode)
                        for n in range(m, min(m + wide, count)):
                            norm = sums + m * SUMS + 4 * (n - m)
                            finish(p, base, place, lanes + (n - m) * many * VECTOR, lane_bytes, norm, j, many)
                            place, h = place + 1, h + 1
                            if h == group:
                                place, h = place + heads - group, 0
                    j += 16 * many
                i += stride if many_tokens else count

    return body


#: Of the cache's dtypes: bytes of a number, and the table of functions.
CACHES = tuple((size, tiles_of(kind)) for kind, size in KV_BYTES.items())
(F32_BYTES, tiles_f32), (BF16_BYTES, tiles_bf16), (INT8_BYTES, tiles_int8) = CACHES
tiles_fast = tiles_of(FAST)
walk = attention_of()


@jit
def attend(p: Any, base: Any, step: Any, t: Any, nt: Any, size: Any, tiles: Any, cross: Any, fast: Any) -> None:
    """The walk; or a lone token's first part of three, which threads share evenly."""
    if cross == 0 and is_split(p, step, nt, fast):
        split_scores(p, base, step, t, nt, size, tiles, fast)
    else:
        walk(p, base, step, t, nt, size, tiles, cross, fast)


@kernel
def attention_f32(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """softmax(q k^T * scale) v over the keys from max(first, last - window + 1) to last."""
    attend(p, base, step, t, nt, plain(F32_BYTES), tiles_f32(), plain(0), plain(0))


@kernel
def attention_bf16(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """As attention_f32, the cache widened in registers."""
    attend(p, base, step, t, nt, plain(BF16_BYTES), tiles_bf16(), plain(0), plain(0))


@kernel
def attention_int8(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """As attention_f32; a key's scale multiplies its score, a value's its weight."""
    attend(p, base, step, t, nt, plain(INT8_BYTES), tiles_int8(), plain(0), plain(0))


@kernel
def attention_bf16_dot(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """As attention_bf16, queries and weights rounded to BF16, sums by pairs (`pairs.py`)."""
    attend(p, base, step, t, nt, plain(BF16_BYTES), tiles_fast(), plain(0), plain(1))


@kernel
def attention_values_f32(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """The second part of a lone token's attention."""
    split_values(p, base, step, t, nt, plain(F32_BYTES), tiles_f32(), plain(0))


@kernel
def attention_values_bf16(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """As attention_values_f32, the cache widened in registers."""
    split_values(p, base, step, t, nt, plain(BF16_BYTES), tiles_bf16(), plain(0))


@kernel
def attention_values_int8(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """As attention_values_f32; a value's scale multiplies it."""
    split_values(p, base, step, t, nt, plain(INT8_BYTES), tiles_int8(), plain(0))


@kernel
def attention_values_bf16_dot(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """As attention_values_f32, weights rounded to BF16, sums by pairs."""
    split_values(p, base, step, t, nt, plain(BF16_BYTES), tiles_fast(), plain(1))


@kernel
def attention_folds(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """The third part of a lone token's attention, of a cache of any dtype."""
    split_folds(p, base, step, t, nt, plain(0))


@kernel
def attention_folds_bf16_dot(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """As attention_folds, after attention_values_bf16_dot."""
    split_folds(p, base, step, t, nt, plain(1))
