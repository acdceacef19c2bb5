"""The KV cache, written and read: causal grouped-query attention, a warp for each query.

On a GPU both caches of a layer lie as [kv_head][position][d_head, filled up to 16], which is as many bytes as the CPU's
(`runtime/kvcache.py`); int8 has its [context] scales behind each head too. Keys are taken 32 at a time from absolute
positions, a thread for each, and the softmax is kept up as they come (Milakov and Gimelshein 2018, arXiv:1805.02867).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ...kvcache import KV_BYTES, padded
from ..primitives import (
    WARP,
    fma,
    ld_bf16,
    ld_f32,
    ld_i8,
    ld_i64,
    rint,
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
    warp_sum,
)
from ..step import S_START
from .base import F, all_warps, ceil, first_item, kernel, lane, rows_of
from .maths import exp

if TYPE_CHECKING:
    from collections.abc import Callable

THREADS, WARPS = 128, 4


def _ld_i8(address: Any) -> Any:
    return F(ld_i8(address))


def _st_bf16(address: Any, value: Any) -> None:
    st_u16(address, to_bf16(value))


def _st_i8(address: Any, value: Any) -> None:
    st_u8(address, to_int(rint(value)))


LOADS = {"f32": ld_f32, "bf16": ld_bf16, "int8": _ld_i8}
STORES = {"f32": st_f32, "bf16": _st_bf16, "int8": _st_i8}


def _kv_write(store: Any, size: int, scaled: bool) -> Callable[..., None]:
    def put(x: Any, to: Any, scale_at: Any, d: Any, d_pad: Any) -> None:
        """*warp* A head's d numbers of x, and zeros behind them; int8 in 127ths of the largest."""
        factor = F(1.0)
        if scaled:
            top = F(0.0)
            for j in range(lane(), d, WARP):
                top = max(top, abs(ld_f32(x + 4 * j)))
            top = warp_max(top)
            factor = F(127.0) / top if top > F(0.0) else F(0.0)
            if lane() == 0:
                st_f32(scale_at, top / F(127.0))
        for j in range(lane(), d_pad, WARP):
            store(to + size * j, ld_f32(x + 4 * j) * factor if j < d else F(0.0))

    def body(
        arena: Any, step: Any, rows: Any, k_cache: Any, v_cache: Any, k: Any, v: Any, heads: Any, d_head: Any,
        context: Any,
    ) -> None:  # fmt: skip
        d_pad, start = (d_head + 15) // 16 * 16, ld_i64(step + 8 * S_START)
        head_bytes = context * (d_pad * size + (4 if scaled else 0))
        for item in range(first_item(), rows_of(step, rows) * heads, all_warps()):
            pos, head, x = start + item // heads, item % heads, 4 * item * d_head
            to, scale = head * head_bytes + pos * d_pad * size, head * head_bytes + context * d_pad * size + 4 * pos
            put(arena + k + x, arena + k_cache + to, arena + k_cache + scale, d_head, d_pad)
            put(arena + v + x, arena + v_cache + to, arena + v_cache + scale, d_head, d_pad)

    return body


def _attention(load: Any, size: int, scaled: bool) -> Callable[..., None]:
    def score(q: Any, key: Any, d_pad: Any) -> Any:
        """q in shared memory . a key."""
        total = F(0.0)
        for j in range(d_pad):
            total = fma(sld_f32(q + 4 * j), load(key + size * j), total)
        return total

    def weigh(values: Any, row: Any, skip: Any, count: Any, keep: Any, mine: Any, d_pad: Any) -> None:
        """*warp* result = result * keep + sum of p[i] value[i], skip <= i < count; a thread: each 32nd dimension."""
        weights, result = mine, mine + 4 * WARP
        for j in range(lane(), d_pad, WARP):
            total = sld_f32(result + 4 * j) * keep
            for i in range(skip, count):
                total = fma(sld_f32(weights + 4 * i), load(values + i * row + size * j), total)
            sst_f32(result + 4 * j, total)

    def body(
        arena: Any, step: Any, rows: Any, y: Any, scratch: Any, q: Any, k_cache: Any, v_cache: Any, heads: Any,
        kv_heads: Any, d_head: Any, context: Any, window: Any, scale: Any,
    ) -> None:  # fmt: skip
        d_pad, start = (d_head + 15) // 16 * 16, ld_i64(step + 8 * S_START)
        row = d_pad * size
        head_bytes = context * (row + (4 if scaled else 0))
        mine = thread() // WARP * 4 * (WARP + 2 * d_pad)  # weights, result, query
        result, query = mine + 4 * WARP, mine + 4 * (WARP + d_pad)
        for item in range(first_item(), rows_of(step, rows) * heads, all_warps()):
            last, at = start + item // heads, arena + 4 * item * d_head
            head = item % heads // (heads // kv_heads) * head_bytes
            keys, values = arena + k_cache + head, arena + v_cache + head
            low = max(0, last - window + 1)
            for j in range(lane(), d_pad, WARP):
                sst_f32(query + 4 * j, ld_f32(at + q + 4 * j) * scale if j < d_head else F(0.0))
                sst_f32(result + 4 * j, F(0.0))
            warp_barrier()
            top, sums = F(-np.inf), F(0.0)
            for first in range(low // WARP * WARP, last + 1, WARP):
                pos, s = first + lane(), F(-np.inf)
                seen = low <= pos <= last
                if seen:
                    s = score(query, keys + pos * row, d_pad)
                    if scaled:
                        s *= ld_f32(keys + context * row + 4 * pos)
                new = max(top, warp_max(s))
                keep, p = exp(top - new), exp(s - new) if seen else F(0.0)
                sums, top = sums * keep + warp_sum(p), new
                if scaled and seen:
                    p *= ld_f32(values + context * row + 4 * pos)
                sst_f32(mine + 4 * lane(), p)
                warp_barrier()
                skip, count = max(low - first, 0), min(last + 1 - first, WARP)
                weigh(values + first * row, row, skip, count, keep, mine, d_pad)
                warp_barrier()
            for j in range(lane(), d_head, WARP):
                st_f32(at + y + 4 * j, sld_f32(result + 4 * j) / sums)
            warp_barrier()

    return body


def _shared(v: Any) -> int:
    return WARPS * 4 * (WARP + 2 * padded(v["d_head"]))


for _kind, _size in KV_BYTES.items():
    kernel(THREADS, lambda rows, v: ceil(rows * v["heads"], WARPS), name=f"kv_write_{_kind}")(
        _kv_write(STORES[_kind], _size, _kind == "int8")
    )
    kernel(THREADS, lambda rows, v: ceil(rows * v["heads"], WARPS), _shared, name=f"attention_{_kind}")(
        _attention(LOADS[_kind], _size, _kind == "int8")
    )
