"""The same program with Numba's own threads, for places where a team cannot live (MIAOTUI_EXECUTOR=prange).

Every instruction is its own parallel region; the bits are the same. This imports Numba and compiles its functions at
every start: what a thread pool needs of Numba cannot be kept as plain object code.

A pool does not survive a fork, and GNU OpenMP ends a child that enters its own. So a child that was forked from a
process with a pool takes the threads' shares one after the other, in the caller's thread: slower, with the same bits.
"""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np
from numba import njit, prange, threading_layer

from ..ops import SLOTS
from .lanes import atomic_store, atomic_swap, call_kernel, peek, restore_mode, usual_mode

__all__ = ["Prange"]

_KIND = ["int64(int64, int64, int64, int64, int64, int64)"]

#: Seconds between two looks whether the pool is free.
_LOOK = 0.00005


@njit(nogil=True, error_model="numpy")
def _share(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """Thread t's part of one instruction, whatever the thread's rounding mode."""
    mode = usual_mode()
    call_kernel(peek(p), p, base, step, t, nt)
    restore_mode(mode)


@njit(_KIND, parallel=True, nogil=True, error_model="numpy")
def run_prange(taken: Any, prog: Any, count: Any, base: Any, step: Any, nt: Any) -> Any:
    """Thread shares of an instruction are what `prange` hands out. 0; nonzero: the pool was taken, nothing was done.

    `taken`: the address of the word that says so.
    """
    busy = atomic_swap(taken, 1)
    if busy == 0:
        for i in range(count):
            p = prog + i * (8 * SLOTS)
            for t in prange(nt):
                _share(p, base, step, t, nt)
        atomic_store(taken, 0)
    return busy


@njit(_KIND, nogil=True, error_model="numpy")
def run_in_turn(taken: Any, prog: Any, count: Any, base: Any, step: Any, nt: Any) -> Any:
    """The same shares one after the other, which needs no pool."""
    for i in range(count):
        p = prog + i * (8 * SLOTS)
        for t in range(nt):
            _share(p, base, step, t, nt)
    return 0


class Prange:
    """One region an instruction."""

    _taken = np.zeros(1, np.int64)  # 1: some step has the pool
    _run = staticmethod(run_prange)

    def __init__(self, threads: int) -> None:
        self.threads, self._bound = threads, (0, 0, 0, 0, threads)

    def bind(
        self,
        prog: int,
        count: int,
        base: int,
        step: int,
        parts: int | None = None,
        *,
        split: bool = False,  # noqa: ARG002 - threads meet after every instruction
    ) -> None:
        """Addresses of program, arena and step block; the others: as of `Team.bind`."""
        self._bound = (prog, count, base, step, parts or self.threads)

    def step(self) -> None:
        """Run the program once."""
        taken = int(self._taken.ctypes.data)
        while self._run(taken, *self._bound):
            time.sleep(_LOOK)

    def rest(self) -> None:
        """The pool is Numba's, and waits as it does."""

    def close(self) -> None:
        """Nothing is held."""

    @classmethod
    def forget(cls) -> None:
        """After a fork: the pool is the parent's, and whoever had it may be a thread that is not here."""
        cls._taken[0] = 0
        try:
            threading_layer()
        except ValueError:  # there was no pool
            return
        cls._run = staticmethod(run_in_turn)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=Prange.forget)
