"""Several prompts, threads and tasks share passes, and the beginnings of texts; each answer is the one made alone."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import miaotui
import numpy as np
import pytest
from checkpoints import Drawn, write_checkpoint, write_safetensors
from hypothesis import given, settings
from hypothesis import strategies as st
from miaotui.errors import InputError, MemoryLimitError
from miaotui.runtime.kvcache import PAGE
from miaotui.runtime.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from miaotui.runtime.step import Batch

N_VOCAB, CONTEXT, POISON = 53, 3 * PAGE, 7
CONFIG = {
    "model_type": "mistral", "vocab_size": N_VOCAB, "hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": CONTEXT, "sliding_window": None,
    "tie_word_embeddings": False, "eos_token_id": 3,
}  # fmt: skip
DRAWN = {"temperature": 1.3, "seed": 5, "top_p": 0.9, "repetition_penalty": 1.1}
HOW: list[dict[str, Any]] = [{}, DRAWN, {"no_repeat_ngram_size": 2}]


@pytest.fixture(scope="module", params=[None, PAGE // 2])
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    write_checkpoint(path, Drawn({**CONFIG, "sliding_window": request.param}, "F32", 11))
    return path


@pytest.fixture(scope="module")
def model(directory: Path) -> Iterator[miaotui.Model]:
    with miaotui.load(directory, threads=2, prefill_chunk=40, cache_tokens=5 * PAGE) as model:
        yield model


@pytest.fixture(scope="module")
def lone(directory: Path) -> Iterator[miaotui.Model]:
    """For what one text gets alone: nothing that was computed before can be of use to it."""
    with miaotui.load(directory, threads=1) as model:
        yield model


@pytest.fixture(scope="module")
def poisoned(directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[miaotui.Model]:
    """Id 7 is no number: a text that holds it has no logits. It is the unlikeliest to be drawn."""
    path = tmp_path_factory.mktemp("poisoned")
    tensors = write_checkpoint(path, Drawn(json.loads((directory / "config.json").read_text()), "F32", 11))
    tensors["model.embed_tokens.weight"][POISON] = np.nan
    write_safetensors(path / "model.safetensors", tensors)
    with miaotui.load(path) as model:
        yield model


def alone(lone: miaotui.Model, prompt: list[int], how: dict[str, Any], n: int) -> list[int]:
    lone.session.kept.clear()
    return lone.generate(prompt, max_new_tokens=n, **how).ids


def ids_of(seed: int, n: int) -> list[int]:
    ids = np.random.default_rng(seed).integers(0, N_VOCAB - 1, n)
    return [int(i) + (i >= POISON) for i in ids]  # without it


@contextmanager
def counted(model: miaotui.Model, takes: float = 0.0) -> Iterator[list[int]]:
    """Tokens of each pass; `takes`: seconds that each takes besides, as one of a larger model would."""
    backend, sizes = model.session.backend, list[int]()
    run = backend.run

    def counts(batch: Batch, *part: Any) -> None:
        sizes.append(batch.n_tokens)
        run(batch, *part)
        time.sleep(takes)

    backend.run = counts  # type: ignore[method-assign]
    try:
        yield sizes
    finally:
        backend.run = run  # type: ignore[method-assign]


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.integers(1, CONTEXT - 20), min_size=1, max_size=7),
    how=st.sampled_from(HOW),
    n=st.integers(1, 20),
    seed=st.integers(0, 3),
)
def test_a_list_gets_what_each_gets_alone(
    model: miaotui.Model, lone: miaotui.Model, sizes: list[int], how: dict[str, Any], n: int, seed: int
) -> None:
    """Also where the cache has no room for all of them, and where they begin alike."""
    prompts = [ids_of(seed, size) for size in sizes]
    got = model.generate(prompts, max_new_tokens=n, **how)
    assert [out.ids for out in got] == [alone(lone, prompt, how, n) for prompt in prompts]


def test_prompts_of_a_list_share_passes(model: miaotui.Model) -> None:
    prompts = [ids_of(20 + i, 9) for i in range(4)]
    with counted(model) as sizes:
        model.generate(prompts, max_new_tokens=6, ignore_eos=True)
    assert sizes == [36, 4, 4, 4, 4, 4]


def test_a_pass_looks_at_texts_that_have_pages_alone(model: miaotui.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of a list may be open: what each pass does for them would be the square of it."""
    looked, look = [0], Table.n_pages.fget
    assert look is not None

    def n_pages(self: Table) -> int:
        looked[0] += 1
        return look(self)  # type: ignore[no-any-return]  # as typed there

    monkeypatch.setattr(Table, "n_pages", property(n_pages))

    def each(n: int) -> float:
        looked[0] = 0
        model.generate([ids_of(i, 3) for i in range(n)], max_new_tokens=1)
        return looked[0] / n

    each(20)
    assert each(400) < 1.5 * each(100)


