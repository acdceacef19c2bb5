"""Products of many rows of quantised inputs: integers by the tensor core, sixteen tokens by eight outputs by a group.

The dots of a group of 32 are exact, and the sums of these are taken in the order of `quantized.py`: every eighth group
in turn, and the eight sums in order. So the bits are those of one token.

A block makes `tall` times 16 tokens by 64 outputs, a warp for each panel of sixteen. Words of a panel lie as the tensor
core wants them (four columns of a row) and go from the GPU's memory to registers; the input's bytes come to shared
memory, four groups of one turn at a time, two such steps ahead. A token has 32 bytes of a group there, two pieces of
16; piece c of token r in place c xor (r / 4 mod 2): the eight rows of a matrix are in banks of their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...quantized import GROUP, GROUP_BYTES, HEAD_BYTES, PANEL, QUANTIZED, SCALE_BYTES
from ..primitives import (
    WARP,
    barrier,
    block,
    blocks,
    copies_close,
    copies_wait,
    copy16,
    fma,
    high_f16,
    ld_matrix4,
    ld_u32,
    low_f16,
    registers,
    sld_f32,
    sld_i32,
    sst_f32,
    thread,
)
from ..tensor import copy4, divided, mma_bytes
from .base import F, Kernel, always, ceil, fields_of, lane, rows_of, special
from .linear import finish
from .quantized import LOW4, STEP, X_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

TURNS = 8  # `quantized.py`: halves of warps that share a row's groups
TOGETHER, AHEAD, STAGES = 4, 2, 3  # groups of a step; steps under way
UNDER_WAY = AHEAD - 1  # groups of copies that need not be there for the next step
WARPS = 4
THREADS, OUTPUTS = WARP * WARPS, PANEL * WARPS
RESULT_ROW = OUTPUTS + 4  # numbers between rows of the result in shared memory
#: Rows that are worth it; tiles that are enough for a GPU.
LEAST_ROWS, MANY_TILES = 8, 96


def integer_gemm(kind: str, tall: int) -> tuple[Callable[..., None], int]:
    """Kernel and shared bytes for tiles of 16 `tall` tokens."""
    size, head, offset = GROUP_BYTES[kind], HEAD_BYTES[kind], QUANTIZED[kind]
    wide, lowest, bm = kind == "int8", head > SCALE_BYTES, 16 * tall
    held = 8 * tall  # numbers of a thread
    group_bytes = bm * (GROUP + 8)  # of a step: its bytes, scales and sums
    scales_at, sums_at = bm * GROUP, bm * (GROUP + 4)
    stage_bytes = TOGETHER * group_bytes

    def fill(to: Any, x: Any, first: Any, left: Any, groups: Any) -> None:
        """Begin to copy four groups, every eighth from `first`, of the tokens from x."""
        for i in range(TOGETHER):
            g, at = first + TURNS * i, to + i * group_bytes
            if g < groups:
                for e in range(thread(), 2 * bm, THREADS):
                    r, c = e // 2, e % 2
                    source = x + min(r, left - 1) * groups * X_BYTES + GROUP * g
                    copy16(at + GROUP * r + 16 * (c ^ r >> 2 & 1), source + 16 * c, 16)
                for e in range(thread(), 2 * bm, THREADS):
                    r, c = e % bm, e // bm  # scales, then sums
                    source = x + min(r, left - 1) * groups * X_BYTES + groups * (GROUP + 4 * c) + 4 * g
                    copy4(at + scales_at + 4 * bm * c + 4 * r, source)
        copies_close()

    def words(at: Any) -> Any:
        """Columns 4 (t mod 4) and on of row t / 4 of eight, and those sixteen further."""
        low = ld_u32(at + STEP * (lane() & 3) + 4 * (lane() >> 2))
        if wide:
            return low, ld_u32(at + STEP * (4 + (lane() & 3)) + 4 * (lane() >> 2))
        return low & LOW4, low >> 4 & LOW4

    def multiply(stage: Any, at: Any, acc: Any) -> None:
        """*warp* acc += a group's dots times scales; at: the panel's group."""
        pair = at + 4 * (lane() & 3)
        for j in range(2):
            b, scale = words(at + head + 32 * j), ld_u32(pair + 16 * j)
            s0, s1 = low_f16(scale), high_f16(scale)
            if lowest:
                low = ld_u32(pair + SCALE_BYTES + 16 * j)
            for i in range(tall):
                row = 16 * i + (lane() >> 2)
                t0, t1 = sld_i32(stage + sums_at + 4 * row), sld_i32(stage + sums_at + 4 * row + 32)
                x0, x1 = sld_f32(stage + scales_at + 4 * row), sld_f32(stage + scales_at + 4 * row + 32)
                r = 16 * i + (lane() & 15)
                a = ld_matrix4(stage + GROUP * r + 16 * (lane() >> 4 ^ r >> 2 & 1))
                d = mma_bytes(a, b[0], b[1], (-offset * t0, -offset * t0, -offset * t1, -offset * t1))
                p = 8 * i + 4 * j
                acc[p] = fma(F(d[0]), s0 * x0, acc[p])
                acc[p + 1] = fma(F(d[1]), s1 * x0, acc[p + 1])
                acc[p + 2] = fma(F(d[2]), s0 * x1, acc[p + 2])
                acc[p + 3] = fma(F(d[3]), s1 * x1, acc[p + 3])
                if lowest:
                    acc[p] = fma(F(t0), low_f16(low) * x0, acc[p])
                    acc[p + 1] = fma(F(t0), high_f16(low) * x0, acc[p + 1])
                    acc[p + 2] = fma(F(t1), low_f16(low) * x1, acc[p + 2])
                    acc[p + 3] = fma(F(t1), high_f16(low) * x1, acc[p + 3])

    def give(acc: Any) -> None:
        """The tile to shared memory, `RESULT_ROW` numbers a token."""
        for i in range(tall):
            for j in range(2):
                p = 8 * i + 4 * j
                to = 4 * ((16 * i + (lane() >> 2)) * RESULT_ROW + thread() // WARP * PANEL + 8 * j + 2 * (lane() & 3))
                sst_f32(to, acc[p])
                sst_f32(to + 4, acc[p + 1])
                sst_f32(to + 32 * RESULT_ROW, acc[p + 2])
                sst_f32(to + 32 * RESULT_ROW + 4, acc[p + 3])

    def body(
        arena: Any, step: Any, rows: Any, y: Any, scratch: Any, x: Any, w: Any, b: Any, times: Any, residual: Any,
        n: Any, k: Any, act: Any,
    ) -> None:  # fmt: skip
        tokens, groups, panels = rows_of(step, rows), (k + GROUP - 1) // GROUP, (n + PANEL - 1) // PANEL
        each = (groups + TURNS * TOGETHER - 1) // (TURNS * TOGETHER)  # steps of a turn
        down, steps = (tokens + bm - 1) // bm, TURNS * each
        part, acc = registers(held), registers(held)
        tile, tiles = block(), down * ((n + OUTPUTS - 1) // OUTPUTS)
        while tile < tiles:
            n_tile = divided(tile, down)
            m0, n0 = (tile - n_tile * down) * bm, n_tile * OUTPUTS
            xs = arena + x + m0 * groups * X_BYTES
            panel = min(n0 // PANEL + thread() // WARP, panels - 1)  # what does not exist is the last again
            ws = w + panel * groups * size
            for i in range(held):
                part[i] = acc[i] = F(0.0)
            for s in range(AHEAD):
                if s < steps:
                    turn = divided(s, each)
                    fill(s * stage_bytes, xs, turn + TURNS * TOGETHER * (s - turn * each), tokens - m0, groups)
            for s in range(steps):
                copies_wait(UNDER_WAY)
                barrier()
                ahead = s + AHEAD
                if ahead < steps:
                    turn = divided(ahead, each)
                    first = turn + TURNS * TOGETHER * (ahead - turn * each)
                    fill(ahead % STAGES * stage_bytes, xs, first, tokens - m0, groups)
                else:
                    copies_close()
                turn = divided(s, each)
                for i in range(TOGETHER):
                    g = turn + TURNS * (TOGETHER * (s - turn * each) + i)
                    if g < groups:
                        multiply(s % STAGES * stage_bytes + i * group_bytes, ws + g * size, part)
                if s - turn * each == each - 1:
                    for i in range(held):
                        acc[i] += part[i]
                        part[i] = F(0.0)
            copies_wait(0)
            barrier()
            give(acc)
            barrier()
            for e in range(thread(), bm * OUTPUTS, THREADS):
                m, c = m0 + e // OUTPUTS, n0 + e % OUTPUTS
                if m < tokens and c < n:
                    value = sld_f32(4 * (e // OUTPUTS * RESULT_ROW + e % OUTPUTS))
                    finish(arena, m, c, value, n, y, b, times, residual, act)
            barrier()
            tile += blocks()

    return body, max(STAGES * stage_bytes, 4 * bm * RESULT_ROW)


def _tiles(tall: int) -> Callable[[int, Mapping[str, int]], int]:
    return lambda rows, v: ceil(rows, 16 * tall) * ceil(v["n"], OUTPUTS)


def _fits(tall: int, tiles: int) -> Callable[[int, Mapping[str, int]], bool]:
    # A row's bytes begin at whole 16s where its groups are an even number.
    return lambda rows, v: rows >= LEAST_ROWS and ceil(v["k"], GROUP) % 2 == 0 and _tiles(tall)(rows, v) >= tiles


for _kind in QUANTIZED:
    _name = f"linear_{_kind}"
    for _tall, _least, _blocks in ((4, MANY_TILES, 2), (2, 0, 4)):
        _body, _shared = integer_gemm(_kind, _tall)
        special(_name, Kernel(
            f"{_name}_tiled{16 * _tall}", _body, THREADS, _tiles(_tall), always(_shared), fields_of(_name, _body),
            _fits(_tall, _least), ampere=True, at_once=_blocks,
        ))  # fmt: skip
