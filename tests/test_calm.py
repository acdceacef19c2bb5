"""Threads next to other work: nobody waits for who does not come, long waits mean fewer threads, and no bit changes."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import miaotui
import numpy as np
import pytest
from helpers import open_weights, poison
from hypothesis import given, settings
from hypothesis import strategies as st
from miaotui.errors import InputError
from miaotui.limits import AUTO, MAX_THREADS, Request
from miaotui.loader.open import open_model
from miaotui.prepare import prepare
from miaotui.runtime.cpu import team
from miaotui.runtime.cpu.backend import CpuBackend, cpu_session
from miaotui.runtime.cpu.layout import C_CLOCK, C_CORES, C_HELD, C_LINES, C_MOST, C_PATIENCE, C_RUNNING, C_SPENT, LINE
from miaotui.runtime.worth import Worth
from miaotui.tools import demo
from miaotui.tools.bench import calm
from test_runtime import IDS, llama

if TYPE_CHECKING:
    from collections.abc import Iterator

    from miaotui.runtime.session import Session


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def whole(small: Path) -> np.ndarray:
    """Logits of every prefix of `IDS`, by one thread."""
    with miaotui.load(small, threads=1) as model:
        return model.logits(IDS)


@pytest.fixture(scope="module")
def hog() -> Iterator[None]:
    with calm.busy():
        yield


def walked(session: Session, cuts: list[int]) -> np.ndarray:
    """Logits after each part of `IDS`."""
    rows, at = [], 0
    for size in cuts:
        session.step(IDS[at : at + size], at)
        rows.append(session.logits[-1].copy())
        at += size
    return np.stack(rows)


@settings(max_examples=12)
@given(
    threads=st.integers(2, 4),
    cores=st.integers(1, 4),
    quantize=st.sampled_from([None, "int8", "int4a"]),
    cuts=st.lists(st.integers(1, 5), min_size=4, max_size=8),
)
@pytest.mark.usefixtures("hog")
def test_no_bit_changes_next_to_a_busy_process(
    small: Path, threads: int, cores: int, quantize: str | None, cuts: list[int]
) -> None:
    """However many threads take part: as many parts as `threads`, for as many threads as there are said to be cores."""
    config, weights = open_weights(small, quantize)
    shape: dict[str, Any] = {"n_context": 64, "chunk": 8, "n_logits": 1}
    one = cpu_session(config, weights, **shape)
    wanted = walked(one, cuts)
    one.close()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(team, "available_threads", lambda: cores)
        session = cpu_session(config, weights, threads=threads, **shape)
    for _ in range(20):
        poison(session)
        assert np.array_equal(walked(session, cuts), wanted)
    session.close()


@pytest.mark.parametrize("threads", [2, 3])
def test_a_thread_that_does_not_come_is_not_waited_for(small: Path, whole: np.ndarray, threads: int) -> None:
    """Workers that were never started: the caller takes their parts."""
    config, weights = open_weights(small)
    session = cpu_session(config, weights, n_context=64, chunk=64, n_logits=len(IDS), threads=threads)
    words = session.backend._executor._words
    words[C_RUNNING // 8], words[C_MOST // 8], words[C_PATIENCE // 8] = 1, threads, 1 << 60
    poison(session)
    session.step(IDS, 0, len(IDS))
    assert np.array_equal(session.logits, whole)
    assert words[C_MOST // 8] == threads  # it took part, as far as anybody knows
    words[C_RUNNING // 8] = 0  # there is nobody to join
    session.close()


def judged(words: np.ndarray, *, crew: int, spent: int, waited: int) -> int:
    """How many threads the next step has, after one of `crew` in which they waited so long together, in nanoseconds."""
    from miaotui.runtime.cpu.patience import judge

    words[C_HELD // 8] += waited
    judge(int(words.ctypes.data), crew, time.monotonic_ns() - spent)
    return int(words[C_MOST // 8])


@pytest.fixture
def words() -> np.ndarray:
    """The control block of eight threads that begin."""
    words = team.aligned(C_LINES + 8 * LINE).view(np.int64)
    words[C_CORES // 8] = words[C_MOST // 8] = 8
    words[C_PATIENCE // 8] = 1000
    assert words[C_CLOCK // 8] == 0
    return words


MS = 1_000_000
LONG = 3_600_000 * MS  # an hour: no test takes that long


def test_where_threads_wait_long_the_next_steps_have_fewer(words: np.ndarray) -> None:
    assert judged(words, crew=8, spent=10 * MS, waited=LONG) == 7
    assert words[C_PATIENCE // 8] == 2000  # another try is put off for longer each time,
    for crew in range(7, 1, -1):
        words[C_PATIENCE // 8] = LONG
        assert judged(words, crew=crew, spent=10 * MS, waited=LONG) == crew - 1
    assert words[C_PATIENCE // 8] < LONG  # but not for ever
    assert judged(words, crew=1, spent=10 * MS, waited=0) == 1  # and not before its time


def test_a_step_of_few_parts_takes_one_thread_from_those_after_it(words: np.ndarray) -> None:
    """Two of eight met, and one had no core: that says nothing of the other six."""
    assert judged(words, crew=2, spent=10 * MS, waited=LONG) == 7


def test_where_nobody_waits_one_thread_more_is_tried(words: np.ndarray) -> None:
    words[C_MOST // 8] = 1
    for crew in range(1, 8):
        assert judged(words, crew=crew, spent=10 * MS, waited=0) == crew + 1
    assert judged(words, crew=8, spent=10 * MS, waited=0) == 8


def test_one_short_step_says_nothing(words: np.ndarray) -> None:
    words[C_MOST // 8] = 4
    assert judged(words, crew=4, spent=-LONG, waited=0) == 4
    assert words[C_SPENT // 8] != 0  # it counts, with those that follow
    assert judged(words, crew=4, spent=-LONG, waited=LONG) == 3  # unless somebody was held up for long


# ---------------------------------------------------------------------------------------------- how many it is worth


@settings(max_examples=30)
@given(tokens=st.integers(1, 512), more=st.integers(0, 512), keys=st.integers(0, 4096), most=st.integers(1, 1024))
def test_more_work_has_no_fewer_threads(tokens: int, more: int, keys: int, most: int) -> None:
    worth = Worth(_code())
    few, many = (worth.threads(n, 1, keys, most) for n in (tokens, tokens + more))
    assert 1 <= few <= many <= most
    assert few <= worth.threads(tokens, 1, keys + more, most)
    assert worth.threads(tokens, 1, keys, 1) == 1


def _code() -> list[Any]:
    with open_model(demo.path()) as opened:
        return prepare(opened, Request()).program.code


def test_a_token_of_a_small_model_has_one_thread_and_a_long_prompt_has_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("miaotui.limits.available_threads", lambda: 2)
    with (
        miaotui.load(demo.path("chat"), max_context=256) as auto,
        miaotui.load(demo.path("chat"), threads=2, max_context=256) as two,
    ):
        assert (auto.threads, auto.threads_for(1), auto.threads_for(128)) == (2, 1, 2)
        assert (two.threads, two.threads_for(1), two.threads_for(128)) == (2, 2, 2)
        text = list(range(5, 205))
        assert np.array_equal(auto.logits(text), two.logits(text))
        for seed in range(3):
            answers = [m.generate(text[:9], max_new_tokens=30, temperature=1.5, seed=seed).ids for m in (auto, two)]
            assert answers[0] == answers[1]


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts threads as Linux tells them")
def test_small_steps_start_no_thread(small: Path) -> None:
    config, weights = open_weights(small)
    session = cpu_session(config, weights, n_context=64, threads=2, auto=True)
    tasks = Path("/proc/self/task")
    before = len(list(tasks.iterdir()))
    session.step(IDS[:3], 0)
    assert len(list(tasks.iterdir())) == before
    session.close()


def test_one_thread_has_nothing_to_decide() -> None:
    assert not CpuBackend(1, auto=True).auto


@pytest.mark.parametrize("word", ["", "all", "AUTO", 0, -1, 1.5, True, MAX_THREADS + 1])
def test_another_word_is_refused(word: object) -> None:
    with pytest.raises(
        InputError, match=r"threads=.*: expected (a whole number of at least 1|at most 1024), or 'auto'"
    ):
        Request(threads=word)  # type: ignore[arg-type]  # on purpose


def test_no_word_is_the_default() -> None:
    assert Request().threads == Request(threads=None).threads == Request(threads="auto").threads == AUTO


# ---------------------------------------------------------------------------------------------- the benchmark


def test_the_benchmark_writes_what_it_did(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "calm.json"
    assert calm.main(["--new", "3", "--rounds", "1", "--seconds", "0", "--out", str(out)]) == 0
    known = json.loads(out.read_text(encoding="utf-8"))
    assert [(row["busy"], row["threads"]) for row in known["results"]] == [
        (busy, threads) for busy in (False, True) for threads in calm.SETTINGS
    ]
    for row in known["results"]:
        assert row["tokens_per_s"] > 0
        assert row["of_best"]["rounds"] == 1
    assert len(capsys.readouterr().out.splitlines()) == len(known["results"])
    with pytest.raises(InputError, match="--rounds: expected at least 1"):
        calm.main(["--rounds", "0"])
