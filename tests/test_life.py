"""A model in a real program: threads, interruptions, forks, pickles, a server."""

from __future__ import annotations

import copy
import ctypes
import gc
import http.client
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import TYPE_CHECKING

import miaotui
import pytest
from life import pages_are_counted
from miaotui.errors import InputError
from miaotui.loader.text import tokenizer
from miaotui.runtime.living import Living

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DEMO = Path(miaotui.__file__).parent / "tools" / "demo" / "model"
PROMPTS = ["Once upon a time", "The dog and the cat", "Lily found a red ball in the garden"]
SHORT = {"max_new_tokens": 12}


@pytest.fixture(scope="module")
def model() -> Iterator[miaotui.Model]:
    with miaotui.load(DEMO, threads=2, max_context=64) as model:
        yield model


@pytest.fixture(scope="module")
def alone(model: miaotui.Model) -> dict[str, list[int]]:
    return {p: model.generate(p, **SHORT).ids for p in PROMPTS}


def in_child(work: Callable[[], bool], seconds: float = 60) -> int | None:
    """Exit code of a forked child: 0 where `work` says True; None where it hangs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of threads
        child = os.fork()
    if not child:
        code = 3
        try:
            code = 0 if work() else 1
        finally:
            os._exit(code)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def threads() -> int:
    """Of this process, whoever started them; 0 where the system does not say."""
    tasks = Path("/proc/self/task")
    return len(list(tasks.iterdir())) if tasks.is_dir() else 0


def test_models_and_sequences_are_not_copied(model: miaotui.Model) -> None:
    with model.sequence() as text:
        for act in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(InputError, match="load it there"):
                act(model)
            with pytest.raises(InputError, match="fork"):
                act(text)
            with pytest.raises(InputError, match="make another"):
                act(model.stream("Once"))


def test_what_a_handler_raises_is_no_damaged_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A time-out that strikes while the tokenizer is read is the caller's own; the next call reads it."""

    class TooLateError(Exception):
        pass

    def struck(_: str) -> None:
        raise TooLateError

    with miaotui.load(DEMO, threads=1, max_context=64) as model:
        with monkeypatch.context() as patch:
            patch.setattr(tokenizer.tokenizers, "Tokenizer", SimpleNamespace(from_str=struck))
            with pytest.raises(TooLateError):
                model.generate(PROMPTS[0], **SHORT)
        assert model.generate(PROMPTS[0], **SHORT).ids


def test_what_is_gone_is_not_counted() -> None:
    """Sequences come and go for months: what lists them does not grow."""
    living: Living[set[int]] = Living()
    kept = [set() for _ in range(3)]
    for one in kept:
        living.add(one)
    for _ in range(1000):
        living.add(set())
    assert len(living._members) == 3
    assert list(living) == kept


def test_a_model_that_is_dropped_open_says_so_and_goes() -> None:
    model = miaotui.load(DEMO, threads=2, max_context=64)
    model.generate("Once", max_new_tokens=2)
    before = threads()
    with pytest.warns(ResourceWarning, match="unclosed"):
        del model
    gc.collect()
    assert threads() == max(0, before - 1)


def test_a_stream_outlives_the_name_of_its_model(alone: dict[str, list[int]]) -> None:
    stream = miaotui.load(DEMO, threads=2, max_context=64).tokens(PROMPTS[0], **SHORT)
    assert [t.id for t in stream] == alone[PROMPTS[0]]


