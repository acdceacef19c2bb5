"""The threads of the interpreter, and the block of words through which they and Python speak.

The compiled root (`interpreter.py`) is called through ctypes, which lets go of the GIL: the caller's thread takes part
0 of a step, workers the others. A worker stays inside from step to step, and sleeps on a semaphore when it idled long.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np

from .layout import C_EPOCH, C_STOP, C_THREADS, LINE, T_PARKED

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Team", "aligned"]


def aligned(nbytes: int, align: int = 64) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Zeroed bytes that begin on a cache line."""
    a = np.zeros(nbytes + align, np.uint8)
    o = -a.ctypes.data % align
    return a[o : o + nbytes]


class Team:
    """`threads` - 1 workers and whoever calls `step`."""

    def __init__(self, threads: int, run: Callable[[int, int, int], None]) -> None:
        self.threads, self._run, self._bound = threads, run, (0, 0, 0, 0)
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
                args=(self._run, self._block, self._ctl, t, self.threads, self._wake[t]),
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
        self._run(self._ctl, 0, self.threads)

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


def _work(run: Callable[[int, int, int], None], block: Any, ctl: int, t: int, nt: int, wake: Any) -> None:
    """A worker's life: in compiled code while there is work, asleep while there is none. `block` is held alive."""
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
