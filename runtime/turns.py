"""Threads take turns with a model: a lock that is held for a pass, and who waits for it, or for pages of the cache."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from ..errors import BackendError, InputError
from .living import Living
from .pages import FullError, Waiting

if TYPE_CHECKING:
    import weakref
    from collections.abc import Callable, Iterator

    from .pages import Pages, Table

    #: A table that keeps its pages, and who waits for it.
    Held = tuple[Table, list[weakref.ref[Waiting]]]

__all__ = ["Turns"]

T = TypeVar("T")


#: Seconds between two looks for pages, and between two looks whether another thread took its turn.
_LOOK = 0.002
_YIELD = 0.0001

_INSIDE = (
    "this thread is computing with the model already: a signal's handler or a finaliser (__del__) was called in the "
    "middle of a step and used the same model; let it set a flag, or hand the call to another thread"
)

_CROSSED = (
    "another thread is computing with this model, and waits for one that this thread is computing with: a signal's "
    "handler or a finaliser (__del__) was called in the middle of a step of both, and used the other's model; let it "
    "set a flag, or hand the call to another thread"
)

_NO_ROOM = (
    "the cache is full of a text that this thread is generating: a signal's handler or a finaliser (__del__) was "
    "called meanwhile and needs room too; let it set a flag, or load with a larger cache_tokens"
)

_NO_ROOM_CROSSED = (
    "the cache is full of texts whose threads wait for this one: a signal's handler or a finaliser (__del__) was "
    "called in the middle of the call of each, and used the other's model; let it set a flag, or load with a larger "
    "cache_tokens"
)

#: Of every model: a thread is inside turns of several where a handler or a finaliser used another one.
_ALL: Living[Turns] = Living()
#: Threads that are inside a turn, or wait for one, or were struck as they left it: whether they are, their locks tell.
_BUSY: set[int] = set()
#: Who waits for pages, of any model.
_STARVED: Living[Waiting] = Living()


class Turns:
    """The lock of a session, its queue, and why no pass is taken any more."""

    def __init__(self, pages: Pages) -> None:
        """`pages`: of the KV cache."""
        self.pages = pages
        self.lock = threading.RLock()
        self._queue: Living[Waiting] = Living()  # who waits for the lock
        self._holder = 0  # the thread that had the last turn
        self._closed = ""  # why no pass is taken any more
        _ALL.add(self)

    def turn(self, work: Callable[[], T]) -> T:
        """Do work with the lock held. Threads that wait for a turn get theirs before who had the last gets another.

        Where work needs pages that others have who run, it waits, without the lock, and is done again from its
        beginning. Errors: those of `work`; `InputError` where the text could never fit, and where this thread is inside
        a turn: a signal's handler or a finaliser was called there, and would overwrite what the turn is about to read.
        """
        self.check_outside()
        while True:
            try:
                return self._locked(work)
            except FullError as full:
                there, pool = full.held, full.pages
                if not full.others:
                    what = "text" if pool is self.pages else "prompt"
                    room = f"{pool.n_pages * pool.size} tokens"
                    msg = f"the {what} does not fit the cache of {room}; load with a larger cache_tokens"
                    raise InputError(msg) from None
            except BackendError:
                if self._closed:  # in the middle of work, by a signal's handler or a finaliser
                    raise InputError(self._closed) from None
                raise
            self._until_one_ends(there)

    def held(self, work: Callable[[], T]) -> T:
        """Do work with the lock held, within a turn too. Errors: `InputError`, as of `turn`; those of `work`."""
        return work() if self._is_mine() else self._locked(work)

    def _locked(self, work: Callable[[], T]) -> T:
        """Wait for the lock, and do work with it. Errors: `InputError` where this thread would wait for itself."""
        me, mine = threading.get_ident(), Waiting()
        nested = me in _BUSY
        if nested:
            mine.inside = _entered()
        try:
            _BUSY.add(me)
            self._queue.add(mine)
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

    def _check_circle(self, inside: list[Turns]) -> None:
        """InputError where a thread in a turn of this waits for one of those, or for who waits for one of them.

        Of threads that would wait in a circle the last finds all others: each is in its queue before it looks.
        """
        if any(self in who.inside for who in _waiting_for(inside)):
            raise InputError(_CROSSED)

    def _within(self, work: Callable[[], T]) -> T:
        """Work that is part of a turn, or else a turn; who took the turn waits where there is no room."""
        return work() if self._is_mine() else self.turn(work)

    def check_outside(self) -> None:
        """InputError where this thread is inside a turn."""
        if self._is_mine():
            raise InputError(_INSIDE)

    def _is_mine(self) -> bool:
        """Whether this thread holds the lock."""
        owned: bool = self.lock._is_owned()  # type: ignore[attr-defined]  # noqa: SLF001 - as Condition asks
        return owned

    def _until_one_ends(self, there: list[Held]) -> None:
        """Wait until one of those who are waited for has what he wanted, or gave his pages up.

        InputError where none ever will: all of them wait in this very thread, which a signal's handler or a finaliser
        interrupted, or for it.
        """
        mine = Waiting()
        mine.inside, mine.there = _entered(), there
        held = [(table, who) for table, waiting in there for who in waiting]
        try:
            _STARVED.add(mine)
            _check_room_comes(mine)
            time.sleep(_LOOK)
            while held and not self._closed and all(table.n_pages and who() in table.waiting for table, who in held):
                _check_room_comes(mine)
                time.sleep(_LOOK)
        finally:
            _STARVED.discard(mine)
            mine.inside, mine.there = [], []

    @contextmanager
    def awaited(self, table: Table) -> Iterator[None]:
        """Somebody waits for the next id of a sequence: until then it gives no pages up."""
        who = Waiting()  # it is gone with the caller, whatever ends him
        tables = [table] if table.source is None else [table, table.source.table]
        keys = [-1] * len(tables)
        try:
            for i, each in enumerate(tables):  # whom a pass overtakes here is computed again, with the same bits
                keys[i] = each.waiting.add(who)
            yield
        finally:
            try:
                for each, key in zip(tables, keys, strict=True):
                    each.waiting.forget(key)
            finally:
                del who  # whoever keeps an exception that came in there keeps this frame


def _entered() -> list[Turns]:
    """Those that this thread is inside a turn of."""
    return [turns for turns in _ALL if turns._is_mine()]  # noqa: SLF001 - below the class


def _waiting_for(inside: list[Turns]) -> list[Waiting]:
    """Who waits for a turn of one of these, or of one that such a thread is inside of."""
    todo, waiting = list(inside), list[Waiting]()
    for turns in todo:  # which grows
        waiting += turns._queue  # noqa: SLF001 - as above
        todo += [other for who in turns._queue for other in who.inside if other not in todo]  # noqa: SLF001 - as above
    return waiting


def _check_room_comes(mine: Waiting) -> None:
    """InputError where everybody who has the pages waits for this thread."""
    stuck, inside, n = {mine.thread}, list(mine.inside), 0
    while n < len(stuck):  # it grows
        n = len(stuck)
        stuck |= {who.thread for who in _waiting_for(inside)}
        starved = [who for who in _STARVED if who.thread not in stuck and _all_wait(who.there, stuck)]
        stuck |= {who.thread for who in starved}
        inside += [turns for who in starved for turns in who.inside]
    if _all_wait(mine.there, stuck):
        raise InputError(_NO_ROOM if _all_wait(mine.there, {mine.thread}) else _NO_ROOM_CROSSED)


def _all_wait(there: list[Held], threads: set[int]) -> bool:
    """Whether one of these threads waits for each of the tables that keep their pages."""
    waiting = [[who() for who in whose] for _, whose in there]
    return bool(there) and all(any(who is not None and who.thread in threads for who in whose) for whose in waiting)
