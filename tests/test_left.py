"""What is dropped gives back what it held, even where a signal's handler raises as it is dropped."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
import threading
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import miaotui
import pytest
from life import DEMO
from miaotui.runtime.engine.tasks import Task
from miaotui.runtime.exits import Exits
from miaotui.runtime.left import Left
from miaotui.runtime.pages import Pages

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType


class Late(Exception):  # noqa: N818 - as it reads where it is raised
    """What a handler raises."""


@contextmanager
def handlers_that_raise() -> Iterator[list[str]]:
    """Raise as each function of Python begins, where a signal's handler may run first; a list of these functions."""
    entered: list[str] = []

    def begins(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename != __file__ and "contextlib" not in frame.f_code.co_filename:
            entered.append(frame.f_code.co_qualname)
            raise Late

    def again(_: object) -> None:
        sys.setprofile(begins)  # Python forgets a profiler that raises

    before, sys.unraisablehook = sys.unraisablehook, again
    sys.setprofile(begins)
    try:
        yield entered
    finally:
        sys.setprofile(None)
        sys.unraisablehook = before


def held(model: miaotui.Model) -> int:
    pages = model.session.pages
    return pages.n_pages - pages.n_free[0]


@pytest.mark.parametrize("how", ["text", "stream", "fork", "circle"])
def test_a_text_that_is_dropped_loses_no_page(how: str) -> None:
    with miaotui.load(DEMO, threads=1, max_context=64) as model:
        text: Any = model.sequence()
        text.feed([5, 6, 7])
        if how == "stream":
            text = model.tokens([5, 6], max_new_tokens=9)
            next(text)
        if how == "fork":
            text = (text, text.fork())
        if how == "circle":
            around: list[object] = [text]
            around.append(around)
            del around
        assert held(model)
        with handlers_that_raise() as entered:
            del text
            gc.collect()
        assert all("Sequence" not in name for name in entered) or how == "stream"  # which runs its own lines
        model.session.turn(model.session.collect)
        assert held(model) == 0


@contextmanager
def raises_once(where: str) -> Iterator[None]:
    """Raise as a function of this name begins; no garbage is collected meanwhile."""

    def begins(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_qualname == where:
            sys.setprofile(None)
            raise Late

    gc.collect()
    gc.disable()
    sys.setprofile(begins)
    try:
        yield
    finally:
        sys.setprofile(None)
        gc.enable()


@pytest.mark.parametrize("where", ["Sequence.close", "Left.when_dropped.<locals>.leave"])
def test_answers_that_are_kept_from_closing_are_in_no_circle(where: str) -> None:
    with miaotui.load(DEMO, threads=1, max_context=64) as model:
        with raises_once(where):
            with pytest.raises(Late) as caught:
                model.generate([5, 6], n=3, temperature=1, seed=1, max_new_tokens=2)
            del caught
            model.session.turn(model.session.collect)
            kept = sum(table.n_pages for table in model.session.kept)
            assert held(model) == kept
        assert model.generate([5, 6], n=3, temperature=1, seed=1, max_new_tokens=2).alternatives


def test_all_exits_are_left_and_the_last_exception_is_raised() -> None:
    told: list[object] = []

    @contextmanager
    def managed(name: str, error: Exception | None = None) -> Iterator[str]:
        try:
            yield name
        except Exception as e:
            told.append((name, e))
            raise
        else:
            told.append((name, None))
        finally:
            if error is not None:
                raise error

    def struck(error: Exception) -> None:
        with Exits() as opened:
            opened.callback(told.append, "end")
            opened.enter_context(managed("outer"))
            opened.enter_context(managed("breaks", second))
            assert opened.enter_context(managed("inner")) == "inner"
            raise error

    first, second = Late(), Late()
    with pytest.raises(Late) as caught:
        struck(first)
    assert caught.value is second
    assert second.__context__ is first
    assert told == [("inner", first), ("breaks", first), ("outer", second), "end"]
    with Exits() as opened:
        opened.enter_context(managed("alone"))
    assert told[4:] == [("alone", None)]


def test_each_table_is_taken_back_once() -> None:
    pages, left, back = Pages(4, 16, (None,), lambda *_: None), Left(), list[object]()
    tables = [pages.table(16) for _ in range(4)]
    owners: list[Any] = [type("Owner", (), {})() for _ in tables]
    leaves = [left.when_dropped(owner, table) for owner, table in zip(owners, tables, strict=True)]
    assert len(left) == 0
    leaves[1]()
    left.take_back(back.append)
    leaves[1]()
    owners[1] = owners[3] = None
    leaves[0]()
    owners[0] = None
    left.extend([tables[0]])  # of nobody
    left.take_back(back.append)
    assert back == [tables[1], tables[3], tables[0], tables[0]]
    left.take_back(back.append)
    assert len(back) == 4
    assert len(left) == 0


def test_what_stops_taking_back_loses_none() -> None:
    pages, left, back = Pages(4, 16, (None,), lambda *_: None), Left(), list[object]()
    owners: list[Any] = [type("Owner", (), {})() for _ in range(3)]
    tables = [pages.table(16) for _ in owners]
    leaves = [left.when_dropped(owner, table) for owner, table in zip(owners, tables, strict=True)]

    def struck(table: object) -> None:
        if len(back) == 1 and table not in back:
            back.append(table)
            raise Late
        back.append(table)

    for leave in leaves:
        leave()
    with pytest.raises(Late):
        left.take_back(struck)
    left.take_back(struck)
    assert back == [tables[0], tables[1], tables[1], tables[2]]


def test_a_coroutine_waits_for_its_text_while_it_says_so() -> None:
    async def waits() -> None:
        table = Pages(4, 16, (None,), lambda *_: None).table(16)
        task, want = Task(table), type("Want", (), {"done": False})()
        assert not task.here()
        with suppress(Late), task.waiting(want):
            assert task in table.waiting
            assert task.here()
            raise Late
        assert task not in table.waiting
        assert not task.here()

    asyncio.run(waits())


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts threads as Linux tells them")
def test_a_model_that_rests_has_no_thread_until_its_next_pass() -> None:
    def threads() -> int:
        return len(list(Path("/proc/self/task").iterdir())) - threading.active_count()

    before = threads()
    with miaotui.load(DEMO, threads=3, max_context=64) as model:
        ids = model.generate([5], max_new_tokens=4).ids
        assert threads() == before + 2
        model.session.rest()
        model.session.rest()
        assert threads() == before
        assert model.generate([5], max_new_tokens=4).ids == ids
        assert threads() == before + 2
    model.session.rest()
    with pytest.raises(miaotui.errors.InputError, match="closed"):  # as it was
        model.generate([5], max_new_tokens=4)
    assert threads() == before


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts threads as Linux tells them")
def test_a_model_that_is_dropped_leaves_no_thread() -> None:
    def threads() -> int:
        return len(list(Path("/proc/self/task").iterdir())) - threading.active_count()

    with miaotui.load(DEMO, threads=1, max_context=64) as model:
        model.generate([5], max_new_tokens=1)
    before = threads()
    model = miaotui.load(DEMO, threads=3, max_context=64)
    model.generate([5], max_new_tokens=2)
    assert threads() == before + 2
    with handlers_that_raise() as entered:
        del model
        gc.collect()
    assert "finalize.__call__" in entered
    miaotui.load(DEMO, threads=1, max_context=64).close()
    for _ in range(100):
        if threads() == before:
            break
        threading.Event().wait(0.01)
    assert threads() == before


def ends_a_draw(model: miaotui.Model, monkeypatch: pytest.MonkeyPatch, how: str) -> dict[str, Any]:
    """What makes an answer fail as its first id is drawn: parameters of the call."""

    def refuses(*_: object) -> None:
        raise Late

    if how == "processor":
        return {"logits_processor": [refuses]}
    if how == "handler":
        signal.signal(signal.SIGALRM, refuses)

    def greedy(_: int) -> int:
        if how == "handler" and threading.current_thread() is threading.main_thread():
            signal.raise_signal(signal.SIGALRM)
        raise Late

    monkeypatch.setattr(model.session, "greedy", greedy)
    return {}


@pytest.mark.parametrize("call", ["generate", "list", "stream", "n", "async", "async list", "go on"])
@pytest.mark.parametrize("how", ["processor", "handler", "thrown"])
def test_an_answer_that_fails_is_gone_at_once(call: str, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its text is not kept by a circle of its exception and the calls that this came through."""
    before = signal.getsignal(signal.SIGALRM)
    with miaotui.load(DEMO, threads=1, max_context=64) as model:
        more = ends_a_draw(model, monkeypatch, how) | {"max_new_tokens": 3}
        calls: dict[str, Callable[[], object]] = {
            "generate": lambda: model.generate([5, 6], **more),
            "list": lambda: model.generate([[5, 6], [7, 8]], **more),
            "stream": lambda: list(model.stream([5, 6], **more)),
            "n": lambda: model.generate([5, 6], num_return_sequences=2, temperature=1.0, seed=1, **more),
            "async": lambda: asyncio.run(model.agenerate([5, 6], **more)),
            "async list": lambda: asyncio.run(gathered()),
            "go on": lambda: model.sequence().generate([5, 6], **more),
        }

        async def gathered() -> None:
            await asyncio.gather(*(model.agenerate([5, n], **more) for n in range(3)))

        gc.collect()
        gc.disable()
        try:
            with suppress(Late, miaotui.errors.MiaotuiError):
                calls[call]()
                pytest.fail("it answered")
            left = [o for o in gc.get_objects() if type(o) is miaotui.Sequence]  # no proxy whose object is gone
            assert all("closed" in repr(text) for text in left)
        finally:
            gc.enable()
            signal.signal(signal.SIGALRM, before)
