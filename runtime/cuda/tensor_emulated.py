"""`tensor.py` as the emulator has it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from .memory import Fault

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .emulator import Grid

__all__ = ["bf16_bits", "tensor"]

F = np.float32


def tensor(grid: Grid) -> dict[str, Any]:
    """The primitives by name, for one launch."""
    return _sync(grid)


def _sync(grid: Grid) -> dict[str, Any]:
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

    def quad(what: str, join: Callable[[Any], Sequence[Any]]) -> Any:
        def f(value: Any) -> Any:
            me = grid.now
            return me.warp.meet(me, what, value, lambda all_: join(np.array(all_, np.float32).reshape(-1, 2, 2)))

        return f

    def sst4_i32(address: int, *words: int) -> None:
        me = grid.now
        if address % 16:
            msg = f"16 bytes of shared memory at {address}"
            raise Fault(msg)
        for i, w in enumerate(words):
            me.shared.store(address + 4 * i, "u32", w & 0xFFFFFFFF, me.moment)

    return {
        "ld_matrix4_t": ld_matrix4_t,
        "quad_sum": quad("quad_sum", lambda v: np.repeat(v.sum(1, dtype=np.float32).sum(-1, dtype=np.float32), 4)),
        "quad_max": quad("quad_max", lambda v: np.repeat(np.fmax.reduce(np.fmax.reduce(v, 1), -1), 4)),
        "sst4_i32": sst4_i32, "pack_bf16": lambda low, high: bf16_bits(low) | bf16_bits(high) << 16,
        "larger": lambda a, b: F(np.fmax(F(a), F(b))), "exp2": _exp2,
    }  # fmt: skip


def bf16_bits(x: Any) -> int:
    """Bits of the nearest bfloat16, ties to even."""
    u = int(F(x).view(np.uint32))
    return 0x7FFF if math.isnan(x) else (u + 0x7FFF + (u >> 16 & 1)) >> 16


def _exp2(x: Any) -> Any:
    y = F(np.exp2(np.float64(x)))
    return F(0.0) if y < np.finfo(np.float32).tiny else y
