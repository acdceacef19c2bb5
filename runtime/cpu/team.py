"""The interpreter and its threads.

`run(ctl, t, nt)` is the one jitted root. The calling thread (t = 0) walks the program once and returns; the others
loop inside it without the GIL, woken by an epoch word, and meet at spin barriers where an instruction says "wait".
A thread that spins long yields its core; a team that idles long returns to Python and sleeps on a semaphore.

`run_prange` walks the same program, instruction by instruction, with `prange` over the shares: the same bits, for
places where a team cannot live (MIAOTUI_EXECUTOR=prange).
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import Any

import numpy as np
from numba import njit, prange, types

from ..ops import SLOTS
from .lanes import call_kernel, ld, load_acquire, pause, st, store_release

__all__ = ["Prange", "Team", "aligned", "run", "run_prange"]

# control block: program, instructions, arena, step block, stop flag; then lines of 64 bytes: epoch, and per thread
# its barrier count, the last epoch seen and whether it is parked
C_PROG, C_N, C_BASE, C_STEP, C_STOP, C_EPOCH, C_THREADS, LINE = 0, 8, 16, 24, 32, 64, 128, 64
T_BARRIER, T_SEEN, T_PARKED = 0, 8, 16
#: Pauses before yielding, before sleeping 50 us a time, before leaving for Python.
SPIN, YIELD, PARK = 200, 20_000, 22_000

sched_yield = types.ExternalFunction("sched_yield", types.int32())
usleep = types.ExternalFunction("usleep", types.int32(types.uint32))
SIGNATURE = "void(int64, int64, int64)"


@njit(nogil=True, inline="always")
def _barrier(lines: Any, t: Any, nt: Any) -> None:
    e = load_acquire(lines + LINE * t) + 1
    store_release(lines + LINE * t, e)
    for o in range(nt):
        n = 0
        while load_acquire(lines + LINE * o) < e:
            pause()
            n += 1
            if n > SPIN:
                sched_yield()


@njit([SIGNATURE], nogil=True, error_model="numpy", cache=True)
def run(ctl: Any, t: Any, nt: Any) -> None:
    """Thread 0: one step. Others: every step until told to stop, or until idle for about 0.1 s."""
    mine = ctl + C_THREADS + LINE * t
    while True:
        if t > 0:
            n, seen = 0, ld(mine + T_SEEN)
            while load_acquire(ctl + C_EPOCH) == seen:
                pause()
                n += 1
                if n > PARK:
                    store_release(mine + T_PARKED, 1)
                    if load_acquire(ctl + C_EPOCH) == seen:
                        return
                    store_release(mine + T_PARKED, 0)
                elif n > YIELD:
                    usleep(np.uint32(50))
            st(mine + T_SEEN, seen + 1)
            if ld(ctl + C_STOP) != 0:
                return
        prog, count, base, step = ld(ctl + C_PROG), ld(ctl + C_N), ld(ctl + C_BASE), ld(ctl + C_STEP)
        for i in range(count):
            p = prog + i * (8 * SLOTS)
            if nt > 1 and ld(p + 8) != 0:
                _barrier(ctl + C_THREADS, t, nt)
            call_kernel(ld(p), p, base, step, t, nt)
        if nt > 1:
            _barrier(ctl + C_THREADS, t, nt)
        if t == 0:
            return


@njit(["void(int64, int64, int64, int64, int64)"], parallel=True, nogil=True, error_model="numpy", cache=True)
def run_prange(prog: Any, count: Any, base: Any, step: Any, nt: Any) -> None:
    """The same program; every instruction is its own parallel region."""
    for i in range(count):
        p = prog + i * (8 * SLOTS)
        for t in prange(nt):
            call_kernel(ld(p), p, base, step, t, nt)


def aligned(nbytes: int, align: int = 64) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Zeroed bytes that begin on a cache line."""
    a = np.zeros(nbytes + align, np.uint8)
    o = -a.ctypes.data % align
    return a[o : o + nbytes]


class Prange:
    """Numba's own threads, one region an instruction. Its pools are not re-entrant, so one lock serves the process."""

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


class Team:
    """`threads` - 1 workers and whoever calls `step`."""

    def __init__(self, threads: int) -> None:
        self.threads, self._bound = threads, (0, 0, 0, 0)
        self._block: Any = None
        _TEAMS.add(self)

    def bind(self, prog: int, count: int, base: int, step: int) -> None:
        """Addresses of program, arena and step block."""
        self._bound = (prog, count, base, step)
        if self._block is None:
            self._start()
        self._words[:4] = self._bound

    def _start(self) -> None:
        self._block = aligned(C_THREADS + LINE * self.threads)
        self._words = self._block.view(np.int64)
        self._words[:4] = self._bound
        self._ctl = int(self._block.ctypes.data)
        self._wake = [threading.Semaphore(0) for _ in range(self.threads)]
        self._workers = [
            threading.Thread(
                target=_work,
                args=(self._block, self._ctl, t, self.threads, self._wake[t]),
                daemon=True,
                name=f"miaotui-{t}",
            )
            for t in range(1, self.threads)
        ]
        for w in self._workers:
            w.start()

    def _publish(self) -> None:
        words = self._words
        words[C_EPOCH // 8] += 1
        for t in range(1, self.threads):  # a worker marks itself parked, then looks at the epoch again: none is missed
            parked = (C_THREADS + LINE * t + T_PARKED) // 8
            if words[parked]:
                words[parked] = 0
                self._wake[t].release()

    def step(self) -> None:
        """Run the program once."""
        if self._block is None:
            self._start()
        if self.threads > 1:
            self._publish()
        run(self._ctl, 0, self.threads)

    def forget(self) -> None:
        """After a fork: the threads are the parent's; start afresh at the next step."""
        self._block = None

    def close(self) -> None:
        """Stop the workers."""
        if self._block is not None:
            self._words[C_STOP // 8] = 1
            self._publish()
            for w in self._workers:
                w.join()
            self._block = None


def _work(block: Any, ctl: int, t: int, nt: int, wake: threading.Semaphore) -> None:
    """A worker's life: jitted while there is work, asleep while there is none. `block` is held alive."""
    words = block.view(np.int64)
    while True:
        run(ctl, t, nt)
        if words[C_STOP // 8]:
            return
        wake.acquire()


_TEAMS: weakref.WeakSet[Team] = weakref.WeakSet()


def _after_fork() -> None:
    for team in _TEAMS:
        team.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
