"""The KV cache, written and read: causal grouped-query attention, a warp for each query.

On a GPU both caches of a layer lie as [kv_head][position][d_head, filled up to 16], which is as many bytes as the CPU's
(`runtime/kvcache.py`); int8 has its [context] scales after each head too. Keys are taken 32 at a time from absolute
positions, a thread for each, and the softmax is kept up as they come (Milakov and Gimelshein 2018, arXiv:1805.02867),
again for each chunk of 128; chunks are put together in order. For one query they are spread over the GPU
(Flash-Decoding, Dao et al. 2023), with the same bits: so these do not depend on how a text was cut into steps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ...kvcache import KV_BYTES, padded, scratch_floats
from ..primitives import (
    WARP,
    fma,
    from_bits,
    high_bf16,
    larger_size,
    ld4_u32,
    ld_bf16,
    ld_f32,
    ld_i8,
    ld_i64,
    low_bf16,
    rint,
    sld4_f32,
    sld_f32,
    sst_f32,
    st_f32,
    st_u8,
    st_u16,
    thread,
    to_bf16,
    to_int,
    warp_barrier,
    warp_max,
    warp_max_size,
    warp_sum,
)
from ..step import S_START, S_TOKENS, T_FIRST, T_LAST, TOKEN_WORDS
from .base import F, Kernel, all_warps, ceil, fields_of, first_item, kernel, lane, rows_of, small, special
from .elementwise import scale_of
from .maths import exp

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

THREADS, WARPS = 128, 4
CHUNK = 128  # keys whose softmax is one part; more of them keep more of a GPU busy, and their sums want memory


def _ld_i8(address: Any) -> Any:
    return F(ld_i8(address))


def _st_bf16(address: Any, value: Any) -> None:
    st_u16(address, to_bf16(value))


def _st_i8(address: Any, value: Any) -> None:
    st_u8(address, to_int(rint(value)))


LOADS = {"f32": ld_f32, "bf16": ld_bf16, "int8": _ld_i8}
STORES = {"f32": st_f32, "bf16": _st_bf16, "int8": _st_i8}


def based(top: Any) -> Any:
    """What exponents are relative to: the largest score so far, and 0 where all were -inf, or NaN (which `exp` keeps).

    Where that is so of all keys, sums + (top - top) is NaN, as the quotient of two zeros would be.
    """
    return top if top > F(-np.inf) else F(0.0)


def put_head(store: Any, size: int, scaled: bool) -> Callable[..., None]:
    """What writes a head to a cache."""

    def put(x: Any, to: Any, scale_at: Any, d: Any, d_pad: Any) -> None:
        """*warp* A head's d numbers of x, and zeros after them; int8 in 127ths of the largest (`scale_of`)."""
        factor = F(1.0)
        if scaled:
            top = F(0.0)
            for j in range(lane(), d, WARP):
                top = larger_size(top, abs(ld_f32(x + 4 * j)))
            top = warp_max_size(top)
            factor = F(127.0) / top if top > F(0.0) else F(0.0)
            if lane() == 0:
                st_f32(scale_at, scale_of(top))
        for j in range(lane(), d_pad, WARP):
            store(to + size * j, ld_f32(x + 4 * j) * factor if j < d else F(0.0))

    return put


def _kv_write(store: Any, size: int, scaled: bool) -> Callable[..., None]:
    put = put_head(store, size, scaled)

    def body(
        arena: Any, step: Any, rows: Any, k_cache: Any, v_cache: Any, k: Any, v: Any, heads: Any, d_head: Any,
        context: Any,
    ) -> None:  # fmt: skip
        d_pad, start = (d_head + 15) // 16 * 16, ld_i64(step + 8 * S_START)
        head_bytes = context * (d_pad * size + (4 if scaled else 0))
        item, n = first_item(), rows_of(step, rows) * heads
        while item < n:
            pos, head, x = start + small(item) // heads, small(item) % heads, 4 * item * d_head
            to, scale = head * head_bytes + pos * d_pad * size, head * head_bytes + context * d_pad * size + 4 * pos
            put(arena + k + x, arena + k_cache + to, arena + k_cache + scale, d_head, d_pad)
            put(arena + v + x, arena + v_cache + to, arena + v_cache + scale, d_head, d_pad)
            item += all_warps()

    return body


