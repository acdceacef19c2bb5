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

_NO_ROOM = (
    "the cache is full of a text that this thread is generating: a signal's handler or a finaliser (__del__) was "
    "called meanwhile and needs room too; let it set a flag, or load with a larger cache_tokens"
)


class Turns:
    """The lock of a session, its queue, and why no pass is taken any more."""

    def __init__(self, pages: Pages) -> None:
        """`pages`: of the KV cache."""
        self.pages = pages
        self.lock = threading.RLock()
        self._queue: Living[object] = Living()  # who waits for a turn
        self._holder = 0  # the thread that had the last one
        self._closed = ""  # why no pass is taken any more

    def turn(self, work: Callable[[], T]) -> T:
        """Do work with the lock held. Threads that wait for a turn get theirs before who had the last gets another.

        Where work needs pages that others have who run, it waits, without the lock, and is done again from its
        beginning. Errors: those of `work`; `InputError` where the text could never fit, and where this thread is inside
        a turn: a signal's handler or a finaliser was called there, and would overwrite what the turn is about to read.
        """
        self.check_outside()
        me, mine = threading.get_ident(), Waiting()
        while True:
            try:
                self._queue.add(mine)
                if self._holder == me and any(who is not mine for who in self._queue):
                    time.sleep(_YIELD)  # the lock was left free: one of them takes it
                with self.lock:
                    self._queue.discard(mine)
                    self._holder = me
                    result = work()  # not returned here: what a tracer raises as a with is left would keep the lock
                return result  # noqa: RET504, TRY300 - as said
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
            except BaseException:
                self._queue.discard(mine)  # whoever keeps the exception keeps `mine`
                raise
            self._until_one_ends(there)

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

        InputError where all of them wait in this very thread: a signal's handler, or a finaliser, interrupted them.
        """
        me = threading.get_ident()
        if there and all(any(getattr(who(), "thread", 0) == me for who in waiting) for _, waiting in there):
            raise InputError(_NO_ROOM)
        time.sleep(_LOOK)
        held = [(table, who) for table, waiting in there for who in waiting]
        while held and not self._closed and all(table.n_pages and who() in table.waiting for table, who in held):
            time.sleep(_LOOK)

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
