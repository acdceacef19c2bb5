"""Products of many rows on Hopper (sm_90a): `wgmma` from shared memory, bfloat16 summed in float32.

A block makes a tile of the result, 128 tokens by `bn` outputs, each of its two warpgroups 64 tokens. Both operands come
to shared memory 64 columns at a time, two such steps ahead of the products, which run on by themselves while the
threads fetch what comes next. Rows that do not exist are the last one again, and are not written; columns behind k are
zeros.

How a step lies in shared memory, and what a descriptor says of it (PTX ISA, "Asynchronous warpgroup level matrix",
shared memory layout and matrix descriptor):

- An operand is [rows][64] bfloat16, 128 bytes a row, rows one after the other: K is the direction that runs through
  memory ("K-major", no transposition). Eight rows are one pattern of 1024 bytes.
- Swizzle mode 1 (128 bytes): piece c (16 bytes) of row r lies in place c xor (r mod 8). The hardware finds it from the
  address: bits 4 to 6 are xor-ed with bits 7 to 9. Bits 7 to 9 are r mod 8 where a pattern begins at a multiple of
  1024, which every stage does; the base offset (bits 49 to 51) is then 0.
- Bits 0 to 13: the address in the shared window / 16. The k-th sixteen columns begin 32 k bytes on: + 2 k, since the
  xor is taken of the sum.
- Bits 16 to 29: the leading offset, from one pattern to the next along K; a product takes 32 bytes, within one pattern,
  and the hardware does not read it (1, as is usual).
- Bits 32 to 45: the stride offset / 16, from eight rows to the next eight: 1024 / 16 = 64.
- Bits 62, 63: the mode.
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
    registers,
    sld_f32,
    sst_f32,
    thread,
    warp_barrier,
)
from ..tensor import divided, fence_async, wgmma_bf16, wgmma_close, wgmma_fence, wgmma_finish, wgmma_wait, window
from .base import F, Kernel, always, ceil, fields_of, lane, rows_of, special
from .linear import finish_fast

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ARCHITECTURE = "sm_90a"
BM, COLUMNS, THREADS = 128, 64, 256
ROW, PIECES = 2 * COLUMNS, 2 * COLUMNS // 16
#: A stage is filled two steps ahead, and one product may be under way while the next is begun: two more.
AHEAD = 2
STAGES = AHEAD + 2
UNDER_WAY = AHEAD - 1  # groups of copies that need not be there for the next step
#: All of a descriptor but the address: leading offset 1, stride offset 1024 / 16, swizzle mode 1.
LAYOUT = 1 << 16 | 8 * ROW // 16 << 32 | 1 << 62
#: Tiles that are enough for a GPU.
MANY_TILES = 96


def descriptor(shared: Any) -> Any:
    """Of an operand at this byte of shared memory."""
    return (window(shared) & 0x3FFFF) >> 4 | LAYOUT


def hopper(bn: int) -> tuple[Callable[..., None], int]:
    """Kernel and shared bytes for tiles of 128 x bn; a thread holds bn / 2 numbers of the result."""
    held = bn // 2
    a_bytes, stage_bytes = BM * ROW, (BM + bn) * ROW
    result_row = bn + 4  # numbers between rows of the result in shared memory
    each = THREADS // PIECES  # rows that all threads copy at once

    def fill(stage: Any, x: Any, w: Any, at: Any, m_left: Any, n_left: Any, k: Any, ldx: Any) -> None:
        """Begin to copy columns `at` to `at` + 64 of both operands, whose tiles' first rows are x and w."""
        first, c = thread() // PIECES, thread() % PIECES
        to, there = stage * stage_bytes + first * ROW + (c ^ first & 7) * 16, at + 8 * c < k
        column, count = (2 * at + 16 * c, 16) if there else (0, 0)
        for i in range(BM // each):
            copy16(to + i * each * ROW, x + min(first + i * each, m_left - 1) * ldx + column, count)
        for i in range(bn // each):
            copy16(to + a_bytes + i * each * ROW, w + 2 * min(first + i * each, n_left - 1) * k + column, count)

    def give(to: Any, acc: Any) -> None:
        """*warp* Its sixteen rows of the accumulators to shared memory, `result_row` numbers apart."""
        at = to + 4 * (lane() // 4 * result_row + lane() % 4 * 2)
        for j in range(bn // 8):
            sst_f32(at + 32 * j, acc[4 * j])
            sst_f32(at + 32 * j + 4, acc[4 * j + 1])
            sst_f32(at + 32 * j + 32 * result_row, acc[4 * j + 2])
            sst_f32(at + 32 * j + 32 * result_row + 4, acc[4 * j + 3])

    def body(
        arena: Any, step: Any, rows: Any, y: Any, scratch: Any, x: Any, w: Any, b: Any, times: Any, residual: Any,
        n: Any, k: Any, act: Any,
    ) -> None:  # fmt: skip
        tokens, steps = rows_of(step, rows), (k + COLUMNS - 1) // COLUMNS
        ldx, down = (k + 31) // 32 * 64, (tokens + BM - 1) // BM
        warp = thread() // WARP
        mine, a_at = warp * 64 * result_row, warp // 4 * 64 * ROW
        acc = registers(held)
        tile, tiles = block(), down * ((n + bn - 1) // bn)
        while tile < tiles:  # a range of a step that is not known would be a division
            n_tile = divided(tile, down)
            m0, n0 = (tile - n_tile * down) * BM, n_tile * bn
            xs, ws = arena + x + m0 * ldx, w + 2 * n0 * k
            for i in range(held):
                acc[i] = F(0.0)
            for s in range(AHEAD):
                if s < steps:
                    fill(s, xs, ws, COLUMNS * s, tokens - m0, n - n0, k, ldx)
                copies_close()
            for s in range(steps):
                copies_wait(UNDER_WAY)
                fence_async()
                barrier()
                at = s % STAGES * stage_bytes
                of_a, of_b = descriptor(at + a_at), descriptor(at + a_bytes)
                wgmma_fence()
                for i in range(COLUMNS // 16):
                    wgmma_bf16(acc, held, of_a + 2 * i, of_b + 2 * i)
                wgmma_close()
                ahead = s + AHEAD
                if ahead < steps:
                    fill(ahead % STAGES, xs, ws, COLUMNS * ahead, tokens - m0, n - n0, k, ldx)
                copies_close()
                wgmma_wait(1)
            wgmma_finish(acc, held)
            copies_wait(0)
            barrier()
            give(mine, acc)
            warp_barrier()
            for e in range(lane(), 16 * bn, WARP):
                m, c = m0 + 16 * warp + e // bn, n0 + e % bn
                if m < tokens and c < n:
                    value = sld_f32(mine + 4 * (e // bn * result_row + e % bn))
                    finish_fast(arena, m, c, value, n, y, b, times, residual, act)
            barrier()
            tile += blocks()

    return body, STAGES * stage_bytes


def _tiles(bn: int) -> Callable[[int, Mapping[str, int]], int]:
    return lambda rows, v: ceil(rows, BM) * ceil(v["n"], bn)


def _fits(bn: int) -> Callable[[int, Mapping[str, int]], bool]:
    return lambda rows, v: v["k"] % 8 == 0 and _tiles(bn)(rows, v) >= MANY_TILES


_name = f"linear_{FAST}"
for _wide in (256, 128):
    _body, _shared = hopper(_wide)
    special(_name, Kernel(
        f"{_name}_wgmma{_wide}", _body, THREADS, _tiles(_wide), always(_shared), fields_of(_name), _fits(_wide),
        fast=True, only=ARCHITECTURE,
    ))  # fmt: skip
