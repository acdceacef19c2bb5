"""Texts longer than the context: windows are what a NumPy reference says, and the same bits however the text came."""

from __future__ import annotations

import threading
import tracemalloc
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import miaotui
import numpy as np
import pytest
import soak
from checkpoints import Drawn, write_checkpoint
from helpers import empty_caches, open_weights
from hypothesis import example, given, settings
from hypothesis import strategies as st
from miaotui.errors import InputError
from miaotui.runtime.forward.decoder import decoder
from miaotui.runtime.kvcache import PAGE
from miaotui.runtime.overflow import _bf16
from miaotui.runtime.reference import Reference
from miaotui.runtime.rope import LONGEST, rope_tables
from miaotui.runtime.sampling import Sampler, SamplingParams
from miaotui.tools import demo
from tolerance import bound

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from miaotui.runtime.spec import Config, Weights

N_VOCAB, CONTEXT, SINKS = 53, 2 * PAGE + 72, 4
CONFIG = {
    "model_type": "llama", "vocab_size": N_VOCAB, "hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": CONTEXT,
    "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": None,
}  # fmt: skip
MISTRAL = CONFIG | {"model_type": "mistral"}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": CONTEXT // 2}
MIXED = CONFIG | {
    "model_type": "qwen3", "head_dim": 6, "use_sliding_window": True, "sliding_window": 40, "num_hidden_layers": 3,
    "max_window_layers": 0, "layer_types": ["sliding_attention", "full_attention", "full_attention"],
}  # fmt: skip
MODELS: dict[str, dict[str, Any]] = {
    "plain": CONFIG,
    "scaled": CONFIG | {"rope_scaling": LLAMA3},
    "yarn": CONFIG | {"rope_scaling": YARN},
    "mixed": MIXED,
    "wide window": MISTRAL | {"sliding_window": CONTEXT - 20},  # which reaches to what was left out
}
WINDOW: dict[str, Any] = {"overflow": "window"}
DRAWN: dict[str, Any] = {"temperature": 1.2, "seed": 5, "repetition_penalty": 1.1}


def written(path: Path, config: dict[str, Any]) -> Path:
    write_checkpoint(path, Drawn(config, "F32", 11))
    return path


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("plain"), CONFIG)


@pytest.fixture(scope="module")
def model(directory: Path) -> Iterator[miaotui.Model]:
    with miaotui.load(directory, threads=2, prefill_chunk=40, cache_tokens=3 * CONTEXT) as model:
        yield model


def ids_of(seed: int, n: int) -> list[int]:
    return [int(i) for i in np.random.default_rng(seed).integers(2, N_VOCAB, n)]


def left_out(p: int) -> int:
    """Tokens that token `p` finds left out: whole pages, once the context is full."""
    return 0 if p < CONTEXT else (p - CONTEXT) // PAGE * PAGE + PAGE