def test_a_list_of_nothing_and_of_what_is_wrong(model: miaotui.Model) -> None:
    assert model.generate_all([]) == []
    with pytest.raises(InputError, match=r"id 99 at position 1 .* \(prompt 1 of the list, counted from 0\)"):
        model.generate([[1], [2, 99]])
    with pytest.raises(InputError, match="no token ids"):
        model.generate([])


def test_equal_prompts_and_seeds_give_equal_texts_and_n_gives_others(model: miaotui.Model) -> None:
    prompt, how = ids_of(1, 12), {"max_new_tokens": 12, "ignore_eos": True, **DRAWN}
    one = model.generate(prompt, **how)
    assert [out.ids for out in model.generate([prompt, prompt], **how)] == [one.ids, one.ids]
    several = model.generate(prompt, n=3, **how)
    texts = [several.ids, *(other.ids for other in several.alternatives)]
    assert texts[0] == one.ids
    assert len({tuple(text) for text in texts}) == 3
    again = model.generate(prompt, num_return_sequences=3, **how)
    assert [again.ids, *(out.ids for out in again.alternatives)] == texts
    both = model.generate([prompt, ids_of(2, 3)], n=3, **how)
    assert [both[0].ids, *(out.ids for out in both[0].alternatives)] == texts
    with model.sequence() as text:
        text.feed(prompt[:5])
        assert text.generate(prompt[5:], n=2, **how).alternatives[0].ids == texts[1]
        assert text.ids == prompt + one.ids
    for wrong, said in (
        ({"n": 2}, "^n=2: the likeliest answer is one"),
        ({"n": 2, "num_return_sequences": 2, "temperature": 1.0}, "the same parameter"),
        ({"n": 0}, "^n=0: expected an integer >= 1$"),
        ({"num_return_sequences": 2}, "^num_return_sequences=2: the likeliest"),
        ({"n": 10**9, "temperature": 1.0}, "at most 65,536"),
    ):
        with pytest.raises(InputError, match=said):
            model.generate(prompt, **wrong)
    with pytest.raises(InputError, match="known at their end; use generate"):
        model.stream(prompt, n=2, temperature=1.0)


def test_what_cannot_go_on_ends_alone(poisoned: miaotui.Model, lone: miaotui.Model) -> None:
    """One prompt has no numbers: the others are computed to their ends before it is raised."""
    model, prompts = poisoned, [ids_of(30, 5), [1, POISON, 2], ids_of(31, 8)]
    never = {"max_new_tokens": 8, "ignore_eos": True, "bad_words_ids": [[POISON]]}
    with counted(model) as sizes, pytest.raises(InputError, match="not numbers"):
        model.generate(prompts, **never)
    assert sizes == [16, *[2] * 7]
    answers: dict[int, list[int]] = {}
    refused: list[str] = []

    def ask(i: int) -> None:
        try:
            answers[i] = model.generate(prompts[i], **never).ids
        except InputError as e:
            refused.append(str(e))

    in_threads(ask, 3)
    assert answers == {i: lone.generate(prompts[i], **never).ids for i in (0, 2)}
    assert len(refused) == 1


