"""A model at the edges of a program: in handlers and finalisers, under asyncio's time-outs, at exit, in forks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any

import miaotui
import pytest
from helpers import complaint
from life import DEMO, in_child
from miaotui.errors import BackendError, InputError
from miaotui.loader.text import tokenizer
from miaotui.runtime import living, turns
from miaotui.runtime.pages import Caller, Pages

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from miaotui.runtime.pages import Table

PROMPT, OTHER = "Once upon a time", "The dog and the cat"
SHORT = {"max_new_tokens": 12}


@pytest.fixture
def model() -> Iterator[miaotui.Model]:
    with miaotui.load(DEMO, threads=2, max_context=64) as model:
        yield model


@pytest.fixture(scope="module")
def alone() -> dict[str, list[int]]:
    with miaotui.load(DEMO, threads=1, max_context=64) as model:
        return {prompt: model.generate(prompt, **SHORT).ids for prompt in (PROMPT, OTHER)}


def script(code: str, executor: str = "team", seconds: float = 120) -> str:
    """What a process of its own prints; it must end well, in time and without a complaint."""
    command = [sys.executable, "-c", code, str(DEMO)]
    env = os.environ | {"MIAOTUI_EXECUTOR": executor}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=seconds)
    assert (done.returncode, complaint(done.stderr)) == (0, ""), done.stderr
    return done.stdout


class Nosy:
    """A backend's `run`, in the middle of which something else is called once: a handler, a finaliser."""

    def __init__(self, model: miaotui.Model, call: object) -> None:
        self.run, self.call, self.raised = model.session.backend.run, call, ""
        model.session.backend.run = self  # type: ignore[method-assign]

    def __call__(self, *arguments: object) -> None:
        call, self.call = self.call, None
        if call is not None:
            try:
                call()
            except InputError as e:
                self.raised = str(e)
        self.run(*arguments)


@pytest.mark.parametrize("use", ["generate", "logits", "last_logits", "feed", "fork", "truncate"])
def test_who_uses_a_model_inside_its_step_is_refused(
    model: miaotui.Model, alone: dict[str, list[int]], use: str
) -> None:
    """It would overwrite the batch: the caller's answer would silently be another's."""
    text = model.sequence()
    text.feed([1, 2, 3])
    calls = {
        "generate": lambda: model.generate(OTHER),
        "logits": lambda: model.logits([1, 2]),
        "last_logits": lambda: model.last_logits([[1], [2]]),
        "feed": lambda: text.feed([4]),
        "fork": text.fork,
        "truncate": lambda: text.truncate(1),
    }
    nosy = Nosy(model, calls[use])
    assert model.generate(PROMPT, **SHORT).ids == alone[PROMPT]
    assert "let it set a flag" in nosy.raised
    assert model.generate(OTHER, **SHORT).ids == alone[OTHER]
    calls[use]()


def test_a_finaliser_that_closes_the_model_inside_a_step_ends_it(model: miaotui.Model) -> None:
    Nosy(model, model.close)
    with pytest.raises(InputError, match="was closed"):
        model.generate(PROMPT, **SHORT)


