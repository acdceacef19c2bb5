"""The jitted root: it walks a program, calling each instruction's kernel through its address.

`run(ctl, t, nt)`: the calling thread (t = 0) walks the program once and returns; the others loop inside it without the
GIL, woken by an epoch word, and meet at spin barriers where an instruction says "wait". A thread that spins long yields
its core; a team that idles long returns to Python (`team.py`) and sleeps on a semaphore.

Only `emit.py` imports this: a start that finds its code in the cache does not load Numba.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types

from ..ops import SLOTS
from .lanes import call_kernel, load_acquire, pause, peek, poke, store_release
from .layout import C_BASE, C_EPOCH, C_N, C_PROG, C_STEP, C_STOP, C_THREADS, LINE, T_BARRIER, T_PARKED, T_SEEN

__all__ = ["run"]

#: Pauses before yielding, before sleeping 50 us a time, before leaving for Python.
SPIN, YIELD, PARK = 200, 20_000, 22_000

sched_yield = types.ExternalFunction("sched_yield", types.int32())
usleep = types.ExternalFunction("usleep", types.int32(types.uint32))


@njit(nogil=True, inline="always")
def _barrier(lines: Any, t: Any, nt: Any) -> None:
    e = load_acquire(lines + LINE * t + T_BARRIER) + 1
    store_release(lines + LINE * t + T_BARRIER, e)
    for o in range(nt):
        n = 0
        while load_acquire(lines + LINE * o + T_BARRIER) < e:
            pause()
            n += 1
            if n > SPIN:
                sched_yield()


def run(ctl: Any, t: Any, nt: Any) -> None:
    """Thread 0: one step. Others: every step until told to stop, or until idle for about 0.1 s."""
    mine = ctl + C_THREADS + LINE * t
    while True:
        if t > 0:
            n, seen = 0, peek(mine + T_SEEN)
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
            poke(mine + T_SEEN, seen + 1)
            if peek(ctl + C_STOP) != 0:
                return
        prog, count, base, step = peek(ctl + C_PROG), peek(ctl + C_N), peek(ctl + C_BASE), peek(ctl + C_STEP)
        for i in range(count):
            p = prog + i * (8 * SLOTS)
            if nt > 1 and peek(p + 8) != 0:
                _barrier(ctl + C_THREADS, t, nt)
            call_kernel(peek(p), p, base, step, t, nt)
        if nt > 1:
            _barrier(ctl + C_THREADS, t, nt)
        if t == 0:
            return
