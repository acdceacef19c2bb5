"""How long the threads of a step wait for each other, and how many take part in the next.

Who waits for a part spins for a while, then yields its core each time it looks, in case the other is queued for it,
then naps. It also asks how much processor time whoever has the part got meanwhile. One that computes is waited for;
where threads had no core so long that fewer of them would be as fast, something else needs the cores, and the next
steps have fewer.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types

from .lanes import atomic_add, atomic_load, peek, poke
from .layout import (
    C_AGAIN,
    C_BEFORE,
    C_CLOCK,
    C_CORES,
    C_HELD,
    C_LIMIT,
    C_MOST,
    C_PATIENCE,
    C_SPENT,
    T_BEGAN,
    T_CLOCK,
    T_SAW,
    T_TIME,
    T_WHO,
    T_WHOSE,
)  # fmt: skip

__all__ = ["LIMIT", "MONOTONIC", "NAP", "PATIENCE", "clock_at", "inline", "judge", "linger", "own_clock", "usleep"]

NAP = np.uint32(50)  # microseconds
#: Nanoseconds of waiting before it naps: a share of a step's time, at least and at most so long.
LIMIT_SHARE, LIMIT, MOST_LIMIT = 64, 100_000, 1_000_000
#: Nanoseconds of steps that are judged together, and of waiting that are judged at once.
WINDOW, HELD_UP = 8_000_000, 1_000_000
#: The share of the time that is too much, times the number of threads.
LOST = (3, 5)
#: Nanoseconds before one thread more is tried: from the first to the second, twice as many each time that was no good.
PATIENCE, MOST_PATIENCE = 16_000_000, 512_000_000
MONOTONIC = 1  # Linux's CLOCK_MONOTONIC

i32, u32, i64 = types.int32, types.uint32, types.int64
sched_yield = types.ExternalFunction("sched_yield", i32())
usleep = types.ExternalFunction("usleep", i32(u32))
pthread_self = types.ExternalFunction("pthread_self", i64())
pthread_getcpuclockid = types.ExternalFunction("pthread_getcpuclockid", i32(i64, i64))
clock_gettime = types.ExternalFunction("clock_gettime", i32(i32, i64))

inline = njit(nogil=True, error_model="numpy", inline="always")


@inline
def clock_at(clock: Any, timespec: Any) -> Any:
    """Nanoseconds of a clock, 0 where it has ended; `timespec`: 16 bytes for it."""
    if clock_gettime(np.int32(clock), timespec) != 0:
        return 0
    return peek(timespec) * 1_000_000_000 + peek(timespec + 8)


@inline
def own_clock(line: Any) -> Any:
    """Of this thread's processor time."""
    poke(line + T_CLOCK, 0)
    pthread_getcpuclockid(pthread_self(), line + T_CLOCK)
    return peek(line + T_CLOCK)


@njit(nogil=True, error_model="numpy")
def linger(ctl: Any, own: Any, other: Any, begins: Any) -> None:
    """In a long wait for a part: yield, or nap. Counts how long whoever has the part had no core meanwhile."""
    now = clock_at(MONOTONIC, own + T_CLOCK)
    if begins:
        poke(own + T_BEGAN, now)
        poke(own + T_TIME, 0)
    if now - peek(own + T_BEGAN) < peek(ctl + C_LIMIT):
        sched_yield()
        away = clock_at(MONOTONIC, own + T_CLOCK) - now
        if away > LIMIT:  # another process had the core
            atomic_add(ctl + C_HELD, away)
        return
    who = atomic_load(other + T_WHO)
    time = clock_at(who, own + T_CLOCK)
    if time != 0 and peek(own + T_TIME) != 0 and peek(own + T_WHOSE) == who:
        atomic_add(ctl + C_HELD, max(0, now - peek(own + T_SAW) - (time - peek(own + T_TIME))))
    poke(own + T_SAW, now)
    poke(own + T_WHOSE, who)
    poke(own + T_TIME, time)
    usleep(NAP)


@njit(nogil=True, error_model="numpy")
def judge(ctl: Any, crew: Any, began: Any) -> None:
    """After a step of `crew` threads: how many may take part in the next.

    Each thread of n lost a share w of the time because one of them had no core: together they did n (1 - w) times one
    thread's work. One fewer does n - 1 times as much if nobody is held up then, so it is as good where w > 1 / n. As
    threads that meet do less than that, it is so from `LOST` / n on.
    """
    now = clock_at(MONOTONIC, ctl + C_CLOCK)
    took = now - began
    poke(ctl + C_LIMIT, min(max(LIMIT, took // LIMIT_SHARE), MOST_LIMIT))
    most, held = peek(ctl + C_MOST), atomic_load(ctl + C_HELD)
    if crew > 1:
        spent = peek(ctl + C_SPENT) + took
        poke(ctl + C_SPENT, spent)
        each = (held - peek(ctl + C_BEFORE)) // (crew - 1)
        if spent < WINDOW and each < HELD_UP:
            return
        if each * crew * LOST[1] > spent * LOST[0]:
            patience = peek(ctl + C_PATIENCE)
            poke(ctl + C_MOST, most - 1)  # a step of few parts has fewer threads, and says little of the others' cores
            poke(ctl + C_AGAIN, now + patience)
            poke(ctl + C_PATIENCE, min(2 * patience, MOST_PATIENCE))
        elif spent < WINDOW:
            return
        else:
            poke(ctl + C_PATIENCE, max(peek(ctl + C_PATIENCE) // 2, PATIENCE))
            if most < peek(ctl + C_CORES) and now > peek(ctl + C_AGAIN):
                poke(ctl + C_MOST, most + 1)
    elif most == 1 and peek(ctl + C_CORES) > 1 and now > peek(ctl + C_AGAIN):
        poke(ctl + C_MOST, 2)
    else:
        return
    poke(ctl + C_SPENT, 0)
    poke(ctl + C_BEFORE, held)
