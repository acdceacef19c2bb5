"""Locks whose waiters are seen: circles are refused, and nothing else; what is held ends with the process's fork."""

from __future__ import annotations

import os
import sys
import threading
from typing import TYPE_CHECKING, Any

import miaotui
import numpy as np
import pytest
from life import DEMO, in_child
from miaotui.errors import InputError
from miaotui.runtime import locks
from miaotui.runtime.cpu import bounds, link
from miaotui.runtime.locks import Lock

if TYPE_CHECKING:
    from collections.abc import Callable

CIRCLE = "waits for what this thread is inside of"


def together(*calls: Callable[[], object]) -> list[object]:
    """What each returns, or is refused with, as a text; each in its thread."""
    came: list[object] = [None] * len(calls)

    def run(i: int) -> None:
        try:
            came[i] = calls[i]()
        except InputError as e:
            came[i] = str(e)

    threads = [threading.Thread(target=run, args=(i,), daemon=True) for i in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    return came


def nothing_is_held(*some: Lock) -> None:
    assert together(*[lambda lock=lock: lock.taken(lambda: "free") for lock in some]) == ["free"] * len(some)  # type: ignore[misc]
    assert not any(list(lock._queue) for lock in some)


@pytest.mark.parametrize("n", [2, 3, 5])
def test_a_circle_is_refused_and_all_go_on(n: int) -> None:
    some, met = [Lock() for _ in range(n)], threading.Barrier(n)

    def first(i: int) -> str:
        def inside() -> str:
            met.wait(60)
            return some[(i + 1) % n].held(lambda: "both")

        return some[i].taken(inside)

    for _ in range(20):
        came = together(*[lambda i=i: first(i) for i in range(n)])  # type: ignore[misc]
        refused = [what for what in came if what != "both"]
        assert refused
        assert all(CIRCLE in str(what) for what in refused)
        nothing_is_held(*some)


def test_who_waits_for_nobody_of_a_circle_waits() -> None:
    """A lock that is held within another, by several threads in the same order."""
    outer, inner, others = Lock(), Lock(), [Lock() for _ in range(6)]
    met = threading.Barrier(6)

    def nested(mine: Lock) -> str:
        def inside() -> str:
            met.wait(60)
            return outer.held(lambda: inner.held(lambda: outer.held(lambda: "all")))

        return mine.taken(inside)

    came = together(*[lambda lock=lock: nested(lock) for lock in others])  # type: ignore[misc]
    assert came == ["all"] * 6
    nothing_is_held(outer, inner, *others)


def test_what_fails_inside_leaves_nothing_held() -> None:
    one, other, me = Lock(), Lock(), threading.get_ident()

    def fails() -> None:
        other.held(lambda: 1 // 0)

    with pytest.raises(ZeroDivisionError) as kept:
        one.taken(fails)
    assert kept.tb is not None
    assert me not in locks._BUSY
    nothing_is_held(one, other)


def test_what_is_raised_at_any_line_leaves_nothing_held() -> None:
    """As an interrupt does; a line that is told again as its `with` ends is none where an interrupt comes."""
    one, other, came = Lock(), Lock(), list[int]()

    def strike(at: int) -> None:
        seen = set[tuple[int, int]]()

        def tracer(frame: Any, event: str, _: object) -> Any:
            if frame.f_code is not Lock.taken.__code__:
                return None
            if event == "line" and (place := (id(frame), frame.f_lineno)) not in seen:
                seen.add(place)
                if len(seen) == at:
                    came.append(frame.f_lineno)
                    raise KeyboardInterrupt
            return tracer

        sys.settrace(tracer)
        try:
            one.taken(lambda: other.taken(lambda: None))
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(None)

    for at in range(1, 40):
        strike(at)
        nothing_is_held(one, other)
        assert not one.is_mine()
        assert not other.is_mine()
        one.taken(lambda: None)  # who was struck as it left a lock is no longer taken for one inside
        assert threading.get_ident() not in locks._BUSY
    assert len(set(came)) > 10


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_lock_that_another_thread_holds_is_free_in_a_child() -> None:
    """So are the linker's, for which a fork waits, and that of the watched instructions."""
    inside, over, lock = threading.Event(), threading.Event(), Lock()

    def stays() -> None:
        inside.set()
        over.wait(60)

    def child() -> None:
        for each in (lock, link._LOCK, bounds._LOCK):
            each.taken(lambda: None)
        in_child(lambda: link._LOCK.taken(lambda: None))
        with miaotui.load(DEMO, threads=1, max_context=64) as model:
            assert len(model.generate([1], max_new_tokens=2, ignore_eos=True).ids) == 2

    for held in (lock, bounds._LOCK):
        inside.clear()
        over.clear()
        thread = threading.Thread(target=held.taken, args=(stays,), daemon=True)
        thread.start()
        try:
            assert inside.wait(60)
            in_child(child)
        finally:
            over.set()
            thread.join(60)


@pytest.mark.parametrize("what", ["linking", "watching"])
def test_a_handler_in_the_compiler_or_in_a_watched_instruction(what: str) -> None:
    """It uses a model that another thread is in a step of, and that one waits for the compiler, or to be watched."""
    met = threading.Barrier(2)
    step: Callable[[Callable[[], object]], object] = {
        "linking": link._LOCK.held,
        "watching": lambda work: bounds.watched("add", [], lambda: came.append(work())),
    }[what]
    came: list[object] = []
    with miaotui.load(DEMO, threads=1, max_context=64) as model:

        def handler() -> object:
            met.wait(60)
            return model.generate([1], max_new_tokens=2).ids

        def in_a_step() -> object:
            met.wait(60)
            return step(lambda: "done")

        got = together(lambda: step(handler), lambda: model.session.turn(in_a_step))
        refused = [text for text in got if isinstance(text, str) and CIRCLE in text]
        assert refused
        assert len(refused) < 3
        assert len(model.generate([1], max_new_tokens=2, ignore_eos=True).ids) == 2
        nothing_is_held(link._LOCK, bounds._LOCK, model.session)


def test_an_instruction_that_was_interrupted_is_watched_on() -> None:
    a, b, seen = np.zeros(4), np.zeros(4), []

    def region(what: np.ndarray) -> tuple[str, int, int]:
        at = int(what.ctypes.data)
        return "x", at, at + what.nbytes

    def state() -> list[int]:
        return list(bounds._TABLE[: bounds.REGIONS + 4])

    def interrupted() -> None:
        seen.append(state())
        bounds.watched("mul", [region(b), region(a)], lambda: seen.append(state()))
        seen.append(state())

    bounds.watched("add", [region(a)], interrupted)
    assert seen[0] == seen[2] != seen[1]
    assert state()[bounds.COUNT] == 0
