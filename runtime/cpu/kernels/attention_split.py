"""Attention of a lone token whose text is long, in three instructions, so that threads read each key and value once.

Heads that share keys are too few to share: of three KV heads each of two threads would read two. But every score is a
sum of its own, and so are the sixteen lanes of values until they are folded. So the first instruction takes scores, a
run of pages for each thread; the second, when all are done, weights and values, whole groups of lanes for each; the
third folds them. Every number is one of the walk's (`attention.py`), made in its order: the bits are the same.

What threads leave for each other lies in their scratch, taken as one: scores; values by lane of each query; for each
tile of queries the largest score of each thread, and the sums of its weights; then what a thread keeps for itself.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...kvcache import DIMS, KEYS, PAGE, QUERIES
from ...step import Q_TABLES, S_SPLIT, S_TOKENS
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
)
from ..lanes import ld, ld_i32, load, load_tail, maximum, peek, splat, st, store
from ..pairs import flush_mode, leave_flush_mode
from .attention_parts import SUMS, finish, pair_weights, whole_blocks, widest
from .attention_scores import (
    CONTEXT,
    GROUP,
    HEADS,
    KC,
    KV_HEADS,
    PAGES,
    SCALE,
    SCRATCH,
    VC,
    VECTOR,
    D,
    Q,
    seen_back,
    softmax_of,
)
from .base import arg, farg, jit, plain, sequence_words, template

F = np.float32
top, weigh, total = softmax_of(TILE, "")
top_of_one, weigh_of_one, total_of_one = softmax_of(1, "")
#: Bytes of a thread's own: a tile's sums, edges and bounds, half sums of scores.
OWN = TILE * (SUMS + BOUND) + 4 * VECTOR * TILE * BLOCKS


@template
def _tiles(p: Any, fast: Any) -> Any:
    """Heads of a group, queries of a tile, and a KV head's queries in whole tiles."""
    group = arg(p, HEADS) // arg(p, KV_HEADS)
    wide = TILE if group > 1 or fast != 0 else 1
    return group, wide, (group + wide - 1) // wide * wide


@template
def _places(p: Any, base: Any, nt: Any, fast: Any) -> Any:
    """Where scores, values, the largest scores, sums and threads' own begin, and where these end."""
    _, wide, tiled = _tiles(p, fast)
    queries, d_pad = arg(p, KV_HEADS) * tiled, (arg(p, D) + 15) // 16 * 16
    scores = base + arg(p, SCRATCH)
    values = scores + queries * 4 * arg(p, CONTEXT)
    tops = values + queries * VECTOR * d_pad
    sums = tops + queries // wide * nt * VECTOR
    own = sums + queries * VECTOR
    return scores, values, tops, sums, own, own + nt * (OWN + 4 * tiled * d_pad)


