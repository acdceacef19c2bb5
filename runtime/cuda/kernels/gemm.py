"""Products of many rows by the tensor core: bfloat16 by bfloat16, summed in float32, with `linear`'s epilogue.

A block makes a tile of the result, `bm` tokens by `bn` outputs; each of its warps a part of 16s by 8s. Both operands
come to shared memory 32 columns at a time, two such steps ahead of the products; rows lie 80 bytes apart there, so that
the eight rows of a matrix are in banks of their own. Rows that do not exist are the last one again, and are not
written; columns behind k are zeros.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...ops import FAST
from ..primitives import (
    WARP,
    barrier,
    block,
    blocks,
    copies_close,
    copies_wait,
    copy16,
    ld_matrix4,
    mma_bf16,
    registers,
    sld_f32,
    sst_f32,
    thread,
)
from .base import F, Kernel, ceil, fields_of, lane, rows_of, special
from .linear import finish

if TYPE_CHECKING:
    from collections.abc import Callable

COLUMNS, STAGES = 32, 3
AHEAD = STAGES - 1
UNDER_WAY = STAGES - 2  # groups of copies that need not be there for the next step
ROW = 2 * (COLUMNS + 8)  # bytes of a row in shared memory
CHUNKS = COLUMNS * 2 // 16


def gemm(bm: int, bn: int, wm: int, wn: int) -> tuple[Callable[..., None], int, int]:
    """Kernel, threads and shared bytes for tiles of bm x bn, warps of wm x wn."""
    across, threads = bn // wn, bm // wm * (bn // wn) * WARP
    tall, wide = wm // 16, wn // 8  # products of a warp
    held = tall * wide * 4  # of the result, by a thread
    result_row = bn + 4  # numbers between rows of the result in shared memory
    a_bytes, stage_bytes = bm * ROW, (bm + bn) * ROW

    def fill(stage: Any, x: Any, w: Any, at: Any, m_left: Any, n_left: Any, k: Any, ldx: Any) -> None:
        """Begin to copy columns `at` to `at` + 32 of both operands, whose tiles' first rows are x and w."""
        to = stage * stage_bytes
        for i in range(thread(), bm * CHUNKS, threads):
            row, c = i // CHUNKS, i % CHUNKS
            copy16(to + row * ROW + 16 * c, x + min(row, m_left - 1) * ldx + 2 * at + 16 * c, 16)
        for i in range(thread(), bn * CHUNKS, threads):
            row, c = i // CHUNKS, i % CHUNKS
            there = at + 8 * c < k
            source = w + 2 * min(row, n_left - 1) * k + (2 * at + 16 * c if there else 0)
            copy16(to + a_bytes + row * ROW + 16 * c, source, 16 if there else 0)

    def multiply(stage: Any, column: Any, top: Any, left: Any, acc: Any) -> None:
        """*warp* Add the products of sixteen columns to this warp's accumulators."""
        a_at = stage * stage_bytes + (top + (lane() & 15)) * ROW + 2 * (column + (lane() >> 4) * 8)
        b_row = left + (lane() & 7) + (lane() >> 4) * 8
        b_at = stage * stage_bytes + a_bytes + b_row * ROW + 2 * (column + (lane() >> 3 & 1) * 8)
        for j in range(wide // 2):
            b = ld_matrix4(b_at + 16 * j * ROW)
            for i in range(tall):
                a = ld_matrix4(a_at + 16 * i * ROW)
                p = 4 * (i * wide + 2 * j)
                c = mma_bf16(a, b[0], b[1], (acc[p], acc[p + 1], acc[p + 2], acc[p + 3]))
                d = mma_bf16(a, b[2], b[3], (acc[p + 4], acc[p + 5], acc[p + 6], acc[p + 7]))
                acc[p], acc[p + 1], acc[p + 2], acc[p + 3] = c
                acc[p + 4], acc[p + 5], acc[p + 6], acc[p + 7] = d

    def give(row: Any, column: Any, acc: Any) -> None:
        """The accumulators to shared memory, where a tile's rows lie `result_row` numbers apart."""
        for i in range(tall):
            for j in range(wide):
                at, p = 4 * ((row + 16 * i) * result_row + column + 8 * j), 4 * (i * wide + j)
                sst_f32(at, acc[p])
                sst_f32(at + 4, acc[p + 1])
                sst_f32(at + 32 * result_row, acc[p + 2])
                sst_f32(at + 32 * result_row + 4, acc[p + 3])

    def body(
        arena: Any, step: Any, rows: Any, y: Any, scratch: Any, x: Any, w: Any, b: Any, times: Any, residual: Any,
        n: Any, k: Any, act: Any,
    ) -> None:  # fmt: skip
        tokens, steps = rows_of(step, rows), (k + COLUMNS - 1) // COLUMNS
        ldx, down = 2 * COLUMNS * steps, (tokens + bm - 1) // bm
        warp = thread() // WARP
        top, left = warp // across * wm, warp % across * wn
        for tile in range(block(), down * ((n + bn - 1) // bn), blocks()):
            m0, n0 = tile % down * bm, tile // down * bn
            xs, ws = arena + x + m0 * ldx, w + 2 * n0 * k
            acc = registers(held)
            for i in range(held):
                acc[i] = F(0.0)
            for s in range(AHEAD):
                if s < steps:
                    fill(s, xs, ws, COLUMNS * s, tokens - m0, n - n0, k, ldx)
                copies_close()
            for s in range(steps):
                copies_wait(UNDER_WAY)
                barrier()
                ahead = s + AHEAD
                if ahead < steps:
                    fill(ahead % STAGES, xs, ws, COLUMNS * ahead, tokens - m0, n - n0, k, ldx)
                copies_close()
                multiply(s % STAGES, 0, top, left, acc)
                multiply(s % STAGES, 16, top, left, acc)
            copies_wait(0)
            barrier()
            give(top + lane() // 4, left + lane() % 4 * 2, acc)
            barrier()
            for i in range(thread(), bm * bn, threads):
                m, c = m0 + i // bn, n0 + i % bn
                if m < tokens and c < n:
                    finish(arena, m, c, sld_f32(4 * (i // bn * result_row + i % bn)), n, y, b, times, residual, act)
            barrier()

    return body, threads, max(STAGES * stage_bytes, 4 * bm * result_row)


BM, BN = 64, 64
_body, _threads, _shared = gemm(BM, BN, 32, 32)
_name = f"linear_{FAST}"
special(_name, Kernel(
    f"{_name}_tiled", _body, _threads, lambda rows, v: ceil(rows, BM) * ceil(v["n"], BN), lambda _: _shared,
    fields_of(_name), lambda rows, v: rows >= 16 and v["k"] % 8 == 0,
))  # fmt: skip
