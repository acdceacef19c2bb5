"""Quantised matrices (`runtime/quantized.py`): products with a quantised input, and rows of an embedding.

128 threads take a panel of sixteen rows. Half a warp walks every eighth group of 32 columns, a thread for each row; the
halves' sums are added in order. Dots of a group are integers and exact.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...quantized import GROUP, GROUP_BYTES, HEAD_BYTES, PANEL, QUANTIZED, SCALE_BYTES
from ..primitives import (
    barrier,
    block,
    blocks,
    dot4,
    fma,
    ld_f16,
    ld_f32,
    ld_i32,
    ld_i64,
    ld_u8,
    ld_u32,
    sld_f32,
    sst_f32,
    st_f32,
    thread,
    threads,
)
from ..step import S_IDS
from .base import F, ceil, kernel, rows_of
from .linear import finish

if TYPE_CHECKING:
    from collections.abc import Callable

THREADS, HALVES = 128, 8
X_BYTES = GROUP + 8  # of a group of the quantised input: bytes, scale, sum
STEP = 4 * PANEL  # bytes of four columns, or of four and four
LOW4 = 0x0F0F0F0F


def panel_part(kind: str, load_i32: Any = ld_i32, load_f32: Any = ld_f32) -> Callable[..., Any]:
    """A thread's part of its row of a panel, times x; loads: where x lies."""
    size, head, offset = GROUP_BYTES[kind], HEAD_BYTES[kind], QUANTIZED[kind]
    wide, lowest = kind == "int8", head > SCALE_BYTES

    def group_dot(at: Any, x: Any, total: Any) -> Any:
        """Of this thread's row: `at` its first word, x the input's 32 bytes."""
        if wide:
            for s in range(8):
                total = dot4(ld_u32(at + STEP * s), load_i32(x + 4 * s), total)
        else:
            for s in range(4):
                v = ld_u32(at + STEP * s)
                total = dot4(v & LOW4, load_i32(x + 4 * s), total)
                total = dot4(v >> 4 & LOW4, load_i32(x + GROUP // 2 + 4 * s), total)
        return total

    def part(w: Any, x: Any, panel: Any, groups: Any, count: Any) -> Any:
        """Of the first `count` of the row's groups."""
        row, scales, y_part = thread() % PANEL, x + groups * GROUP, F(0.0)
        sums = scales + 4 * groups
        for g in range(thread() % THREADS // PANEL, count, HALVES):
            at = w + (panel * groups + g) * size
            total, scale = load_i32(sums + 4 * g), load_f32(scales + 4 * g)
            dot = group_dot(at + head + 4 * row, x + GROUP * g, -offset * total)
            y_part = fma(F(dot), ld_f16(at + 2 * row) * scale, y_part)
            if lowest:
                y_part = fma(F(total), ld_f16(at + SCALE_BYTES + 2 * row) * scale, y_part)
        return y_part

    return part


def joined(y_part: Any) -> Any:
    """*block* Sum of a row's parts; 4 bytes shared for each thread."""
    sst_f32(4 * thread(), y_part)
    barrier()
    value, at = F(0.0), 4 * (thread() // THREADS * THREADS + thread() % PANEL)
    for h in range(HALVES):
        value += sld_f32(at + 4 * PANEL * h)
    barrier()
    return value


def _linear(kind: str) -> Callable[..., None]:
    part = panel_part(kind)

    def body(
        arena: Any, step: Any, rows: Any, y: Any, scratch: Any, x: Any, w: Any, b: Any, times: Any, residual: Any,
        n: Any, k: Any, act: Any,
    ) -> None:  # fmt: skip
        tokens, groups, panels = rows_of(step, rows), (k + GROUP - 1) // GROUP, (n + PANEL - 1) // PANEL
        teams = threads() // THREADS
        first = block() * teams
        while first < panels:
            panel = first + thread() // THREADS
            for m in range(tokens):
                data = arena + x + m * groups * X_BYTES
                value = joined(part(w, data, panel, groups, groups if panel < panels else 0))
                column = panel * PANEL + thread() % PANEL
                if thread() % THREADS < PANEL and column < n:
                    finish(arena, m, column, value, n, y, b, times, residual, act)
            first += blocks() * teams

    return body


def _embed(kind: str) -> Callable[..., None]:
    size, head, offset = GROUP_BYTES[kind], HEAD_BYTES[kind], QUANTIZED[kind]
    wide, lowest, half = kind == "int8", head > SCALE_BYTES, GROUP // 2

    def body(arena: Any, step: Any, rows: Any, y: Any, w: Any, d: Any) -> None:
        """y[r] = w[ids[r]], a block for each row."""
        ids, groups = ld_i64(step + 8 * S_IDS), (d + GROUP - 1) // GROUP
        r, n = block(), rows_of(step, rows)
        while r < n:
            row = ld_i64(ids + 8 * r)
            panel, lane = w + row // PANEL * groups * size, row % PANEL
            for j in range(thread(), d, threads()):
                at, k = panel + j // GROUP * size, j % GROUP
                c = k if wide else k % half
                q = ld_u8(at + head + c // 4 * STEP + 4 * lane + c % 4)
                if not wide:
                    q = q >> 4 if k >= half else q & 15
                value = F(q - offset) * ld_f16(at + 2 * lane)
                if lowest:
                    value += ld_f16(at + SCALE_BYTES + 2 * lane)
                st_f32(arena + y + 4 * (r * d + j), value)
            r += blocks()

    return body


for _kind in QUANTIZED:
    kernel(THREADS, lambda _, v: ceil(v["n"], PANEL), 4 * THREADS, name=f"linear_{_kind}")(_linear(_kind))
    kernel(THREADS, lambda rows, _: rows, name=f"embed_{_kind}")(_embed(_kind))
