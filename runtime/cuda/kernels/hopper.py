"""Products of many rows on Hopper (sm_90a): `wgmma` from shared memory, bfloat16 summed in float32.

A block makes tiles of the result, 128 tokens by `bn` outputs, one after the other. Eight of its warps are two
warpgroups, each of which has 64 of a tile's tokens; one thread of a ninth brings the operands to shared memory by bulk
copies, 64 columns a stage, as far ahead as there are stages, also of the next tile. Two barriers a stage say what is
there: `full`, which the copies' bytes come for, and `empty`, to which a warp comes when the products that read the
stage are done; those run on by themselves, one stage's while the next one's begin. What no row or column of an
operand is comes as zeros; rows of tokens after the step's are whatever was there, and are not written.

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
from ..primitives import WARP, barrier, block, blocks, registers, thread
from ..tensor import (
    copy_box,
    fence_async,
    map_acquire,
    mbarrier_arrive,
    mbarrier_expect,
    mbarrier_init,
    mbarrier_wait,
    wgmma_bf16,
    wgmma_close,
    wgmma_fence,
    wgmma_finish,
    wgmma_wait,
    window,
)
from ..tensor_map import COLUMNS, TensorMap
from .base import F, Kernel, always, ceil, fields_of, lane, rows_of, special
from .gemm import LEAST_ROWS
from .tiles import strip, tile_at

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ARCHITECTURE = "sm_90a"
BM = 128
#: Threads that multiply, and with the warp that fetches.
MULTIPLY, THREADS = 256, 256 + WARP
WARPS = MULTIPLY // WARP
ROW = 2 * COLUMNS
#: Bytes of the stages: what a processor's 227 KiB leave besides the strips.
STAGED = 192 * 1024
#: Columns of a tile that a warp finishes at once.
STRIP = 64
#: All of a descriptor but the address: leading offset 1, stride offset 1024 / 16, swizzle mode 1.
LAYOUT = 1 << 16 | 8 * ROW // 16 << 32 | 1 << 62
#: Tiles that are enough for a GPU.
MANY_TILES = 96


def descriptor(shared: Any) -> Any:
    """Of an operand at this byte of shared memory."""
    return (window(shared) & 0x3FFFF) >> 4 | LAYOUT


def hopper(bn: int) -> tuple[Callable[..., None], int]:
    """Kernel and shared bytes for tiles of 128 x bn; a thread that multiplies holds bn / 2 numbers of the result."""
    held = bn // 2
    a_bytes, stage_bytes = BM * ROW, (BM + bn) * ROW
    stages = STAGED // stage_bytes
    strips = stages * stage_bytes
    leave, strip_bytes = strip(STRIP)
    full = strips + WARPS * strip_bytes
    empty = full + 8 * stages

    def fetch(tile: Any, down: Any, across: Any, steps: Any, x: Any, w: Any) -> None:
        """Bring every stage of every tile of this block: one thread."""
        map_acquire(x)
        map_acquire(w)
        stage, odd = 0, 0
        while tile < down * across:
            m, n = tile_at(tile, down, across)
            for s in range(steps):
                mbarrier_wait(empty + 8 * stage, odd ^ 1)
                mbarrier_expect(full + 8 * stage, stage_bytes)
                copy_box(stage * stage_bytes, x, COLUMNS * s, BM * m, full + 8 * stage)
                copy_box(stage * stage_bytes + a_bytes, w, COLUMNS * s, bn * n, full + 8 * stage)
                stage += 1
                if stage == stages:
                    stage, odd = 0, odd ^ 1
            tile += blocks()

    def body(
        arena: Any, step: Any, rows: Any, y: Any, scratch: Any, x: Any, w: Any, b: Any, times: Any, residual: Any,
        n: Any, k: Any, act: Any, x_map: Any, w_map: Any,
    ) -> None:  # fmt: skip
        tokens, steps = rows_of(step, rows), (k + COLUMNS - 1) // COLUMNS
        down, across = (tokens + BM - 1) // BM, (n + bn - 1) // bn
        warp, tile = thread() // WARP, block()
        if thread() == MULTIPLY:
            for s in range(stages):
                mbarrier_init(full + 8 * s, 1)
                mbarrier_init(empty + 8 * s, WARPS)
            fence_async()
        barrier()
        if thread() == MULTIPLY:
            fetch(tile, down, across, steps, x_map, w_map)
        elif thread() < MULTIPLY:
            mine, a_at = strips + warp * strip_bytes, warp // 4 * 64 * ROW
            acc = registers(held)
            stage, odd, before = 0, 0, 0
            while tile < down * across:
                m_tile, n_tile = tile_at(tile, down, across)
                for i in range(held):
                    acc[i] = F(0.0)
                for s in range(steps):
                    mbarrier_wait(full + 8 * stage, odd)
                    at = stage * stage_bytes
                    of_a, of_b = descriptor(at + a_at), descriptor(at + a_bytes)
                    wgmma_fence()
                    for i in range(COLUMNS // 16):
                        wgmma_bf16(acc, held, of_a + 2 * i, of_b + 2 * i)
                    wgmma_close()
                    wgmma_wait(1)
                    if s > 0 and lane() == 0:
                        mbarrier_arrive(empty + 8 * before)
                    before = stage
                    stage += 1
                    if stage == stages:
                        stage, odd = 0, odd ^ 1
                wgmma_finish(acc, held)
                if lane() == 0:
                    mbarrier_arrive(empty + 8 * before)
                m0, n0 = BM * m_tile + 16 * warp, bn * n_tile
                for j in range(bn // STRIP):
                    leave(mine, acc, STRIP // 2 * j, m0, n0 + STRIP * j, tokens, arena, y, b, times, residual, n, act)
                tile += blocks()

    return body, empty + 8 * stages


def _tiles(bn: int) -> Callable[[int, Mapping[str, int]], int]:
    return lambda rows, v: ceil(rows, BM) * ceil(v["n"], bn)


def _fits(bn: int) -> Callable[[int, Mapping[str, int]], bool]:
    return lambda rows, v: rows >= LEAST_ROWS and v["k"] % 8 == 0 and _tiles(bn)(rows, v) >= MANY_TILES


def _x_map(arena: int, rows: int, v: Mapping[str, int]) -> TensorMap:
    return TensorMap(arena + v["x"], rows, v["k"], ceil(v["k"], 32) * 64, BM)


def _w_map(bn: int) -> Callable[[int, int, Mapping[str, int]], TensorMap]:
    return lambda _arena, _rows, v: TensorMap(v["w"], v["n"], v["k"], 2 * v["k"], bn)


_name = f"linear_{FAST}"
for _wide in (256, 128):
    _body, _shared = hopper(_wide)
    special(_name, Kernel(
        f"{_name}_wgmma{_wide}", _body, THREADS, _tiles(_wide), always(_shared), fields_of(_name, _body), _fits(_wide),
        fast=True, only=ARCHITECTURE, stays=True, maps=(_x_map, _w_map(_wide)),
    ))  # fmt: skip
