"""The jitted roots: they walk a program, calling each instruction's kernel through its address.

A step is one call from Python, `team_step`. Its work has parts, and a part is always the same work: what is computed
does not depend on which threads there are. Instructions between two waits are a segment. In each, a thread takes its
own part, then whatever part nobody took, and then waits until all are done. So nobody waits for a thread that has not
come yet (it sleeps, or another process has its core), only for one that was interrupted in the middle of a part. Who
waits long yields, and naps. Where threads waited for each other so long that fewer would be as fast, the next steps
have fewer (`patience.py`); later another is tried again. Workers are threads of the system that never enter Python;
one that idles long, or is not needed, parks on a semaphore.

A worker may come back in the middle of a later step than it left. So a part is taken by writing its segment's number
over the one before, and no number is ever used twice: the epoch is in it.

Everything that must happen whole happens in here, where no exception of Python's can come between: starting workers
(all or none), publishing a step and taking part in it, stopping and joining.

Only `emit.py` imports this, and `patience.py` with it: a start that finds its code in the cache does not load Numba.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types

from ..ops import SLOTS
from .lanes import (
    atomic_claim,
    atomic_load,
    atomic_store,
    atomic_swap,
    call_kernel,
    pause,
    peek,
    poke,
    restore_mode,
    usual_mode,
)
from .layout import (
    C_BASE,
    C_BUSY,
    C_CLOCK,
    C_CLOSED,
    C_CORES,
    C_CREW,
    C_EPOCH,
    C_LIMIT,
    C_LINES,
    C_MOST,
    C_N,
    C_OUTCOME,
    C_PARTS,
    C_PATIENCE,
    C_PROG,
    C_RUNNING,
    C_STEP,
    C_STOP,
    C_THREADS,
    C_WORK,
    CALL,
    CLOSED,
    DONE,
    IF_SPLIT,
    LINE,
    STEP,
    STOP,
    T_CONTROL,
    T_DONE,
    T_HANDLE,
    T_PARKED,
    T_SEMAPHORE,
    T_TAKEN,
    T_WHO,
    WORK,
)  # fmt: skip
from .patience import LIMIT, MONOTONIC, NAP, PATIENCE, clock_at, inline, judge, linger, own_clock, usleep

__all__ = ["CODE"]

#: A worker between two steps: pauses before it sleeps NAP microseconds a time, and before it parks: about 20 ms.
DOZE, PARK = 20_000, 20_200
#: A thread in a step: pauses before it takes a part whose thread has not come, and before it yields.
GRACE, SPIN = 100, 200
#: Bits of a segment's number within a step; its epoch is above them.
SEGMENT_BITS = 20

i32, u32, i64 = types.int32, types.uint32, types.int64
sem_init = types.ExternalFunction("sem_init", i32(i64, i32, u32))
sem_wait = types.ExternalFunction("sem_wait", i32(i64))
sem_post = types.ExternalFunction("sem_post", i32(i64))
sem_destroy = types.ExternalFunction("sem_destroy", i32(i64))
pthread_create = types.ExternalFunction("pthread_create", i32(i64, i64, i64, i64))
pthread_join = types.ExternalFunction("pthread_join", i32(i64, i64))


@njit(nogil=True, error_model="numpy")
def _run(p: Any, end: Any, base: Any, step: Any, t: Any, parts: Any) -> None:
    """Part t of the instructions from p to `end`."""
    while p < end:
        call_kernel(peek(p), p, base, step, t, parts)
        p += 8 * SLOTS


@inline
def _took(line: Any, segment: Any, who: Any) -> Any:
    """Take a part for a segment: whether nobody had."""
    if atomic_load(line + T_TAKEN) != segment - 1 or atomic_claim(line + T_TAKEN, segment - 1, segment) == 0:
        return False
    poke(line + T_WHO, who)
    return True


@njit(nogil=True, error_model="numpy")
def _walk(
    ctl: Any, me: Any, crew: Any, parts: Any, p: Any, count: Any, base: Any, step: Any, epoch: Any, who: Any
) -> None:
    """Thread `me` of `crew` in a step; it returns when all is done, a worker also when the step was done without it."""
    split, count = count >> 32, count & 0xFFFFFFFF
    lines, last = ctl + C_LINES, p + count * (8 * SLOTS)
    segment, grace = epoch << SEGMENT_BITS, GRACE
    while p < last and atomic_load(ctl + C_EPOCH) == epoch:
        end = p + 8 * SLOTS
        while end < last and (peek(end + 8) == 0 or (peek(end + 8) == IF_SPLIT and split == 0)):
            end += 8 * SLOTS
        segment += 1
        for t in range(me, parts, crew):
            if _took(lines + LINE * t, segment, who):
                _run(p, end, base, step, t, parts)
                atomic_store(lines + LINE * t + T_DONE, segment)
        n, others = 0, 0
        for t in range(parts):
            while atomic_load(lines + LINE * t + T_DONE) < segment:
                if n == grace:
                    for other in range(parts):
                        if _took(lines + LINE * other, segment, who):
                            _run(p, end, base, step, other, parts)
                            atomic_store(lines + LINE * other + T_DONE, segment)
                            others += 1
                n += 1
                pause()
                if n > SPIN:
                    linger(ctl, lines + LINE * me, lines + LINE * t, n == SPIN + 1)
                    if atomic_load(ctl + C_EPOCH) != epoch:
                        return
        grace = GRACE if others == 0 else 0  # who did not come for one segment is not waited for in the next
        p = end


@inline
def _alone(p: Any, count: Any, base: Any, step: Any, parts: Any) -> None:
    """Every part of a step, one after the other."""
    last = p + count * (8 * SLOTS)
    while p < last:
        for t in range(parts):
            call_kernel(peek(p), p, base, step, t, parts)
        p += 8 * SLOTS


@inline
def _publish(ctl: Any, crew: Any) -> None:
    """Begin the next epoch, and wake whoever of its crew is parked.

    A worker marks itself parked and then looks at the epoch again, and whoever takes the mark away posts: as all of it
    is sequentially consistent, no wake-up is lost and none is left over.
    """
    atomic_store(ctl + C_EPOCH, atomic_load(ctl + C_EPOCH) + 1)
    for t in range(1, crew):
        line = ctl + C_LINES + LINE * t
        if atomic_load(line + T_PARKED) != 0 and atomic_swap(line + T_PARKED, 0) != 0:
            sem_post(line + T_SEMAPHORE)


@inline
def _over(epoch: Any, seen: Any) -> Any:
    """Whether there is nothing to do in this epoch: the one that was seen, or between two steps."""
    return epoch == seen or epoch & 1 == 0


@inline
def _await(ctl: Any, line: Any, seen: Any, n: Any) -> Any:
    """The epoch of a step that runs and is another than `seen`; `n`: pauses that are over already."""
    epoch = atomic_load(ctl + C_EPOCH)
    while _over(epoch, seen):
        pause()
        n += 1
        if n > PARK:
            atomic_store(line + T_PARKED, 1)
            # a step that was published meanwhile posts if it took the mark, and does not if we take it back first
            if _over(atomic_load(ctl + C_EPOCH), seen) or atomic_swap(line + T_PARKED, 0) == 0:
                while sem_wait(line + T_SEMAPHORE) != 0:  # a signal's handler ran
                    pass
        elif n > DOZE:
            usleep(NAP)
        epoch = atomic_load(ctl + C_EPOCH)
    return epoch


@njit(nogil=True, error_model="numpy")
def _dismiss(ctl: Any, nt: Any) -> None:
    """End workers 1 to nt - 1 and join them. No step runs, though one of them may not have noticed that."""
    atomic_store(ctl + C_STOP, 1)
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
    poke(ctl + C_LINES + T_DONE, 0)
    for t in range(1, nt):
        line = ctl + C_LINES + LINE * t
        poke(line + T_DONE, 0)
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
def _crew(ctl: Any, parts: Any) -> Any:
    """How many threads take part in a step of so many parts."""
    if peek(ctl + C_PATIENCE) == 0:  # the first step, or the first after a fork
        poke(ctl + C_MOST, peek(ctl + C_CORES))
        poke(ctl + C_PATIENCE, PATIENCE)
        poke(ctl + C_LIMIT, LIMIT)
    return min(parts, peek(ctl + C_MOST))


@inline
def _enter(ctl: Any) -> None:
    """One thread at a time is inside; it never waits for Python, so the others' wait ends."""
    while atomic_swap(ctl + C_BUSY, 1) != 0:
        usleep(NAP)


