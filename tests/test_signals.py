"""Real signals at random moments of a generation, as Ctrl-C and time-outs send them: right bits after every one."""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import huggingface_hub
import miaotui
import pytest
import soak
from miaotui.errors import HubError
from miaotui.loader.hub import locate
from miaotui.loader.text.tokenizer import _panics_as_errors
from miaotui.runtime.cpu import build, emit

if TYPE_CHECKING:
    from collections.abc import Callable

DEMO = Path(miaotui.__file__).parent / "tools" / "demo" / "model"
PROMPTS = ["Once upon a time", "The dog and the cat", "Lily found a red ball in the garden"]
LATEST = 0.012  # seconds after which a signal comes: a few generations
DEADLINE = 240  # seconds: a hang takes for ever; prange next to busy processes takes long


class TooLateError(Exception):
    """What the handler of SIGALRM raises; Ctrl-C's is Python's own, with `KeyboardInterrupt`."""


class Senders:
    """Three ways by which a signal comes to this process, a moment after they are asked."""

    def __init__(self) -> None:
        reading, self._asked = os.pipe()
        target = os.getpid()
        self._process = os.fork()
        if not self._process:  # another process, as a terminal or a supervisor is
            os.close(self._asked)
            while late := os.read(reading, 8):
                time.sleep(struct.unpack("d", late)[0])
                os.kill(target, signal.SIGINT)
            os._exit(0)
        os.close(reading)

    @staticmethod
    def timer(late: float) -> None:
        signal.setitimer(signal.ITIMER_REAL, late + 1e-6)

    @staticmethod
    def thread(late: float) -> None:
        def send() -> None:
            time.sleep(late)
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=send).start()

    def process(self, late: float) -> None:
        os.write(self._asked, struct.pack("d", late))

    def close(self) -> None:
        os.close(self._asked)
        os.waitpid(self._process, 0)


def struck(model: miaotui.Model, kept: miaotui.Sequence, alone: dict[str, list[int]], send: Callable[[], None]) -> bool:
    """Generate until a signal comes. Whether what its handler raised came out, and not inside a finaliser."""
    came: list[int] = []

    def alarm(signum: int, _: object) -> None:
        came.append(signum)
        raise TooLateError

    def interrupt(signum: int, frame: object) -> None:
        came.append(signum)
        signal.default_int_handler(signum, frame)

    signal.signal(signal.SIGALRM, alarm)
    signal.signal(signal.SIGINT, interrupt)
    try:
        send()
        while not came:
            for prompt, ids in alone.items():
                assert model.generate(prompt, max_new_tokens=len(ids)).ids == ids
                with kept.fork() as twin:
                    twin.generate(prompt, max_new_tokens=2)
    except (KeyboardInterrupt, TooLateError):
        return True
    return False


def main() -> None:
    """Arguments: how many signals, seed, threads. What came of them is printed as JSON."""
    n, seed, threads = map(int, sys.argv[1:])
    random, told = Random(seed), Counter[str]()  # noqa: S311 - moments
    senders = Senders()
    faulthandler.enable()
    with miaotui.load(DEMO, threads=threads, max_context=64) as model:
        alone = {prompt: model.generate(prompt, max_new_tokens=12).ids for prompt in PROMPTS}
        logits = model.logits(list(range(20))).tobytes()
        kept = model.sequence()
        for i in range(n):
            faulthandler.dump_traceback_later(DEADLINE, exit=True)
            name = ("timer", "thread", "process")[i % 3]
            late = random.random() * LATEST
            told[name] += 1
            told["came out"] += struck(model, kept, alone, lambda: getattr(senders, name)(late))  # noqa: B023 - now
            prompt = PROMPTS[i % len(PROMPTS)]
            assert model.generate(prompt, max_new_tokens=12).ids == alone[prompt]
            assert model.logits(list(range(20))).tobytes() == logits
        kept.close()
        model.session.step([1], 0)  # which collects what was dropped
        counted = list(model.session.pages.n_free)
        model.session.pages.recount()
        assert model.session.pages.n_free == counted
    faulthandler.cancel_dump_traceback_later()
    senders.close()
    print(json.dumps(told))  # noqa: T201 - read below


def signalled(n: int, seed: int, threads: int, executor: str = "team") -> None:
    """Send n signals to a process of its own."""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", __file__, str(n), str(seed), str(threads)]
    env = os.environ | {"MIAOTUI_EXECUTOR": executor}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=DEADLINE + n)
    assert done.returncode == 0, f"seed {seed}: {done.stderr[-8000:]}"
    told = json.loads(done.stdout)
    assert told["timer"] + told["thread"] + told["process"] == n
    assert told["came out"] >= 0.8 * n, told  # the rest came out of a finaliser, where Python prints it
    for what, times in told.items():
        soak.count(f"signals, {what}", times)


pytestmark = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no such signals here")


@pytest.mark.parametrize(("executor", "n"), [("team", 60), ("prange", 15)])  # a pass by prange takes ten times as long
def test_right_bits_after_every_signal(executor: str, n: int) -> None:
    signalled(n, 1, 2, executor)


@pytest.mark.soak("signals")
@pytest.mark.parametrize(("executor", "threads", "n"), [("team", 1, 2000), ("team", 2, 2000), ("prange", 2, 300)])
def test_two_thousand_signals(pytestconfig: pytest.Config, executor: str, threads: int, n: int) -> None:
    signalled(n, int(pytestconfig.getoption("hypothesis_seed") or time.time_ns() % 2**32), threads, executor)


if __name__ == "__main__":
    main()


class Deadline:
    """A handler that is an object, which raises what anybody may catch."""

    def __init__(self, kind: type[Exception]) -> None:
        self.kind = kind

    def __call__(self, *_: object) -> None:
        raise self.kind

    def method(self, *_: object) -> None:
        raise self.kind


@pytest.mark.parametrize("kind", [RuntimeError, OSError, ImportError, TooLateError])
@pytest.mark.parametrize("shape", ["object", "method", "function"])
def test_what_a_handler_raises_is_not_taken_for_a_library_s(
    monkeypatch: pytest.MonkeyPatch, shape: str, kind: type[Exception]
) -> None:
    """A time-out during a compilation, a download, a look at a tokenizer: guards for any exception let it through."""
    deadline = Deadline(kind)
    handler = {"object": deadline, "method": deadline.method, "function": lambda *_: deadline()}[shape]

    def rings(*_: object, **__: object) -> None:
        signal.raise_signal(signal.SIGALRM)

    monkeypatch.setattr(emit, "object_code", rings)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", rings)
    before = signal.signal(signal.SIGALRM, handler)
    try:
        with pytest.raises(kind):
            build._compile_here("add", None, build.Progress(1, lost=None))
        with pytest.raises(kind):
            locate("org/none-such")
        with pytest.raises(kind), _panics_as_errors("tokenizer.json", "encode"):
            rings()
    finally:
        signal.signal(signal.SIGALRM, before)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: deadline())
    with pytest.raises(HubError):  # the same exception, raised by the library
        locate("org/none-such")