class Streaming(Reference):
    """A whole text at once, as the paper says it: keys are rotated by their places in the cache, for every query anew.

    Keys and queries reach the attention without rotation.
    """

    table: Any = None

    def rope(self, x: np.ndarray, table: Any, heads: int) -> np.ndarray:  # noqa: ARG002 - as the op
        self.table = table
        return x

    rope_part = rope

    def attention_biased(self, layer: int, q: np.ndarray, heads: int, kv_heads: int, **how: Any) -> np.ndarray:
        t, window, bias = len(q), how["window"], how.get("bias")
        k, v = (np.repeat(c, heads // kv_heads, axis=1) for c in self.caches[layer])
        q, out = q.reshape(t, heads, -1), np.empty((t, heads, v.shape[-1]))
        for p in range(t):
            gap = left_out(p)
            seen = np.arange(max(gap, p - window + 1), p + 1) if window is not None else np.arange(gap, p + 1)
            if window is None and gap:
                seen[:SINKS] = range(SINKS)
            places = np.arange(p + 1 - gap)[-len(seen) :]
            turns = self.turns(places, gap if window is None else 0)
            s = np.einsum("hd,shd->hs", self.at(q[p : p + 1], turns[-1:])[0], self.at(k[seen], turns)) * how["scale"]
            if bias is not None:
                s = s + bias.exact((places if bias.by_key else places - places[-1])[None])[:, 0]
            e = np.exp(s - s.max(-1, keepdims=True))
            out[p] = np.einsum("hs,shd->hd", e / e.sum(-1, keepdims=True), v[seen])
        return out.reshape(t, -1)

    def turns(self, places: np.ndarray, gap: int) -> np.ndarray:  # noqa: ARG002 - of a wrong one, below
        """Positions by which keys are rotated, the query's the last."""
        return places

    def at(self, x: np.ndarray, places: np.ndarray) -> np.ndarray:
        """[n, heads, d], rotated by the places of their rows."""
        if self.table is None:
            return x
        there, rope, out = Reference(np.zeros(1), 0, [], 0), self.table.rope, []
        whole = rope.d_rotary == x.shape[-1] and not rope.interleaved
        rotate = Reference.rope if whole else Reference.rope_part
        for start, stop in runs(places):
            there.start = int(places[start])
            rows = x[start:stop].reshape(stop - start, -1)
            out.append(rotate(there, rows, self.table, x.shape[1]).reshape(x[start:stop].shape))
        return np.concatenate(out)


def runs(places: np.ndarray) -> list[tuple[int, int]]:
    """Where consecutive numbers begin and end."""
    cuts = [0, *(np.flatnonzero(np.diff(places) != 1) + 1).tolist(), len(places)]
    return list(pairwise(cuts))


def reference(config: Config, weights: Weights, ids: list[int]) -> np.ndarray:
    """float64 logits of every position."""
    ops = Streaming(np.array(ids), 0, empty_caches(config), len(ids))
    logits = decoder(ops, config, weights, rope_tables(config, CONTEXT))[1]
    assert logits is not None
    return logits


def exact(directory: Path, ids: list[int]) -> np.ndarray:
    return reference(*open_weights(directory), ids)


@pytest.mark.parametrize("kind", ["plain", *(pytest.param(k, marks=pytest.mark.ci) for k in MODELS if k != "plain")])
def test_logits_are_those_of_the_reference(kind: str, tmp_path: Path) -> None:
    """Over three windows; where nothing is left out yet they are those of a plain text, bit for bit."""
    directory, ids = written(tmp_path, MODELS[kind]), ids_of(1, 4 * CONTEXT)
    wanted = exact(directory, ids)
    with miaotui.load(directory, threads=2, prefill_chunk=48, cache_tokens=2 * CONTEXT) as model:
        assert model.n_context == CONTEXT
        near = bound("model", "f32", model.config.n_layers, scale=float(np.abs(wanted).max()))
        with model.sequence(overflow="window") as text:
            at = 0
            for n in (1, CONTEXT - 2, 1, 1, 1, 126, 1, 1, 50, 2 * PAGE - 50, 1, 3 * PAGE):
                got = text.feed(ids[at : at + n])
                at += n
                assert np.abs(got - wanted[at - 1]).max() <= near, at
                if at <= CONTEXT:
                    assert got.tobytes() == model.last_logits([ids[:at]])[0].tobytes()
        assert at > 2 * CONTEXT


def test_the_reference_is_no_plain_model(directory: Path) -> None:
    """Or the test above could not fail: sinks, places and what is left out all matter."""
    ids = ids_of(1, CONTEXT + 200)
    config, weights = open_weights(directory)
    wanted = reference(config, weights, ids)[-1]

    class Unmoved(Streaming):
        """Sinks are as far away as they are in the text."""

        def turns(self, places: np.ndarray, gap: int) -> np.ndarray:
            return np.concatenate([places[:SINKS], places[SINKS:] + gap])

    ops = Unmoved(np.array(ids), 0, empty_caches(config), 1)
    other = decoder(ops, config, weights, rope_tables(config, CONTEXT))[1]
    assert other is not None
    near = bound("model", "f32", config.n_layers, scale=float(np.abs(wanted).max()))
    assert np.abs(other[-1] - wanted).max() > 10 * near
    cut = reference(config, weights, ids[:SINKS] + ids[left_out(len(ids) - 1) + SINKS :])[-1]
    assert np.abs(cut - wanted).max() > 10 * near  # what was left out was seen by those that stayed


@pytest.mark.parametrize("how", [{}, DRAWN], ids=["greedy", "drawn"])
def test_answers_are_those_of_the_reference(how: dict[str, Any], model: miaotui.Model, directory: Path) -> None:
    """Also that the draw's key goes on counting tokens from the prompt's first."""
    prompt, n = ids_of(2, CONTEXT - 30), 2 * PAGE
    got = model.generate(prompt, max_new_tokens=n, overflow="window", **how)
    assert (len(got.ids), got.finish_reason) == (n, "length")
    rows = exact(directory, prompt + got.ids)
    sampler = Sampler(N_VOCAB, SamplingParams(do_sample=bool(how), **how)) if how else None
    for i, token in enumerate(got.ids):
        row = rows[len(prompt) + i - 1].astype(np.float32)
        if sampler is None:
            assert token == int(row.argmax()), i
        else:
            sampler.observe(prompt + got.ids[:i] if i == 0 else got.ids[i - 1 : i])
            assert token == sampler.draw(row, len(prompt) + i), i


@pytest.mark.parametrize("kv_cache", ["f32", *(pytest.param(k, marks=pytest.mark.ci) for k in ("bf16", "int8"))])
def test_bits_do_not_depend_on_how_the_text_came(directory: Path, kv_cache: str) -> None:
    """Threads, chunks, pieces; next to others in one pass; forked; computed again after its pages were taken."""
    ids, ends = ids_of(3, 2 * CONTEXT + 40), ids_of(4, 40)
    with miaotui.load(directory, threads=1, prefill_chunk=128, kv_cache=kv_cache) as one:
        with one.sequence(overflow="window") as text:
            wanted = text.feed(ids).tobytes()
            last = text.feed(ends).tobytes()
        answer = one.generate(ids, max_new_tokens=20, **WINDOW, **DRAWN).ids
    with miaotui.load(directory, threads=2, prefill_chunk=33, kv_cache=kv_cache, cache_tokens=3 * CONTEXT) as model:
        with model.sequence(overflow="window") as text:
            at = 0
            for n in (1, CONTEXT - 1, 1, 100, 27, 1, len(ids)):
                got = text.feed(ids[at : at + n])
                at += n
            assert got.tobytes() == wanted
            with text.fork() as twin, text.fork() as other:
                assert twin.feed(ends).tobytes() == last
                other.feed(ids_of(5, PAGE + 3))
                assert text.feed(ends).tobytes() == last
                model.session.turn(lambda: model.session.pages.release(text.table))
                assert text.generate(max_new_tokens=3, **WINDOW).ids == twin.generate(max_new_tokens=3, **WINDOW).ids
                text.truncate(len(ids) + 5)
                assert text.feed(ends[5:]).tobytes() == last
                text.truncate(CONTEXT // 2)  # long gone
                assert text.feed(ids[CONTEXT // 2 :]).tobytes() == wanted
        many = model.generate([ids_of(6, 50), ids, ids_of(7, CONTEXT - 3), ids], max_new_tokens=20, **WINDOW, **DRAWN)
        assert [many[1].ids, many[3].ids] == [answer, answer]
        assert model.generate(ids, max_new_tokens=20, n=2, **WINDOW, **DRAWN).ids == answer
        held = list(model.session.pages.n_free)
        model.session.turn(model.session.pages.recount)
        assert model.session.pages.n_free == held


@pytest.mark.ci
@settings(max_examples=6)
@given(sizes=st.lists(st.integers(1, 2 * PAGE), min_size=2, max_size=8), cut=st.integers(0, 10**6))
def test_pieces_forks_and_cuts_leave_the_bits(model: miaotui.Model, sizes: list[int], cut: int) -> None:
    """5 s."""
    ids = ids_of(sum(sizes), sum(sizes))
    with model.sequence(overflow="window") as whole, model.sequence(overflow="window") as text:
        wanted, at = whole.feed(ids), 0
        for n in sizes:
            got = text.feed(ids[at : at + n])
            at += n
        assert got.tobytes() == wanted.tobytes()
        with text.fork() as twin:
            twin.truncate(cut % len(ids))
            assert twin.feed(ids[cut % len(ids) :]).tobytes() == wanted.tobytes()


def test_texts_that_outgrow_the_context_take_each_others_pages(directory: Path) -> None:
    """A cache of one context, three texts that all want it: each is computed again as often as it takes."""
    prompts, n = [ids_of(seed, CONTEXT - 10 - seed) for seed in (8, 9, 10)], 60
    with miaotui.load(directory, threads=1, cache_tokens=3 * CONTEXT) as roomy:
        wanted = [roomy.generate(p, max_new_tokens=n, **WINDOW, **DRAWN).ids for p in prompts]
    with miaotui.load(directory, threads=2, prefill_chunk=50) as model:
        assert [out.ids for out in model.generate(prompts, max_new_tokens=n, **WINDOW, **DRAWN)] == wanted
        got: dict[int, list[int]] = {}

        def answer(i: int) -> None:
            got[i] = model.generate(prompts[i], max_new_tokens=n, **WINDOW, **DRAWN).ids

        threads = [threading.Thread(target=answer, args=(i,)) for i in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [got[i] for i in range(3)] == wanted


def held(model: miaotui.Model) -> list[int]:
    """Pages that somebody holds, in each group."""
    return [model.session.pages.n_pages - n for n in model.session.pages.n_free]


def check_memory(directory: Path, n: int, kv_cache: str = "f32") -> None:
    """A text of `n` tokens takes the pages of a context, and nothing else grows but its ids."""
    with miaotui.load(directory, threads=1, kv_cache=kv_cache) as model:
        text, most, sizes = model.sequence(overflow="window"), -(-CONTEXT // PAGE), list[int]()
        tracemalloc.start()
        try:
            for i, _ in enumerate(text.tokens(ids_of(0, CONTEXT), max_new_tokens=n, temperature=1.0, seed=1)):
                assert held(model)[0] in {most - 1, most}
                if i % max(1, n // 8) == n // 16:
                    sizes.append(tracemalloc.get_traced_memory()[0])
        finally:
            tracemalloc.stop()
        assert len(text) == CONTEXT + n
        assert sizes[-1] - sizes[1] < 200 * n + 2**16, sizes  # an id is in the text, and among those that were drawn
        assert model.memory["allocated"] == model.session.backend.arena.nbytes + model.memory["constants"] + (  # type: ignore[attr-defined]
            model.memory["weights_resident"])  # fmt: skip
        soak.count("tokens", n)


@pytest.mark.ci
def test_three_windows_take_the_memory_of_one(directory: Path) -> None:
    """1 s."""
    check_memory(directory, 3 * CONTEXT)


@pytest.mark.soak("windows")
@pytest.mark.parametrize("kv_cache", ["f32", "int8"])
def test_fifty_thousand_tokens_take_the_memory_of_one_context(directory: Path, kv_cache: str) -> None:
    check_memory(directory, 50_000, kv_cache)


@pytest.mark.ci
def test_sliding_windows_release_their_pages_in_the_engine(tmp_path: Path) -> None:
    """2 s. Without any overflow: of a text that fills its context a layer's window holds what it sees, and a page."""
    window, context = PAGE // 2, 8 * PAGE
    directory = written(tmp_path, MISTRAL | {"sliding_window": window, "max_position_embeddings": context})
    with miaotui.load(directory, threads=2, prefill_chunk=PAGE) as model, model.sequence() as text:
        text.feed(ids_of(1, PAGE))
        for i, _ in enumerate(text.tokens(max_new_tokens=context - PAGE)):
            assert held(model)[0] <= 2, i
        assert len(text) == context
        rest = ids_of(2, 2 * context)
        others = model.generate([rest[:context], rest[7:context]], max_new_tokens=5)  # both at once in 8 pages
        assert [o.ids for o in others] == [
            model.generate(p, max_new_tokens=5).ids for p in (rest[:context], rest[7:context])
        ]


# ------------------------------------------------------------------------------------------------ the prompt is cut


@pytest.mark.parametrize(("n", "kept"), [(16, CONTEXT - 15), (1, CONTEXT), (0, CONTEXT), (None, CONTEXT // 2 + 1)])
def test_a_cut_prompt_is_as_one_that_was_given_so(model: miaotui.Model, n: int | None, kept: int) -> None:
    ids, how = ids_of(20, CONTEXT + 90), {"max_new_tokens": n, **DRAWN}
    got, wanted = model.generate(ids, overflow="truncate-left", **how), model.generate(ids[-kept:], **how)
    assert (got.ids, got.finish_reason, got.timings.n_prompt) == (wanted.ids, wanted.finish_reason, kept)
    short = ids[:kept]
    assert model.generate(short, overflow="truncate-left", **how).ids == model.generate(short, **how).ids


def test_a_cut_prompt_keeps_its_bos_and_leaves_what_is_there(model: miaotui.Model) -> None:
    ids, how = [1, *ids_of(21, CONTEXT + 90)], {"max_new_tokens": 9, **DRAWN}
    got = model.generate(ids, overflow="truncate-left", **how)
    assert got.ids == model.generate([1, *ids[-(CONTEXT - 9) :]], **how).ids
    before = ids_of(22, 30)
    with model.sequence(overflow="truncate-left") as text, model.sequence() as other:
        for each, prompt in ((text, ids), (other, ids[-(CONTEXT - 8 - 30) :])):
            each.feed(before)
            each.generate(prompt, **how)
        assert text.ids == other.ids
        assert len(text) == CONTEXT + 1
        with pytest.raises(InputError, match=r"overflow='truncate-left': the text has 329 tokens of a context of 328"):
            text.generate([5], **how)
        assert text.ids == other.ids


# ------------------------------------------------------------------------------------------------ what is refused


def test_without_overflow_a_text_ends_with_its_context(model: miaotui.Model) -> None:
    ids = ids_of(23, CONTEXT)
    assert model.generate(ids[:-3], max_new_tokens=None).finish_reason == "context"
    with pytest.raises(InputError, match=r"1 more than the context of 328.*or see overflow"):
        model.generate([*ids, 5], overflow="error")
    with model.sequence() as text, pytest.raises(InputError, match=r"model.sequence\(overflow='window'\)"):
        text.feed([*ids, 5])
    with model.sequence(overflow="window") as text:
        text.feed([*ids, 5])
        with pytest.raises(InputError, match="more than the context of 328"):
            text.generate(overflow="error")
        assert text.generate(max_new_tokens=2).finish_reason == "length"
        with pytest.raises(InputError, match=r"echo: a text of 3\d\d tokens, which outgrows the context of 328"):
            text.generate([5], echo=True)
        assert len(text) == CONTEXT + 3
        with pytest.raises(InputError, match=rf"more than the context of {LONGEST}"):
            text.feed([5] * LONGEST)
    for wrong in ("windows", 3, True):
        with pytest.raises(InputError, match=r"overflow=.*expected one of error, window, truncate-left"):
            model.generate([1], overflow=wrong)  # type: ignore[call-overload]
        with pytest.raises(InputError, match=r"overflow=.*expected one of error, window, truncate-left"):
            model.sequence(overflow=wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="num_beams=2: beams end where the context is full; leave out overflow"):
        model.generate([1], overflow="window", num_beams=2)


REFUSED = {
    "gpt2": ({"model_type": "gpt2", "n_positions": 300, "n_embd": 12, "n_layer": 1, "n_head": 3, "n_inner": 7,
              "vocab_size": 53}, "gpt2 adds a row for each position"),
    "dynamic": (CONFIG | {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, r"a text's length \(dynamic\)"),
    "short": (CONFIG | {"max_position_embeddings": 2 * PAGE - 1}, "the context of 255 is too short, expected 256"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_models_whose_texts_cannot_outgrow_the_context_say_why(kind: str, tmp_path: Path) -> None:
    config, says = REFUSED[kind]
    with miaotui.load(written(tmp_path, config)) as model:
        for call in (
            lambda: model.generate([5], overflow="window"),
            lambda: next(model.stream([5], overflow="window")),
            lambda: model.sequence(overflow="window"),
        ):
            with pytest.raises(InputError, match=f"overflow='window': .*{says}"):
                call()
        ids = [int(i) for i in np.random.default_rng(0).integers(2, 53, model.n_context + 9)]
        cut = model.generate(ids, overflow="truncate-left", max_new_tokens=5)
        assert cut.ids == model.generate(ids[-(model.n_context - 4) :], max_new_tokens=5).ids


def test_an_encoder_decoder_says_what_to_shorten() -> None:
    with miaotui.load(demo.path("dates")) as model:
        long = " ".join(["the first of May"] * 500)
        for overflow in ("window", "truncate-left"):
            for text in ("the first of May", long):
                with pytest.raises(InputError, match=f"overflow='{overflow}': of decoders only; shorten what the enc"):
                    model.generate(text, overflow=overflow)
            with pytest.raises(InputError, match=f"overflow='{overflow}': of decoders only"):
                model.sequence("the first of May", overflow=overflow)
            with model.sequence("the first of May") as text, pytest.raises(InputError, match="of decoders only"):
                text.generate([1], overflow=overflow)
        plain = model.generate("the first of May", overflow="error", max_new_tokens=5)
        assert plain.ids == model.generate("the first of May", max_new_tokens=5).ids


@pytest.mark.ci
def test_keys_that_are_normed_after_their_rotation_cannot_be_turned(tmp_path: Path) -> None:
    """2 s."""
    decoders = pytest.importorskip("test_decoders")
    decoders.made(decoders.small("hunyuan_v1_dense", max_position_embeddings=CONTEXT), tmp_path)
    with (
        miaotui.load(tmp_path) as model,
        pytest.raises(InputError, match=r"overflow='window': hunyuan_v1_dense normalises its keys after"),
    ):
        model.generate([5], overflow="window")


@pytest.mark.ci
@pytest.mark.parametrize("family", ["bloom", "falcon", "mpt", "gptj", "cohere", "glm", "gemma3_text"])
def test_distances_are_those_inside_the_cache_for_others_too(family: str, tmp_path: Path) -> None:
    """3 s each. ALiBi by key and by distance; rotations of a part of a head, of neighbours; several at once."""
    decoders = pytest.importorskip("test_decoders")
    names = ("max_position_embeddings", "n_positions", "seq_length", "max_seq_len")
    kinds = ["sliding_attention", "full_attention"] * 2
    decoders.made(decoders.small(family, layer_types=kinds, **dict.fromkeys(names, CONTEXT)), tmp_path)
    ids = ids_of(30, CONTEXT + 200)
    config, weights = open_weights(tmp_path)
    assert (len(config.ropes) > 0) == (family not in {"bloom", "falcon", "mpt"})
    wanted = reference(config, weights, ids)
    near = bound("model", "f32", config.n_layers, scale=float(np.abs(wanted).max()))
    with (
        miaotui.load(tmp_path, threads=2, max_context=CONTEXT) as model,
        model.sequence(overflow="window") as text,
    ):
        for start, stop in pairwise((0, CONTEXT, CONTEXT + 1, CONTEXT + 70, len(ids))):
            assert np.abs(text.feed(ids[start:stop]) - wanted[stop - 1]).max() <= near, stop
    ops = Reference(np.array(ids), 0, empty_caches(config), 1)
    plain = decoder(ops, config, weights, rope_tables(config, len(ids)))[1]
    assert plain is not None
    assert np.abs(plain[-1] - wanted[-1]).max() > 10 * near


@given(st.integers(0, 2**32 - 1))
@example(0x7F800001)  # a NaN whose upper half is infinity
@example(0xFFFFFFFF)
@example(0x7F7FFFFF)
def test_a_key_is_rounded_to_the_nearest_and_nan_is_a_quiet_one_of_its_sign(bits):
    x = np.array([bits], np.uint32).view(np.float32)
    got = int(_bf16(x)[0])
    if np.isnan(x[0]):
        assert (got & 0x7FC0, got >> 15) == (0x7FC0, bits >> 31)
    else:
        below, above = bits & 0xFFFF0000, (bits & 0xFFFF0000) + 0x10000
        nearest = min((below, above), key=lambda to: (abs(bits - to), to >> 16 & 1))
        assert got == nearest >> 16