@template
def is_split(p: Any, step: Any, nt: Any, fast: Any) -> Any:
    """Whether the step asks for it, and there is room."""
    if ld(step + 8 * S_SPLIT) == 0:
        return False
    each = 4 * (arg(p, CONTEXT) + (arg(p, D) + 15) // 16 * 16 + KEYS * DIMS) + BOUND + SUMS
    return _places(p, 0, nt, fast)[5] - arg(p, SCRATCH) <= nt * QUERIES * each


@template
def _begin(p: Any, step: Any, bounds: Any, wide: Any) -> Any:
    """Write a tile's bounds: from where to where keys are seen, and the sequence's page table."""
    words, token = sequence_words(step, 0), ld(step + 8 * S_TOKENS)
    low, end = seen_back(p, words, token, 0)
    for m in range(wide):
        st(bounds + BOUND * m, low & -16)
        st(bounds + BOUND * m + 8, end)
        st(bounds + BOUND * m + 16, low)
    return low & -16, end, ld(words + 8 * Q_TABLES) + 4 * (arg(p, CONTEXT) // PAGE) * arg(p, GROUP)


@jit
def split_scores(p: Any, base: Any, step: Any, t: Any, nt: Any, size: Any, tiles: Any, fast: Any) -> None:
    """Scores of this thread's pages, those of all KV heads in a row, and the largest of each tile's."""
    group, wide, tiled = _tiles(p, fast)
    scores, _, tops, _, own, _ = _places(p, base, nt, fast)
    d, kv_heads, context, scale = arg(p, D), arg(p, KV_HEADS), arg(p, CONTEXT), splat(farg(p, SCALE))
    d_pad, ldp = (d + 15) // 16 * 16, 4 * context
    row, ldq = d_pad * size, 4 * d_pad
    page_bytes = PAGE * (row + (4 if size == 1 else 0))
    own += t * (OWN + tiled * ldq)
    sums, bounds, queries = own, own + TILE * SUMS, own + OWN
    parts = bounds + TILE * BOUND
    whole, block, one = peek(tiles + SCORES), peek(tiles + SCORES_OF_BLOCK), peek(tiles + SCORES_OF_ONE)
    lowest, end, table = _begin(p, step, bounds, wide)
    first_page, pages = lowest // PAGE, (end - 1) // PAGE - lowest // PAGE + 1
    for i in range(kv_heads * tiled // wide):
        store(tops + (i * nt + t) * VECTOR, splat(F(-np.inf)))
    item, stop = kv_heads * pages * t // nt, kv_heads * pages * (t + 1) // nt
    while item < stop:
        g, page = item // pages, first_page + item % pages
        last_page = min(first_page + pages, page + stop - item)
        item += last_page - page
        for m in range(tiled):  # a tile's absent queries are the last one again
            x = base + arg(p, Q) + 4 * (g * group + min(m, group - 1)) * d
            y = queries + m // wide * wide * ldq + m % wide * VECTOR
            for k in range(0, d_pad, 16):
                if fast != 0:
                    pair_words(y + 4 * wide * k, load_tail(x + 4 * k, d - k), load_tail(x + 4 * k + 32, d - k - 8))
                else:
                    store(y + 4 * wide * k, load_tail(x + 4 * k, d - k))
        cache, buf = base + arg(p, KC) + g * arg(p, PAGES) * page_bytes, scores + g * tiled * ldp
        begin = max(lowest, page * PAGE)
        mode = flush_mode() if fast != 0 else 0
        j = begin
        while page < last_page:
            k_page, at_end = cache + ld_i32(table + 4 * page) * page_bytes, min(end, (page + 1) * PAGE)
            keys_end = k_page + (at_end - page * PAGE + 15) // 16 * 16 * row
            jump = cache + ld_i32(table + 4 * min(page + 1, last_page - 1)) * page_bytes - keys_end
            while j < at_end:
                k, blocks, f = k_page + (j - page * PAGE) * row, 1, one
                if wide > 1:
                    f = block
                    if j + 16 * (BLOCKS - 1) < at_end:
                        f, blocks = whole, BLOCKS
                for m in range(0, tiled, wide):
                    key_scales, out = k_page + PAGE * row + 4 * (j - page * PAGE), buf + m * ldp + 4 * j
                    call_scores(f, queries + m * ldq, k, key_scales, d_pad, out, ldp, keys_end - k, jump, parts)
                j += 16 * blocks
            page += 1
        if fast != 0:
            leave_flush_mode(mode)
        for m in range(0, tiled, wide):
            if wide > 1:
                top(p, buf + m * ldp, ldp, scale, bounds, sums, begin, j)
            else:
                top_of_one(p, buf + m * ldp, ldp, scale, bounds, sums, begin, j)
            store(tops + ((g * tiled + m) // wide * nt + t) * VECTOR, load(sums))


@jit
def split_values(p: Any, base: Any, step: Any, t: Any, nt: Any, size: Any, tiles: Any, fast: Any) -> None:
    """In a split step: weights, and sums of values, of this thread's groups of lanes.

    A KV head has as many of them as a tile has queries.
    """
    if not is_split(p, step, nt, fast):
        return
    _, wide, tiled = _tiles(p, fast)
    scores, values, tops, totals, own, _ = _places(p, base, nt, fast)
    kv_heads, context, d_pad = arg(p, KV_HEADS), arg(p, CONTEXT), (arg(p, D) + 15) // 16 * 16
    row, ldp, lanes = d_pad * size, 4 * context, KEYS // wide
    page_bytes = PAGE * (row + (4 if size == 1 else 0))
    sums = own + t * (OWN + 4 * tiled * d_pad)
    bounds, edges = sums + TILE * SUMS, sums + 3 * VECTOR
    lowest, end, table = _begin(p, step, bounds, wide)
    item, stop = kv_heads * wide * t // nt, kv_heads * wide * (t + 1) // nt
    while item < stop:
        g, first = item // wide, item % wide
        last = min(wide, first + stop - item)
        item += last - first
        buf = scores + g * tiled * ldp
        for m in range(0, tiled, wide):
            tile = (g * tiled + m) // wide
            largest = load(tops + tile * nt * VECTOR)
            for other in range(1, nt):
                largest = maximum(largest, load(tops + (tile * nt + other) * VECTOR))
            store(sums, largest)
            out = totals + (g * tiled + m) * VECTOR
            if wide > 1:
                weigh(buf + m * ldp, ldp, bounds, sums, first, last, out)
            else:
                weigh_of_one(buf + m * ldp, ldp, bounds, sums, first, last, out)
            if fast != 0:
                pair_weights(buf + m * ldp, ldp, first, last, lowest, end)
        whole_blocks(bounds, wide, context, edges)
        pool, first_page = base + arg(p, VC) + g * arg(p, PAGES) * page_bytes, lowest // PAGE
        mode = flush_mode() if fast != 0 else 0
        j = 0
        while j < d_pad:
            many, functions = widest(tiles, wide, d_pad - j)
            function, out = peek(functions + VALUES), values + VECTOR * tiled * (g * d_pad + j)
            for page in range(first_page, (end - 1) // PAGE + 1):
                for m in range(0, tiled, wide):
                    call_values(function, buf + m * ldp, ldp, pool, table, page_bytes, row, j * size, bounds, edges,
                                page, page + 1, out + m * many * VECTOR, many * VECTOR * tiled,
                                int(page == first_page), first * lanes, last * lanes)  # fmt: skip
            j += 16 * many
        if fast != 0:
            leave_flush_mode(mode)


@jit
def split_folds(p: Any, base: Any, step: Any, t: Any, nt: Any, fast: Any) -> None:
    """In a split step: fold the lanes of this thread's heads, by the sum of their weights."""
    if not is_split(p, step, nt, fast):
        return
    group, wide, tiled = _tiles(p, fast)
    _, values, _, totals, own, _ = _places(p, base, nt, fast)
    heads, d_pad = arg(p, HEADS), (arg(p, D) + 15) // 16 * 16
    sums = own + t * (OWN + 4 * tiled * d_pad)
    for h in range(heads * t // nt, heads * (t + 1) // nt):
        g, i = h // group, h % group
        m = i // wide * wide
        at = totals + (g * tiled + m) * VECTOR
        store(sums, total(at) if wide > 1 else total_of_one(at))
        j = 0
        while j < d_pad:
            many, _ = widest(plain(0), wide, d_pad - j)
            out = values + VECTOR * tiled * (g * d_pad + j) + i * many * VECTOR
            finish(p, base, h, out, many * VECTOR * tiled, sums + 4 * (i - m), j, many)
            j += 16 * many
