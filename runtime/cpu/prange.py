"""The same program with Numba's own threads, for places where a team cannot live (MIAOTUI_EXECUTOR=prange).

Every instruction is its own parallel region; the bits are the same. This imports Numba and compiles its functions at
every start: what a thread pool needs of Numba cannot be kept as plain object code.

A pool does not survive a fork, and GNU OpenMP ends a child that enters its own. So a child that was forked from a
process with a pool takes the threads' shares one after the other, in the caller's thread: slower, with the same bits.
"""

from __future__ import annotations

import os
import threading
from typing import Any

from numba import njit, prange, threading_layer

from ..ops import SLOTS
from .lanes import call_kernel, peek, restore_mode, usual_mode

__all__ = ["Prange"]

_KIND = ["void(int64, int64, int64, int64, int64)"]


@njit(nogil=True, error_model="numpy")
def _share(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """Thread t's part of one instruction, whatever the thread's rounding mode."""
    mode = usual_mode()
    call_kernel(peek(p), p, base, step, t, nt)
    restore_mode(mode)


@njit(_KIND, parallel=True, nogil=True, error_model="numpy")
def run_prange(prog: Any, count: Any, base: Any, step: Any, nt: Any) -> None:
    """Thread shares of an instruction are what `prange` hands out."""
    for i in range(count):
        p = prog + i * (8 * SLOTS)
        for t in prange(nt):
            _share(p, base, step, t, nt)


@njit(_KIND, nogil=True, error_model="numpy")
def run_in_turn(prog: Any, count: Any, base: Any, step: Any, nt: Any) -> None:
    """The same shares one after the other."""
    for i in range(count):
        p = prog + i * (8 * SLOTS)
        for t in range(nt):
            _share(p, base, step, t, nt)


class Prange:
    """One region an instruction. Numba's pools are not re-entrant, so one lock serves the process.

    A signal's handler may come between lock and region and use another model: the lock is re-entrant.
    """

    _lock = threading.RLock()
    _run = staticmethod(run_prange)

    def __init__(self, threads: int) -> None:
        self.threads, self._bound = threads, (0, 0, 0, 0)

    def bind(self, prog: int, count: int, base: int, step: int) -> None:
        """Addresses of program, arena and step block."""
        self._bound = (prog, count, base, step)

    def step(self) -> None:
        """Run the program once."""
        with self._lock:
            self._run(*self._bound, self.threads)

    def close(self) -> None:
        """Nothing is held."""

    @classmethod
    def forget(cls) -> None:
        """After a fork: the lock may be held by a thread that is not here, and the pool is the parent's."""
        cls._lock = threading.RLock()
        try:
            threading_layer()
        except ValueError:  # there was no pool
            return
        cls._run = staticmethod(run_in_turn)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=Prange.forget)
