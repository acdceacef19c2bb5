"""Locks whose waiters are seen: threads that would wait for each other in a circle are refused, and never hang.

A signal's handler, or a finaliser (__del__), may come at any moment, with locks held below it, and use another model;
another thread may do the same the other way round. So a thread that must wait says first what it is inside of, and the
last of a circle sees all the others.
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, TypeVar

from ..errors import InputError
from .living import Living

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Lock", "Waiting", "entered", "waiting_for"]

T = TypeVar("T")

#: Seconds until another thread has taken its turn.
_YIELD = 0.0001

_CROSSED = (
    "another thread is in a step of this model, or loads one, and waits for what this thread is inside of: a signal's "
    "handler or a finaliser (__del__) was called in the middle of both, and used the other's model; let it set a flag, "
    "or hand the call to a third thread"
)


class Waiting:
    """Somebody who waits, for a lock or a sequence's next id: counted for as long as he is there.

    `inside`: the locks that his thread holds meanwhile.
    """

    def __init__(self) -> None:
        """In this thread."""
        self.thread = threading.get_ident()
        self.inside: list[Lock] = []


class Lock:
    """A re-entrant lock, and who waits for it. In a forked child it is free, unless the thread that forked holds it."""

    def __init__(self) -> None:
        """Nobody has it."""
        self.lock = threading.RLock()
        self._queue: Living[Waiting] = Living()
        self._holder = 0  # the thread that had it last
        _ALL.add(self)

    def keep_own(self) -> None:
        """In the child: other threads are not here. What this one was inside of, it will end."""
        if not self.is_mine():
            self.lock = threading.RLock()
        self._queue, self._holder = Living(), 0

    def held(self, work: Callable[[], T]) -> T:
        """Do work with the lock held, by this thread already or from now on. Errors: as `taken`."""
        return work() if self.is_mine() else self.taken(work)

    def taken(self, work: Callable[[], T]) -> T:
        """Wait for the lock, and do work with it. Threads that wait get it before who had it last gets it again.

        Errors: those of `work`; `InputError` where this thread would wait for itself.
        """
        me, mine = threading.get_ident(), Waiting()
        if me in _BUSY:
            mine.inside = entered()
        nested = bool(mine.inside) or (me in _BUSY and _waits(me))
        try:
            self._queue.add(mine)
            _BUSY.add(me)
            if self._holder == me and any(who is not mine for who in self._queue):
                time.sleep(_YIELD)  # the lock was left free: one of them takes it
            if nested:
                self._check_circle(mine.inside)
            with self.lock:
                self._queue.discard(mine)
                self._holder = me
                result = work()  # not returned here: what a tracer raises as a with is left would keep the lock
            return result  # noqa: RET504, TRY300 - as said
        except BaseException:
            self._queue.discard(mine)  # whoever keeps the exception keeps `mine`
            raise
        finally:
            mine.inside = []
            if not nested:
                _BUSY.discard(me)

    def is_mine(self) -> bool:
        """Whether this thread holds it."""
        owned: bool = self.lock._is_owned()  # type: ignore[attr-defined]  # noqa: SLF001 - as Condition asks
        return owned

    def _check_circle(self, inside: list[Lock]) -> None:
        """InputError where who holds this waits for one of those, or for who waits for one of them."""
        if any(self in who.inside for who in waiting_for(inside)):
            raise InputError(_CROSSED)


#: Every lock that there is: a thread holds several where a handler or a finaliser used another model.
_ALL: Living[Lock] = Living()
#: Threads that hold a lock, or wait for one, or were struck as they left it: whether they do, the locks tell. A thread
#: that neither holds nor waits is out of it again after its next turn.
_BUSY: set[int] = set()


def entered() -> list[Lock]:
    """Those that this thread holds."""
    return [lock for lock in _ALL if lock.is_mine()]


def _waits(thread: int) -> bool:
    """Whether this thread waits for a lock, below the call that asks."""
    return any(who.thread == thread for lock in _ALL for who in lock._queue)  # noqa: SLF001 - of this module


def waiting_for(inside: list[Lock]) -> list[Waiting]:
    """Who waits for one of these, or for one that such a thread holds."""
    todo, waiting = list(inside), list[Waiting]()
    for lock in todo:  # which grows
        queue = list(lock._queue)  # noqa: SLF001 - of this module
        waiting += queue
        todo += [other for who in queue for other in who.inside if other not in todo]
    return waiting


def _after_fork() -> None:
    for lock in _ALL:
        lock.keep_own()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
