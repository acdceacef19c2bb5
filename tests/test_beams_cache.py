"""Beams and encoders' texts in the cache: the same bits however they are fed, and whoever needs the pages meanwhile."""

from __future__ import annotations

import gc
import threading
import tracemalloc
from typing import TYPE_CHECKING, Any

import miaotui
import numpy as np
import pytest
from miaotui.errors import InputError
from miaotui.runtime.beam_params import Beams
from miaotui.runtime.beams import BeamState, Wanted, log_softmax, search
from miaotui.runtime.encoding import Whole, encoded
from miaotui.runtime.kvcache import PAGE
from miaotui.runtime.rules import Rules
from test_seq2seq import ids_of, made, small_config

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

transformers = pytest.importorskip("transformers")

BEAMS: dict[str, Any] = {"num_beams": 3, "num_return_sequences": 3, "max_new_tokens": 14, "length_penalty": 0.5}


def t5_config() -> Any:
    return transformers.T5Config(
        vocab_size=53, d_model=24, d_kv=8, d_ff=37, num_layers=2, num_heads=3, feed_forward_proj="gated-gelu",
        decoder_start_token_id=0, tie_word_embeddings=False, n_positions=300,
    )  # fmt: skip


def m2m_config() -> Any:
    return transformers.M2M100Config(
        vocab_size=53, d_model=24, encoder_layers=2, decoder_layers=2, encoder_attention_heads=3,
        decoder_attention_heads=2, encoder_ffn_dim=37, decoder_ffn_dim=31, max_position_embeddings=300,
    )  # fmt: skip


MADE = {"bart": small_config, "t5": t5_config, "m2m_100": m2m_config}


@pytest.fixture(
    scope="module",
    params=["bart", pytest.param("t5", marks=pytest.mark.ci), pytest.param("m2m_100", marks=pytest.mark.ci)],
)
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp(request.param)
    made(MADE[request.param](), directory, 3)
    return directory


def rows(answer: Any) -> list[tuple[list[int], float]]:
    """Ids and score of every answer."""
    return [(a.ids, a.score) for a in (answer, *answer.alternatives)]


@pytest.mark.parametrize("how", [{}, {"kv_cache": "int8"}, {"quantize": "int8"}, {"quantize": "int4"}], ids=str)
def test_threads_chunks_and_neighbours_change_no_bit(directory: Path, how: dict[str, Any]) -> None:
    prompts, seen = [ids_of(1, 200), ids_of(2, 1), ids_of(3, 70)], []
    for threads, chunk, tokens in ((1, 300, 1200), (2, 7, 4096), (3, 2, 4096)):
        with miaotui.load(directory, threads=threads, prefill_chunk=chunk, cache_tokens=tokens, **how) as model:
            alone = [rows(model.generate(prompt, **BEAMS)) for prompt in prompts]
            assert [rows(a) for a in model.generate_all(prompts, **BEAMS)] == alone
            assert [rows(a) for a in model.generate_all(prompts[::-1], **BEAMS)] == alone[::-1]
            hidden = [model.hidden(prompt).tobytes() for prompt in prompts]
            packed = encoded(model.session, [Whole(p) for p in prompts], np.copy)
            assert [h.tobytes() for h in packed] == hidden
            greedy = [model.generate(prompt, max_new_tokens=9).ids for prompt in prompts]
            assert [a.ids for a in model.generate_all(prompts, max_new_tokens=9)] == greedy
            seen.append((alone, hidden, greedy, model.logits(prompts[0], decoder_ids=ids_of(4, 40)).tobytes()))
    assert seen[0] == seen[1] == seen[2]


def test_beams_without_a_cache_and_one_beam(directory: Path) -> None:
    source = ids_of(5, 40)
    with miaotui.load(directory, cache_tokens=4096) as model:
        start, ends = model.config.decoding.start, model.config.eos_ids
        state = BeamState(Beams(3, 0.5, n_return=3), 53, 14, ends)
        while not state.done:
            texts = [[start, *ids] for ids in state.running]
            state.advance(np.stack([log_softmax(model.logits(source, decoder_ids=t)[-1]) for t in texts]))
        how = BEAMS | {"bad_words_ids": [], "forced_eos_token_id": []}
        assert rows(model.generate(source, **how)) == [(f.ids, f.score) for f in state.found()]
        for seed in range(4):
            with model.sequence(ids_of(seed, 9)) as one:
                [made] = search(model.session, [Wanted(one.table, [start], Rules(), 12)], Beams(1), ends)
            how = {"max_new_tokens": 12, "bad_words_ids": [], "forced_eos_token_id": []}
            assert made.answers[0].ids == model.generate(ids_of(seed, 9), **how).ids


