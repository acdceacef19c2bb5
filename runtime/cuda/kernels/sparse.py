"""Products with sparse matrices (`runtime/sparse.py`): a warp for each row, a thread for each group of 16 columns.

A thread finds its numbers after those of the threads before it: it counts its bits, and the warp adds up the counts.
The zeros between them are not multiplied, and yet are factors: a product is NaN where its input is NaN or infinite.
Sparse int8 (`runtime/sparse_int8.py`) is a warp for each panel, and sixteen numbers of a group for each thread.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...quantized import GROUP, HEAD_BYTES, PANEL, QUANTIZED
from ...sparse import LANES
from ...sparse_int8 import BITS_BYTES, SPARSE_INT8
from ..primitives import (
    WARP,
    dot4,
    first_one,
    fma,
    ld4_f32,
    ld_bf16,
    ld_f16,
    ld_f32,
    ld_i32,
    ld_i64,
    ld_u8,
    ld_u16,
    low_f16,
    ones,
    registers,
    rolled,
    sld_i32,
    sst_i32,
    thread,
    warp_barrier,
    warp_before_i,
    warp_sum,
    warp_sum_i,
)
from ..tensor import divided
from .base import F, Kernel, all_warps, always, ceil, fields_of, first_item, kernel, lane, rows_of, special
from .linear import MANY, RUN, THREADS, WARPS, finish

if TYPE_CHECKING:
    from collections.abc import Callable

HEAD, OFFSET = HEAD_BYTES["int8"], QUANTIZED["int8"]


def nan_or_zero(x: Any, k: Any) -> Any:
    """Where a thread's sum begins: 0, or NaN where one of its part of k numbers is NaN or infinite."""
    total, j = F(0.0), lane()
    if k % 4 == 0:
        while 4 * j < k:
            rolled()
            v = ld4_f32(x + 16 * j)
            total += (v[0] - v[0]) + (v[1] - v[1]) + (v[2] - v[2]) + (v[3] - v[3])
            j += WARP
    else:
        while j < k:
            rolled()
            v = ld_f32(x + 4 * j)
            total += v - v
            j += WARP
    return total


def _linear(load: Any, size: int) -> Callable[..., None]:
    def row_dot(mask_row: Any, numbers: Any, x: Any, k: Any) -> Any:
        """*warp* This thread's part of a row times x."""
        groups, total = (k + LANES - 1) // LANES, nan_or_zero(x, k)
        for first in range(0, groups, WARP):
            g = first + lane()
            mask = ld_u16(mask_row + 2 * g) if g < groups else 0
            count = ones(mask)
            at = numbers + size * warp_before_i(count)
            while mask != 0:
                total = fma(load(at), ld_f32(x + 4 * (LANES * g + first_one(mask))), total)
                at += size
                mask &= mask - 1
            numbers += size * warp_sum_i(count)
        return total

    def body(
        arena: Any, step: Any, rows: Any, y: Any, scratch: Any, x: Any, w: Any, b: Any, times: Any, residual: Any,
        n: Any, k: Any, act: Any,
    ) -> None:  # fmt: skip
        tokens, groups = rows_of(step, rows), (k + LANES - 1) // LANES
        masks = w + 8 * (n + 1)
        i = first_item()
        while i < n:
            numbers = w + ld_i64(w + 8 * i)
            for m in range(tokens):
                total = warp_sum(row_dot(masks + 2 * i * groups, numbers, arena + x + 4 * m * k, k))
                if lane() == 0:
                    finish(arena, m, i, total, n, y, b, times, residual, act)
            i += all_warps()

    return body


