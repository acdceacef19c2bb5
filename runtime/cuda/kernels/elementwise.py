"""Additions, and rounding to what a product wants."""

from __future__ import annotations

from typing import Any

from ...quantized import GROUP
from ..primitives import (
    block,
    blocks,
    ld_f32,
    rint,
    st_f32,
    st_i32,
    st_u8,
    st_u16,
    thread,
    threads,
    to_bf16,
    to_int,
    warp_max_size,
    warp_sum_i,
)
from .base import F, all_warps, ceil, first_item, kernel, lane, rows_of, small

THREADS, WARPS = 256, 8


@kernel(THREADS, lambda rows, v: ceil(rows * v["d"], THREADS))
def add(arena: Any, step: Any, rows: Any, y: Any, a: Any, b: Any, d: Any) -> None:
    """y = a + b."""
    i, n = block() * threads() + thread(), rows_of(step, rows) * d
    while i < n:
        st_f32(arena + y + 4 * i, ld_f32(arena + a + 4 * i) + ld_f32(arena + b + 4 * i))
        i += blocks() * threads()


@kernel(THREADS, lambda rows, _: rows)
def round_bf16(arena: Any, step: Any, rows: Any, y: Any, x: Any, k: Any) -> None:
    """y = bf16(x), rows filled up with zeros to whole 32s."""
    wide = (k + 31) // 32 * 32
    r, n = block(), rows_of(step, rows)
    while r < n:
        for j in range(thread(), wide, threads()):
            st_u16(arena + y + 2 * (r * wide + j), to_bf16(ld_f32(arena + x + 4 * (r * k + j))) if j < k else 0)
        r += blocks()


def to_byte(v: Any) -> Any:
    """The nearest whole number, of -127 to 127."""
    return to_int(max(min(rint(v), F(127.0)), F(-127.0)))


def scale_of(top: Any) -> Any:
    """What a byte of 1 means, where the largest of the numbers is `top`; NaN where that is NaN or infinite.

    A byte cannot say that a number is none.
    """
    return top / F(127.0) + (top - top)


def quantize_group(row: Any, groups: Any, g: Any, v: Any) -> None:
    """*warp* Group g of a row, a number in each thread."""
    top = warp_max_size(abs(v))
    inverse = F(127.0) / top if top > F(0.0) else F(0.0)
    q = to_byte(v * inverse)
    total = warp_sum_i(q)
    st_u8(row + g * GROUP + lane(), q)
    if lane() == 0:
        st_f32(row + groups * GROUP + 4 * g, scale_of(top))
        st_i32(row + groups * (GROUP + 4) + 4 * g, total)


@kernel(THREADS, lambda rows, v: ceil(rows * ceil(v["k"], GROUP), WARPS))
def quantize(arena: Any, step: Any, rows: Any, y: Any, x: Any, k: Any) -> None:
    """Each 32 floats of a row to bytes, scale and sum, by a warp; a row holds all its bytes, then scales, then sums."""
    groups = (k + GROUP - 1) // GROUP
    item, n = first_item(), rows_of(step, rows) * groups
    while item < n:
        r, g = small(item) // groups, small(item) % groups
        column = g * GROUP + lane()
        v = ld_f32(arena + x + 4 * (r * k + column)) if column < k else F(0.0)
        quantize_group(arena + y + r * groups * (GROUP + 8), groups, g, v)
        item += all_warps()
