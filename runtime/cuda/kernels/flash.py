"""Attention of many tokens by the tensor core (FlashAttention-2, Dao 2023, arXiv:2307.08691), in fast programs.

A block takes 64 queries of one KV head, sixteen for each warp: the heads of its group, token after token, so that a key
is brought once for all of them. Keys come 64 at a time from absolute positions, the next ones while these are
multiplied. Both products sum in float32; queries, weights of the softmax, and keys and values of a float32 cache are
rounded to bfloat16 (int8 numbers are bfloat16 exactly; their scales multiply scores and weights). The softmax is kept
up in registers, in powers of two.

A tile's products take every value times a weight, and 0 times a value that is NaN or infinite is NaN. So where some
query sees only a part of a tile, such values are made 0, and the weights of their keys NaN for who sees them (`guard`).
An int8 cache says so in its scales alone.

Registers have no number that is not known when a kernel is compiled, so there is one for each width of a head; what is
absent is zeros. Rows of shared memory lie an odd number of 16 bytes apart: the eight of a matrix are in banks of their
own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ...kvcache import KV_BYTES, padded
from ..primitives import (
    WARP,
    barrier,
    bits,
    block,
    blocks,
    copies_close,
    copies_wait,
    copy16,
    fma,
    from_bits,
    high_bf16,
    ld4_f32,
    ld4_u32,
    ld_f32,
    ld_i64,
    ld_matrix4,
    low_bf16,
    mma_bf16,
    registers,
    rolled,
    sld_f32,
    sld_i32,
    sst_f32,
    sst_i32,
    st_f32,
    thread,
)
from ..step import S_START, S_TOKENS, T_FIRST, T_LAST, TOKEN_WORDS
from ..tensor import divided, exp2, larger, ld_matrix4_t, pack_bf16, quad_max, quad_sum, sst4_i32
from .base import F, Kernel, always, ceil, fields_of, lane, rows_of, special

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

THREADS, WARPS = 128, 4
QUERIES, KEYS = 16 * WARPS, 64  # of a block, and of a step
#: Widths of heads that have a kernel: every head up to the last goes to the first that holds it.
WIDTHS = (64, 128)
#: Rows that are worth it.
LEAST_ROWS = 16
LOG2E = float(np.log2(np.e))


# ---------------------------------------------------------------------------------------------- keys to shared memory
def _bring_bf16(to: Any, cache: Any, first: Any, count: Any, d_pad: Any, wide: Any) -> None:
    """Begin to copy keys `first` and on; those from `count` on are zeros, and so are columns from d_pad on."""
    row, chunks = 2 * wide + 16, wide // 8
    for i in range(KEYS * chunks // THREADS):
        r, c = (thread() + i * THREADS) // chunks, thread() % chunks
        there = r < count and 8 * c < d_pad
        copy16(to + r * row + 16 * c, cache + (2 * ((first + r) * d_pad + 8 * c) if there else 0), 16 if there else 0)


def _bring_f32(to: Any, cache: Any, first: Any, count: Any, d_pad: Any, wide: Any) -> None:
    """The same, eight numbers at a time, rounded."""
    row, chunks = 2 * wide + 16, wide // 8
    for i in range(KEYS * chunks // THREADS):
        r, c = (thread() + i * THREADS) // chunks, thread() % chunks
        at = to + r * row + 16 * c
        if r < count and 8 * c < d_pad:
            source = cache + 4 * ((first + r) * d_pad + 8 * c)
            a, b = ld4_f32(source), ld4_f32(source + 16)
            sst4_i32(at, pack_bf16(a[0], a[1]), pack_bf16(a[2], a[3]), pack_bf16(b[0], b[1]), pack_bf16(b[2], b[3]))
        else:
            sst4_i32(at, 0, 0, 0, 0)


def _two(word: Any, shift: Any) -> Any:
    """Two signed bytes of a word as bfloat16."""
    return pack_bf16(F((word >> shift & 255 ^ 128) - 128), F((word >> shift + 8 & 255 ^ 128) - 128))


def _bring_int8(to: Any, cache: Any, first: Any, count: Any, d_pad: Any, wide: Any) -> None:
    """The same, sixteen numbers at a time, exactly."""
    row, chunks = 2 * wide + 16, wide // 16
    for i in range(KEYS * chunks // THREADS):
        r, c = (thread() + i * THREADS) // chunks, thread() % chunks
        at = to + r * row + 32 * c
        if r < count and 16 * c < d_pad:
            a = ld4_u32(cache + (first + r) * d_pad + 16 * c)
            sst4_i32(at, _two(a[0], 0), _two(a[0], 16), _two(a[1], 0), _two(a[1], 16))
            sst4_i32(at + 16, _two(a[2], 0), _two(a[2], 16), _two(a[3], 0), _two(a[3], 16))
        else:
            sst4_i32(at, 0, 0, 0, 0)
            sst4_i32(at + 16, 0, 0, 0, 0)


BRING = {"f32": _bring_f32, "bf16": _bring_bf16, "int8": _bring_int8}


def sees(step: Any, tokens: Any, r: Any, window: Any) -> Any:
    """First and last row of the cache that token r sees; `tokens`: address of what a batch says of each, or 0."""
    first, own = 0, ld_i64(step + 8 * S_START) + r
    last = own
    if tokens != 0:
        words = tokens + 8 * TOKEN_WORDS * r
        first, last = ld_i64(words + 8 * T_FIRST), ld_i64(words + 8 * T_LAST)
    return max(first, own - window + 1), last


def flash(kind: str, wide: int) -> tuple[Callable[..., None], int]:
    """Kernel and bytes of shared memory for heads of up to `wide` numbers, 64 or 128."""
    size, scaled, bring = KV_BYTES[kind], kind == "int8", BRING[kind]
    row, depth, across, steps = 2 * wide + 16, wide // 16, wide // 8, KEYS // 8
    n_queries, n_scores, n_results = 4 * depth, 4 * steps, 4 * across  # numbers of a thread
    keys_bytes, scales = KEYS * row, 4 * KEYS if scaled else 0
    stage_bytes = 2 * (keys_bytes + scales)  # keys, values, scales of both
    factors = 2 * stage_bytes  # of a tile's keys; their scales are, where there are any

    def fill(to: Any, keys: Any, values: Any, first: Any, end: Any, d_pad: Any, context: Any) -> None:
        """Begin to bring keys and values from position `first` on; from `end` on there are none."""
        bring(to, keys, first, end - first, d_pad, wide)
        bring(to + keys_bytes, values, first, end - first, d_pad, wide)
        if scaled:
            for i in range(thread(), KEYS, THREADS):
                at, there = context * d_pad + 4 * (first + i), first + i < end
                sst_f32(to + 2 * keys_bytes + 4 * i, ld_f32(keys + at) if there else F(0.0))
                sst_f32(to + 2 * keys_bytes + scales + 4 * i, ld_f32(values + at) if there else F(0.0))
        copies_close()

    def take(to: Any, x: Any, first: Any, count: Any, group: Any, heads: Any, d: Any, scale: Any) -> None:
        """Queries `first` and on, times scale, to shared memory; x: those of this KV head's first token."""
        for i in range(thread(), QUERIES * (wide // 2), THREADS):
            r, c = i // (wide // 2), i % (wide // 2) * 2
            query = min(first + r, count - 1)
            source = x + 4 * ((divided(query, group) * (heads - group) + query) * d + c)
            low = ld_f32(source) * scale if c < d else F(0.0)
            high = ld_f32(source + 4) * scale if c + 1 < d else F(0.0)
            sst_i32(to + r * row + 2 * c, pack_bf16(low, high))

    def keep(at: Any, queries: Any) -> None:
        """*warp* Its sixteen queries from shared memory to registers."""
        for i in range(depth):
            a = ld_matrix4(at + (lane() & 15) * row + 32 * i + (lane() >> 4) * 16)
            for j in range(4):
                queries[4 * i + j] = from_bits(a[j])

    def scores(keys: Any, queries: Any, s: Any) -> None:
        """*warp* s = queries . keys."""
        at = keys + ((lane() & 7) + (lane() >> 4) * 8) * row + (lane() >> 3 & 1) * 16
        for i in range(n_scores):
            s[i] = F(0.0)
        for i in range(depth):
            p = 4 * i
            a = bits(queries[p]), bits(queries[p + 1]), bits(queries[p + 2]), bits(queries[p + 3])
            for j in range(steps // 2):
                b = ld_matrix4(at + 16 * j * row + 32 * i)
                o = 8 * j
                c = mma_bf16(a, b[0], b[1], (s[o], s[o + 1], s[o + 2], s[o + 3]))
                d = mma_bf16(a, b[2], b[3], (s[o + 4], s[o + 5], s[o + 6], s[o + 7]))
                s[o], s[o + 1], s[o + 2], s[o + 3] = c
                s[o + 4], s[o + 5], s[o + 6], s[o + 7] = d

    def times(at: Any, s: Any) -> None:
        """S times its key's scale."""
        for j in range(steps):
            for e in range(2):
                scale = sld_f32(at + 4 * (8 * j + lane() % 4 * 2 + e))
                s[4 * j + e] *= scale
                s[4 * j + 2 + e] *= scale

    def hide(s: Any, first: Any, low0: Any, last0: Any, low1: Any, last1: Any, hidden: Any) -> None:
        """`hidden` for keys, from `first` on, that the thread's two queries do not see."""
        for j in range(steps):
            for e in range(2):
                key = first + 8 * j + lane() % 4 * 2 + e
                if key < low0 or key > last0:
                    s[4 * j + e] = hidden
                if key < low1 or key > last1:
                    s[4 * j + 2 + e] = hidden

    def guard(values: Any, d_pad: Any) -> None:
        """*block* Make 0 of values that are NaN or infinite; factors for the weights of each key: NaN, or 1."""
        for i in range(4 * KEYS // THREADS):
            r, off = (thread() + i * THREADS) // 4, F(0.0)
            for j in range(d_pad // 8):  # columns from d_pad on are zeros
                rolled()  # as many registers as there are belong to the products
                at = values + r * row + 16 * j + thread() % 4 * 4
                pair = sld_i32(at)
                low, high = low_bf16(pair), high_bf16(pair)
                nan_or_zero = (low - low) + (high - high)
                if nan_or_zero != F(0.0):
                    sst_i32(at, 0)
                off += nan_or_zero
            off = quad_sum(off)
            if thread() % 4 == 0:
                sst_f32(factors + 4 * r, F(1.0) + off)
        barrier()

    def soften(s: Any, half: Any, top: Any, acc: Any) -> Any:
        """Scores of one query (half 0 or 1) to weights of the softmax; acc to what these are relative to.

        The new largest score, the factor that the old sums take, and the sum of this thread's weights.
        """
        new = top
        for j in range(steps):
            new = larger(new, larger(s[4 * j + 2 * half], s[4 * j + 2 * half + 1]))
        new = quad_max(new)
        base = new * F(LOG2E) if new > F(-np.inf) else F(0.0)  # a query that sees none of these keys
        factor, total = exp2(fma(top, F(LOG2E), -base)), F(0.0)
        for j in range(steps):
            for e in range(2):
                p = 4 * j + 2 * half + e
                s[p] = exp2(fma(s[p], F(LOG2E), -base))
                total += s[p]
        for j in range(across):
            acc[4 * j + 2 * half] *= factor
            acc[4 * j + 2 * half + 1] *= factor
        return new, factor, total

    def weigh(values: Any, s: Any, acc: Any) -> None:
        """*warp* acc += weights . values."""
        at = values + ((lane() & 7) + (lane() >> 3 & 1) * 8) * row + (lane() >> 4) * 16
        for i in range(steps // 2):
            o = 8 * i
            a = (pack_bf16(s[o], s[o + 1]), pack_bf16(s[o + 2], s[o + 3]),
                 pack_bf16(s[o + 4], s[o + 5]), pack_bf16(s[o + 6], s[o + 7]))  # fmt: skip
            for j in range(across // 2):
                b = ld_matrix4_t(at + 16 * i * row + 32 * j)
                p = 8 * j
                c = mma_bf16(a, b[0], b[1], (acc[p], acc[p + 1], acc[p + 2], acc[p + 3]))
                d = mma_bf16(a, b[2], b[3], (acc[p + 4], acc[p + 5], acc[p + 6], acc[p + 7]))
                acc[p], acc[p + 1], acc[p + 2], acc[p + 3] = c
                acc[p + 4], acc[p + 5], acc[p + 6], acc[p + 7] = d

    def give(y: Any, acc: Any, half: Any, sums: Any, d: Any) -> None:
        """One query's result."""
        inverse = F(1.0) / sums
        for j in range(across):
            for e in range(2):
                c = 8 * j + lane() % 4 * 2 + e
                if c < d:
                    st_f32(y + 4 * c, acc[4 * j + 2 * half + e] * inverse)

    def body(
        arena: Any, step: Any, rows: Any, y: Any, scratch: Any, q: Any, k_cache: Any, v_cache: Any, heads: Any,
        kv_heads: Any, d_head: Any, context: Any, window: Any, scale: Any,
    ) -> None:  # fmt: skip
        d_pad, tokens, group = (d_head + 15) // 16 * 16, ld_i64(step + 8 * S_TOKENS), divided(heads, kv_heads)
        head_bytes = context * (d_pad * size + (4 if scaled else 0))
        count = rows_of(step, rows) * group  # queries of a KV head
        down = (count + QUERIES - 1) // QUERIES
        queries, s, acc = registers(n_queries), registers(n_scores), registers(n_results)
        item = block()
        while item < down * kv_heads:
            tile = divided(item, kv_heads)
            head, first = item - tile * kv_heads, (down - 1 - tile) * QUERIES  # the longest come first
            keys, values = arena + k_cache + head * head_bytes, arena + v_cache + head * head_bytes
            x = arena + 4 * head * group * d_head
            lowest, soonest = sees(step, tokens, divided(first, group), window)  # neither falls from token to token
            highest, last = sees(step, tokens, divided(min(first + QUERIES, count) - 1, group), window)
            begin, end = lowest // KEYS * KEYS, last + 1
            fill(0, keys, values, begin, end, d_pad, context)
            take(stage_bytes, x + q, first, count, group, heads, d_head, scale)
            barrier()
            keep(stage_bytes + thread() // WARP * 16 * row, queries)
            mine = first + thread() // WARP * 16 + lane() // 4  # this thread's queries: mine and mine + 8
            low0, last0 = sees(step, tokens, divided(min(mine, count - 1), group), window)
            low1, last1 = sees(step, tokens, divided(min(mine + 8, count - 1), group), window)
            for i in range(n_results):
                acc[i] = F(0.0)
            top0, top1, sums0, sums1 = F(-np.inf), F(-np.inf), F(0.0), F(0.0)
            for at in range(begin, end, KEYS):
                stage = (at // KEYS - begin // KEYS & 1) * stage_bytes
                copies_wait(0)
                barrier()
                if at + KEYS < end:
                    fill(stage_bytes - stage, keys, values, at + KEYS, end, d_pad, context)
                partly = at + KEYS > soonest + 1 or at < highest  # some query does not see all of the tile
                if partly and not scaled:
                    guard(stage + keys_bytes, d_pad)
                scores(stage, queries, s)
                if scaled:
                    times(stage + 2 * keys_bytes, s)
                if partly:
                    hide(s, at, low0, last0, low1, last1, F(-np.inf))
                a, b = soften(s, 0, top0, acc), soften(s, 1, top1, acc)
                top0, sums0 = a[0], fma(sums0, a[1], a[2])
                top1, sums1 = b[0], fma(sums1, b[1], b[2])
                if scaled:
                    times(stage + 2 * keys_bytes + scales, s)
                elif partly:
                    times(factors, s)
                if partly:
                    hide(s, at, low0, last0, low1, last1, F(0.0))
                weigh(stage + keys_bytes, s, acc)
            sums0, sums1 = quad_sum(sums0), quad_sum(sums1)
            for half in range(2):
                query, sums = mine + 8 * half, sums1 if half else sums0
                if query < count:
                    at = divided(query, group) * (heads - group) + query
                    give(x + y + 4 * at * d_head, acc, half, sums, d_head)
            barrier()
            item += blocks()

    return body, factors + (0 if scaled else 4 * KEYS)


def _fits(wide: int) -> Callable[..., bool]:
    return lambda rows, v: rows >= LEAST_ROWS and padded(v["d_head"]) <= wide


def _blocks(rows: int, v: Mapping[str, int]) -> int:
    return ceil(rows * (v["heads"] // v["kv_heads"]), QUERIES) * v["kv_heads"]


for _kind in KV_BYTES:
    _name = f"attention_{_kind}"
    for _wide in WIDTHS:
        _body, _shared = flash(_kind, _wide)
        special(_name, Kernel(
            f"{_name}_flash{_wide}", _body, THREADS, _blocks, always(_shared), fields_of(_name, _body), _fits(_wide),
            fast=True,
        ))  # fmt: skip
