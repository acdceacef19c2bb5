"""Event loops that end, or stop, while tasks wait for answers: their pages come back to whoever needs them."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from typing import TYPE_CHECKING, Any

import miaotui
import pytest
from life import DEMO

if TYPE_CHECKING:
    from collections.abc import Iterator

PROMPT, OTHER = "Once upon a time", "The little dog ran"
CONTEXT = 256
#: As long as the cache; with a text to look for, each id is told to the loop as it comes.
LONG: dict[str, Any] = {"max_new_tokens": 150, "ignore_eos": True}
TOLD = LONG | {"stop_strings": ["no such word"]}


@pytest.fixture
def model() -> Iterator[miaotui.Model]:
    with miaotui.load(DEMO, threads=1, max_context=CONTEXT, cache_tokens=CONTEXT) as model:
        yield model


@pytest.fixture(scope="module")
def alone() -> dict[str, list[int]]:
    with miaotui.load(DEMO, threads=1, max_context=CONTEXT, cache_tokens=CONTEXT) as model:
        return {prompt: model.generate(prompt, **LONG).ids for prompt in (PROMPT, OTHER)}


def stopped(model: miaotui.Model, how: dict[str, Any], n: int) -> tuple[Any, asyncio.Task[Any]]:
    """A loop that stopped as a task of its own had n ids, and this task."""
    loop = asyncio.new_event_loop()

    def seen(ids: list[int], _: object) -> None:
        if len(ids) == n:
            loop.call_soon_threadsafe(loop.stop)

    task = loop.create_task(model.agenerate(PROMPT, logits_processor=seen, **how))
    loop.run_forever()
    assert not task.done()
    return loop, task


def in_time(model: miaotui.Model) -> list[int]:
    """What another caller gets, which needs the whole cache."""
    got: list[int] = []
    thread = threading.Thread(target=lambda: got.extend(model.generate(OTHER, **LONG).ids), daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive(), "it waits for pages of a task that never goes on"
    return got


@pytest.mark.parametrize("how", [LONG, TOLD], ids=["at once", "told"])
@pytest.mark.parametrize("n", [20, 140])
def test_a_closed_loop_holds_no_pages(
    model: miaotui.Model, alone: dict[str, list[int]], how: dict[str, Any], n: int
) -> None:
    loop, task = stopped(model, how, n)
    loop.close()
    assert in_time(model) == alone[OTHER]
    assert not task.done()


def test_a_loop_that_stopped_gives_its_pages_and_goes_on(model: miaotui.Model, alone: dict[str, list[int]]) -> None:
    """Whoever stops a loop may run it again: its tasks go on with the same bits."""
    loop, task = stopped(model, TOLD, 40)
    assert in_time(model) == alone[OTHER]
    assert loop.run_until_complete(task).ids == alone[PROMPT]
    loop.close()


def test_a_loop_that_was_dropped_is_collected(model: miaotui.Model, alone: dict[str, list[int]]) -> None:
    """Its tasks too, and what they had: nothing of the model keeps them."""
    loop, task = stopped(model, TOLD, 20)
    loop.close()
    here, told = [weakref.ref(loop), weakref.ref(task)], list[str]()
    loop.set_exception_handler(lambda _, context: told.append(context["message"]))
    del loop, task
    assert in_time(model) == alone[OTHER]
    gc.collect()
    assert [ref() for ref in here] == [None, None]
    assert told == ["Task was destroyed but it is pending!"]
    session = model.session
    session.held(session.collect)
    assert len(list(session.pages.tables)) == 2  # of `step`, and of the last answer


def test_a_reader_who_is_dropped_without_a_word(model: miaotui.Model, alone: dict[str, list[int]]) -> None:
    """An asynchronous generator whose loop is closed is not ended by Python, but its pages come back."""
    loop = asyncio.new_event_loop()
    made = model.atokens(PROMPT, **LONG)
    first = [loop.run_until_complete(anext(made)).id for _ in range(30)]
    assert first == alone[PROMPT][:30]
    loop.close()
    del made
    gc.collect()
    assert in_time(model) == alone[OTHER]
