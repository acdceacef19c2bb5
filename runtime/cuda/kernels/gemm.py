"""Products of many rows by the tensor core: `mma.sync`, summed in float32, with `linear`'s epilogue.

In fast programs. BF16 weights take an input that the program rounded to bfloat16. F16 weights take float32, which is
rounded to float16 on its way to shared memory (what is beyond float16's largest number becomes that). F32 weights and
their input are rounded to TF32 (8 bits of exponent, 10 after the point) on their way from there.

A block makes a tile of the result, `bm` tokens by `bn` outputs; each of its warps a part of 16s by 8s. Both operands
come to shared memory 32 columns at a time (F32: 16), three such steps ahead of the products. A row is four pieces of 16
bytes there, piece c of row r in place c xor (r / 2 mod 4): the eight rows of a matrix are in banks of their own. Rows
that do not exist are the last one again, and are not written; columns after k are zeros.

Tiles of 128 x 128 read each operand half as often as those of 64 x 64; these are for results that have too few. A warp
makes a quarter of a tile: 64 x 64 take 4 KiB from shared memory for sixteen columns, where 64 x 32 take 3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...ops import FAST
from ..primitives import (
    WARP,
    barrier,
    bits,
    block,
    blocks,
    copies_close,
    copies_wait,
    copy16,
    from_bits,
    ld4_f32,
    ld_matrix4,
    mma_bf16,
    registers,
    thread,
)
from ..tensor import mma_f16, mma_tf32, pack_f16, sst4_i32, tf32
from .base import F, Kernel, always, ceil, fields_of, lane, rows_of, special
from .tiles import strip, tile_at

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

STAGES = 4
AHEAD = STAGES - 1
UNDER_WAY = STAGES - 2  # groups of copies that need not be there for the next step
ROW = 64  # bytes of a row in shared memory
PIECES = ROW // 16
MOST_F16 = 65504.0
#: Rows that are worth a tile; tiles of 128 x 128 that are enough for a GPU.
LEAST_ROWS, MANY_TILES = 16, 96


def place(row: Any, piece: Any) -> Any:
    """Where piece 0 to 3 of a row lies in a stage."""
    return row * ROW + (piece ^ row >> 1 & 3) * 16


def _within(x: Any) -> Any:
    if abs(x) > F(MOST_F16):
        x = F(MOST_F16) if x > F(0.0) else F(-MOST_F16)
    return x


def _halves(a: Any, b: Any) -> Any:
    """Two float32 as float16, in one word; NaN stays."""
    return pack_f16(_within(a), _within(b))


def gemm(kind: str, bm: int, bn: int, wm: int, wn: int) -> tuple[Callable[..., None], int, int]:
    """Kernel, threads and shared bytes for tiles of bm x bn, warps of wm x wn; `kind`: bf16, f16 or f32."""
    mma: Any = {"bf16": mma_bf16, "f16": mma_f16, "f32": mma_tf32}[kind]
    rounded, whole = kind == "bf16", kind == "f32"
    size = 4 if whole else 2
    each, columns = 16 // size, ROW // size  # numbers of a piece, and of a row in shared memory
    across, threads = bn // wn, bm // wm * (bn // wn) * WARP
    tall, wide = wm // 16, wn // 8  # products of a warp
    held, taken = tall * wide * 4, tall * 4  # numbers of a thread: of the result, and of the input
    leave, strip_bytes = strip(wn)
    a_bytes, stage_bytes = bm * ROW, (bm + bn) * ROW

    def fill(stage: Any, x: Any, w: Any, at: Any, m_left: Any, n_left: Any, k: Any, ldx: Any) -> None:
        """Begin to copy columns `at` and on of both operands, whose tiles' first rows are x and w."""
        to = stage * stage_bytes
        for i in range(bm * PIECES // threads):
            row, c = (thread() + i * threads) // PIECES, thread() % PIECES
            source, there = x + min(row, m_left - 1) * ldx, at + each * c < k
            if rounded:
                copy16(to + place(row, c), source + 2 * at + 16 * c, 16)
            elif whole:
                copy16(to + place(row, c), source + (4 * at + 16 * c if there else 0), 16 if there else 0)
            elif there:
                p, q = ld4_f32(source + 4 * at + 32 * c), ld4_f32(source + 4 * at + 32 * c + 16)
                sst4_i32(to + place(row, c), _halves(p[0], p[1]), _halves(p[2], p[3]),
                         _halves(q[0], q[1]), _halves(q[2], q[3]))  # fmt: skip
            else:
                sst4_i32(to + place(row, c), 0, 0, 0, 0)
        for i in range(bn * PIECES // threads):
            row, c = (thread() + i * threads) // PIECES, thread() % PIECES
            there = at + each * c < k
            source = w + size * min(row, n_left - 1) * k + (size * at + 16 * c if there else 0)
            copy16(to + a_bytes + place(row, c), source, 16 if there else 0)

    def fetch(at: Any) -> Any:
        """*warp* Four matrices of a product's operands."""
        words = ld_matrix4(at)
        if whole:
            return tf32(words[0]), tf32(words[1]), tf32(words[2]), tf32(words[3])
        return words

    def multiply(stage: Any, piece: Any, top: Any, left: Any, a: Any, acc: Any) -> None:
        """*warp* Add the products of two pieces of each row to this warp's accumulators."""
        rows = top + (lane() & 15)
        for i in range(tall):
            words = fetch(stage * stage_bytes + place(rows + 16 * i, piece + (lane() >> 4)))
            for e in range(4):
                a[4 * i + e] = from_bits(words[e])
        rows = left + (lane() & 7) + (lane() >> 4) * 8
        for j in range(wide // 2):
            b = fetch(stage * stage_bytes + a_bytes + place(rows + 16 * j, piece + (lane() >> 3 & 1)))
            for i in range(tall):
                x = bits(a[4 * i]), bits(a[4 * i + 1]), bits(a[4 * i + 2]), bits(a[4 * i + 3])
                p = 4 * (i * wide + 2 * j)
                c = mma(x, b[0], b[1], (acc[p], acc[p + 1], acc[p + 2], acc[p + 3]))
                d = mma(x, b[2], b[3], (acc[p + 4], acc[p + 5], acc[p + 6], acc[p + 7]))
                acc[p], acc[p + 1], acc[p + 2], acc[p + 3] = c
                acc[p + 4], acc[p + 5], acc[p + 6], acc[p + 7] = d

    def body(
        arena: Any, step: Any, rows: Any, y: Any, scratch: Any, x: Any, w: Any, b: Any, times: Any, residual: Any,
        n: Any, k: Any, act: Any,
    ) -> None:  # fmt: skip
        tokens, steps = rows_of(step, rows), (k + columns - 1) // columns
        ldx, down = ROW * steps if rounded else 4 * k, (tokens + bm - 1) // bm
        warp = thread() // WARP
        top, left, mine = warp // across * wm, warp % across * wn, warp * strip_bytes
        acc, a = registers(held), registers(taken)
        tile, right = block(), (n + bn - 1) // bn
        while tile < down * right:
            m_tile, n_tile = tile_at(tile, down, right)
            m0, n0 = m_tile * bm, n_tile * bn
            xs, ws = arena + x + m0 * ldx, w + size * n0 * k
            for i in range(held):
                acc[i] = F(0.0)
            for s in range(AHEAD):
                if s < steps:
                    fill(s, xs, ws, columns * s, tokens - m0, n - n0, k, ldx)
                copies_close()
            for s in range(steps):
                copies_wait(UNDER_WAY)
                barrier()
                ahead = s + AHEAD
                if ahead < steps:
                    fill(ahead % STAGES, xs, ws, columns * ahead, tokens - m0, n - n0, k, ldx)
                copies_close()
                multiply(s % STAGES, 0, top, left, a, acc)
                multiply(s % STAGES, 2, top, left, a, acc)
            copies_wait(0)
            barrier()
            for i in range(tall):
                m = m0 + top + 16 * i
                leave(mine, acc, 4 * wide * i, m, n0 + left, tokens, arena, y, b, times, residual, n, act)
            barrier()
            tile += blocks()

    return body, threads, max(STAGES * stage_bytes, threads // WARP * strip_bytes)


def _tiles(bm: int, bn: int) -> Callable[[int, Mapping[str, int]], int]:
    return lambda rows, v: ceil(rows, bm) * ceil(v["n"], bn)


def _fits(rows: int, v: Mapping[str, int]) -> bool:
    return rows >= LEAST_ROWS and v["k"] % 8 == 0


def _fits_large(rows: int, v: Mapping[str, int]) -> bool:
    return _fits(rows, v) and _tiles(128, 128)(rows, v) >= MANY_TILES


for _name, _kind in ((f"linear_{FAST}", "bf16"), ("linear_f16", "f16"), ("linear_f32", "f32")):
    for _size, _fit in ((128, _fits_large), (64, _fits)):
        _body, _threads, _shared = gemm(_kind, _size, _size, _size // 2, _size // 2)
        special(_name, Kernel(
            f"{_name}_tiled{_size}", _body, _threads, _tiles(_size, _size), always(_shared), fields_of(_name, _body),
            _fit, fast=True,
        ))  # fmt: skip
