"""Answers for coroutines: as `searching` and `stream` give them to threads, and from the same passes."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from .engine.tasks import Task
from .exits import Exits
from .generate import Draw, collect
from .searching import gathered, spread
from .settling import abandoned, settled, told

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from .engine.scheduler import Engine
    from .filters.filters import Filtering
    from .generate import Generation, Token
    from .searching import Asked
    from .settling import Answer

__all__ = ["answer", "answers", "each_token", "in_thread", "merged", "tokens", "while_wanted"]

T = TypeVar("T")


async def in_thread(work: Callable[[], T]) -> T:
    """Work in the loop's executor. Cancelled, it comes to its end all the same."""
    return await asyncio.get_running_loop().run_in_executor(None, work)


async def while_wanted(work: Callable[[Callable[[], None]], T]) -> T:
    """As `in_thread`, of work that calls what it is handed between its steps and while it waits.

    Cancelled, it ends there.
    """
    gone = threading.Event()

    def check() -> None:
        if gone.is_set():
            raise _GoneError

    try:
        return await in_thread(partial(work, check))
    finally:
        gone.set()


class _GoneError(Exception):
    """Nobody waits for this work any more; nobody sees this either."""


async def tokens(engine: Engine, asked: Asked) -> AsyncGenerator[Token, None]:
    """The answer, an id at a time; of what has no beams, one answer. Cancelled, the sequence keeps the ids it has."""
    filters, over = asked.params.filters, False
    filtering = None if filters is None else filters.filtering()
    made = _drawn(engine, asked, filtering)
    try:
        async for token in made:
            over = token.finish_reason is not None
            yield await _settled(asked, token) if over else token
    finally:
        await made.aclose()
        if filtering is not None and not over:
            abandoned(asked, filtering)


async def merged(made: Sequence[AsyncGenerator[T, None]]) -> AsyncGenerator[tuple[int, T], None]:
    """What several generators make, as it comes, with the generator's number. An error of one ends all.

    Who reads slowly keeps them waiting, each with one item.
    """
    if len(made) == 1:
        try:
            async for item in made[0]:
                yield 0, item
        finally:
            await made[0].aclose()
        return
    queue: asyncio.Queue[tuple[int, T] | BaseException | None] = asyncio.Queue(1)
    readers = [asyncio.ensure_future(_read(i, each, queue)) for i, each in enumerate(made)]
    try:
        left = len(readers)
        while left:
            came = await queue.get()
            if isinstance(came, BaseException):
                raise came
            if came is None:
                left -= 1
            else:
                yield came
    finally:
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)


async def _read(
    number: int, made: AsyncGenerator[T, None], queue: asyncio.Queue[tuple[int, T] | BaseException | None]
) -> None:
    """Put what a generator makes into the queue; None at its end, or what it raises."""
    try:
        async for item in made:
            await queue.put((number, item))
    except asyncio.CancelledError:
        raise
    except BaseException as e:  # noqa: BLE001 - whatever it is, it is the reader's
        await queue.put(e)
    else:
        await queue.put(None)
    finally:
        await made.aclose()


async def each_token(engine: Engine, asked: Asked, opened: Exits) -> AsyncGenerator[tuple[int, Token], None]:
    """The tokens of each of the answers that are asked for, with the answer's number; of what has no beams."""
    made = merged([tokens(engine, each) for each in spread(asked, opened)])
    try:
        async for numbered in made:
            yield numbered
    finally:
        await made.aclose()


async def _settled(asked: Asked, answer: Answer) -> Answer:
    """As `settled`. Who decides may take his time: not in the loop's executor, where the passes are taken."""
    filters, filtered = asked.params.filters, answer.filtered
    if filters is None or filtered is None:
        return answer
    if filters.hold is None:
        return await in_thread(partial(settled, asked, answer))
    said: object = await _in_own_thread(partial(filters.hold, filtered))
    if inspect.isawaitable(said):
        said = await said
    return await in_thread(partial(told, asked, answer, filters.judged(filtered, said)))


async def _in_own_thread(work: Callable[[], T]) -> T:
    """Work in a thread that nothing else uses. Cancelled, it comes to its end all the same."""
    loop, context = asyncio.get_running_loop(), contextvars.copy_context()
    future: asyncio.Future[T] = loop.create_future()

    def settle(how: Callable[[], None]) -> None:
        if not future.done():
            how()

    def run() -> None:
        try:
            how = partial(future.set_result, context.run(work))
        except BaseException as e:  # noqa: BLE001 - whatever it is, it is the caller's
            how = partial(future.set_exception, e)
        with suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(settle, how)

    threading.Thread(target=run, name="miaotui-hold", daemon=True).start()
    return await future


async def _drawn(
    engine: Engine, asked: Asked, filtering: Filtering | None = None, *, at_once: bool = False
) -> AsyncGenerator[Token, None]:
    steps, task, tasks = asked.steps(filtering, at_once=at_once), Task(asked.sequence.table), engine.tasks()
    try:
        step = next(steps, None)
        while step is not None:
            if isinstance(step, Draw) and (drawn := asked.sequence.at_hand()) is not None:
                step = steps.send(drawn)
            elif isinstance(step, Draw):
                if step.speculation is not None and step.speculation.computes:  # not in the loop's thread
                    want = await in_thread(partial(asked.sequence.wanted, step))
                else:
                    want = asked.sequence.wanted(step)
                try:
                    with task.waiting(want):
                        await tasks.until_done(want)
                except BaseException:
                    asked.sequence.keep(want)
                    raise
                step = steps.send(asked.sequence.taken(want))
            else:
                yield step
                step = next(steps, None)
    finally:
        steps.close()  # whoever keeps an exception keeps this call, and what it has


async def answer(engine: Engine, asked: Asked) -> Generation:
    """The whole answer; with `num_return_sequences`, drawn ones, which share passes."""
    with Exits() as opened:
        made = await answers(engine, spread(asked, opened))
    return gathered(asked, made)


async def answers(engine: Engine, asked: list[Asked]) -> list[Generation]:
    """One to each, in order, which share passes. Errors: what ends one is raised when the others are done."""
    room = asyncio.Semaphore(engine.most)

    async def one(each: Asked) -> Generation:
        async with room:
            made = collect([token async for token in _drawn(engine, each, at_once=True)])
        return await _settled(each, made)

    made = await asyncio.gather(*map(one, asked), return_exceptions=True)
    errors = [each for each in made if isinstance(each, BaseException)]
    if errors:
        made.clear()  # nobody holds what is raised
        raise errors.pop(0)
    return [each for each in made if not isinstance(each, BaseException)]