def test_closing_from_several_threads_ends_open_streams() -> None:
    model = miaotui.load(DEMO, threads=2, max_context=64)
    stream = model.stream(PROMPTS[0], max_new_tokens=40)
    next(stream)
    threads = [threading.Thread(target=model.close) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(timeout=60)
    assert not any(t.is_alive() for t in threads)
    with pytest.raises(InputError, match="was closed"):
        list(stream)
    model.close()


def test_a_stream_that_another_thread_reads_is_refused(model: miaotui.Model) -> None:
    stream, refused = model.stream(PROMPTS[0], max_new_tokens=60), []

    def read() -> None:
        try:
            list(stream)
        except InputError as e:
            refused.append(str(e))

    threads = [threading.Thread(target=read) for _ in range(2)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(timeout=60)
    assert not any(t.is_alive() for t in threads)
    assert all("another thread is reading this stream" in e for e in refused)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("mine", [True, False])
def test_fork_beside_a_generating_thread(model: miaotui.Model, alone: dict[str, list[int]], *, mine: bool) -> None:
    over = threading.Event()

    def work() -> None:
        while not over.is_set():
            model.generate(PROMPTS[1], **SHORT)

    thread = threading.Thread(target=work)
    thread.start()
    stream = model.tokens(PROMPTS[0], **SHORT)
    first = next(stream).id
    try:
        for _ in range(5):
            time.sleep(0.003)

            def same() -> bool:
                if mine:
                    return [first, *(t.id for t in stream)] == alone[PROMPTS[0]]
                return model.generate(PROMPTS[2], **SHORT).ids == alone[PROMPTS[2]]

            assert in_child(same) == 0
    finally:
        over.set()
        thread.join(timeout=60)
    assert [first, *(t.id for t in stream)] == alone[PROMPTS[0]]


def interrupted(model: miaotui.Model, alone: dict[str, list[int]], n: int, seed: int) -> int:
    """Raise `KeyboardInterrupt` at n random moments inside calls; how many struck. Right bits after each."""
    random, struck = Random(seed), 0  # noqa: S311 - moments
    kept = model.sequence()
    target, strike = threading.get_ident(), ctypes.pythonapi.PyThreadState_SetAsyncExc
    for i in range(n):
        prompt, late = PROMPTS[i % 3], random.random() * 0.02

        def raise_it(late: float = late) -> None:
            time.sleep(late)
            strike(ctypes.c_ulong(target), ctypes.py_object(KeyboardInterrupt))

        thread = threading.Thread(target=raise_it)
        try:
            thread.start()
            for _ in range(100):
                assert model.generate(prompt, **SHORT).ids == alone[prompt]
                with kept.fork() as twin:
                    twin.generate(prompt, max_new_tokens=2)
        except KeyboardInterrupt:
            struck += 1
        thread.join()
        assert model.generate(prompt, **SHORT).ids == alone[prompt]
    kept.close()
    gc.collect()
    pages_are_counted(model)
    return struck


def test_interruptions_leave_right_bits(model: miaotui.Model, alone: dict[str, list[int]]) -> None:
    assert interrupted(model, alone, 25, 3) == 25


@pytest.mark.soak("interrupts")
def test_two_thousand_interruptions(model: miaotui.Model, alone: dict[str, list[int]]) -> None:
    assert interrupted(model, alone, 2000, time.time_ns()) == 2000


def test_a_rounding_mode_changes_no_bit(alone: dict[str, list[int]]) -> None:
    code = (
        "import ctypes, sys, miaotui\n"
        "libm = ctypes.CDLL('libm.so.6'); up = 0x800\n"
        "libm.fesetround(up)\n"
        "with miaotui.load(sys.argv[1], threads=1, max_context=64) as m:\n"
        "    print(m.generate(sys.argv[2], max_new_tokens=12).ids, m.logits([1, 2, 3]).tobytes().hex()[-64:])\n"
        "    print(m.generate(sys.argv[2], max_new_tokens=2, seed=3, temperature=1.3).ids)\n"
        "with miaotui.load(sys.argv[1], threads=1, max_context=64, cache_tokens=384) as m:\n"
        "    best = m.generate(sys.argv[2], max_new_tokens=12, num_beams=3, num_return_sequences=3)\n"
        "    print([(g.ids, g.score) for g in (best, *best.alternatives)])\n"
        "assert libm.fegetround() == up, 'the mode was not given back'\n"
    )
    if sys.platform != "linux" or os.uname().machine != "x86_64":
        pytest.skip("the mode's number is known for Linux on x86-64")
    run = [sys.executable, "-c", code, str(DEMO), PROMPTS[0]]
    up = subprocess.run(run, capture_output=True, text=True, check=True)
    usual = subprocess.run(
        [run[0], "-c", code.replace("0x800", "0"), *run[3:]], capture_output=True, text=True, check=True
    )
    assert up.stdout == usual.stdout
    assert up.stdout.startswith(str(alone[PROMPTS[0]]))


@pytest.fixture(scope="module")
def server(model: miaotui.Model) -> Iterator[int]:
    """The port of a real ASGI server, whose thread pool streams answers."""
    uvicorn = pytest.importorskip("uvicorn")
    applications, responses, routing = (
        pytest.importorskip(f"starlette.{name}") for name in ("applications", "responses", "routing")
    )

    def answer(request):
        prompt = PROMPTS[int(request.query_params["prompt"])]
        return responses.StreamingResponse(model.stream(prompt, **SHORT), media_type="text/plain")

    app = applications.Starlette(routes=[routing.Route("/", answer)])
    listening = socket.create_server(("127.0.0.1", 0))
    serving = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off", ws="none"))
    thread = threading.Thread(target=serving.run, kwargs={"sockets": [listening]})
    thread.start()
    yield listening.getsockname()[1]
    serving.should_exit = True
    thread.join(timeout=60)
    assert not thread.is_alive()


@pytest.mark.ci
@pytest.mark.parametrize("clients", [8, 64])
def test_clients_of_a_server(model: miaotui.Model, server: int, clients: int) -> None:
    """Slow, dying and many: who reads to the end gets what he would have got alone."""
    wanted = [model.generate(p, **SHORT).text for p in PROMPTS]
    wrong: list[object] = []

    def client(i: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", server, timeout=120)
        try:
            connection.request("GET", f"/?prompt={i % 3}")
            with connection.getresponse() as answer:
                if i % 4 == 1:  # it hangs up
                    answer.read(1)
                    return
                text = b""
                while piece := answer.read(5):
                    text += piece
                    time.sleep(0.05 if i % 4 == 2 else 0)
            if text.decode() != wanted[i % 3]:
                wrong.append(text)
        except OSError as e:
            wrong.append(e)
        finally:
            connection.close()

    threads = [threading.Thread(target=client, args=(i,)) for i in range(clients)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(timeout=180)
    assert not any(t.is_alive() for t in threads)
    assert wrong == []
