"""Sequences: what one text gets does not depend on the others, on who gave pages up, or on how it was cut."""

from __future__ import annotations

import gc
import threading
from typing import TYPE_CHECKING, Any

import miaotui
import numpy as np
import pytest
from checkpoints import Drawn, write_checkpoint
from hypothesis import given
from hypothesis import strategies as st
from miaotui.errors import InputError
from miaotui.runtime.kvcache import PAGE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONTEXT = 3 * PAGE
SAMPLED = {"temperature": 1.3, "seed": 5, "repetition_penalty": 1.1}
HOW: list[dict[str, object]] = [{}, {"kv_cache": "int8"}, {"kv_cache": "bf16"}]


def written(path: Path, **changes: object) -> Path:
    config = {
        "model_type": "mistral", "vocab_size": 53, "hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": CONTEXT, "sliding_window": None,
        **changes,
    }  # fmt: skip
    write_checkpoint(path, Drawn(config, "F32", 11))
    return path


@pytest.fixture(scope="module", params=["full", "windowed"])
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    window = {"sliding_window": PAGE // 2} if request.param == "windowed" else {}
    return written(tmp_path_factory.mktemp(request.param), **window)


@pytest.fixture(scope="module")
def model(directory: Path) -> Iterator[miaotui.Model]:
    with miaotui.load(directory, threads=2, prefill_chunk=40) as model:
        yield model


def ids_of(seed: int, n: int) -> list[int]:
    return [int(i) for i in np.random.default_rng(seed).integers(0, 53, n)]


def free(model: miaotui.Model) -> list[int]:
    """Pages that somebody holds, once what was dropped is collected; not those kept for texts that begin alike."""
    gc.collect()
    model.session.last_logits([[1]])
    for table in model.session.kept:
        model.session.pages.release(table)
    model.session.step([1], 0)
    return [model.session.pages.n_pages - n for n in model.session.pages.n_free]


def test_feeding_in_pieces_leaves_the_logits_of_the_whole(model: miaotui.Model) -> None:
    ids = ids_of(1, 2 * PAGE + 5)
    wanted = model.logits(ids)
    with model.sequence() as sequence:
        at = 0
        for size in (1, 7, PAGE - 8, 1, PAGE, 4):
            got = sequence.feed(ids[at : at + size])
            at += size
            assert got.tobytes() == wanted[at - 1].tobytes()
        assert sequence.ids == ids[:at]
        assert len(sequence) == at


def test_a_fork_goes_its_own_way_and_shares_what_was_before(model: miaotui.Model) -> None:
    start, ends = ids_of(2, PAGE + 3), (ids_of(3, 9), ids_of(4, 9))
    with model.sequence() as one:
        one.feed(start)
        with one.fork() as other:
            for a, b in zip(*ends, strict=True):  # by turns, into a page that both held
                got = one.feed([a]).tobytes(), other.feed([b]).tobytes()
            assert one.ids == start + ends[0]
            assert other.ids == start + ends[1]
    assert got == tuple(model.logits(start + end)[-1].tobytes() for end in ends)


def test_truncated_text_goes_on_as_if_the_rest_had_never_been(model: miaotui.Model) -> None:
    ids = ids_of(5, 2 * PAGE + 9)
    with model.sequence() as sequence:
        sequence.feed(ids)
        for n in (2 * PAGE + 9, 2 * PAGE, PAGE + 1, 3, 0):
            sequence.truncate(n)
            assert sequence.ids == ids[:n]
            assert sequence.feed([7]).tobytes() == model.logits([*ids[:n], 7])[-1].tobytes()
            sequence.truncate(n)
        for n in (-1, 1, True, 10**30, 0.0, None, "0", [0]):
            with pytest.raises(InputError, match="truncate"):
                sequence.truncate(n)


def test_a_sequence_draws_a_seed_for_each_answer_and_returns_it(model: miaotui.Model) -> None:
    asked: dict[str, Any] = {"temperature": 5.0, "max_new_tokens": 16, "ignore_eos": True}
    start = ids_of(8, 5)
    with model.sequence() as sequence:
        one = sequence.generate(start, **asked)
        sequence.truncate(0)
        other = sequence.generate(start, **asked)
    assert one.ids != other.ids
    for out in (one, other):
        assert model.generate(start, seed=out.seed, **asked).ids == out.ids
        assert [t.seed for t in model.tokens(start, seed=out.seed, **asked)][-1] == out.seed
    assert model.generate(start, max_new_tokens=3).seed is None


@pytest.mark.parametrize("parameters", [{}, SAMPLED], ids=["greedy", "sampled"])
def test_many_open_answers_by_turns_are_those_made_alone(model: miaotui.Model, parameters: dict[str, float]) -> None:
    """There are pages for one context: whoever is idle gives his up, and is computed again."""
    prompts = [ids_of(20 + i, n) for i, n in enumerate((1, PAGE, PAGE + 1, 2 * PAGE, 5))]
    how = {"max_new_tokens": 12, "ignore_eos": True, **parameters}
    wanted = [model.generate(p, **how).ids for p in prompts]
    streams = [model.tokens(p, **how) for p in prompts]
    got: list[list[int]] = [[] for _ in prompts]
    for _ in range(12):
        for stream, ids in zip(streams, got, strict=True):
            ids.append(next(stream).id)
    assert got == wanted


def test_an_answer_in_two_parts_is_the_whole_one(model: miaotui.Model) -> None:
    prompt, how = ids_of(7, 30), {"ignore_eos": True, **SAMPLED}
    whole = model.generate(prompt, max_new_tokens=20, **how)
    with model.sequence() as sequence:
        first = sequence.generate(prompt, max_new_tokens=8, **how)
        second = sequence.generate(max_new_tokens=12, **how)
        assert first.ids + second.ids == whole.ids
        assert sequence.ids == prompt + whole.ids
        with sequence.fork() as other:
            assert other.generate(max_new_tokens=3, **how).ids == sequence.generate(max_new_tokens=3, **how).ids


@pytest.mark.parametrize("how", HOW, ids=str)
def test_a_batch_of_prompts_gives_each_its_own_bits(directory: Path, how: dict[str, object]) -> None:
    prompts = [ids_of(40 + i, n) for i, n in enumerate((1, 2, 3, 1, 16, 17, 5, 1))]
    with miaotui.load(directory, threads=2, **how) as model:
        alone = [model.logits(p)[-1].tobytes() for p in prompts]
        passes: list[int] = []
        run = model.session.backend.run
        model.session.backend.run = lambda batch, only=None: (passes.append(batch.n_sequences), run(batch, only))
        assert [row.tobytes() for row in model.last_logits(prompts)] == alone
        assert max(passes) > 1


def test_dropped_sequences_and_streams_give_their_pages_back(model: miaotui.Model) -> None:
    before = free(model)
    for _ in range(20):
        sequence = model.sequence()
        sequence.feed(ids_of(8, PAGE + 1))
        stream = model.stream(ids_of(9, 5), max_new_tokens=9)
        next(stream, None)
        model.tokens([1, 2])  # never begun
        fork = sequence.fork()
        fork.feed([3])
    del sequence, stream, fork
    assert free(model) == before


def test_threads_take_turns(model: miaotui.Model) -> None:
    prompts = [ids_of(60 + i, 3 + 11 * i) for i in range(6)]
    how = {"max_new_tokens": 10, "ignore_eos": True, **SAMPLED}
    wanted = [model.generate(p, **how).ids for p in prompts]
    got: dict[int, list[int]] = {}

    def work(i: int) -> None:
        got[i] = [t.id for t in model.tokens(prompts[i], **how)]

    workers = [threading.Thread(target=work, args=(i,)) for i in range(len(prompts))]
    for w in workers:
        w.start()
    for w in workers:
        w.join(timeout=120)
    assert [got[i] for i in range(len(prompts))] == wanted


def test_closed_ones_say_so(directory: Path) -> None:
    model = miaotui.load(directory)
    sequence, stream = model.sequence(), model.tokens([1, 2], max_new_tokens=9)
    next(stream)
    closed = model.sequence()
    closed.close()
    closed.close()
    nothing: Any = None
    for call in (
        lambda: closed.feed([1]), closed.fork, lambda: closed.truncate(0), lambda: closed.generate([1]),
        lambda: closed.save(directory / "closed"), lambda: closed.append([1]), lambda: closed.go_on_with([1]),
        closed.advance, closed.at_hand, lambda: closed.taken(nothing), lambda: closed.wanted(nothing),
    ):  # fmt: skip
        with pytest.raises(InputError, match="sequence was closed"):
            call()
    model.close()
    model.close()
    with pytest.raises(InputError, match="model was closed"):
        next(stream)
    with pytest.raises(InputError, match="model was closed"):
        sequence.feed([1])
    sequence.close()


def test_a_text_that_fits_no_context(model: miaotui.Model) -> None:
    with model.sequence() as sequence:
        sequence.feed(ids_of(10, CONTEXT - 2))
        with pytest.raises(InputError, match=f"3 ids after {CONTEXT - 2}: 1 more than the context of {CONTEXT}"):
            sequence.feed([1, 2, 3])
        with pytest.raises(
            InputError, match=r"ids: str found, .* token ids; model\.tokenizer\.encode\(text\) makes them"
        ):
            sequence.feed("a text")
        with pytest.raises(InputError, match="prompt: int found, expected a text, a list or"):
            sequence.generate(3)
        with pytest.raises(InputError, match="no token ids"):
            sequence.feed([])
        assert sequence.generate(max_new_tokens=None, ignore_eos=True).finish_reason == "context"
        assert len(sequence) == CONTEXT + 1


CALLS = st.lists(
    st.tuples(st.sampled_from("nffffgcctdx"), st.integers(0, 9), st.integers(1, PAGE + 9)), min_size=5, max_size=25
)


@given(CALLS)
def test_whatever_is_done_in_whatever_order(model: miaotui.Model, calls: list[tuple[str, int, int]]) -> None:
    """Every logit that comes back is the one of its text alone."""
    texts: list[tuple[miaotui.Sequence, list[int]]] = []
    for number, (call, which, size) in enumerate(calls):
        if call == "n" or not texts:
            texts.append((model.sequence(), []))
            continue
        sequence, ids = texts[which % len(texts)]
        if call == "c":
            texts.append((sequence.fork(), list(ids)))
        elif call == "t":
            sequence.truncate(min(size, len(ids)))
            del ids[size:]
        elif call == "d":
            texts.remove((sequence, ids))
            sequence.close()
        elif call == "x":
            assert model.last_logits([[1], [2, 3]]).shape == (2, 53)
        else:
            new = ids_of(number, min(size, CONTEXT - len(ids)))
            if call == "g" and new:
                ids += (
                    new
                    + sequence.generate(new, max_new_tokens=min(3, CONTEXT - len(ids) - len(new)), ignore_eos=True).ids
                )
            elif new:
                ids += new
                assert sequence.feed(new).tobytes() == model.logits(ids)[-1].tobytes()
        assert all(s.ids == wanted for s, wanted in texts)
    for sequence, _ in texts:
        sequence.close()


def test_who_runs_keeps_his_pages_and_others_wait(model: miaotui.Model) -> None:
    """Each needs more than half of the pages: all get their answers, and none is computed for ever."""
    prompts = [ids_of(80 + i, 2 * PAGE - 7 + i) for i in range(5)]
    how = {"max_new_tokens": 6, "ignore_eos": True, **SAMPLED}
    wanted = [model.generate(p, **how).ids for p in prompts]
    fed: list[int] = []
    run = model.session.backend.run
    got: dict[int, list[int]] = {}
    try:
        model.session.backend.run = lambda batch, only=None: (fed.append(batch.n_tokens), run(batch, only))

        def work(i: int) -> None:
            got[i] = model.generate(prompts[i], **how).ids

        workers = [threading.Thread(target=work, args=(i,)) for i in range(len(prompts))]
        for w in workers:
            w.start()
        for w in workers:
            w.join(timeout=120)
    finally:
        model.session.backend.run = run
    assert [got[i] for i in range(len(prompts))] == wanted
    # Who finds no room gives up what he has and waits: at most once for each that ends before him.
    assert sum(fed) <= (max(map(len, prompts)) + 6) * sum(range(1, len(prompts) + 1))


def test_a_larger_cache_keeps_several_texts(directory: Path) -> None:
    texts = [ids_of(90 + i, 2 * PAGE + 1) for i in range(3)]
    with miaotui.load(directory, cache_tokens=np.int64(9 * PAGE)) as model:
        assert model.session.pages.n_pages == 9
        sequences = [model.sequence() for _ in texts]
        for sequence, ids in zip(sequences, texts, strict=True):
            sequence.feed(ids)
        assert [s.table.cached for s in sequences] == [len(ids) for ids in texts]
        with miaotui.load(directory) as other:
            assert model.memory["kv_cache"] == 3 * other.memory["kv_cache"]


def test_a_smaller_cache_says_what_it_holds(directory: Path) -> None:
    with miaotui.load(directory, cache_tokens=PAGE, prefill_chunk=7) as model:
        assert model.generate([1] * (PAGE - 3), max_new_tokens=2).ids
        if None in model.session.program.groups:
            with pytest.raises(InputError, match=f"a text of {PAGE + 1} tokens does not fit the cache of {PAGE}"):
                model.logits([1] * (PAGE + 1))
        assert model.generate([1] * (PAGE - 3), max_new_tokens=2).ids
    for bad in (0, -1, 1.5, True, "many"):
        with pytest.raises(InputError, match="cache_tokens"):
            miaotui.load(directory, cache_tokens=bad)
    with pytest.raises(miaotui.MiaotuiError, match=r"cache_tokens=64: a GPU|CUDA|cuda|driver"):
        miaotui.load(directory, cache_tokens=PAGE, device="cuda")


@pytest.mark.parametrize("window", [1, 2, 5, PAGE - 1, PAGE, PAGE + 1])
def test_a_text_goes_on_where_its_window_has_just_left_a_page(tmp_path: Path, window: int) -> None:
    """Going on without a new id computes the last one again: the page that it sees may have been given back."""
    with miaotui.load(written(tmp_path, sliding_window=window), prefill_chunk=40) as model:
        for n in sorted(
            {*range(PAGE + window - 3, PAGE + window + 3), PAGE, PAGE + 1, 2 * PAGE - 1} & {*range(1, CONTEXT)}
        ):
            ids = ids_of(n, n)
            wanted = model.generate(ids, max_new_tokens=6, ignore_eos=True).ids
            logits = model.logits(ids)
            with model.sequence() as text:
                text.feed(ids)
                with text.fork() as other:
                    assert other.generate(max_new_tokens=6, ignore_eos=True).ids == wanted, (window, n)
                model.generate([1, 2, 3], max_new_tokens=2)
                assert text.generate(max_new_tokens=6, ignore_eos=True).ids == wanted, (window, n)
            model.session.step(ids, 0)
            model.session.step(ids[-1:], n - 1)
            assert model.session.logits[-1].tobytes() == logits[-1].tobytes(), (window, n)


def test_sequences_come_and_go_beside_others_that_need_their_pages(model: miaotui.Model) -> None:
    ids, wrong = ids_of(11, 2 * PAGE + 3), []
    wanted = model.logits(ids)[-1].tobytes()
    kept = [model.sequence() for _ in range(200)]
    over = threading.Event()

    def come_and_go() -> None:
        while not over.is_set():
            model.sequence().close()

    def work() -> None:
        try:
            for _ in range(6):
                with model.sequence() as one, model.sequence() as other:
                    wrong.extend(s for s in (one, other) if s.feed(ids).tobytes() != wanted)
        except BaseException as e:  # noqa: BLE001 - whatever it is, the test says it
            wrong.append(e)

    workers = [threading.Thread(target=work) for _ in range(2)]
    others = [threading.Thread(target=come_and_go) for _ in range(2)]
    for w in (*others, *workers):
        w.start()
    for w in workers:
        w.join(timeout=120)
    over.set()
    for w in others:
        w.join(timeout=120)
    assert wrong == []
    assert len(kept) == 200


def test_a_text_that_is_cut_while_it_streams_goes_on_from_what_is_left(model: miaotui.Model) -> None:
    prompt = ids_of(12, 10)
    for cut in (13, 12, 11, 10, 3):
        with model.sequence() as text:
            stream = text.tokens(prompt, max_new_tokens=9, ignore_eos=True)
            for _ in range(4):
                next(stream)
            text.truncate(cut)
            left = text.ids
            assert next(stream).id == model.generate(left, max_new_tokens=1, ignore_eos=True).ids[0], cut


def test_what_is_made_and_closed_without_a_pass_does_not_pile_up(model: miaotui.Model) -> None:
    for _ in range(1000):
        model.sequence().close()
    assert len(model.session.left) < 10
