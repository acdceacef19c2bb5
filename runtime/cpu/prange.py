"""The same program with Numba's own threads, for places where a team cannot live (MIAOTUI_EXECUTOR=prange).

Every instruction is its own parallel region; the bits are the same. This imports Numba and compiles its one function at
every start: what a thread pool needs of Numba cannot be kept as plain object code.
"""

from __future__ import annotations

import threading
from typing import Any

from numba import njit, prange

from ..ops import SLOTS
from .lanes import call_kernel, peek

__all__ = ["Prange"]


@njit(["void(int64, int64, int64, int64, int64)"], parallel=True, nogil=True, error_model="numpy")
def run_prange(prog: Any, count: Any, base: Any, step: Any, nt: Any) -> None:
    """Thread shares of an instruction are what `prange` hands out."""
    for i in range(count):
        p = prog + i * (8 * SLOTS)
        for t in prange(nt):
            call_kernel(peek(p), p, base, step, t, nt)


class Prange:
    """One region an instruction. Numba's pools are not re-entrant, so one lock serves the process."""

    _lock = threading.Lock()

    def __init__(self, threads: int) -> None:
        self.threads, self._bound = threads, (0, 0, 0, 0)

    def bind(self, prog: int, count: int, base: int, step: int) -> None:
        """Addresses of program, arena and step block."""
        self._bound = (prog, count, base, step)

    def step(self) -> None:
        """Run the program once."""
        with self._lock:
            run_prange(*self._bound, self.threads)

    def close(self) -> None:
        """Nothing is held."""
