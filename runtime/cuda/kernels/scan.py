"""Sums up to each thread of a block of 256, and the thread at which a sum reaches what is wanted."""

from __future__ import annotations

from typing import Any

from ..draw import BINS
from ..primitives import barrier, sld_i64, sst_i64, thread

__all__ = ["hit", "scan"]


def scan(mine: Any) -> Any:
    """*block* The int64 of the threads up to this one, summed, and of all."""
    me, step = thread(), 1
    sst_i64(8 * me, mine)
    barrier()
    while step < BINS:
        other = sld_i64(8 * (me - step)) if me >= step else 0
        barrier()
        mine += other
        sst_i64(8 * me, mine)
        barrier()
        step *= 2
    total = sld_i64(8 * (BINS - 1))
    barrier()
    return mine, total


def hit(upto: Any, mine: Any, wanted: Any) -> Any:
    """*block* The thread whose part has the `wanted`-th of a sum, and the sum before it; 0, 0 where there is none."""
    if thread() == 0:
        sst_i64(0, 0)
        sst_i64(8, 0)
    barrier()
    if upto - mine < wanted <= upto:
        sst_i64(0, thread())
        sst_i64(8, upto - mine)
    barrier()
    number, before = sld_i64(0), sld_i64(8)
    barrier()
    return number, before