@inline
def _together(ctl: Any, crew: Any, parts: Any, prog: Any, count: Any, base: Any, words: Any) -> None:
    """A step of several threads. Words may be read by a worker that is late: it looks at the epoch after that."""
    epoch = atomic_load(ctl + C_EPOCH) + 1
    atomic_store(ctl + C_PROG, prog)
    atomic_store(ctl + C_N, count)
    atomic_store(ctl + C_BASE, base)
    atomic_store(ctl + C_STEP, words)
    atomic_store(ctl + C_PARTS, parts)
    atomic_store(ctl + C_CREW, crew)
    for t in range(parts):
        atomic_store(ctl + C_LINES + LINE * t + T_TAKEN, epoch << SEGMENT_BITS)
    _publish(ctl, crew)
    _walk(ctl, 0, crew, parts, prog, count, base, words, epoch, own_clock(ctl + C_LINES))
    atomic_store(ctl + C_EPOCH, epoch + 1)


def step(ctl: Any, prog: Any, count: Any, base: Any, words: Any) -> None:
    """Run a program once; starts workers where there are none. What came of it is in `C_OUTCOME`.

    `count`: instructions; from bit 32 on, how many parts the work has; at bit 48, whether it has no more of them than
    there are threads for it; at bit 49, whether threads meet where an instruction says `IF_SPLIT`.
    """
    mode = usual_mode()
    _enter(ctl)
    nt, parts, fewer = peek(ctl + C_THREADS), count >> 32 & 0xFFFF, count >> 48 & 1
    split, count = count >> 49, count & 0xFFFFFFFF
    judged, crew, outcome = parts > 1, _crew(ctl, parts), DONE
    if fewer != 0:
        parts = crew
    if peek(ctl + C_CLOSED) != 0:
        outcome = CLOSED
    elif parts > 1 and peek(ctl + C_RUNNING) == 0:
        had = _start(ctl, nt)
        if had < nt:
            outcome = had
    if outcome == DONE:
        began = clock_at(MONOTONIC, ctl + C_CLOCK) if judged else 0
        if crew > 1:
            _together(ctl, crew, parts, prog, count | split << 32, base, words)
        else:
            _alone(prog, count, base, words, parts)
        if judged:
            judge(ctl, crew, began)
    poke(ctl + C_OUTCOME, outcome)
    atomic_store(ctl + C_BUSY, 0)
    restore_mode(mode)


def work(line: Any, _1: Any, _2: Any, _3: Any, _4: Any) -> None:
    """A worker's life: its part of every step until it is told to end. pthread_create passes the first argument."""
    usual_mode()
    ctl = peek(line + T_CONTROL)
    me, who, epoch, pauses = (line - ctl - C_LINES) // LINE, own_clock(line), 0, 0
    while True:
        epoch = _await(ctl, line, epoch, pauses)
        if atomic_load(ctl + C_STOP) != 0:
            return
        crew, parts = atomic_load(ctl + C_CREW), atomic_load(ctl + C_PARTS)
        prog, count = atomic_load(ctl + C_PROG), atomic_load(ctl + C_N)
        base, words = atomic_load(ctl + C_BASE), atomic_load(ctl + C_STEP)
        if atomic_load(ctl + C_EPOCH) == epoch:  # else these are of two steps
            pauses = 0 if me < crew else PARK
            if me < crew:
                _walk(ctl, me, crew, parts, prog, count, base, words, epoch, who)


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
