"""Memory that is refused while a model works: `MemoryLimitError`, and the model goes on with the same bits."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
from linecache import getline
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Self

import miaotui
import numpy as np
import pytest
import soak
from life import pages_are_counted
from miaotui.errors import MemoryLimitError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

HOME = Path(miaotui.__file__).parent
DEMO = HOME / "tools" / "demo" / "model"
PROMPT = "Once upon a time"
IDS = [5, 80, 17, 200, 31, 9, 44]


@pytest.fixture(scope="module")
def model() -> Iterator[miaotui.Model]:
    with miaotui.load(DEMO, threads=1, max_context=64) as model:
        yield model


def allocates(line: str) -> bool:
    """Whether a line calls or makes anything: `return self` does not, nor `with self.lock:`, told again as it ends."""
    return any(c in line for c in "([{+-*/")


class Refusal:
    """While entered, the n-th line of ours that runs raises MemoryError, as an allocation there would."""

    def __init__(self, n: int) -> None:
        self.left, self.where = n, ""

    def _trace(self, frame: FrameType, event: str, _: Any) -> Any:
        name = frame.f_code.co_filename
        if frame.f_code.co_name == "gone":  # a weak reference's: Python drops what it raises
            return None
        if "/tests/" in name or "miaotui" not in frame.f_globals.get("__name__", "") or name.endswith("/memory.py"):
            return None
        if event == "line" and allocates(getline(name, frame.f_lineno)):
            self.left -= 1
            if not self.left:
                self.where = f"{name}:{frame.f_lineno}"
                raise MemoryError
        return self._trace

    def __enter__(self) -> Self:
        self.before = sys.gettrace()
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self.before)


def calls(model: miaotui.Model) -> dict[str, Callable[[], object]]:
    """What a user calls, small."""
    kept = model.sequence()
    kept.feed(IDS)

    def forked() -> object:
        with kept.fork() as twin:
            twin.truncate(5)
            return twin.generate(IDS[:2], max_new_tokens=2).ids

    return {
        "generate": lambda: model.generate(PROMPT, max_new_tokens=4, seed=3, top_k=20, repetition_penalty=1.1).ids,
        "stream": lambda: "".join(model.stream(PROMPT, max_new_tokens=4, stop=["zzz"])),
        "tokens": lambda: [t.id for t in model.tokens(IDS, max_new_tokens=3, seed=1, top_p=0.9)],
        "sequence": forked,
        "logits": lambda: model.logits(IDS).tobytes(),
        "hidden": lambda: model.hidden(IDS).tobytes(),
        "last_logits": lambda: model.last_logits([IDS, IDS[:3]]).tobytes(),
    }


def refused_anywhere(model: miaotui.Model, points: int, seed: int) -> int:
    """Refuse at `points` lines of every call; how often it came out. What is computed after it is as before."""
    random, struck = Random(seed), 0  # noqa: S311 - moments
    for name, call in calls(model).items():
        wanted = call()
        with Refusal(10**9) as counting:
            call()
        lines = 10**9 - counting.left
        for n in sorted(random.sample(range(1, lines + 1), min(points, lines))):
            with Refusal(n) as refusal:
                try:
                    got = call()
                except MemoryLimitError as e:
                    got, struck = None, struck + 1
                    assert "refused memory" in str(e)  # noqa: PT017 - not every line of every call may raise
            assert got in (None, wanted), (name, refusal.where)
            assert call() == wanted, (name, refusal.where)
    gc.collect()
    pages_are_counted(model)
    return struck


@pytest.mark.skipif(sys.gettrace() is not None, reason="another tracer is at work")
def test_refused_at_some_lines(model: miaotui.Model) -> None:
    assert refused_anywhere(model, 12, 1) > 60


@pytest.mark.ci  # 12 s
@pytest.mark.skipif(sys.gettrace() is not None, reason="another tracer is at work")
def test_refused_at_many_lines(model: miaotui.Model) -> None:
    assert refused_anywhere(model, 150, 2) > 560


@pytest.mark.soak("refusals")
@pytest.mark.skipif(sys.gettrace() is not None, reason="another tracer is at work")
def test_refused_at_more_lines(pytestconfig: pytest.Config, model: miaotui.Model) -> None:
    seed = int(pytestconfig.getoption("hypothesis_seed") or time.time_ns() % 2**32)
    soak.count("refusals", refused := refused_anywhere(model, 400, seed))
    assert refused > 1500


def test_numpy_refuses(model: miaotui.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """An array that NumPy cannot make: the error says how large it was."""
    wanted = model.generate(PROMPT, max_new_tokens=4, seed=3, top_k=20).ids

    def no(*_: object, **__: object) -> None:
        raise MemoryError("Unable to allocate 9.9 GiB for an array")  # noqa: EM101, TRY003 - NumPy's words

    with monkeypatch.context() as patch:
        patch.setattr(np, "empty", no)
        for call in (lambda: model.generate(PROMPT, max_new_tokens=4, top_k=20), lambda: model.logits(IDS)):
            with pytest.raises(MemoryLimitError, match=r"refused .*memory"):
                call()
        with pytest.raises(MemoryLimitError, match=r"the next token: the system refused memory \(Unable to .* 9.9 GiB"):
            next(model.stream(PROMPT, max_new_tokens=4, top_k=20))
    assert model.generate(PROMPT, max_new_tokens=4, seed=3, top_k=20).ids == wanted


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="RLIMIT_AS holds on Linux")
def test_the_system_refuses_while_a_model_works() -> None:
    code = """
import os, resource, sys, miaotui as mt
from pathlib import Path
ids = [5, 80, 17, 200] * 250
with mt.load(Path(sys.argv[1]), threads=1, max_context=2048) as m:
    calls = {"generate": lambda: m.generate(ids, max_new_tokens=2, seed=1, top_k=9).ids,
             "last_logits": lambda: m.last_logits([ids[:10]] * 3000).sum(),
             "stream": lambda: "".join(m.stream(ids, max_new_tokens=2)),
             "logits": lambda: m.logits(ids).sum()}
    wanted = {name: call() for name, call in calls.items()}
    was, said = resource.getrlimit(resource.RLIMIT_AS), {}
    for room in (0, 2**16, 2**20, 3 * 2**20):
        vm = int(open("/proc/self/statm").read().split()[0]) * 4096
        for name, call in calls.items():
            resource.setrlimit(resource.RLIMIT_AS, (vm + room, was[1]))
            try: got = "right" if call() == wanted[name] else "wrong"
            except mt.MiaotuiError as e: got = type(e).__name__
            except BaseException as e: got = "FOREIGN " + type(e).__name__
            resource.setrlimit(resource.RLIMIT_AS, was)
            said.setdefault(name, []).append(got)
    assert {name: call() for name, call in calls.items()} == wanted
    print(said)
"""
    run = [sys.executable, "-c", code, str(DEMO)]
    done = subprocess.run(run, capture_output=True, text=True, check=False, env=os.environ | {"MALLOC_ARENA_MAX": "1"})
    assert done.returncode == 0, done.stderr
    assert "MemoryLimitError" in done.stdout
    assert "FOREIGN" not in done.stdout
    assert "wrong" not in done.stdout
