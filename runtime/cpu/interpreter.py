"""The jitted roots: they walk a program, calling each instruction's kernel through its address.

A step is one call from Python, `team_step`. It takes part 0 of the work; workers, threads of the system that never enter
Python, take the others. They are woken by an epoch word and meet at spin barriers where an instruction says "wait". A
thread that spins long yields its core; a worker that idles long parks on a semaphore.

Everything that must happen whole happens in here, where no exception of Python's can come between: starting workers
(all or none), publishing a step and taking part in it, stopping and joining.

Only `emit.py` imports this: a start that finds its code in the cache does not load Numba.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types

from ..ops import SLOTS
from .lanes import atomic_load, atomic_store, atomic_swap, call_kernel, pause, peek, poke, restore_mode, usual_mode
from .layout import (
    C_BASE,
    C_BUSY,
    C_CLOSED,
    C_EPOCH,
    C_LINES,
    C_N,
    C_OUTCOME,
    C_PROG,
    C_RUNNING,
    C_STEP,
    C_STOP,
    C_THREADS,
    C_WORK,
    CALL,
    CLOSED,
    DONE,
    LINE,
    STEP,
    STOP,
    T_BARRIER,
    T_CONTROL,
    T_HANDLE,
    T_PARKED,
    T_SEMAPHORE,
    WORK,
)  # fmt: skip

__all__ = ["CODE"]

#: Pauses before yielding, before sleeping NAP microseconds a time, before parking: about 0.1 s.
SPIN, YIELD, PARK = 200, 20_000, 22_000
NAP = np.uint32(50)

i32, u32, i64 = types.int32, types.uint32, types.int64
sched_yield = types.ExternalFunction("sched_yield", i32())
usleep = types.ExternalFunction("usleep", i32(u32))
sem_init = types.ExternalFunction("sem_init", i32(i64, i32, u32))
sem_wait = types.ExternalFunction("sem_wait", i32(i64))
sem_post = types.ExternalFunction("sem_post", i32(i64))
sem_destroy = types.ExternalFunction("sem_destroy", i32(i64))
pthread_create = types.ExternalFunction("pthread_create", i32(i64, i64, i64, i64))
pthread_join = types.ExternalFunction("pthread_join", i32(i64, i64))

inline = njit(nogil=True, error_model="numpy", inline="always")


@inline
def _barrier(lines: Any, t: Any, nt: Any) -> None:
    e = atomic_load(lines + LINE * t + T_BARRIER) + 1
    atomic_store(lines + LINE * t + T_BARRIER, e)
    for o in range(nt):
        n = 0
        while atomic_load(lines + LINE * o + T_BARRIER) < e:
            pause()
            n += 1
            if n > SPIN:
                sched_yield()


@njit(nogil=True, error_model="numpy")
def _walk(ctl: Any, t: Any, nt: Any) -> None:
    """Thread t's part of the step that the control block describes."""
    prog, count, base, step = peek(ctl + C_PROG), peek(ctl + C_N), peek(ctl + C_BASE), peek(ctl + C_STEP)
    for i in range(count):
        p = prog + i * (8 * SLOTS)
        if nt > 1 and peek(p + 8) != 0:
            _barrier(ctl + C_LINES, t, nt)
        call_kernel(peek(p), p, base, step, t, nt)
    if nt > 1:
        _barrier(ctl + C_LINES, t, nt)


@inline
def _publish(ctl: Any, nt: Any) -> None:
    """Begin the next epoch, and wake whoever is parked.

    A worker marks itself parked and then looks at the epoch again, and whoever takes the mark away posts: as all of it
    is sequentially consistent, no wake-up is lost and none is left over.
    """
    atomic_store(ctl + C_EPOCH, peek(ctl + C_EPOCH) + 1)
    for t in range(1, nt):
        line = ctl + C_LINES + LINE * t
        if atomic_load(line + T_PARKED) != 0 and atomic_swap(line + T_PARKED, 0) != 0:
            sem_post(line + T_SEMAPHORE)


