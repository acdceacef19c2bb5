"""What docs/concurrency.md says: who waits for room and who goes first, what is reserved, what is computed once."""

from __future__ import annotations

import asyncio
import gc
import re
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import miaotui
import numpy as np
import pytest
from checkpoints import Drawn, write_checkpoint
from miaotui.errors import InputError, MemoryLimitError
from miaotui.runtime.engine.wants import Want
from miaotui.runtime.kvcache import PAGE, cache_bytes
from miaotui.runtime.turns import _STARVED
from test_shared_passes import CONFIG, DRAWN, N_VOCAB, alone, counted, ids_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DOCS = Path(__file__).resolve().parent.parent / "docs" / "concurrency.md"
WHOLE = {"ignore_eos": True}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    write_checkpoint(path, Drawn({**CONFIG, "max_position_embeddings": 8 * PAGE}, "F32", 11))
    return path


@pytest.fixture(scope="module")
def lone(directory: Path) -> Iterator[miaotui.Model]:
    with miaotui.load(directory, threads=1) as model:
        yield model


def test_the_page_s_python_prints_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    blocks = re.findall(
        r"^```python\n(.*?)^```\n\n```text\n(.*?)^```", DOCS.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    assert len(blocks) == 1
    for python, said in blocks:
        exec(compile(python, "docs/concurrency.md", "exec"), names)  # noqa: S102 - it is our own page
        assert capsys.readouterr().out == said
    names["model"].close()


# ---------------------------------------------------------------------------------------------------- priorities


def test_an_urgent_task_takes_the_place_of_a_running_one(directory: Path, lone: miaotui.Model) -> None:
    """The cache has room for one of them. Both get what each gets alone."""
    slow, urgent, ended = ids_of(1, PAGE), ids_of(2, PAGE), list[str]()

    async def ask(name: str, prompt: list[int], priority: int, n: int) -> list[int]:
        ids = (await model.agenerate(prompt, max_new_tokens=n, priority=priority, **WHOLE)).ids
        ended.append(name)
        return ids

    async def both() -> list[list[int]]:
        first = asyncio.create_task(ask("slow", slow, 0, 60))
        while len(sizes) < 10:  # noqa: ASYNC110 - it has begun; another thread counts them
            await asyncio.sleep(0)
        return [await ask("urgent", urgent, 1, 5), await first]

    with miaotui.load(directory, threads=2, cache_tokens=2 * PAGE) as model, counted(model) as sizes:
        assert asyncio.run(both()) == [alone(lone, urgent, WHOLE, 5), alone(lone, slow, WHOLE, 60)]
    assert ended == ["urgent", "slow"]


@pytest.mark.parametrize("call", ["ascore", "generate", "beams"])
def test_who_waits_for_the_pages_of_a_task_in_the_only_thread_for_its_turns(
    directory: Path, lone: miaotui.Model, call: str
) -> None:
    """Every thread of the loop's executor waits for room: it takes the passes of the task that has the room."""
    held, wanted = ids_of(1, PAGE + 40), ids_of(2, 2 * PAGE)
    asks: dict[str, Callable[[miaotui.Model], Any]] = {
        "ascore": lambda model: model.score(wanted, [[1, 2], [4]]),
        "generate": lambda model: model.generate(wanted, max_new_tokens=5, **WHOLE).ids,
        "beams": lambda model: model.generate(wanted[: PAGE + 9], max_new_tokens=5, num_beams=2, **WHOLE).ids,
    }

    async def streamed() -> list[int]:
        return [token.id async for token in model.atokens(held, max_new_tokens=40, **WHOLE)]

    async def other() -> Any:
        if call == "ascore":
            return await model.ascore(wanted, [[1, 2], [4]])
        return await asyncio.to_thread(asks[call], model)

    async def both() -> list[Any]:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        first = asyncio.create_task(streamed())
        while len(sizes) < 10:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0)
        assert not first.done()
        return list(await asyncio.gather(first, other()))

    with miaotui.load(directory, threads=2, cache_tokens=3 * PAGE) as model, counted(model) as sizes:
        rescue = threading.Timer(60, model.close)  # where they wait for each other
        rescue.start()
        try:
            assert asyncio.run(both()) == [alone(lone, held, WHOLE, 40), asks[call](lone)]
        finally:
            rescue.cancel()


