"""The threads of the interpreter, seen from Python: a control block, and one call a step.

The compiled root (`interpreter.py`) is called through ctypes, which releases the GIL: the caller's thread takes part 0
of a step, workers the others. Workers are threads of the system, which know nothing of Python; they are started by the
first step and sleep on a semaphore when they idled long. Starting, publishing and stopping are compiled too, so an
exception that Python raises at any moment (Ctrl-C) finds a step done or not begun.
"""

from __future__ import annotations

import ctypes
import os
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import BackendError
from ..cores import available_threads
from .layout import (
    ARGUMENTS,
    C_CLOSED,
    C_CORES,
    C_LINES,
    C_OUTCOME,
    C_THREADS,
    C_WORK,
    CLOSED,
    LINE,
    STEP,
    STOP,
    WORK,
)  # fmt: skip

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

__all__ = ["Team", "aligned", "callable_at"]

_KIND = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * ARGUMENTS)  # releases the GIL

#: A thread's stack where its size has no limit: glibc's on 64 bits.
DEFAULT_STACK = 2**21

#: Control blocks by address, until their workers have been joined: nothing frees one under a worker's feet.
_BLOCKS: dict[int, NDArray[np.uint8]] = {}

#: What stops the workers of teams that are dropped.
_ENDS: set[weakref.finalize[[Callable[..., None], int], Team]] = set()


def callable_at(address: int) -> Callable[..., None]:
    """Compiled code as a function of int64 arguments."""
    return _KIND(address)


def aligned(nbytes: int, align: int = 64) -> NDArray[np.uint8]:
    """Zeroed bytes that begin on a cache line."""
    a = np.zeros(nbytes + align, np.uint8)
    o = -a.ctypes.data % align
    return a[o : o + nbytes]


class Team:
    """`threads` - 1 workers and whoever calls `step`. Dropped, it stops them as `close` does.

    A step has as many parts as there are threads, or as `bind` says. At most as many threads take part as there are
    cores, and fewer where others need these (`interpreter.py`).
    """

    def __init__(self, threads: int, code: Mapping[str, int], holds: object = None) -> None:
        """`code`: addresses of the entry points (`layout.ROOTS`).

        `holds`: what the programs lie in. A worker that was held up through a whole step may look at its program after
        that, so it stays until the workers are joined.
        """
        _check_room(threads)
        self.threads, self._bound, self._holds = threads, (0, 0, 0, 0), holds
        self._step, self._stop = callable_at(code[STEP]), callable_at(code[STOP])
        block = aligned(C_LINES + LINE * threads)
        self._words = block.view(np.int64)
        self._words[C_THREADS // 8], self._words[C_WORK // 8] = threads, code[WORK]
        self._words[C_CORES // 8] = min(threads, available_threads()) if threads > 1 else 1
        self._control = int(block.ctypes.data)
        _BLOCKS[self._control] = block
        _end_dropped()
        _ENDS.add(weakref.finalize(self, _end, self._stop, self._control))  # at exit too: no worker outlives it

    def bind(
        self, prog: int, count: int, base: int, step: int, parts: int | None = None, *, split: bool = False
    ) -> None:
        """Addresses of program, arena and step block.

        `parts`: of the work, at most; None: always as many as `threads`, whoever takes them. `split`: whether threads
        meet where an instruction says `IF_SPLIT`, which the step block says too (`S_SPLIT`).
        """
        work = self.threads << 32 if parts is None else parts << 32 | 1 << 48
        work |= int(split) << 49
        self._bound = (prog, count | work, base, step)

    def step(self) -> None:
        """Run the program once. Errors: `BackendError` where the system refuses threads, or the team was closed."""
        self._step(self._control, *self._bound)
        outcome = self._words[C_OUTCOME // 8]
        if outcome:
            raise BackendError(_refused(self.threads, int(outcome)))

    def rest(self) -> None:
        """Stop the workers now, not 0.1 s after the last step; the next step starts them. None may begin meanwhile."""
        if not self._words[C_CLOSED // 8]:
            try:
                self._stop(self._control, 0, 0, 0, 0)
            finally:  # Ctrl-C comes between the two
                self._words[C_CLOSED // 8] = 0

    def close(self) -> None:
        """Wait for the step that runs, and stop the workers. Harmless when done twice, by several threads too."""
        self._stop(self._control, 0, 0, 0, 0)


def _check_room(threads: int) -> None:
    """Refuse more threads than the address space has stacks for: they start at the first step, and this is the load.

    Errors: `BackendError`. A limit on their number (`ulimit -u`, pids.max) is the system's to say when they start.
    """
    try:
        import resource  # noqa: PLC0415 - not on every system

        limit, stack = (resource.getrlimit(which)[0] for which in (resource.RLIMIT_AS, resource.RLIMIT_STACK))
        taken = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    except (ImportError, OSError):
        return
    stack = DEFAULT_STACK if stack == resource.RLIM_INFINITY else stack
    if limit != resource.RLIM_INFINITY and taken + stack * (threads - 1) > limit:
        room = max(0, limit - taken) // stack
        msg = (
            f"threads={threads}: the address space is limited to {limit:,} bytes, of which {taken:,} are taken; a "
            f"thread's stack is {stack:,}. Load with threads={room + 1} or fewer, or raise the limit (ulimit -v)"
        )
        raise BackendError(msg)


def _refused(threads: int, outcome: int) -> str:
    if outcome == CLOSED:
        return "the threads of this model were stopped; load it again"
    return (
        f"threads={threads}: the system refused to start more than {outcome - 1} of the {threads - 1} that a step "
        f"needs next to the caller's own; load with threads={outcome} or fewer, or raise the limit (ulimit -u, "
        "ulimit -v, pids.max of the control group)"
    )


def _end(stop: Callable[..., None], control: int) -> None:
    stop(control, 0, 0, 0, 0)
    _BLOCKS.pop(control, None)


def _end_dropped() -> None:
    """Stop the workers of teams whose finaliser a signal's handler ended at its first line, by what it raised."""
    for end in _ENDS.copy():
        if end.alive and end.peek() is None:
            end()
        if not end.alive:
            _ENDS.discard(end)


def _after_fork() -> None:
    """The workers are the parent's, perhaps in the middle of a step: the child's teams have none and start afresh."""
    for block in list(_BLOCKS.values()):
        words: Any = block.view(np.int64)
        words[C_CLOSED // 8 + 1 :] = 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
