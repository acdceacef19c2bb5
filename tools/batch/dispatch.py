"""Parts to worker processes: whoever is free takes the next; what a dead one had is done again, from its journal.

A part is given up where workers die at the same place again and again. Then records are done one by one, so that the
one that ends its worker is known, and is kept apart as a bad line, or named in the error.
"""

from __future__ import annotations

from collections import deque
from contextlib import closing
from typing import TYPE_CHECKING

from ...errors import InputError, MiaotuiError, WorkerError
from .journal import Commit
from .parts import progress_of
from .workers import Died, Done, Failed, Order, Ready, Said, Step

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from .parts import Part
    from .workers import Pool, Worker

    #: What became of a part.
    Result = tuple[Part, Commit | MiaotuiError]

__all__ = ["by_processes"]

#: Deaths at a place after which records are done one by one.
PLAIN = 2


def by_processes(
    parts: Iterator[Part | None],
    pool: Pool,
    *,
    retries: int,
    step: Callable[[Part, Commit], None],
    said: Callable[[Said], None],
) -> Generator[Result]:
    """What becomes of each part, in the order in which they end. `parts` may say None: not now, ask again later.

    `retries`: how often what a dead worker had is tried again without a step forward. `step` hears how far a part is,
    `said` what workers would print. Errors: those of loading the model; `WorkerError` where no worker lives to load it.
    """
    with closing(pool):
        yield from _Dispatch(parts, pool, retries, step, said).results()


class _Dispatch:
    def __init__(
        self,
        parts: Iterator[Part | None],
        pool: Pool,
        retries: int,
        step: Callable[[Part, Commit], None],
        said: Callable[[Said], None],
    ) -> None:
        self._parts, self._pool, self._retries, self._step, self._said = parts, pool, retries, step, said
        self._queue: deque[Order] = deque()
        self._exhausted = False
        #: Workers that died before their model was loaded, one after the other.
        self._unborn = 0
        #: By a part's number: where its workers died, and how often there.
        self._deaths: dict[int, tuple[int, int]] = {}

    def results(self) -> Iterator[Result]:
        while True:
            self._hand_out()
            if self._exhausted and not self._queue and not self._busy():
                return
            for worker in self._pool.wait():
                for message in worker.heard():
                    yield from self._heard(worker, message)

    def _busy(self) -> int:
        return sum(worker.order is not None for worker in self._pool.workers)

    def _hand_out(self) -> None:
        """Parts to those who are free, and a new worker where one would have something to do."""
        while not self._exhausted and len(self._queue) < self._pool.n - self._busy():
            try:
                part = next(self._parts)
            except StopIteration:
                self._exhausted = True
                break
            if part is None:
                break
            self._queue.append(Order(part))
        for worker in self._pool.workers:
            if worker.ready and worker.order is None and self._queue:
                worker.give(self._queue.popleft())
        loading = sum(not worker.ready for worker in self._pool.workers)
        for _ in range(min(len(self._queue) - loading, self._pool.n - len(self._pool.workers))):
            self._pool.start()

    def _heard(self, worker: Worker, message: Ready | Step | Done | Failed | Said | Died) -> Iterator[Result]:
        order = worker.order
        if isinstance(message, Said):
            self._said(message)
        elif isinstance(message, Ready):
            worker.ready, self._unborn = True, 0
        elif isinstance(message, Died):
            self._pool.drop(worker)
            if order is not None:
                yield from self._died(order, message.reason)
            elif not worker.ready:
                self._stillborn(message.reason)
        elif order is None:
            if isinstance(message, Failed):
                raise message.error
        elif isinstance(message, Step):
            self._step(order.part, message.now)
        else:
            worker.order = None
            yield order.part, message.error if isinstance(message, Failed) else message.now

    def _stillborn(self, reason: str) -> None:
        """Errors: `WorkerError` for one too many in a row."""
        self._unborn += 1
        if self._unborn > self._retries:
            msg = f"a worker {reason} before its model was loaded, {_times(self._unborn)} in a row; "
            msg += "see what the system says of it, or take fewer --workers"
            raise WorkerError(msg)

    def _died(self, order: Order, reason: str) -> Iterator[Result]:
        """Try again, keep apart the record that it was, or give up."""
        part = order.part
        now = progress_of(part) or Commit()
        place, deaths = self._deaths.get(part.number, (-1, 0))
        deaths = deaths + 1 if place == now.place.offset else 1
        self._deaths[part.number] = now.place.offset, deaths
        careful = order.careful or deaths >= min(PLAIN, max(1, self._retries))
        if deaths <= self._retries:
            self._queue.appendleft(Order(part, careful, order.spoilt))
            return
        try:
            line = _next_line(part, now)
        except InputError as e:
            yield part, e
            return
        told = f"its worker {reason}, {_times(deaths)}"
        if part.errors is None:
            where = f"line {line:,}" if order.careful else f"line {line:,} or one soon after it"
            msg = f"{part.name}, {where}: {told}; --errors DIR keeps such lines apart"
            yield part, WorkerError(msg)
            return
        spoilt = {**(order.spoilt or {}), line: told} if order.careful else order.spoilt
        del self._deaths[part.number]
        self._queue.appendleft(Order(part, careful=True, spoilt=spoilt))


def _next_line(part: Part, now: Commit) -> int:
    """The number of the record after those that are done, or of the last. `InputError`: they are no longer there."""
    stream, records = part.records()
    with stream:
        if now.place.offset:
            records.go_to(now.place)
        record = next(records, None)
        return part.piece.end.lines if record is None else record.line


def _times(n: int) -> str:
    return "once" if n == 1 else "twice" if n == 2 else f"{n:,} times"  # noqa: PLR2004 - twice