@pytest.mark.parametrize("call", ["encoder", "both", "beams"])
def test_a_handler_that_closes_a_model_of_any_kind_inside_a_step_ends_it(tmp_path: Path, call: str) -> None:
    encoders, both = pytest.importorskip("test_encoders"), pytest.importorskip("test_seq2seq")
    if call == "encoder":
        sizes = {"vocab_size": 30, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
        encoders.made(encoders.transformers.BertConfig(**sizes, intermediate_size=4), tmp_path)
    else:
        both.made(both.small_config(), tmp_path)
    calls = {
        "encoder": lambda model: model.hidden([1, 2]),
        "both": lambda model: model.generate([5, 6]),
        "beams": lambda model: model.generate([5, 6], num_beams=2),
    }
    with miaotui.load(tmp_path, threads=2) as model:
        Nosy(model, model.close)
        with pytest.raises(InputError, match="was closed"):
            calls[call](model)


def test_a_finaliser_may_drop_streams_and_sequences_inside_a_step(
    model: miaotui.Model, alone: dict[str, list[int]]
) -> None:
    stream, text = model.tokens(OTHER, **SHORT), model.sequence()
    next(stream)
    text.feed([1, 2, 3])

    def drop() -> None:
        stream.close()
        text.close()

    nosy = Nosy(model, drop)
    assert model.generate(PROMPT, **SHORT).ids == alone[PROMPT]
    assert nosy.raised == ""


def test_a_handler_that_generates_while_pages_are_given_back(
    model: miaotui.Model, alone: dict[str, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is refused before it touches the pages that the interrupted step is changing."""
    texts = [model.sequence() for _ in range(12)]
    texts[0].feed([1, 2])
    for text in texts:
        text.close()
    pages, said = model.session.pages, list[str]()
    release = pages.release

    def nosy(table: Table) -> None:
        release(table)
        if not said:
            said.append("")
            with pytest.raises(InputError) as refused:
                model.generate(OTHER, **SHORT)
            said[0] = str(refused.value)

    monkeypatch.setattr(pages, "release", nosy)
    assert model.generate(PROMPT, **SHORT).ids == alone[PROMPT]
    assert "let it set a flag" in said[0]


def test_a_text_closed_inside_its_own_step_returns_no_logits() -> None:
    """Between two passes its pages went to others; what it computed then is no answer."""
    with miaotui.load(DEMO, threads=1, max_context=512) as model:
        other, text = model.sequence(), model.sequence()
        other.feed([9, 8, 7])

        def close() -> None:
            text.close()
            other.close()

        usual = model.session.backend.run

        def run(*arguments: Any) -> None:
            usual(*arguments)
            close()

        model.session.backend.run = run  # type: ignore[method-assign]
        with pytest.raises(InputError, match="this sequence was closed"):
            text.feed([i % 100 for i in range(300)])


def test_what_is_refused_leaves_a_text_as_it_was() -> None:
    with miaotui.load(DEMO, threads=1, max_context=512, cache_tokens=128) as model:
        alone, text = model.logits([*range(1, 101), 5])[-1], model.sequence()
        text.feed(list(range(1, 101)))
        for call in (text.feed, text.generate):
            with pytest.raises(InputError, match="a text of 200 tokens does not fit the cache of 128"):
                call(list(range(1, 101)))
            assert len(text) == 100
        Nosy(model, lambda: text.feed([4]))
        assert model.generate(PROMPT, **SHORT).ids
        assert len(text) == 100
        assert text.feed([5]).tobytes() == alone.tobytes()


def test_who_is_interrupted_waits_no_more(model: miaotui.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever keeps the exception, as an interactive Python does, keeps the frame that waited."""

    class Other:
        """Another thread's wait."""

    def struck(_: float) -> None:
        raise KeyboardInterrupt

    other, queue = Other(), model.session._queue
    model.generate(PROMPT, **SHORT)
    queue.add(other)
    monkeypatch.setattr(turns.time, "sleep", struck)
    with pytest.raises(KeyboardInterrupt) as kept:
        model.generate(PROMPT, **SHORT)
    assert kept.tb is not None
    assert list(queue) == [other]


def test_who_is_interrupted_when_he_has_waited_gives_his_pages_up(
    model: miaotui.Model, alone: dict[str, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    discard = living.Living.discard

    def struck(self: Any, member: object) -> None:
        if isinstance(member, Caller):
            raise KeyboardInterrupt
        discard(self, member)

    text = model.sequence()
    with monkeypatch.context() as patch:
        patch.setattr(living.Living, "discard", struck)
        with pytest.raises(KeyboardInterrupt) as kept:
            text.generate(PROMPT, **SHORT)
    assert kept.tb is not None
    assert model.session.pages.n_pages == 1
    assert model.generate(OTHER, **SHORT).ids == alone[OTHER]
    assert len(text) > len(alone[PROMPT])


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no such signals here")
def test_a_handler_that_generates_every_millisecond(model: miaotui.Model, alone: dict[str, list[int]]) -> None:
    wrong, came = [], []

    def handler(*_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        came.append(1)
        try:
            if model.generate(OTHER, **SHORT).ids != alone[OTHER]:
                wrong.append("bits")
        except InputError as e:
            if "let it set a flag" not in str(e):
                wrong.append(e)
        signal.setitimer(signal.ITIMER_REAL, 0.001)

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.001)
    try:
        while len(came) < 50:
            assert model.generate(PROMPT, **SHORT).ids == alone[PROMPT]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert wrong == []


def test_a_handler_that_finds_no_room_is_refused(model: miaotui.Model, alone: dict[str, list[int]]) -> None:
    """The cache is full of the text that it interrupted, between two steps: to wait for that would be for ever."""
    turn, said = model.session.turn, []

    def nosy(*work):
        token = turn(*work)
        if not said:
            said.append("")
            try:
                model.generate(OTHER, **SHORT)
            except InputError as e:
                said[0] = str(e)
        return token

    model.session.turn = nosy
    assert model.session.pages.n_pages == 1
    assert model.generate(PROMPT, **SHORT).ids == alone[PROMPT]
    assert "the cache is full of a text that this thread is generating" in said[0]


def test_a_handler_may_use_another_model_wherever_it_comes() -> None:
    """Under prange both need the process's one pool."""
    code = (
        "import sys, miaotui\n"
        "from miaotui.runtime.cpu.prange import Prange\n"
        "one, other = (miaotui.load(sys.argv[1], threads=2, max_context=64) for _ in range(2))\n"
        "wanted, run, got = one.generate([1, 2], max_new_tokens=5).ids, Prange._run, []\n"
        "def nosy(*arguments):\n"
        "    Prange._run = staticmethod(run)\n"
        "    got.append(other.generate([1, 2], max_new_tokens=5).ids)\n"
        "    run(*arguments)\n"
        "Prange._run = staticmethod(nosy)\n"
        "assert one.generate([1, 2], max_new_tokens=5).ids == wanted == got[0]\n"
        "one.close(); other.close()\n"
    )
    script(code, "prange", 60)


def test_who_is_about_to_enter_a_parallel_region_keeps_nobody_from_it() -> None:
    """A handler comes just before it, and waits for a model that another thread steps: that one needs the pool too."""
    code = (
        "import signal, sys, threading, miaotui\n"
        "from miaotui.runtime.cpu.prange import Prange\n"
        "one, other = (miaotui.load(sys.argv[1], threads=2, max_context=64) for _ in range(2))\n"
        "wanted, run, step = one.generate([1, 2], max_new_tokens=5).ids, Prange._run, Prange.step\n"
        "got, inside, main = [], threading.Event(), threading.get_ident()\n"
        "def nosy(*arguments):\n"
        "    if threading.get_ident() == main and not inside.is_set():\n"
        "        stepping.start()\n"
        "        assert inside.wait(60)\n"
        "        got.append(other.generate([1, 2], max_new_tokens=5).ids)\n"
        "    return run(*arguments)\n"
        "def steps(self):\n"
        "    if threading.get_ident() != main:\n"
        "        inside.set()\n"
        "    step(self)\n"
        "stepping = threading.Thread(target=lambda: got.append(other.generate([1, 2], max_new_tokens=5).ids))\n"
        "Prange._run, Prange.step = staticmethod(nosy), steps\n"
        "assert one.generate([1, 2], max_new_tokens=5).ids == wanted\n"
        "stepping.join()\n"
        "assert got == [wanted] * 2\n"
        "class Late(Exception): pass\n"
        "def late(*_): raise Late\n"
        "signal.signal(signal.SIGALRM, late)\n"
        "Prange._taken[0] = 1\n"  # another step is inside: who waits for its end may be interrupted
        "signal.setitimer(signal.ITIMER_REAL, 0.05)\n"
        "try: one.generate([1, 2], max_new_tokens=5)\n"
        "except Late: Prange._taken[0] = 0\n"
        "assert one.generate([1, 2], max_new_tokens=5).ids == wanted\n"
        "assert Prange._taken[0] == 0\n"
        "one.close(); other.close()\n"
    )
    script(code, "prange", 60)


def result_of(call: Callable[[], object]) -> object:
    """What it returns, or what it is refused with, as a text."""
    try:
        return call()
    except InputError as e:
        return str(e)


@pytest.mark.parametrize("call", ["generate", "close", "truncate"])
@pytest.mark.parametrize("n", [2, 3])
def test_threads_that_would_wait_for_each_other_in_a_circle(alone: dict[str, list[int]], n: int, call: str) -> None:
    """Each is inside a step of a model, and a finaliser there uses the next thread's: one of them at least is refused.

    Who is refused goes on with its own step, and then the others do.
    """
    models = [miaotui.load(DEMO, threads=1, max_context=64) for _ in range(n)]
    texts, met, inner, outer = [m.sequence() for m in models], threading.Barrier(n), list[object](), list[object]()
    for text in texts:
        text.feed([1, 2, 3])
    acts = {
        "generate": lambda i: models[i].generate(OTHER, **SHORT).ids,
        "close": lambda i: models[i].close(),
        "truncate": lambda i: texts[i].truncate(1),
    }

    def use_the_next(i: int) -> None:
        met.wait(60)
        inner.append(result_of(lambda: acts[call]((i + 1) % n)))

    def answer(i: int) -> None:
        outer.append(result_of(lambda: models[i].generate(PROMPT, **SHORT).ids))

    threads = [threading.Thread(target=answer, args=(i,), daemon=True) for i in range(n)]
    for i, thread in enumerate(threads):
        Nosy(models[i], partial(use_the_next, i))
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    refused = [what for what in inner if isinstance(what, str)]
    assert 1 <= len(refused) <= n
    assert all("waits for what this thread is inside of" in what for what in refused)
    done = alone[OTHER] if call == "generate" else None
    assert [what for what in inner if not isinstance(what, str)] == [done] * (n - len(refused))
    assert len(outer) == n
    assert all(got == alone[PROMPT] or (call == "close" and "was closed" in str(got)) for got in outer)
    for model in models:
        model.close()


@pytest.mark.parametrize("gone", ["pages", "caller", None])
def test_who_will_look_for_pages_again_is_not_stuck(gone: str | None) -> None:
    """Another thread waits for this one's pages, and this one for its: a circle, unless this one gave them up since."""
    caller, his, pages = Caller(), Caller(), Pages(2, 4, [None], lambda *_: None)
    his.thread, his.here = -1, lambda: True  # type: ignore[method-assign]  # another thread's
    table, its = pages.table(4), pages.table(4)
    for each, who in ((table, caller), (its, his)):
        assert pages.reserve(each, 4)
        who.waits_for(each)
    other = turns.Starved([(table, [weakref.ref(caller)])])
    other.thread = his.thread
    turns._STARVED.add(other)
    mine = turns.Starved([(its, [weakref.ref(his)])])
    with caller.going():
        if gone is None:
            with pytest.raises(InputError, match="whose threads wait for this one"):
                turns._check_room_comes(mine)
            return
        pages.release(table) if gone == "pages" else caller.leaves(table)
        turns._check_room_comes(mine)


@pytest.mark.parametrize("inside", ["step", "text"])
def test_threads_that_would_wait_for_each_other_s_pages(alone: dict[str, list[int]], inside: str) -> None:
    """Two caches are full of two texts, each of whose threads needs room in the other: one of them at least is refused.

    The first is called between two steps, or in the middle of one; the second between two.
    """
    models = [miaotui.load(DEMO, threads=1, max_context=64) for _ in range(2)]
    met, inner, outer = threading.Barrier(2), list[object](), list[object]()

    def use(other: int) -> None:
        met.wait(60)
        inner.append(result_of(lambda: models[other].generate(OTHER, **SHORT).ids))

    def between_steps(i: int) -> None:
        turn, done = models[i].session.turn, list[None]()

        def nosy(*work: Any) -> Any:
            token = turn(*work)
            if not done:
                done.append(None)
                use(1 - i)
            return token

        models[i].session.turn = nosy  # type: ignore[method-assign]

    def answer(i: int) -> None:
        outer.append(result_of(lambda: models[i].generate(PROMPT, **SHORT).ids))

    between_steps(1)
    if inside == "step":
        Nosy(models[0], partial(use, 1))
    else:
        between_steps(0)
    threads = [threading.Thread(target=answer, args=(i,), daemon=True) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    refused = [what for what in inner if isinstance(what, str)]
    assert len(refused) in {1, 2}
    assert all("the cache is full of texts whose threads wait for this one" in what for what in refused)
    assert [what for what in inner if not isinstance(what, str)] == [alone[OTHER]] * (2 - len(refused))
    assert outer == [alone[PROMPT]] * 2
    for model in models:
        model.close()


def test_time_outs_of_asyncio_end(alone: dict[str, list[int]]) -> None:
    """A cancelled await leaves its thread at work: it ends by itself, and the loop closes."""
    code = (
        "import asyncio, sys, miaotui\n"
        "from miaotui.errors import InputError\n"
        f"prompt, wanted = {PROMPT!r}, {alone[PROMPT]}\n"
        "async def call(model, late):\n"
        "    try:\n"
        "        done = asyncio.to_thread(model.generate, prompt, max_new_tokens=12)\n"
        "        assert (await asyncio.wait_for(done, late)).ids == wanted\n"
        "        return 1\n"
        "    except TimeoutError:\n"
        "        return 0\n"
        "async def read(model, late):\n"
        "    got = []\n"
        "    with model.tokens(prompt, max_new_tokens=12) as stream:\n"
        "        try:\n"
        "            while token := await asyncio.wait_for(asyncio.to_thread(next, stream, None), late):\n"
        "                got.append(token.id)\n"
        "            assert got == wanted\n"
        "            return 1\n"
        "        except TimeoutError:\n"
        "            return 0\n"
        "async def main(model):\n"
        "    for late in (0.0001, 0.001, 0.005, 60):\n"
        "        ended = await asyncio.gather(*(f(model, late) for f in (call, read) * 8), return_exceptions=True)\n"
        "        wrong = [e for e in ended if not isinstance(e, int | InputError)]\n"
        "        assert not wrong, wrong\n"
        "    assert ended == [1] * 16, ended\n"
        "with miaotui.load(sys.argv[1], threads=2, max_context=64) as model:\n"
        "    asyncio.run(main(model))\n"
    )
    script(code)


@pytest.mark.parametrize("executor", ["team", "prange"])
def test_a_program_ends_while_threads_generate(executor: str) -> None:
    """Daemon threads, an open stream, models that nobody closed, a model that a global's finaliser closes."""
    code = (
        "import sys, threading, time, miaotui\n"
        "models = [miaotui.load(sys.argv[1], threads=2, max_context=64) for _ in range(3)]\n"
        "def work(model):\n"
        "    try:\n"
        "        while True:\n"
        "            model.generate('Once', max_new_tokens=40)\n"
        "    except miaotui.MiaotuiError:\n"
        "        pass\n"
        "for model in models[:2]:\n"
        "    threading.Thread(target=work, args=(model,), daemon=True).start()\n"
        "stream = models[2].stream('Once upon', max_new_tokens=40)\n"
        "next(stream)\n"
        "class Last:\n"
        "    def __del__(self, close=models[1].close):\n"
        "        close()\n"
        "last = Last()\n"
        "time.sleep(0.1)\n"
        "print('end')\n"
    )
    for _ in range(3):
        assert script(code, executor, 60) == "end\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_fork_in_the_middle_of_a_step(model: miaotui.Model, alone: dict[str, list[int]]) -> None:
    """The child goes on with the step too; whoever uses the model before that is refused, as in the parent."""
    child, refused = [-1], [""]

    def fork() -> None:
        child[0] = os.fork()
        refused[0] = str(result_of(lambda: model.generate(OTHER, **SHORT)))

    Nosy(model, fork)
    ids = model.generate(PROMPT, **SHORT).ids
    right = ids == alone[PROMPT] and "let it set a flag" in refused[0]
    if not child[0]:
        os._exit(0 if right and model.generate(OTHER, **SHORT).ids == alone[OTHER] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child[0], 0)[1]) == 0
    assert right


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_fork_within_a_fork(model: miaotui.Model, alone: dict[str, list[int]]) -> None:
    stream = model.tokens(PROMPT, **SHORT)
    first = next(stream).id

    def grandchild() -> None:
        assert [first, *(t.id for t in stream)] == alone[PROMPT]
        model.close()

    def child() -> None:
        assert model.generate(OTHER, **SHORT).ids == alone[OTHER]
        in_child(grandchild)
        grandchild()

    in_child(child)
    assert [first, *(t.id for t in stream)] == alone[PROMPT]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_fork_while_another_thread_reads_a_tokenizer(
    model: miaotui.Model, alone: dict[str, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No lock of another thread's stays held in the child."""
    inside, over, usual = threading.Event(), threading.Event(), tokenizer._parse

    def slow(*read: object) -> object:
        inside.set()
        over.wait(60)
        return usual(*read)

    def child() -> None:
        monkeypatch.setattr(tokenizer, "_parse", usual)
        assert model.generate(PROMPT, **SHORT).ids == alone[PROMPT]
        with miaotui.load(DEMO, threads=1, max_context=64) as other:
            assert other.generate(OTHER, **SHORT).ids == alone[OTHER]

    monkeypatch.setattr(tokenizer, "_parse", slow)
    reading = threading.Thread(target=model.generate, args=(PROMPT,), kwargs=SHORT)
    reading.start()
    try:
        assert inside.wait(60)
        in_child(child)
    finally:
        over.set()
        reading.join(60)


def test_what_finds_no_room_leaves_a_text_as_it_was() -> None:
    """The cache is full of a text of the same thread: a handler's call is refused, in the middle of an answer too."""
    how: dict[str, Any] = {"max_new_tokens": 60, "ignore_eos": True}
    with miaotui.load(DEMO, threads=1, max_context=256, cache_tokens=256) as model:
        ids = [i % 100 for i in range(100)]
        wanted = model.generate(ids, **how).ids
        other, text, stream_of = model.sequence(), model.sequence(), model.sequence()
        text.feed([7])
        refused: list[str] = []

        def handler() -> None:
            for call in (
                lambda: text.feed([1, 2, 3]),
                lambda: text.generate([1, 2, 3], **how),
                lambda: next(text.tokens([1, 2, 3], **how)),
                lambda: text.generate([1, 2], num_beams=2, max_new_tokens=2),
            ):
                with pytest.raises(InputError) as e:
                    call()
                refused.append(str(e.value))
                assert text.ids == [7]

        turn = model.session.turn

        def nosy(*work: Any) -> Any:
            token = turn(*work)
            if not refused and other.table.cached > 140:  # it holds two pages, all that there are
                refused.append("")
                handler()
            return token

        model.session.turn = nosy  # type: ignore[method-assign]
        assert other.generate(ids, **how).ids == wanted
        assert len(refused) == 5
        assert all("the cache is full of a text that this thread is generating" in e for e in refused[1:])
        assert text.feed([5]).tobytes() == model.logits([7, 5])[-1].tobytes()
        begun = stream_of.tokens([3], **how)
        got = [next(begun).id for _ in range(4)]
        begun.close()  # type: ignore[attr-defined]
        assert stream_of.ids == [3, *got]  # what was handed out stays


def test_an_answer_that_is_refused_half_way_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """The text goes on as if nothing had been asked."""
    with miaotui.load(DEMO, threads=1, max_context=64) as model:
        text = model.sequence()
        first, usual, runs = text.feed([7, 8]), model.session.backend.run, [0]

        def run(*batch: Any) -> None:
            runs[0] += 1
            if runs[0] == 5:
                msg = "the system refused to start threads"
                raise BackendError(msg)
            usual(*batch)

        for call in (
            lambda: text.generate([9], max_new_tokens=9, ignore_eos=True),
            lambda: text.feed([9, 10]),
            lambda: next(text.tokens([9], max_new_tokens=9)),
        ):
            runs[0] = 0 if runs[0] == 0 else 4  # the first half-way
            with monkeypatch.context() as patch:
                patch.setattr(model.session.backend, "run", run)
                with pytest.raises(BackendError, match="refused"):
                    call()
            assert text.ids == [7, 8]
        text.truncate(1)
        assert text.feed([8]).tobytes() == first.tobytes()


#: Where an exception may come that somebody keeps: as a call begins to wait for a text, and as it ends to.
MOMENTS = {"begins": ("add", "return"), "ends": ("discard", "call")}


@pytest.mark.parametrize("moment", list(MOMENTS))
@pytest.mark.parametrize("beams", [1, 2])
def test_a_kept_exception_keeps_no_pages(moment: str, beams: int) -> None:
    """Another thread waited for ever for a call that was over: the exception kept its frames, and they who waited."""
    name, event = MOMENTS[moment]

    class StruckError(Exception):
        pass

    with miaotui.load(DEMO, threads=1, max_context=256, cache_tokens=256) as model:
        ids = model.tokenizer.encode("Once upon a time")
        how: dict[str, Any] = {"max_new_tokens": 60, "ignore_eos": True}
        wanted = model.generate(ids, **how).ids
        times = 0

        def profiler(frame: Any, what: str, _: object) -> None:
            nonlocal times
            own = frame.f_code.co_name == name and frame.f_code.co_filename.endswith("living.py")
            if own and what == event and isinstance(frame.f_locals.get("member"), Caller):
                times += 1
                if times == (1 if moment == "ends" and beams > 1 else 9 * beams):
                    raise StruckError

        with model.sequence() as sequence:
            work = (
                partial(sequence.generate, ids, num_beams=2)
                if beams > 1
                else partial(list, sequence.tokens(ids, **how))
            )
            sys.setprofile(profiler)
            try:
                with pytest.raises(StruckError) as kept:
                    work(**(how if beams > 1 else {}))
            finally:
                sys.setprofile(None)
            got: list[object] = []
            thread = threading.Thread(target=lambda: got.append(model.generate(ids, **how).ids), daemon=True)
            thread.start()
            thread.join(60)
            assert got == [wanted]
            assert model.generate(ids, **how).ids == wanted
            assert kept.tb is not None
