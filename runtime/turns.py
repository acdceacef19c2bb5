"""Threads take turns with a model: a lock that is held for a pass, and who waits for pages of its cache."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, TypeVar

from ..errors import BackendError, InputError
from .living import Living
from .locks import Lock, Waiting, entered, waiting_for
from .pages import Caller, FullError

if TYPE_CHECKING:
    import weakref
    from collections.abc import Callable

    from .pages import Pages, Table
    from .sharing import Ask

    #: A table that keeps its pages, and who waits for it.
    Held = tuple[Table, list[weakref.ref[Caller]]]

__all__ = ["Turns"]

T = TypeVar("T")


#: Seconds between two looks for pages.
_LOOK = 0.002

_INSIDE = (
    "this thread is computing with the model already: a signal's handler, a finaliser (__del__) or a logits_processor "
    "was called in the middle of a step and used the same model; let it set a flag, or hand the call to another thread"
)

_NO_ROOM = (
    "the cache is full of a text that this thread is generating: a signal's handler or a finaliser (__del__) was "
    "called meanwhile and needs room too, or a coroutine that did not await (agenerate) while another did; let it set "
    "a flag, await, or load with a larger cache_tokens"
)

_NO_ROOM_CROSSED = (
    "the cache is full of texts whose threads wait for this one: a signal's handler or a finaliser (__del__) was "
    "called in the middle of the call of each, and used the other's model; let it set a flag, or load with a larger "
    "cache_tokens"
)


class Starved(Waiting):
    """Somebody who waits for pages. `there`: of those who have them, who is waited for; empty when he waits no more."""

    def __init__(self, there: list[Held]) -> None:
        """In this thread."""
        super().__init__()
        self.inside, self.there = entered(), there


class Turns(Lock):
    """The lock of a session, who waits for a turn or for room, and why no pass is taken any more."""

    def __init__(self, pages: Pages) -> None:
        """`pages`: of the KV cache."""
        super().__init__()
        self.pages = pages
        self._closed = ""  # why no pass is taken any more
        self._relieve: Callable[[], None] | None = None  # what who waits for pages does for others meanwhile
        self.asks: list[Ask] = []  # whole texts that wait for a turn (`sharing.py`)

    def turn(self, work: Callable[[], T], served: Callable[[], bool] = lambda: False) -> T:
        """Do work with the lock held. Threads that wait for a turn get theirs before who had the last gets another.

        Where work needs pages that others have who run, it waits, without the lock, and is done again from its
        beginning; `served`: it need not wait, as others have done it, or look for room again. Errors: those of `work`;
        `InputError` where the text could never fit, and where this thread is inside a turn: a signal's handler or a
        finaliser was called there, and would overwrite what the turn is about to read.
        """
        self.check_outside()
        while True:
            try:
                return self.taken(work)
            except FullError as full:
                if self._closed:  # who has the pages may not come to know it
                    raise InputError(self._closed) from None
                there, pool = full.held, full.pages
                if not full.ever:
                    raise self.too_long(pool, full.n) from None
            except BackendError:
                if self._closed:  # in the middle of work, by a signal's handler or a finaliser
                    raise InputError(self._closed) from None
                raise
            self._until_one_ends(there, served)

    def too_long(self, pool: Pages, n: int | None) -> InputError:
        """What is said of a text (of `n` tokens, where that is known) that an empty pool has no room for."""
        what, size = "text" if pool is self.pages else "prompt", "" if n is None else f": it has {n}"
        msg = f"the {what} does not fit the cache of {pool.n_pages * pool.size} tokens{size}; load with a larger"
        return InputError(f"{msg} cache_tokens")

    def _within(self, work: Callable[[], T]) -> T:
        """Work that is part of a turn, or else a turn; who took the turn waits where there is no room."""
        return work() if self.is_mine() else self.turn(work)

    def check_outside(self) -> None:
        """InputError where this thread is inside a turn."""
        if self.is_mine():
            raise InputError(_INSIDE)

    def _until_one_ends(self, there: list[Held], served: Callable[[], bool]) -> None:
        """Wait until one of those who are waited for has what he wanted, or gave his pages up.

        InputError where none ever will: all of them wait in this very thread, which a signal's handler or a finaliser
        interrupted, or for it.
        """
        mine = Starved(there)
        held = [(table, who) for table, waiting in there for who in waiting]
        try:
            _STARVED.add(mine)
            _check_room_comes(mine)
            time.sleep(_LOOK)
            while held and not self._closed and not served() and all(_waits(table, who()) for table, who in held):
                _check_room_comes(mine)
                self._for_others(mine)
                time.sleep(_LOOK)
        finally:
            _STARVED.discard(mine)
            mine.inside, mine.there = [], []

    def _for_others(self, mine: Starved) -> None:
        if self._relieve is None or mine.inside:  # in the middle of a pass, of this model or another
            return
        try:
            self._relieve()
        except FullError:
            return  # no room for them either
        except BackendError:
            if not self._closed:
                raise

    @staticmethod
    def awaiting(table: Table, work: Callable[[], T]) -> T:
        """Do work, while somebody waits for the next id of a sequence: so long it gives no pages up."""
        caller = Caller()
        try:
            with caller.going():
                caller.waits_for(table)  # whom a pass overtakes here is computed again, with the same bits
                return work()
        finally:
            caller.leaves(table)


#: Who waits for pages, of any model.
_STARVED: Living[Starved] = Living()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_STARVED.clear)


def _check_room_comes(mine: Starved) -> None:
    """InputError where everybody who has the pages waits for this thread."""
    stuck, inside, n = {mine.thread}, list(mine.inside), 0
    while n < len(stuck):  # it grows
        n = len(stuck)
        stuck |= {who.thread for who in waiting_for(inside)}
        starved = [who for who in _STARVED if who.thread not in stuck and _all_wait(who.there, stuck)]
        stuck |= {who.thread for who in starved}
        inside += [lock for who in starved for lock in who.inside]
    if _all_wait(mine.there, stuck):
        raise InputError(_NO_ROOM if _all_wait(mine.there, {mine.thread}) else _NO_ROOM_CROSSED)


def _waits(table: Table, who: Caller | None) -> bool:
    """Whether he still waits for what has pages."""
    return table.n_pages > 0 and who is not None and who in table.waiting and who.here()


def _all_wait(there: list[Held], threads: set[int]) -> bool:
    """Whether one of these threads waits for each of the tables, all of which keep their pages still.

    Where one has given them up, or ended, who waits for it looks again as soon as he wakes: he is not stuck.
    """
    waiting = [(table, [who() for who in whose]) for table, whose in there]
    still = all(_waits(table, who) for table, whose in waiting for who in whose)
    return (
        still
        and bool(there)
        and all(any(who is not None and who.thread in threads for who in whose) for _, whose in waiting)
    )
