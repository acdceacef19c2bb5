"""`tensor.py` as the emulator has it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from .memory import Fault

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from .grid import Grid

__all__ = ["bf16_bits", "tensor"]

F = np.float32


def tensor(grid: Grid) -> dict[str, Any]:
    """The primitives by name, for one launch."""

    def ld_matrix4_t(shared: int) -> tuple[int, ...]:
        me = grid.now
        rows = me.warp.meet(me, "ld_matrix4_t", shared, lambda all_: [all_] * len(all_))
        lane = me.number % len(rows)
        column = lane // 4
        words = []
        for i in range(4):
            pair = (rows[8 * i + lane % 4 * 2 + r] + column // 2 * 4 for r in range(2))
            low, high = (int(me.shared.load(a, "u32", me.moment)) >> column % 2 * 16 & 0xFFFF for a in pair)
            words.append(high << 16 | low)
        return tuple(words)

    def quad(what: str, join: np.ufunc) -> Any:
        def f(value: Any) -> Any:
            me = grid.now
            return me.warp.meet(me, what, value, lambda all_: _quads(all_, join))

        return f

    def sst4_i32(address: int, *words: int) -> None:
        me = grid.now
        if address % 16:
            msg = f"16 bytes of shared memory at {address}"
            raise Fault(msg)
        for i, w in enumerate(words):
            me.shared.store(address + 4 * i, "u32", w & 0xFFFFFFFF, me.moment)

    def mma_bytes(a: Any, b0: int, b1: int, c: Any) -> tuple[int, ...]:
        me = grid.now
        return tuple(map(int, me.warp.meet(me, "mma_bytes", ((*a, b0, b1), c), _multiplied_bytes)))

    def copy4(shared: int, address: int) -> None:
        if address % 4:
            msg = f"a copy of 4 bytes at {address:#x}"
            raise Fault(msg)
        grid.now.copies[-1].append((shared, grid.memory.view(address, 4)))

    def mma(kind: str) -> Any:
        def f(a: Any, b0: int, b1: int, c: Any) -> tuple[Any, ...]:
            me = grid.now
            return tuple(me.warp.meet(me, f"mma_{kind}", ((*a, b0, b1), c), lambda all_: _multiplied(all_, kind)))

        return f

    return {
        "mma_bf16": mma("bf16"), "mma_f16": mma("f16"), "mma_tf32": mma("tf32"), "tf32": _tf32,
        "pack_f16": _pack_f16, "ld_matrix4_t": ld_matrix4_t,
        "mma_bytes": mma_bytes, "copy4": copy4,
        "quad_sum": quad("quad_sum", np.add), "quad_max": quad("quad_max", np.fmax),
        "sst4_i32": sst4_i32, "pack_bf16": lambda low, high: bf16_bits(low) | bf16_bits(high) << 16,
        "larger": lambda a, b: F(np.fmax(F(a), F(b))), "exp2": _exp2,
        "quotient": lambda a, b: F(a) / F(b), "divided": _divided,
    }  # fmt: skip


def _quads(values: Sequence[Any], join: np.ufunc) -> list[Any]:
    """With the thread two away, then the next."""
    v = np.array(values, np.float32).reshape(-1, 2, 2)
    return [joined for joined in join.reduce(join.reduce(v, 1), -1) for _ in range(4)]


#: Where thread t has its numbers: g = t / 4 and 2 (t mod 4), in [32, 1].
_G, _T = np.arange(32)[:, None] // 4, np.arange(32)[:, None] % 4 * 2
_A = _G + np.array([0, 0, 8, 8, 0, 0, 8, 8]), _T + np.array([0, 1, 0, 1, 8, 9, 8, 9])  # row and column, of 8 numbers
_B = _T + np.array([0, 1, 8, 9]), _G
_C = _G + np.array([0, 0, 8, 8]), _T + np.array([0, 1, 0, 1])


def _multiplied(values: Sequence[Any], kind: str) -> Any:
    """Sums in float64, rounded once: the hardware's order within a product of 16 is not promised."""
    words = widened(np.array([v[0] for v in values], np.uint32), kind)
    of_a, of_b, depth = (_A4, _B4, 8) if kind == "tf32" else (_A, _B, 16)
    a, b, c, split = np.empty((16, depth)), np.empty((depth, 8)), np.empty((16, 8)), depth // 2
    a[of_a], b[of_b], c[_C] = words[:, :split], words[:, split:], np.array([v[1] for v in values], np.float32)
    return (a @ b + c).astype(np.float32)[_C]


#: Of TF32, a number in each word.
_A4 = _G + np.array([0, 8, 0, 8]), _T // 2 + np.array([0, 0, 4, 4])
_B4 = _T // 2 + np.array([0, 4]), _G
#: Of bytes: four of a thread's word lie side by side.
_A8 = (
    _G + np.repeat([0, 8, 0, 8], 4),
    2 * _T + np.concatenate([np.arange(4) + at for at in (0, 0, 16, 16)]),
)
_B8 = 2 * _T + np.concatenate([np.arange(4), np.arange(4) + 16]), _G


def _multiplied_bytes(values: Sequence[Any]) -> Any:
    """Exact, cut to 32 bits."""
    words = np.array([v[0] for v in values], np.uint32)
    a, b, c = np.empty((16, 32), np.int64), np.empty((32, 8), np.int64), np.empty((16, 8), np.int64)
    a[_A8] = np.ascontiguousarray(words[:, :4]).view(np.int8)
    b[_B8] = np.ascontiguousarray(words[:, 4:]).view(np.uint8)
    c[_C] = np.array([v[1] for v in values], np.int64)
    return (a @ b + c).astype(np.int32)[_C]


def widened(words: NDArray[np.uint32], kind: str) -> NDArray[np.float64]:
    """[n, words] -> [n, 2 words]: the halves of each, the lower first, bfloat16 or float16; [n, words] of TF32."""
    if kind == "tf32":  # the hardware looks at no more bits
        return (words & np.uint32(0xFFFFE000)).view(np.float32).astype(np.float64)
    halves = np.ascontiguousarray(words).view(np.uint16)
    if kind == "f16":
        return halves.view(np.float16).astype(np.float64)
    return (halves.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def _tf32(word: int) -> int:
    if word & 0x7FFFFFFF > 0x7F800000:
        return 0x7FFFFFFF  # also of a NaN whose bits are all below those that are kept
    return word if word & 0x7FFFFFFF == 0x7F800000 else (word + 0x1000) & 0xFFFFE000


def bf16_bits(x: Any) -> int:
    """Bits of the nearest bfloat16, ties to even."""
    u = int(F(x).view(np.uint32))
    return 0x7FFF if math.isnan(x) else (u + 0x7FFF + (u >> 16 & 1)) >> 16


def _pack_f16(low: Any, high: Any) -> int:
    return int(np.array([low, high], np.float16).view(np.uint32)[0])


def _divided(a: int, b: int) -> int:
    if not (0 <= a < 1 << 31 and 0 < b < 1 << 31):
        msg = f"{a} // {b} in 32 bits"
        raise Fault(msg)
    return a // b


def _exp2(x: Any) -> Any:
    y = F(np.exp2(np.float64(x)))
    return F(0.0) if y < np.finfo(np.float32).tiny else y