def test_who_waits_for_the_pages_of_a_task_whose_loop_stands_still_is_told_that_the_model_was_closed(
    directory: Path,
) -> None:
    held, wanted, said = ids_of(1, PAGE + 40), ids_of(2, 2 * PAGE), list[str]()

    async def streamed() -> list[int]:
        return [token.id async for token in model.atokens(held, max_new_tokens=80, **WHOLE)]

    async def stands_still() -> list[Any]:
        first = asyncio.create_task(streamed())
        while len(sizes) < 10:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0)
        other.start()
        assert closed.wait(120)  # in the loop's thread: its tasks cannot be woken
        first.cancel()
        return await asyncio.gather(first, return_exceptions=True)

    def asked() -> None:
        with pytest.raises(InputError) as refused:
            model.generate(wanted, max_new_tokens=5, **WHOLE)
        said.append(str(refused.value))

    def closes() -> None:
        while not any(who.thread == other.ident for who in _STARVED):
            assert not said
        model.close()
        other.join(60)
        closed.set()

    with miaotui.load(directory, threads=2, cache_tokens=3 * PAGE) as model, counted(model) as sizes:
        closed, other = threading.Event(), threading.Thread(target=asked, daemon=True)
        closer = threading.Thread(target=closes, daemon=True)
        closer.start()
        asyncio.run(stands_still())
        closer.join(60)
        assert said == ["this model was closed; load it again"]


@pytest.mark.parametrize(("priority", "first"), [(1, "urgent"), (0, "slow")])
@pytest.mark.parametrize("call", ["ascore", "achoose"])
def test_scores_have_their_priority(
    directory: Path, lone: miaotui.Model, monkeypatch: pytest.MonkeyPatch, call: str, priority: int, first: str
) -> None:
    """The cache has room for one of them; a continuation of several ids too belongs to the call."""
    slow, question, ended = ids_of(1, PAGE), ids_of(2, PAGE), list[str]()
    after = [ids_of(3, 4), ids_of(4, 1)]
    read = {"question": question} | {str(i): ids for i, ids in enumerate(after)}
    codec = SimpleNamespace(encode=lambda text, **_: read.get(text, []))  # of texts that do not begin alike
    monkeypatch.setattr(miaotui.Model, "tokenizer", codec)

    async def ask(model: miaotui.Model) -> list[float]:
        if call == "ascore":
            got = [s.sum for s in await model.ascore(question, after, priority=priority)]
        else:
            got = list((await model.achoose("question", ["0", "1"], priority=priority)).probabilities.values())
        ended.append("urgent")
        return got

    async def answer() -> list[int]:
        ids = (await model.agenerate(slow, max_new_tokens=60, **WHOLE)).ids
        ended.append("slow")
        return ids

    async def both() -> list[Any]:
        running = asyncio.create_task(answer())
        while len(sizes) < 10:  # noqa: ASYNC110 - it has begun; another thread counts them
            await asyncio.sleep(0)
        return await asyncio.gather(ask(model), running)

    wanted = [asyncio.run(ask(lone)), alone(lone, slow, WHOLE, 60)]
    ended.clear()
    with miaotui.load(directory, threads=2, cache_tokens=2 * PAGE) as model, counted(model) as sizes:
        session, asked = model.session, threading.Event()
        engine, run_pass = session.engine, session.run_pass
        assert engine is not None
        add = engine.add

        def added(want: Want) -> None:
            add(want)
            if len(sizes) >= 10:
                asked.set()

        def run(*parts: Any, **how: Any) -> None:
            if len(sizes) == 10:  # the answer goes on when the other has come
                assert asked.wait(60)
            run_pass(*parts, **how)

        monkeypatch.setattr(engine, "add", added)
        monkeypatch.setattr(session, "run_pass", run)
        assert asyncio.run(both()) == wanted
    assert ended[0] == first


