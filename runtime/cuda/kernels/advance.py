"""What ends a step whose id the next one takes: the host need write nothing between two steps."""

from __future__ import annotations

from typing import Any

from ..primitives import block, ld_i64, st_i64, thread
from ..step import R_COUNT, R_ENDS, R_IDS, R_LEFT, R_N_ENDS, RING, S_IDS, S_RESULT, S_START
from .base import Kernel

__all__ = ["ADVANCE"]


def _advance(arena: Any, step: Any, rows: Any, run: Any) -> None:
    """Give out the id; it is the next step's, a position further, unless it is an end, or the last, or none (-1)."""
    left = ld_i64(run + 8 * R_LEFT) if block() == 0 and thread() == 0 else 0
    if left > 0:
        token, count = ld_i64(step + 8 * S_RESULT), ld_i64(run + 8 * R_COUNT)
        st_i64(run + 8 * (R_IDS + count % RING), token)
        st_i64(run + 8 * R_COUNT, count + 1)
        left -= 1
        for i in range(ld_i64(run + 8 * R_N_ENDS)):
            if token == ld_i64(run + 8 * (R_ENDS + i)):
                left = 0
        if token < 0:
            left = 0
        if left > 0:
            st_i64(ld_i64(step + 8 * S_IDS), token)
            st_i64(step + 8 * S_START, ld_i64(step + 8 * S_START) + 1)
        st_i64(run + 8 * R_LEFT, left)


#: Its slot: the address of the run block.
ADVANCE = Kernel("advance", _advance, 32, lambda *_: 1, lambda _: 0, ("w:run",))