def in_threads(work: Any, n: int) -> None:
    threads = [threading.Thread(target=work, args=(i,)) for i in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "it hangs"


def test_threads_share_passes(model: miaotui.Model, lone: miaotui.Model) -> None:
    prompts, answers = [ids_of(40 + i, 3 + i) for i in range(8)], dict[int, list[int]]()

    def ask(i: int) -> None:
        answers[i] = model.generate(prompts[i], max_new_tokens=40, ignore_eos=True, **HOW[i % 3]).ids

    def all_ask() -> None:
        end = time.monotonic() + 30
        while len(model.session.engine._wants) < len(prompts) and time.monotonic() < end:
            time.sleep(0.001)

    first = threading.Thread(target=model.session.turn, args=(all_ask,))  # no pass before each has its thread
    first.start()
    with counted(model, takes=0.002) as sizes:  # else a pass is over before a thread has woken up
        in_threads(ask, len(prompts))
    first.join()
    assert answers == {i: alone(lone, p, {"ignore_eos": True, **HOW[i % 3]}, 40) for i, p in enumerate(prompts)}
    assert len(sizes) < 40 * len(prompts) / 2, "each took its passes alone"


@pytest.mark.parametrize("how", [{}, {"temperature": 1.3, "seed": 5, "top_p": 0.9}, DRAWN])
def test_an_answer_that_is_drawn_at_once_is_the_one_that_is_streamed(
    model: miaotui.Model, lone: miaotui.Model, how: dict[str, Any]
) -> None:
    prompt = [5, 6, 8, 9]
    wanted = [token.id for token in lone.tokens(prompt, max_new_tokens=20, ignore_eos=True, **how)]
    for n in (1, 2, 20):
        assert model.generate(prompt, max_new_tokens=n, ignore_eos=True, **how).ids == wanted[:n]
    end = wanted[7]
    assert end is not None
    made = model.generate(prompt, max_new_tokens=20, eos_token_id=end, **how)
    assert made.ids == wanted[: wanted.index(end) + 1]
    assert made.finish_reason == "eos"
    assert (made.timings.n_new, made.timings.decode_s > 0) == (len(made.ids), len(made.ids) > 1)


def test_an_interrupted_answer_leaves_the_ids_that_were_drawn(
    model: miaotui.Model, lone: miaotui.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, n = lone.generate([5, 6, 8], max_new_tokens=12, ignore_eos=True).ids, 0
    run_pass = model.session.run_pass

    def interrupted(*parts: Any, **how: Any) -> None:
        nonlocal n
        n += 1
        if n == 6:
            raise KeyboardInterrupt
        run_pass(*parts, **how)

    with model.sequence() as text:
        with monkeypatch.context() as patched:
            patched.setattr(model.session, "run_pass", interrupted)
            with pytest.raises(KeyboardInterrupt):
                text.generate([5, 6, 8], max_new_tokens=12, ignore_eos=True)
        assert text.ids == [5, 6, 8, *wanted[:5]]
        twin = text.fork()
        assert text.generate(max_new_tokens=7, ignore_eos=True).ids == wanted[5:]
        assert twin.feed([1]).tobytes() == lone.logits([*twin.ids])[-1].tobytes()
        twin.close()


def test_a_stream_that_is_not_read_keeps_nobody_waiting(model: miaotui.Model, lone: miaotui.Model) -> None:
    prompt = ids_of(50, 2 * PAGE)
    stream = model.tokens(prompt, max_new_tokens=9, ignore_eos=True)
    first = [next(stream).id for _ in range(3)]
    others = [ids_of(51 + i, 2 * PAGE) for i in range(4)]
    got = model.generate(others, max_new_tokens=3, ignore_eos=True)  # which need its pages
    assert [out.ids for out in got] == [alone(lone, p, {"ignore_eos": True}, 3) for p in others]
    assert first + [token.id for token in stream] == alone(lone, prompt, {"ignore_eos": True}, 9)


def test_a_beginning_is_computed_once(directory: Path, lone: miaotui.Model) -> None:
    beginning = ids_of(60, 200)
    with miaotui.load(directory, cache_tokens=6 * PAGE) as model:
        first = model.generate([*beginning, 1], max_new_tokens=4, ignore_eos=True)
        assert first.timings.n_reused == 0
        with counted(model) as sizes:
            second = model.generate([*beginning, 2, 4], max_new_tokens=4, ignore_eos=True)
        assert second.timings.n_reused == 200
        assert sizes == [2, 1, 1, 1]
        assert second.ids == alone(lone, [*beginning, 2, 4], {"ignore_eos": True}, 4)
        turn = [*beginning, 1, *first.ids, 5]
        again = model.generate(turn, max_new_tokens=4, ignore_eos=True)
        assert again.timings.n_reused == len(turn) - 2  # the last id that was drawn was never fed
        assert again.ids == alone(lone, turn, {"ignore_eos": True}, 4)
        assert again.timings.prefill_tps == pytest.approx(2 / again.timings.prefill_s)
        assert np.array_equal(model.logits(turn), lone.logits(turn)), "its own logits are computed, whatever is there"


def test_who_comes_together_computes_a_beginning_once(directory: Path, lone: miaotui.Model) -> None:
    beginning = ids_of(61, 100)
    with miaotui.load(directory, cache_tokens=6 * PAGE, prefill_chunk=40) as model:
        prompts = [[*beginning, i] for i in range(3)]
        with counted(model) as sizes:
            got = model.generate(prompts, max_new_tokens=2, ignore_eos=True)
        if model.session.program.groups == (None,):
            assert sum(sizes) == 100 + 3 + 3
            assert [out.timings.n_reused for out in got] == [0, 100, 100]
        assert [out.ids for out in got] == [alone(lone, p, {"ignore_eos": True}, 2) for p in prompts]


def test_tasks_share_passes(model: miaotui.Model, lone: miaotui.Model) -> None:
    prompts = [ids_of(70 + i, 3 + i) for i in range(12)]

    async def ask(i: int) -> list[int]:
        how = {"max_new_tokens": 20, "ignore_eos": True, **HOW[i % 3]}
        if i % 2:
            return (await model.agenerate(prompts[i], **how)).ids
        return [token.id async for token in model.atokens(prompts[i], **how)]

    async def all_of_them() -> list[list[int]]:
        return await asyncio.gather(*(ask(i) for i in range(12)))

    with counted(model) as sizes:
        got = asyncio.run(all_of_them())
    assert got == [alone(lone, p, {"ignore_eos": True, **HOW[i % 3]}, 20) for i, p in enumerate(prompts)]
    assert len(sizes) < 20 * 12 / 2
    several = asyncio.run(model.agenerate(prompts[:3], max_new_tokens=5))
    assert [out.ids for out in several] == [alone(lone, p, {}, 5) for p in prompts[:3]]
    drawn = asyncio.run(model.agenerate(prompts[0], n=2, max_new_tokens=5, **DRAWN))
    assert drawn.alternatives[0].ids == model.generate(prompts[0], n=2, max_new_tokens=5, **DRAWN).alternatives[0].ids


def test_a_task_that_is_cancelled_computes_nothing_more(model: miaotui.Model, lone: miaotui.Model) -> None:
    async def cancelled() -> list[int]:
        loop, run = asyncio.get_running_loop(), model.session.backend.run

        def third(*part: Any) -> None:
            run(*part)
            if len(sizes) == 3:
                loop.call_soon_threadsafe(task.cancel)

        model.session.backend.run = third  # type: ignore[method-assign]
        task = asyncio.create_task(model.agenerate(ids_of(80, 5), max_new_tokens=300, ignore_eos=True))
        stays = asyncio.create_task(model.agenerate(ids_of(81, 5), max_new_tokens=60, ignore_eos=True))
        with pytest.raises(asyncio.CancelledError):
            await task
        got = (await stays).ids
        async for _ in (left := model.atokens(ids_of(82, 5), max_new_tokens=300, ignore_eos=True)):
            break
        await left.aclose()
        return got

    with counted(model) as sizes:
        got = asyncio.run(cancelled())
    assert got == alone(lone, ids_of(81, 5), {"ignore_eos": True}, 60)
    assert len(sizes) < 100, sizes
    assert not model.session.engine._waiting()


def test_tasks_are_told_that_there_is_no_memory(model: miaotui.Model, lone: miaotui.Model) -> None:
    def full(*_: object) -> None:
        raise MemoryError

    async def refused() -> None:
        with pytest.raises(MemoryLimitError, match="agenerate: the system refused memory"):
            await model.agenerate([1], logits_processor=full)
        for call in (model.astream, model.atokens):
            with pytest.raises(MemoryLimitError, match=f"{call.__name__}: the system refused memory"):
                await anext(call([1], logits_processor=full))
        assert (await model.agenerate([1], max_new_tokens=3)).ids == alone(lone, [1], {}, 3)

    asyncio.run(refused())


def test_what_tasks_are_refused(directory: Path) -> None:
    model = miaotui.load(directory)

    async def refused() -> None:
        with pytest.raises(InputError, match="expected an integer >= 1"):
            await model.agenerate([1], n=0)
        for beams in ([2], np.array([1, 1]), True):
            with pytest.raises(InputError, match=r"num_beams=.*expected an integer >= 1"):
                await model.agenerate([1], num_beams=beams)  # type: ignore[arg-type]
        with pytest.raises(InputError, match="known at their end"):
            await anext(model.astream([1], num_beams=2))
        asked = [model.agenerate([i + 10], max_new_tokens=300, ignore_eos=True) for i in range(3)]
        tasks = asyncio.gather(*asked, return_exceptions=True)
        await asyncio.sleep(0.02)
        model.close()
        assert all(isinstance(e, InputError) and "was closed" in str(e) for e in await tasks)

    asyncio.run(refused())