@inline
def _await(ctl: Any, line: Any, seen: Any) -> None:
    """Return when the epoch is another than `seen`."""
    n = 0
    while atomic_load(ctl + C_EPOCH) == seen:
        pause()
        n += 1
        if n > PARK:
            atomic_store(line + T_PARKED, 1)
            # a step that was published meanwhile posts if it took the mark, and does not if we take it back first
            if atomic_load(ctl + C_EPOCH) == seen or atomic_swap(line + T_PARKED, 0) == 0:
                while sem_wait(line + T_SEMAPHORE) != 0:  # a signal's handler ran
                    pass
        elif n > YIELD:
            usleep(NAP)


@njit(nogil=True, error_model="numpy")
def _dismiss(ctl: Any, nt: Any) -> None:
    """End workers 1 to nt - 1, which wait for a step, and join them."""
    poke(ctl + C_STOP, 1)
    _publish(ctl, nt)
    for t in range(1, nt):
        line = ctl + C_LINES + LINE * t
        pthread_join(peek(line + T_HANDLE), 0)
        sem_destroy(line + T_SEMAPHORE)
    poke(ctl + C_RUNNING, 0)


@njit(nogil=True, error_model="numpy")
def _start(ctl: Any, nt: Any) -> Any:
    """Start nt - 1 workers, all or none. How many threads could be had, the caller's among them."""
    poke(ctl + C_STOP, 0)
    poke(ctl + C_EPOCH, 0)
    poke(ctl + C_LINES + T_BARRIER, 0)
    for t in range(1, nt):
        line = ctl + C_LINES + LINE * t
        poke(line + T_BARRIER, 0)
        poke(line + T_PARKED, 0)
        poke(line + T_CONTROL, ctl)
        sem_init(line + T_SEMAPHORE, np.int32(0), np.uint32(0))
        if pthread_create(line + T_HANDLE, 0, peek(ctl + C_WORK), line) != 0:
            sem_destroy(line + T_SEMAPHORE)
            _dismiss(ctl, t)
            return t
    poke(ctl + C_RUNNING, 1)
    return nt


@inline
def _enter(ctl: Any) -> None:
    """One thread at a time is inside; it never waits for Python, so the others' wait ends."""
    while atomic_swap(ctl + C_BUSY, 1) != 0:
        usleep(NAP)


def step(ctl: Any, prog: Any, count: Any, base: Any, words: Any) -> None:
    """Run a program once; starts workers where there are none. What came of it is in `C_OUTCOME`."""
    mode = usual_mode()
    _enter(ctl)
    nt = peek(ctl + C_THREADS)
    had = nt
    if peek(ctl + C_CLOSED) != 0:
        had = CLOSED
    elif nt > 1 and peek(ctl + C_RUNNING) == 0:
        had = _start(ctl, nt)
    if had == nt:
        poke(ctl + C_PROG, prog)
        poke(ctl + C_N, count)
        poke(ctl + C_BASE, base)
        poke(ctl + C_STEP, words)
        if nt > 1:
            _publish(ctl, nt)
        _walk(ctl, 0, nt)
        had = DONE
    poke(ctl + C_OUTCOME, had)
    atomic_store(ctl + C_BUSY, 0)
    restore_mode(mode)


def work(line: Any, _1: Any, _2: Any, _3: Any, _4: Any) -> None:
    """A worker's life: its part of every step until it is told to end. pthread_create passes the first argument."""
    usual_mode()
    ctl = peek(line + T_CONTROL)
    t, nt, seen = (line - ctl - C_LINES) // LINE, peek(ctl + C_THREADS), 0
    while True:
        _await(ctl, line, seen)
        seen += 1
        if peek(ctl + C_STOP) != 0:
            return
        _walk(ctl, t, nt)


def stop(ctl: Any, _1: Any, _2: Any, _3: Any, _4: Any) -> None:
    """Wait for the step that runs, end the workers, and let no step begin any more. Harmless when done twice."""
    _enter(ctl)
    poke(ctl + C_CLOSED, 1)
    if peek(ctl + C_RUNNING) != 0:
        _dismiss(ctl, peek(ctl + C_THREADS))
    atomic_store(ctl + C_BUSY, 0)


def call(kernel: Any, p: Any, base: Any, words: Any, _4: Any) -> None:
    """A kernel in this thread alone, without a team."""
    mode = usual_mode()
    call_kernel(kernel, p, base, words, 0, 1)
    restore_mode(mode)


#: By entry point.
CODE = {STEP: step, WORK: work, STOP: stop, CALL: call}
