"""Threads that encode at the same time share passes, and each text has its own bits and its own error."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import miaotui
import numpy as np
import pytest
from miaotui.errors import InputError
from miaotui.runtime.encoding import Whole, encoded
from miaotui.runtime.whole import WholePasses
from miaotui.tools import demo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TEXTS = ["a good film", "The soup was cold, and nobody cared.", "so long " * 9, "why", "x", "fine, thanks", "no"]


@pytest.fixture(scope="module")
def model() -> Iterator[miaotui.Model]:
    with miaotui.load(demo.path("encoder"), threads=2) as model:
        yield model


def together(model: miaotui.Model, calls: list[Callable[[], Any]]) -> list[Any]:
    """What each call gives, or raises, where all of them wait for one turn: it is held until they ask."""
    told: list[Any] = [None] * len(calls)

    def one(i: int) -> None:
        try:
            told[i] = calls[i]()
        except Exception as e:  # noqa: BLE001 - it is looked at
            told[i] = e

    threads = [threading.Thread(target=one, args=(i,)) for i in range(len(calls))]

    def begin() -> None:
        for thread in threads:
            thread.start()
        end = time.monotonic() + 60
        while len(model.session.asks) < len(calls) and time.monotonic() < end:
            time.sleep(0.001)

    model.session.turn(begin)
    for thread in threads:
        thread.join()
    assert not model.session.asks
    return told


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many texts each pass of an encoder had."""
    counts: list[int] = []
    fill = WholePasses._fill

    def counted(self: WholePasses, texts: Any, *rest: Any) -> None:
        counts.append(len(texts))
        fill(self, texts, *rest)

    monkeypatch.setattr(WholePasses, "_fill", counted)
    return counts


def test_threads_that_encode_share_a_pass(model: miaotui.Model, passes: list[int]) -> None:
    alone = [model.encode([text]) for text in TEXTS]
    del passes[:]
    told = together(model, [lambda text=text: model.encode([text]) for text in TEXTS])
    assert passes == [len(TEXTS)]
    for own, with_others in zip(alone, told, strict=True):
        assert np.array_equal(own, with_others)


def test_what_one_caller_makes_of_his_rows_fails_for_him_alone(model: miaotui.Model, passes: list[int]) -> None:
    ids = [[2, 5, 7, 3], [2, 9, 3], [2, 11, 12, 13, 3]]
    alone = [next(encoded(model.session, [Whole(each)], np.copy)) for each in ids]
    del passes[:]

    def spoil(_: Any) -> Any:
        msg = "mine"
        raise ValueError(msg)

    calls = [lambda each=each: next(encoded(model.session, [Whole(each)], np.copy)) for each in ids]
    first, second, third = together(
        model, [calls[0], lambda: next(encoded(model.session, [Whole(ids[1])], spoil)), calls[2]]
    )
    assert passes == [3]
    assert isinstance(second, ValueError)
    assert np.array_equal(first, alone[0])
    assert np.array_equal(third, alone[2])
    with pytest.raises(InputError, match="text 0"):
        next(encoded(model.session, [Whole([10**6])], np.copy))


def test_what_does_not_fit_a_pass_gets_the_next(model: miaotui.Model, passes: list[int]) -> None:
    n = model.session.whole.chunk * 2 // 3
    ids = [[2, *[5 + i] * min(n, model.session.n_context - 2), 3] for i in range(4)]
    alone = [next(encoded(model.session, [Whole(each)], np.copy)) for each in ids]
    del passes[:]
    told = together(model, [lambda each=each: next(encoded(model.session, [Whole(each)], np.copy)) for each in ids])
    assert sum(passes) == len(ids)
    assert all(np.array_equal(own, other) for own, other in zip(alone, told, strict=True))


def test_threads_that_ask_a_decoder_for_last_rows_share_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []
    with miaotui.load(demo.path(), threads=2, cache_tokens=1024) as decoder:
        session = decoder.session
        ids = [[1, 5, 9], [1, 4, 4, 4, 8], [1, 7]]
        alone = [session.last_hidden([each]) for each in ids]
        both = session._together

        def counted(texts: Any, **how: Any) -> Any:
            counts.append(len(texts))
            return both(texts, **how)

        monkeypatch.setattr(session, "_together", counted)
        told = together(decoder, [lambda each=each: session.last_hidden([each]) for each in ids])
        logits = together(decoder, [lambda: session.last_logits(ids[:2]), lambda: session.last_hidden(ids[2:])])
    assert counts in ([3, 2, 1], [3, 1, 2])  # another kind has a pass of its own
    assert all(np.array_equal(own, other) for own, other in zip(alone, told, strict=True))
    assert np.array_equal(logits[1], alone[2])
