"""`whole.py` as the emulator has it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .memory import Fault

if TYPE_CHECKING:
    from collections.abc import Callable

    from .grid import Grid

__all__ = ["whole"]


def whole(grid: Grid) -> dict[str, Any]:
    """The primitives by name, for one launch."""
    memory, races = grid.memory, grid.races

    def joined(join: Callable[[int, int], int]) -> Callable[[int, int], None]:
        def f(address: int, value: int) -> None:
            if races is not None:
                races.add(grid.now, address)
            memory.store(address, "i64", 8, join(int(memory.load(address, "i64", 8)), value))

        return f

    return {
        "add_i64": joined(int.__add__), "most_i64": joined(max),
        "sadd_i64": lambda a, v: grid.now.shared.add8(a, v, grid.now.moment),
        "fraction": _fraction,
        "double": lambda word: np.int64(word).view(np.float64),
        "double_bits": lambda x: int(np.float64(x).view(np.int64)),
        "whole": lambda x: int(np.rint(x)),
    }  # fmt: skip


def _fraction(total: int, part: int) -> int:
    if not (0 <= total < 1 << 63 and 0 <= part < 1 << 63):
        msg = f"{total} * {part} / 2^53 of numbers that are not from 0 to 2^63 - 1"
        raise Fault(msg)
    return total * part >> 53
