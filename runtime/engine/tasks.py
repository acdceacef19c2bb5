"""Coroutines that wait for texts: an event loop's turns run in its executor, one pass at a time for all its tasks."""

from __future__ import annotations

import asyncio
import threading
import weakref
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

from ..pages import Caller

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..pages import Table
    from .scheduler import Engine
    from .wants import Want

__all__ = ["Task", "Tasks", "running_loop"]

running_loop = asyncio.get_running_loop


class Task(Caller):
    """A coroutine that waits for a text. It has no frame while it waits: it is there until it says otherwise.

    A loop that is closed, or stopped, with such coroutines does not let them say it: what waits for a closed one is not
    there, nor is what was served and would have to be woken by one that does not run.
    """

    def __init__(self, table: Table) -> None:
        """Of the running loop's thread; waits for nothing yet."""
        super().__init__()
        self._table, self._loop = table, running_loop()
        self._want: Want | None = None

    def here(self) -> bool:
        """Whether it waits, and will go on."""
        want = self._want
        return want is not None and (self._loop.is_running() or not (want.done or self._loop.is_closed()))

    @contextmanager
    def waiting(self, want: Want) -> Iterator[None]:
        """Wait for this, which is of its text."""
        self._want = want
        self.waits_for(self._table)
        try:
            yield
        finally:
            self._want = None
            self.leaves(self._table)


class Tasks:
    """What the tasks of one event loop wait for, on one engine.

    Their turn needs a thread of the loop's executor. All of these may wait for pages that tasks have; so whoever takes
    a pass that serves a task wakes it (`tell`), and who waits for pages takes passes for tasks whose turn does not come
    (`Engine.relieve`). All but `tell`, `is_taking` and `_take` runs in the loop's thread.
    """

    def __init__(self, engine: Engine) -> None:
        """Nothing is waited for."""
        self._engine, self._loop = weakref.ref(engine), running_loop()
        self._waiting: dict[Want, asyncio.Future[None]] = {}
        self._turns = False  # whether a turn is on its way
        self._taker = 0  # the thread that it runs in

    async def until_done(self, want: Want) -> None:
        """Wait for a want. Cancelled, it is nobody's from the pass on that runs. Errors: as `Engine.serve`."""
        engine, loop = self._engine(), asyncio.get_running_loop()
        if engine is None:
            return
        self._waiting[want] = future = loop.create_future()
        want.tasks = self
        engine.add(want)
        try:
            if not self._turns:
                self._turns = True
                loop.call_soon(self._begin)  # once those whose tokens came with the same pass have asked again
            await future
        finally:
            engine.forget(want)
            want.tasks = None
            self._waiting.pop(want, None)
            del future  # it holds what is raised, whose calls would hold it

    @property
    def is_closed(self) -> bool:
        """Whether its loop will never run again: nobody waits for anything."""
        return self._loop.is_closed()

    @property
    def is_taking(self) -> bool:
        """Whether a turn runs, and does not wait for a thread."""
        return self._taker != 0

    def tell(self, want: Want) -> None:
        """Wake who waits for a want that is done, unless the turn's own end will; in any thread, perhaps in a pass."""
        future = self._waiting.get(want)
        if future is not None and self._taker != threading.get_ident():
            with suppress(RuntimeError):  # its loop is closed
                future.get_loop().call_soon_threadsafe(self._wake, future)

    @staticmethod
    def _wake(future: asyncio.Future[None]) -> None:
        if not future.done():
            future.set_result(None)

    def _take(self, engine: Engine) -> None:
        """The turn, in a thread of the executor."""
        self._taker = threading.get_ident()
        try:
            # Who asks while passes are taken is told as soon as he is served: others may wait for his pages.
            engine.take_passes(self._waiting.keys())
        finally:
            self._taker = 0

    def _begin(self) -> None:
        engine = self._engine()
        if engine is None or all(want.done for want in self._waiting):
            self._turns = False
            self._answer(None)
            return
        try:
            turn = asyncio.get_running_loop().run_in_executor(None, partial(self._take, engine))
        except RuntimeError as e:  # the executor is shut down, or no thread can be had
            self._turns = False
            self._answer(e)
            return
        turn.add_done_callback(self._ended)

    def _ended(self, turn: asyncio.Future[None]) -> None:
        self._turns = False
        error = None if turn.cancelled() else turn.exception()
        self._answer(error)
        if self._waiting and not self._turns:
            self._turns = True
            asyncio.get_running_loop().call_soon(self._begin)

    def _answer(self, error: BaseException | None) -> None:
        """Wake those whose want is done; with an error, all."""
        for want, future in list(self._waiting.items()):
            if future.done():
                continue
            if want.done:
                future.set_result(None)
            elif error is not None:
                with suppress(asyncio.InvalidStateError):
                    future.set_exception(error)