def test_of_many_that_wait_the_urgent_ones_begin_first(directory: Path, lone: miaotui.Model) -> None:
    """In a cache for one at a time, of several priorities; each sort of call may have one."""
    prompts, ended = [ids_of(10 + i, PAGE) for i in range(6)], list[int]()

    async def ask(i: int) -> list[int]:
        how = {"max_new_tokens": 3, "priority": i % 3, **WHOLE}
        if i % 2:
            got = [token.id async for token in model.atokens(prompts[i], **how)]
        else:
            got = list((await model.agenerate(prompts[i], **how)).ids)
        ended.append(i % 3)
        return got  # type: ignore[return-value]  # each has an id

    async def every() -> list[list[int]]:
        return await asyncio.gather(*map(ask, range(6)))

    with miaotui.load(directory, threads=1, cache_tokens=2 * PAGE) as model:
        run, engine = model.session.backend.run, model.session.engine
        assert engine is not None

        def once_all_are_there(*part: Any) -> None:
            while not ended and len(engine._wants) < 6:
                time.sleep(0.001)
            run(*part)

        model.session.backend.run = once_all_are_there  # type: ignore[method-assign]
        assert asyncio.run(every()) == [alone(lone, prompt, WHOLE, 3) for prompt in prompts]
        assert ended == [2, 2, 1, 1, 0, 0]
        with model.sequence() as text:
            text.generate(prompts[0], max_new_tokens=1, priority=7)
            assert text.table.priority == 7
            text.feed([5])
            assert text.table.priority == 0, "it was the call's"


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"priority": 1.5}, "priority=1.5: expected an integer"),
        ({"priority": True}, "priority=True: expected an integer"),
        ({"priority": "high"}, "priority='high': expected an integer"),
        ({"priority": 1, "num_beams": 2}, "num_beams=2: priority and beams do not go together"),
    ],
)
def test_a_priority_that_is_none_is_refused(lone: miaotui.Model, how: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        lone.generate([1, 2], **how)
    if "num_beams" not in how:
        with pytest.raises(InputError, match=said):
            lone.score([1, 2], [[3]], **how)
        with pytest.raises(InputError, match=said):
            lone.choose("a", ["b"], **how)


# ---------------------------------------------------------------------------------------------------- room


def test_a_prompt_that_never_fits_is_refused_before_any_is_read(directory: Path, lone: miaotui.Model) -> None:
    """With both numbers, and its own in a list."""
    long, said = ids_of(3, 2 * PAGE + 1), rf"a text of {2 * PAGE + 1} tokens does not fit the cache of {2 * PAGE}; load"
    with miaotui.load(directory, cache_tokens=2 * PAGE) as model, counted(model) as sizes:
        calls = (
            partial(model.generate, long),
            partial(model.generate, [[1, 2], long, [3]]),
            lambda: asyncio.run(model.agenerate([[1], long])),
            lambda: next(iter(model.stream(long))),
            partial(model.score, long, [[1]]),
            partial(model.score, long[:-1], [[1], [1, 2]]),
        )
        for call in calls:
            with pytest.raises(InputError, match=said):
                call()
        with pytest.raises(InputError, match=r"\(prompt 1 of the list, counted from 0\)"):
            model.generate([[1, 2], long])
        assert sizes == []
        assert model.generate(long[:-4], max_new_tokens=3, **WHOLE).ids == alone(lone, long[:-4], WHOLE, 3)


def test_an_answer_that_outgrows_the_cache_ends_alone(directory: Path, lone: miaotui.Model) -> None:
    """It is refused when it needs a page that there cannot be; the other, which waits for room, goes on."""
    long, other = ids_of(4, 2 * PAGE - 3), ids_of(5, PAGE + 9)

    async def both() -> list[Any]:
        outgrows = model.agenerate(long, max_new_tokens=20, **WHOLE)
        return await asyncio.gather(outgrows, model.agenerate(other, max_new_tokens=9, **WHOLE), return_exceptions=True)

    with miaotui.load(directory, cache_tokens=2 * PAGE) as model:
        refused, answer = asyncio.run(both())
    assert isinstance(refused, InputError)
    assert f"does not fit the cache of {2 * PAGE} tokens: it has {2 * PAGE + 1}; load with a larger" in str(refused)
    assert answer.ids == alone(lone, other, WHOLE, 9)


def test_idle_beginnings_give_way_before_anything_waits(directory: Path, lone: miaotui.Model) -> None:
    """Ended answers fill the cache; a new one begins in the next pass all the same, and the longest idle goes."""
    prompts = [ids_of(20 + i, PAGE + 40) for i in range(3)]
    with miaotui.load(directory, cache_tokens=4 * PAGE, prefill_chunk=2 * PAGE) as model:
        for prompt in prompts[:2]:
            model.generate(prompt, max_new_tokens=3, **WHOLE)
        model.session.turn(model.session.collect)
        assert model.session.pages.n_free == [0]
        with counted(model) as sizes:
            got = model.generate(prompts[2], max_new_tokens=3, **WHOLE)
        assert sizes == [PAGE + 40, 1, 1]
        assert got.ids == alone(lone, prompts[2], WHOLE, 3)
        again = [model.generate(prompt, max_new_tokens=3, **WHOLE).timings.n_reused for prompt in prompts[1::-1]]
        assert again == [PAGE + 39, 0]


@pytest.mark.parametrize("kv_cache", ["f32", "bf16", "int8"])
@pytest.mark.parametrize("tokens", [1, PAGE, 5 * PAGE + 1, 40 * PAGE])
def test_the_pages_that_are_reserved_are_counted_and_no_others(directory: Path, tokens: int, kv_cache: str) -> None:
    how = {"cache_tokens": tokens, "kv_cache": kv_cache, "threads": 2}
    with miaotui.load(directory, **how) as model:
        session, n_pages = model.session, -(-tokens // PAGE)
        assert session.pages.n_pages == n_pages
        assert model.memory["kv_cache"] == 2 * 2 * cache_bytes(kv_cache, 2, n_pages * PAGE, 6)
        resident = sum(-(-w.nbytes // 64) * 64 for w in session.weights if not w.mapped)
        real = session.backend.arena.nbytes + sum(t.weight.nbytes for t in session.program.ropes) + resident  # type: ignore[attr-defined]
        assert model.memory["allocated"] == real
        pools = [pool for g in range(len(session.program.groups)) for pool in session.backend.pools(g)]
        assert sum(pool.nbytes for pool in pools) == model.memory["kv_cache"]
    miaotui.load(directory, memory_limit=real, **how).close()
    with pytest.raises(MemoryLimitError, match="1 over memory_limit"):
        miaotui.load(directory, memory_limit=real - 1, **how)


def test_a_pass_of_eight_answers_allocates_nothing(directory: Path) -> None:
    """Neither Numba's runtime nor NumPy, and of Python's own objects only what ends with the pass."""
    from numba.core.runtime import _nrt_python, rtsys

    _nrt_python.memsys_enable_stats()
    with miaotui.load(directory, threads=2, cache_tokens=16 * PAGE) as model:
        session, engine, rows = model.session, model.session.engine, 8
        assert engine is not None
        texts = [ids_of(30 + i, 9) for i in range(rows)]
        tables = [session.admit(None) for _ in texts]

        def decode(n: int) -> None:
            for _ in range(n):
                wants = [Want(table, ids, session.greedy) for table, ids in zip(tables, texts, strict=True)]
                engine.serve(wants)
                for want, ids in zip(wants, texts, strict=True):
                    ids.append(want.result())

        decode(20)
        passes, run, peaks = [0], session.backend.run, list[int]()

        def measured(*part: Any) -> None:
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            run(*part)
            peaks.append(tracemalloc.get_traced_memory()[1] - before)
            passes[0] += 1

        session.backend.run = measured  # type: ignore[method-assign]
        gc.collect()
        gc.disable()
        tracemalloc.start()
        try:
            decode(5)
            before, held = rtsys.get_allocation_stats(), tracemalloc.get_traced_memory()[0]
            decode(50)
            grown, after = tracemalloc.get_traced_memory()[0] - held, rtsys.get_allocation_stats()
        finally:
            tracemalloc.stop()
            gc.enable()
            session.backend.run = run  # type: ignore[method-assign]
        assert passes == [55], "the eight share every pass"
        assert (after.alloc, after.free) == (before.alloc, before.free)
        assert max(peaks) < 4 * rows * N_VOCAB, "rows of logits were copied"
        assert grown < 8 * 1024, "the eight lists grow by 50 ids each, and nothing else"


# ---------------------------------------------------------------------------------------------------- once


def test_answers_to_one_prompt_share_it(directory: Path) -> None:
    """`n`, `score`, `choose`: the prompt is computed once, and later calls find it."""
    prompt = ids_of(40, 200)
    with miaotui.load(directory, cache_tokens=16 * PAGE, prefill_chunk=400) as model:
        with counted(model) as sizes:
            several = model.generate(prompt, n=4, max_new_tokens=3, **WHOLE, **DRAWN)
        assert sum(sizes) == 200 + 3 + 4 * 2
        assert [out.timings.n_reused for out in (several, *several.alternatives)] == [0, 199, 199, 199]
        with counted(model) as sizes:
            model.score(prompt, [[1, 2], [3, 4, 5], [6]])
        assert sum(sizes) == 1 + 1 + 2, "its last id, and of each candidate all but the last"
        with counted(model) as sizes:
            other = next(i for i in range(9) if all(i != out.ids[0] for out in _all(several)))
            model.score([*prompt, other, 9], [[1], [2]])
        assert sum(sizes) == 2


def test_a_search_that_is_cancelled_computes_nothing_more_and_gives_its_pages_back(
    directory: Path, lone: miaotui.Model
) -> None:
    """Its thread is free at its next step; who comes after has the whole cache."""
    prompt, after = ids_of(51, PAGE), ids_of(52, 3 * PAGE)

    async def cancelled() -> int:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        how = {"num_beams": 3, "max_new_tokens": PAGE - 1, **WHOLE}
        search = asyncio.create_task(model.agenerate([prompt], **how))
        while len(sizes) < 5:  # noqa: ASYNC110 - it has begun; another thread counts them
            await asyncio.sleep(0)
        search.cancel()
        n = len(sizes)
        with pytest.raises(asyncio.CancelledError):
            await search
        await asyncio.to_thread(int)  # once the only thread is free
        return len(sizes) - n

    with miaotui.load(directory, threads=2, cache_tokens=4 * PAGE) as model, counted(model) as sizes:
        assert asyncio.run(cancelled()) <= 2
        assert model.generate(after, max_new_tokens=5, **WHOLE).ids == alone(lone, after, WHOLE, 5)


def test_a_prompt_s_log_probabilities_are_computed_once_for_n_answers(directory: Path, lone: miaotui.Model) -> None:
    prompt = ids_of(41, 90)
    how = {"max_new_tokens": 3, "echo": True, "top_logprobs": 2, **WHOLE, **DRAWN}
    with miaotui.load(directory, cache_tokens=16 * PAGE) as model:
        ask, rows = model.session.run_pass, list[int]()
        model.session.run_pass = lambda parts, **more: (rows.append(sum(p[3] for p in parts)), ask(parts, **more))  # type: ignore[method-assign]
        got = model.generate(prompt, n=3, **how)
        assert sum(rows) == len(prompt) - 1 + 3 * 3, "rows of logits"
        task = asyncio.run(model.agenerate(prompt, n=3, **how))
        nothing = model.generate(prompt, n=2, **{**how, "max_new_tokens": 0})
    lone.session.kept.clear()
    wanted = [out.logprobs for out in _all(lone.generate(prompt, n=3, **how))]
    assert [out.logprobs for out in _all(got)] == wanted
    assert [out.logprobs for out in _all(task)] == wanted
    for out, logprobs in zip(_all(got), wanted, strict=True):
        assert [each.id for each in logprobs or ()] == [*prompt, *out.ids]
    assert [out.logprobs for out in _all(nothing)] == [wanted[0][:90]] * 2  # type: ignore[index]  # they are there


def _all(out: miaotui.Generation) -> tuple[miaotui.Generation, ...]:
    return out, *out.alternatives


def test_scores_for_coroutines(lone: miaotui.Model) -> None:
    prompt, candidates = ids_of(50, 20), [[1, 2], [4], [5, 6, 8]]

    async def several() -> list[Any]:
        return await asyncio.gather(*(lone.ascore(prompt, candidates) for _ in range(3)))

    assert asyncio.run(several()) == [lone.score(prompt, candidates)] * 3
    with pytest.raises(InputError, match="candidate 1"):
        asyncio.run(lone.ascore(prompt, [[1], [N_VOCAB]]))


def test_choices_for_coroutines() -> None:
    from miaotui.tools import demo

    with miaotui.load(demo.path(), max_context=64) as model:
        question, options = "Once upon a time there was a little", [" duck", " boy"]
        got = asyncio.run(model.achoose(question, options, normalize="tokens"))
        assert got == model.choose(question, options, normalize="tokens")
        assert np.isclose(sum(got.probabilities.values()), 1)