def free(model: miaotui.Model) -> tuple[list[int], int]:
    """Pages that somebody holds, once what was dropped is collected: of the cache, and of encoders' texts."""
    gc.collect()
    with model.sequence(ids_of(0, 3)) as one:
        one.feed([2])
    model.hidden([3])
    with model.sequence(ids_of(0, 3)) as one:
        one.feed([2])
        session = model.session
        return [session.pages.n_pages - n for n in session.pages.n_free], sum(
            session.sources.pages.n_pages - n for n in session.sources.pages.n_free
        )


def in_time(*works: Callable[[], object], seconds: float = 60) -> None:
    """Each in a thread of its own; all end in time, and none raises."""
    wrong: list[BaseException] = []

    def run(work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as e:  # noqa: BLE001 - whatever it is, the test says it
            wrong.append(e)

    threads = [threading.Thread(target=run, args=(work,), daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds)
    assert not any(thread.is_alive() for thread in threads), "they wait for each other"
    assert wrong == []


def test_beams_wait_for_pages_and_go_on(directory: Path) -> None:
    """A text that is waited for holds a page: the beams find room for their first step alone, and give it back."""
    with miaotui.load(directory, cache_tokens=3 * PAGE) as model:
        wanted = rows(model.generate(ids_of(1, 20), **BEAMS))
        with model.sequence(ids_of(2, 20)) as held:
            held.feed([2])
            over, got = threading.Event(), []

            def search_it() -> None:
                got.append(rows(model.generate(ids_of(1, 20), **BEAMS)))
                over.set()

            def hold() -> None:
                def waits() -> None:
                    begun.set()
                    assert not over.wait(0.3)

                held.awaiting(waits)

            begun = threading.Event()
            in_time(hold, lambda: begun.wait(5) and search_it())
            assert got == [wanted]
            assert len(free(model)[0]) == 1


def test_who_waits_for_one_pool_holds_nothing_of_the_other(directory: Path) -> None:
    """One text fills the encoder's pages and grows; another has a page to write in, and waits for the encoder's."""
    with miaotui.load(directory, cache_tokens=2 * PAGE) as model:
        how: dict[str, Any] = {"max_new_tokens": PAGE + 20, "ignore_eos": True}
        wanted = [model.generate(ids_of(i, 200), **how).ids for i in range(3)]
        got: dict[int, list[int]] = {}
        works = [lambda i=i: got.update({i: model.generate(ids_of(i, 200), **how).ids}) for i in range(3)]
        in_time(*works)
        assert [got[i] for i in range(3)] == wanted


def test_searches_of_several_threads_are_those_of_one(directory: Path) -> None:
    with miaotui.load(directory, cache_tokens=4 * PAGE, threads=2) as model:
        prompts = [[ids_of(10 * i + j, 1 + 37 * ((i + j) % 4)) for j in range(3)] for i in range(4)]
        wanted = [[rows(a) for a in model.generate_all(some, **BEAMS)] for some in prompts]
        greedy = [model.generate(some[0], max_new_tokens=30).ids for some in prompts]
        got: dict[object, object] = {}

        def work(i: int) -> None:
            got[i] = [rows(a) for a in model.generate_all(prompts[i], **BEAMS)]
            got["greedy", i] = model.generate(prompts[i][0], max_new_tokens=30).ids
            got["stream", i] = [t.id for t in model.tokens(prompts[i][0], max_new_tokens=30)]

        in_time(*(lambda i=i: work(i) for i in range(4)), seconds=120)
        for i in range(4):
            assert got[i] == wanted[i]
            assert got["greedy", i] == got["stream", i] == greedy[i]


def test_a_handler_inside_a_text_is_refused_where_no_encoder_has_room(directory: Path) -> None:
    """An idle text has pages of the cache, which is not what lacks."""
    with miaotui.load(directory, cache_tokens=2 * PAGE) as model, model.sequence(ids_of(1, 20)) as idle:
        idle.feed([2])
        with model.sequence(ids_of(2, 200)) as mine:

            def inside() -> None:
                mine.feed([2])
                with pytest.raises(InputError, match="signal's handler"):
                    model.generate(ids_of(3, 150), max_new_tokens=2)

            mine.awaiting(inside)


@pytest.mark.parametrize("at", [1, 2, 5])
def test_an_interrupt_leaves_pages_free_and_bits_right(
    directory: Path, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with miaotui.load(directory, cache_tokens=4 * PAGE) as model:
        prompts = [ids_of(1, 100), ids_of(2, 3)]
        wanted = [rows(a) for a in model.generate_all(prompts, **BEAMS)]
        before, calls, run = free(model), 0, model.session.run_pass

        def interrupted(parts: Any, **how: Any) -> None:
            nonlocal calls
            calls += 1
            if calls == at:
                raise KeyboardInterrupt
            run(parts, **how)

        with monkeypatch.context() as patch:
            patch.setattr(model.session, "run_pass", interrupted)
            with pytest.raises(KeyboardInterrupt) as kept:
                model.generate_all(prompts, **BEAMS)
        # a kept exception keeps the prompts; their pages are anybody's
        pools = (model.session.pages, model.session.sources.pages)
        assert not [table for pool in pools for table in pool.tables if table.awaited]
        assert free(model)[0] == before[0]
        del kept
        assert free(model) == before
        assert [rows(a) for a in model.generate_all(prompts, **BEAMS)] == wanted


def test_what_no_pool_can_hold_is_refused(directory: Path) -> None:
    with miaotui.load(directory, cache_tokens=PAGE) as model:
        for call, said in (
            (lambda: model.generate(ids_of(1, 140), max_new_tokens=2), f"the prompt does not fit the cache of {PAGE}"),
            (lambda: model.generate([5], num_beams=2, max_new_tokens=2), f"cache_tokens: {2 * PAGE}, now {PAGE}"),
            (lambda: model.generate([5], max_new_tokens=200, ignore_eos=True), rf"cache of {PAGE}"),
        ):
            with pytest.raises(InputError, match=said):
                call()
        assert model.generate([5], max_new_tokens=3).ids


def test_a_search_takes_rows_of_numbers_and_no_more(directory: Path) -> None:
    """The cache was counted before; what a step takes besides grows with the vocabulary, not with the answer."""
    with miaotui.load(directory, cache_tokens=4096) as model:
        peaks = []
        for n in (20, 20, 120):
            gc.collect()
            tracemalloc.start()
            model.generate(ids_of(1, 100), num_beams=4, max_new_tokens=n, min_new_tokens=n)
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        assert peaks[2] < peaks[1] + 100_000
        assert model.memory["allocated"] == sum(
            model.memory[part] for part in ("weights_resident", "constants", "kv_cache", "activations")
        )


def test_streams_stops_and_sequences_of_an_encoder_decoder(directory: Path) -> None:
    source = ids_of(7, 33)
    with miaotui.load(directory, cache_tokens=1024) as model:
        start = model.config.decoding.start
        whole = model.generate(source, max_new_tokens=12, ignore_eos=True)
        assert whole.timings.n_prompt == len(source) + 1
        with model.sequence(source) as text:
            first = text.generate([start], max_new_tokens=5, ignore_eos=True, forced_eos_token_id=[])
            assert first.timings.n_prompt == len(source) + 1
            rest = text.generate(max_new_tokens=7, ignore_eos=True)
            assert rest.timings.n_prompt == 0
            assert first.ids + rest.ids == whole.ids
            with text.fork() as other:
                other.truncate(4)
                assert other.generate(max_new_tokens=9, ignore_eos=True).ids == whole.ids[3:]
            best = text.generate(num_beams=2, max_new_tokens=4)
            assert text.ids == [start, *whole.ids, *best.ids]
        text = model.sequence(source)
        text.close()
        with pytest.raises(InputError, match="closed"):
            text.generate([start], num_beams=2)
        for kind in ("temperature", "top_k"):
            drawn = [model.generate(source, seed=3, max_new_tokens=9, **{kind: 5}).ids for _ in range(2)]
            assert (
                drawn[0]
                == drawn[1]
                == [t.id for t in model.tokens(source, seed=3, max_new_tokens=9, **{kind: 5}) if t.id is not None]
            )
        stream = model.tokens(source, max_new_tokens=12, ignore_eos=True)
        got = [next(stream).id for _ in range(3)]
    assert got == whole.ids[:3]
    with pytest.raises(InputError, match="closed"):
        next(stream)


def test_more_beams_than_anything_holds_are_refused_at_once(directory: Path) -> None:
    """Before there is a list for each."""
    with miaotui.load(directory, cache_tokens=3 * PAGE) as model:
        tracemalloc.start()
        try:
            with pytest.raises(InputError, match="num_beams=1000000:"):
                model.generate([5, 6], num_beams=10**6, max_new_tokens=3)
            assert tracemalloc.get_traced_memory()[1] < 2**22
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize("penalty", [1e308, 60.0, -1e308])
def test_a_length_penalty_that_no_float32_holds_is_refused(directory: Path, penalty: float) -> None:
    with miaotui.load(directory) as model, pytest.raises(InputError, match=r"length_penalty=.*nearer to 0"):
        model.generate([5, 6], num_beams=2, max_new_tokens=9, length_penalty=penalty)