def _many(load: Any, size: int) -> Callable[..., None]:
    """The same sums for many tokens: a row's bits and numbers are read once for four of them."""

    def meet(mask_row: Any, numbers: Any, x: Any, k: Any, token: Any, tokens: Any, acc: Any) -> None:
        """*warp* This thread's part of a row times four tokens; those that do not exist are the last one again."""
        groups, x0, x1 = (k + LANES - 1) // LANES, x + 4 * k * token, x + 4 * k * min(token + 1, tokens - 1)
        x2, x3 = x + 4 * k * min(token + 2, tokens - 1), x + 4 * k * min(token + 3, tokens - 1)
        acc[0], acc[1], acc[2], acc[3] = nan_or_zero(x0, k), nan_or_zero(x1, k), nan_or_zero(x2, k), nan_or_zero(x3, k)
        for first in range(0, groups, WARP):
            g = first + lane()
            mask = ld_u16(mask_row + 2 * g) if g < groups else 0
            count = ones(mask)
            at = numbers + size * warp_before_i(count)
            while mask != 0:
                value, column = load(at), 4 * (LANES * g + first_one(mask))
                acc[0] = fma(value, ld_f32(x0 + column), acc[0])
                acc[1] = fma(value, ld_f32(x1 + column), acc[1])
                acc[2] = fma(value, ld_f32(x2 + column), acc[2])
                acc[3] = fma(value, ld_f32(x3 + column), acc[3])
                at += size
                mask &= mask - 1
            numbers += size * warp_sum_i(count)

    def body(
        arena: Any, step: Any, rows: Any, y: Any, scratch: Any, x: Any, w: Any, b: Any, times: Any, residual: Any,
        n: Any, k: Any, act: Any,
    ) -> None:  # fmt: skip
        tokens, groups = rows_of(step, rows), (k + LANES - 1) // LANES
        item, acc = first_item(), registers(4)
        while item < n * ((tokens + RUN - 1) // RUN):
            turn = divided(item, n)
            i, first = item - turn * n, turn * RUN
            masks, numbers = w + 8 * (n + 1) + 2 * i * groups, w + ld_i64(w + 8 * i)
            for token in range(first, min(first + RUN, tokens), 4):
                meet(masks, numbers, arena + x, k, token, tokens, acc)
                mine = F(0.0)
                for t in range(4):
                    total = warp_sum(acc[t])
                    mine = total if lane() == t else mine
                if lane() < 4 and token + lane() < tokens:
                    finish(arena, token + lane(), i, mine, n, y, b, times, residual, act)
            item += all_warps()

    return body


def _half(at: Any) -> Any:
    """A float16 at any address."""
    return low_f16(ld_u8(at) | ld_u8(at + 1) << 8)


def _spread(bits: Any, at: Any) -> Any:
    """Four bytes of the dense group: those whose bits are set follow each other from `at`, others are q = 0."""
    word = 0
    for j in range(4):
        q = OFFSET
        if bits >> j & 1:
            q = ld_u8(at)
            at += 1
        word |= q << 8 * j
    return word


def _group(at: Any, x: Any, mine: Any) -> Any:
    """*warp* Dots of sixteen rows with 32 bytes of x, one in each of the first sixteen threads; and the numbers kept.

    Thread l has four rows of four columns: step l / 4, rows 4 (l mod 4) and on. Sums are made in shared memory.
    """
    mask = ld_u8(at + HEAD + 2 * lane()) | ld_u8(at + HEAD + 2 * lane() + 1) << 8
    count = ones(mask)
    place, columns = at + HEAD + BITS_BYTES + warp_before_i(count), ld_i32(x + lane() // 4 * 4)
    for r in range(4):
        four = mask >> 4 * r & 15
        sst_i32(mine + 4 * (lane() // 4 * PANEL + lane() % 4 * 4 + r), dot4(_spread(four, place), columns, 0))
        place += ones(four)
    warp_barrier()
    dot = 0
    for s in range(8):
        dot += sld_i32(mine + 4 * (PANEL * s + lane() % PANEL))
    warp_barrier()
    return dot, warp_sum_i(count)


def _linear_int8(
    arena: Any, step: Any, rows: Any, y: Any, scratch: Any, x: Any, w: Any, b: Any, times: Any, residual: Any,
    n: Any, k: Any, act: Any,
) -> None:  # fmt: skip
    tokens, groups, mine = rows_of(step, rows), (k + GROUP - 1) // GROUP, thread() // WARP * 4 * WARP * 4
    panel, panels = first_item(), (n + PANEL - 1) // PANEL
    while panel < panels:
        for m in range(tokens):
            at, data, value = w + ld_i64(w + 8 * panel), arena + x + m * groups * (GROUP + 8), F(0.0)
            scales = data + GROUP * groups
            for g in range(groups):
                loaded = _group(at, data + GROUP * g, mine)
                total, scale = ld_i32(scales + 4 * (groups + g)), ld_f32(scales + 4 * g)
                dot = loaded[0] - OFFSET * total
                value = fma(F(dot), _half(at + lane() % PANEL * 2) * scale, value)
                at += HEAD + BITS_BYTES + loaded[1]
            if lane() < PANEL and panel * PANEL + lane() < n:
                finish(arena, m, panel * PANEL + lane(), value, n, y, b, times, residual, act)
        panel += all_warps()


kernel(THREADS, lambda _, v: ceil(v["n"], PANEL * WARPS), 16 * THREADS, name=f"linear_{SPARSE_INT8}")(_linear_int8)
for _kind, _load, _size in (("f32", ld_f32, 4), ("bf16", ld_bf16, 2), ("f16", ld_f16, 2)):
    _name = f"linear_{_kind}_sparse"
    kernel(THREADS, lambda _, v: ceil(v["n"], WARPS), name=_name)(_linear(_load, _size))
    _body = _many(_load, _size)
    special(_name, Kernel(
        f"{_name}_many", _body, THREADS, lambda rows, v: ceil(v["n"] * ceil(rows, RUN), WARPS), always(0),
        fields_of(_name, _body), lambda rows, _: rows >= MANY,
    ))  # fmt: skip