# Sixteen bytes of a key, loaded as four words, times as many numbers of the query in shared memory.
def _dot_f32(a: Any, q: Any, total: Any) -> Any:
    p = sld4_f32(q)
    for i in range(4):
        total = fma(from_bits(a[i]), p[i], total)
    return total


def _dot_bf16(a: Any, q: Any, total: Any) -> Any:
    for i in range(2):
        p = sld4_f32(q + 16 * i)
        total = fma(low_bf16(a[2 * i]), p[0], total)
        total = fma(high_bf16(a[2 * i]), p[1], total)
        total = fma(low_bf16(a[2 * i + 1]), p[2], total)
        total = fma(high_bf16(a[2 * i + 1]), p[3], total)
    return total


def _dot_int8(a: Any, q: Any, total: Any) -> Any:
    for i in range(4):
        p = sld4_f32(q + 16 * i)
        for j in range(4):
            total = fma(F((a[i] >> 8 * j & 255 ^ 128) - 128), p[j], total)
    return total


DOTS = {"f32": _dot_f32, "bf16": _dot_bf16, "int8": _dot_int8}


def _attention(kind: str) -> tuple[Callable[..., None], ...]:
    """Kernels: whole queries; the one of a step of one token; its parts to scratch; and these put together."""
    size, scaled = KV_BYTES[kind], kind == "int8"
    load: Any = LOADS[kind]
    dot: Any = DOTS[kind]

    def score(q: Any, key: Any, row: Any) -> Any:
        """q in shared memory . a key."""
        total = F(0.0)
        for j in range(0, row, 16):
            total = dot(ld4_u32(key + j), q + 4 * (j // size), total)
        return total

    def weigh(values: Any, row: Any, skip: Any, count: Any, keep: Any, mine: Any, d_pad: Any) -> None:
        """*warp* part = part * keep + sum of p[i] value[i], skip <= i < count; a thread: each 32nd dimension."""
        for j in range(lane(), d_pad, WARP):
            total = sld_f32(mine + 4 * (WARP + j)) * keep
            for i in range(skip, count):
                total = fma(sld_f32(mine + 4 * i), load(values + i * row + size * j), total)
            sst_f32(mine + 4 * (WARP + j), total)

    def part(keys: Any, values: Any, scales: Any, first: Any, low: Any, last: Any, mine: Any, d_pad: Any) -> Any:
        """*warp* Over the keys of a chunk from `first`: largest score and sum of exp; the result in shared memory.

        Keys count from the sequence's first, where `keys` and `values` begin; int8's scales begin `scales` further.
        """
        query, row, top, sums = mine + 4 * (WARP + d_pad), d_pad * size, F(-np.inf), F(0.0)
        for j in range(lane(), d_pad, WARP):
            sst_f32(mine + 4 * (WARP + j), F(0.0))
        for at in range(max(first, low // WARP * WARP), min(first + CHUNK, last + 1), WARP):
            pos, s = at + lane(), F(-np.inf)
            seen = low <= pos <= last
            if seen:
                s = score(query, keys + pos * row, row)
                if scaled:
                    s *= ld_f32(keys + scales + 4 * pos)
            new = max(top, warp_max(s))
            base = based(new)
            keep, p = exp(top - base), exp(s - base) if seen else F(0.0)
            sums, top = fma(sums, keep, warp_sum(p)), new
            if scaled and seen:
                p *= ld_f32(values + scales + 4 * pos)
            sst_f32(mine + 4 * lane(), p)
            warp_barrier()
            weigh(values + at * row, row, max(low - at, 0), min(last + 1 - at, WARP), keep, mine, d_pad)
            warp_barrier()
        return top, sums

    def take(query: Any, q: Any, scale: Any, d: Any, d_pad: Any) -> None:
        """*warp* A query to shared memory."""
        for j in range(lane(), d_pad, WARP):
            sst_f32(query + 4 * j, ld_f32(q + 4 * j) * scale if j < d else F(0.0))
        warp_barrier()

    def query(
        y: Any, q: Any, keys: Any, values: Any, scales: Any, low: Any, last: Any, mine: Any, d: Any, d_pad: Any,
        scale: Any,
    ) -> None:  # fmt: skip
        """*warp* A head of y, of keys `low` to `last`: the chunks put together in order."""
        result = mine + 4 * (WARP + 2 * d_pad)
        take(mine + 4 * (WARP + d_pad), q, scale, d, d_pad)
        for j in range(lane(), d_pad, WARP):
            sst_f32(result + 4 * j, F(0.0))
        top, sums = F(-np.inf), F(0.0)
        for first in range(low // CHUNK * CHUNK, last + 1, CHUNK):
            partial = part(keys, values, scales, first, low, last, mine, d_pad)
            new = max(top, partial[0])
            base = based(new)
            old, more = exp(top - base), exp(partial[0] - base)
            top, sums = new, fma(partial[1], more, sums * old)
            for j in range(lane(), d_pad, WARP):
                sst_f32(result + 4 * j, fma(sld_f32(mine + 4 * (WARP + j)), more, sld_f32(result + 4 * j) * old))
        for j in range(lane(), d, WARP):
            st_f32(y + 4 * j, sld_f32(result + 4 * j) / (sums + (top - top)))
        warp_barrier()

    def whole(
        arena: Any, step: Any, rows: Any, y: Any, scratch: Any, q: Any, k_cache: Any, v_cache: Any, heads: Any,
        kv_heads: Any, d_head: Any, context: Any, window: Any, scale: Any,
    ) -> None:  # fmt: skip
        d_pad, start, tokens = (d_head + 15) // 16 * 16, ld_i64(step + 8 * S_START), ld_i64(step + 8 * S_TOKENS)
        head_bytes = context * (d_pad * size + (4 if scaled else 0))
        mine = thread() // WARP * 4 * (WARP + 3 * d_pad)  # weights, part, query, result
        item, n = first_item(), rows_of(step, rows) * heads
        while item < n:
            mid, at, base = start + item // heads, arena + 4 * item * d_head, 0  # the query's own row
            last = mid
            if tokens != 0:
                words = tokens + 8 * TOKEN_WORDS * (item // heads)
                base = ld_i64(words + 8 * T_FIRST)
                mid, last = mid - base, ld_i64(words + 8 * T_LAST) - base
            head = arena + item % heads // (heads // kv_heads) * head_bytes + base * d_pad * size
            scales = context * d_pad * size - base * (d_pad * size - 4)
            low = max(0, mid - window + 1)
            query(at + y, at + q, head + k_cache, head + v_cache, scales, low, last, mine, d_head, d_pad, scale)
            item += all_warps()

    def one(
        arena: Any, step: Any, rows: Any, y: Any, scratch: Any, q: Any, k_cache: Any, v_cache: Any, heads: Any,
        kv_heads: Any, d_head: Any, context: Any, window: Any, scale: Any,
    ) -> None:  # fmt: skip
        d_pad, last = (d_head + 15) // 16 * 16, ld_i64(step + 8 * S_START)
        head_bytes = context * (d_pad * size + (4 if scaled else 0))
        mine, low = thread() // WARP * 4 * (WARP + 3 * d_pad), max(0, last - window + 1)
        h = first_item()
        while h < heads:
            at, head = arena + 4 * h * d_head, arena + small(h) // (heads // kv_heads) * head_bytes
            keys, values, scales = head + k_cache, head + v_cache, context * d_pad * size
            query(at + y, at + q, keys, values, scales, low, last, mine, d_head, d_pad, scale)
            h += all_warps()

    def parts(
        arena: Any, step: Any, rows: Any, y: Any, scratch: Any, q: Any, k_cache: Any, v_cache: Any, heads: Any,
        kv_heads: Any, d_head: Any, context: Any, window: Any, scale: Any,
    ) -> None:  # fmt: skip
        d_pad, last = (d_head + 15) // 16 * 16, ld_i64(step + 8 * S_START)
        head_bytes, chunks = context * (d_pad * size + (4 if scaled else 0)), (context + CHUNK - 1) // CHUNK
        mine, low = thread() // WARP * 4 * (WARP + 2 * d_pad), max(0, last - window + 1)
        item = first_item()
        while item < heads * chunks:
            h, first = small(item) % heads, small(item) // heads * CHUNK
            if first <= last and first + CHUNK > low:
                head = h // (heads // kv_heads) * head_bytes
                take(mine + 4 * (WARP + d_pad), arena + q + 4 * h * d_head, scale, d_head, d_pad)
                keys, values = arena + k_cache + head, arena + v_cache + head
                partial = part(keys, values, context * d_pad * size, first, low, last, mine, d_pad)
                to = arena + scratch + 4 * item * (d_pad + 2)
                for j in range(lane(), d_pad, WARP):
                    st_f32(to + 8 + 4 * j, sld_f32(mine + 4 * (WARP + j)))
                if lane() == 0:
                    st_f32(to, partial[0])
                    st_f32(to + 4, partial[1])
                warp_barrier()
            item += all_warps()

    def merge(
        arena: Any, step: Any, rows: Any, y: Any, scratch: Any, q: Any, k_cache: Any, v_cache: Any, heads: Any,
        kv_heads: Any, d_head: Any, context: Any, window: Any, scale: Any,
    ) -> None:  # fmt: skip
        d_pad, last = (d_head + 15) // 16 * 16, ld_i64(step + 8 * S_START)
        low = max(0, last - window + 1)
        h = first_item()
        while h < heads:
            for j in range(lane(), d_head, WARP):
                top, sums, result = F(-np.inf), F(0.0), F(0.0)
                for chunk in range(low // CHUNK, last // CHUNK + 1):
                    at = arena + scratch + 4 * (chunk * heads + h) * (d_pad + 2)
                    partial = ld_f32(at)
                    new = max(top, partial)
                    base = based(new)
                    old, more = exp(top - base), exp(partial - base)
                    top, sums = new, fma(ld_f32(at + 4), more, sums * old)
                    result = fma(ld_f32(at + 8 + 4 * j), more, result * old)
                st_f32(arena + y + 4 * (h * d_head + j), result / (sums + (top - top)))
            h += all_warps()

    return whole, one, parts, merge


def _shared(arrays: int) -> Callable[[Mapping[str, int]], int]:
    return lambda v: WARPS * 4 * (WARP + arrays * padded(v["d_head"]))


def _chunks(v: Mapping[str, int]) -> int:
    return ceil(v["context"], CHUNK)


def _splits(rows: int, v: Mapping[str, int]) -> bool:
    """Whether the parts of one query have room in the scratch that the recorder reserves."""
    wide = padded(v["d_head"])
    return rows == 1 and _chunks(v) > 1 and v["heads"] * _chunks(v) * (wide + 2) <= scratch_floats(v["context"], wide)


for _kind, _size in KV_BYTES.items():
    kernel(THREADS, lambda rows, v: ceil(rows * v["heads"], WARPS), name=f"kv_write_{_kind}")(
        _kv_write(STORES[_kind], _size, _kind == "int8")
    )
    _name, (_whole, _one, _parts, _merge) = f"attention_{_kind}", _attention(_kind)
    kernel(THREADS, lambda rows, v: ceil(rows * v["heads"], WARPS), _shared(3), name=_name)(_whole)
    _end = Kernel(
        f"{_name}_merge",
        _merge,
        THREADS,
        lambda _, v: ceil(v["heads"], WARPS),
        lambda _: 0,
        fields_of(_name, _merge),
    )
    special(_name, Kernel(
        f"{_name}_split", _parts, THREADS, lambda _, v: ceil(v["heads"] * _chunks(v), WARPS), _shared(2),
        fields_of(_name, _parts), _splits, _end, batches=False,
    ))  # fmt: skip
    special(_name, Kernel(
        f"{_name}_one", _one, THREADS, lambda _, v: ceil(v["heads"], WARPS), _shared(3), fields_of(_name, _one),
        lambda rows, _: rows == 1, batches=False,
    ))  # fmt: skip
