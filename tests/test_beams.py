"""Beam search: a known table, and `transformers`' ids on random decoders and encoder-decoders."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any

import miaotui
import numpy as np
import pytest
from checkpoints import Drawn, random_tensors, write_checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st
from miaotui.runtime.beam_params import Beams
from miaotui.runtime.beams import BeamState, log_softmax
from miaotui.runtime.kvcache import PAGE
from safetensors.numpy import save_file
from test_seq2seq import ids_of, made, small_config

if TYPE_CHECKING:
    from pathlib import Path

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

#: ../shared/faults/next.md, case 4: what follows <pad>, $, a, b, c (OpenNMT/CTranslate2#1740).
TABLE = np.array([[0, 0.1, 0.5, 0.4, 0], [0, 1, 0, 0, 0], [0, 0.35, 0.25, 0.2, 0.2], [0, 0.9, 0.05, 0.03, 0.02],
                  [0, 0.5, 0.2, 0.2, 0.1]])  # fmt: skip
LETTERS = "_$abc"


def answers(how: Beams, limit: int = 4) -> list[tuple[str, float]]:
    """The table's answers."""
    logits = np.where(TABLE > 0, np.log(np.maximum(TABLE, 1e-300)), -30).astype(np.float32)
    state = BeamState(how, 5, limit, [1])
    while not state.done:
        state.advance(np.stack([log_softmax(logits[ids[-1] if ids else 0]) for ids in state.running]))
    return [("".join(LETTERS[i] for i in f.ids), round(f.score, 4)) for f in state.found()]


TWO = {
    0: [("b$", -1.0217), ("a$", -1.7430)],
    1: [("b$", -0.5108), ("a$", -0.8715)],
    2: [("b$", -0.2554), ("a$", -0.4357)],
    -1: [("b$", -2.0433), ("a$", -3.4859)],
}


@pytest.mark.parametrize("early", [True, False, "never"])
@pytest.mark.parametrize("penalty", TWO)
def test_two_beams_over_a_known_table(penalty: int, early: Any) -> None:
    wanted = TWO[penalty]
    if penalty == 2 and early == "never":
        wanted = [("b$", -0.2554), ("aac$", -0.2739)]
    assert answers(Beams(2, penalty, early, 2)) == wanted


def test_three_beams_over_a_known_table() -> None:
    assert answers(Beams(3, 1, early_stopping=True, n_return=3)) == [("b$", -0.5108), ("a$", -0.8715), ("$", -2.3026)]
    for early in (False, "never"):
        assert answers(Beams(3, 1, early, 3)) == [("b$", -0.5108), ("ab$", -0.8026), ("a$", -0.8715)]
    assert answers(Beams(3, 2, early_stopping=False, n_return=3)) == [
        ("b$", -0.2554), ("ab$", -0.2675), ("ac$", -0.3329),
    ]  # fmt: skip
    assert answers(Beams(3, 2, "never", 3)) == [("aab$", -0.2371), ("b$", -0.2554), ("ab$", -0.2675)]


def test_one_beam_is_greedy_and_misses_the_best() -> None:
    assert answers(Beams(1, 0))[0][0] == "a$"


def table_model(directory: Path) -> Path:
    """A Llama whose logits are the table's row of the last id: its layer adds nothing, its head is the table."""
    d = len(LETTERS)
    config = {
        "model_type": "llama", "vocab_size": d, "hidden_size": d, "intermediate_size": 1, "num_hidden_layers": 1,
        "num_attention_heads": 1, "head_dim": 2, "max_position_embeddings": 300, "rms_norm_eps": 0.0,
        "tie_word_embeddings": False, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 0,
    }  # fmt: skip
    zeros = random_tensors(config, 0)
    tensors = {name: np.zeros_like(x) for name, x in zeros.items()}
    for name in tensors:
        if name.endswith("norm.weight"):
            tensors[name] += 1
    tensors["model.embed_tokens.weight"] = np.eye(d, dtype=np.float32)
    tensors["model.norm.weight"] = np.full(d, d**-0.5, np.float32)  # of one 1 in d numbers the norm makes d^0.5
    tensors["lm_head.weight"] = np.where(TABLE > 0, np.log(np.maximum(TABLE, 1e-300)), -30).T.astype(np.float32)
    (directory / "config.json").write_text(json.dumps(config))
    save_file({name: np.ascontiguousarray(x) for name, x in tensors.items()}, directory / "model.safetensors")
    return directory


def test_beams_in_a_batch_of_two_prompts_are_those_of_each(tmp_path: Path) -> None:
    """Case 4, through a model whose logits are the table."""
    table_model(tmp_path)
    with miaotui.load(tmp_path, cache_tokens=2048, threads=2) as model:
        for penalty, early, n in [(p, e, n) for p in TWO for e in (True, False, "never") for n in (2, 3)]:
            how: Any = {"length_penalty": float(penalty), "early_stopping": early, "max_new_tokens": 4}
            how |= {"num_beams": n, "num_return_sequences": n}
            wanted = answers(Beams(n, penalty, early, n))
            for prompts in ([[0], [0]], [[0], [4]], [[3, 2, 0], [2], [0]]):
                got = model.generate_all(prompts, **how)
                alone = [model.generate(prompt, **how) for prompt in prompts]
                for prompt, answer, one in zip(prompts, got, alone, strict=True):
                    rows = [(a.ids, a.score, a.text) for a in (answer, *answer.alternatives)]
                    assert rows == [(a.ids, a.score, a.text) for a in (one, *one.alternatives)]
                    if prompt[-1] == 0:
                        said = [("".join(LETTERS[i] for i in ids), score) for ids, score, _ in rows]
                        assert [text for text, _ in said] == [text for text, _ in wanted]
                        assert [score for _, score in said] == pytest.approx([s for _, s in wanted], abs=1e-4)
        assert "".join(LETTERS[i] for i in model.generate([0], max_new_tokens=4).ids) == "a$"


@st.composite
def ways(draw: st.DrawFn) -> dict[str, Any]:
    """Parameters that both sides know."""
    n = draw(st.integers(2, 5))
    forced = {"forced_bos_token_id": st.sampled_from([4, 11]), "forced_eos_token_id": st.sampled_from([2, 7])}
    return draw(st.fixed_dictionaries({}, optional=forced)) | {
        "num_beams": n,
        "num_return_sequences": draw(st.integers(1, n)),
        "length_penalty": draw(st.sampled_from([-1.0, 0.0, 1.0, 2.0])),
        "early_stopping": draw(st.sampled_from([True, False, "never"])),
        "no_repeat_ngram_size": draw(st.sampled_from([0, 1, 2, 3])),
        "encoder_no_repeat_ngram_size": draw(st.sampled_from([0, 0, 1, 2])),
        "min_new_tokens": draw(st.sampled_from([0, 4])),
        "max_new_tokens": draw(st.integers(5, 14)),
        "bad_words_ids": draw(st.sampled_from([None, [[5], [7, 8]], [[6, 6]]])),
        "repetition_penalty": draw(st.sampled_from([1.0, 1.3])),
    }


def check(model: Any, ours: Any, ids: list[int], how: dict[str, Any], before: int) -> None:
    """The same ids, in the same order."""
    with torch.no_grad():
        theirs = model.generate(torch.tensor([ids]), do_sample=False, **how)
    got = ours.generate(ids, **how)
    rows = [got.ids, *(a.ids for a in got.alternatives)]
    assert len(rows) == len(theirs)
    for row, wanted in zip(rows, theirs[:, before:].tolist(), strict=True):
        assert row == wanted[: len(row)]
        assert len(row) == len(wanted) or row[-1] in ours.config.eos_ids
    scores = [got.score, *(a.score for a in got.alternatives)]
    assert scores == sorted(scores, reverse=True)


def test_beams_of_an_encoder_decoder_are_those_of_transformers(tmp_path_factory: pytest.TempPathFactory) -> None:
    directory = tmp_path_factory.mktemp("beams")
    model = made(small_config(forced_bos_token_id=4), directory, 3)
    with miaotui.load(directory, cache_tokens=1024) as ours:

        @settings(max_examples=25, deadline=None)
        @given(ways(), st.integers(0, 99))
        def holds(how: dict[str, Any], seed: int) -> None:
            check(model, ours, ids_of(seed, 1 + seed % 30), how, 1)

        holds()


def test_beams_of_a_decoder_are_those_of_transformers(tmp_path: Path) -> None:
    torch.manual_seed(5)
    config = transformers.LlamaConfig(
        vocab_size=61, hidden_size=24, num_hidden_layers=2, num_attention_heads=3, num_key_value_heads=1,
        intermediate_size=37, max_position_embeddings=400, bos_token_id=0, eos_token_id=[2, 9], pad_token_id=1,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn_like(p) * 0.3 + (p if p.dim() == 1 else 0))
    model.save_pretrained(tmp_path)
    model = model.double().eval()
    with miaotui.load(tmp_path, cache_tokens=2048, prefill_chunk=3) as ours:

        @settings(max_examples=20, deadline=None)
        @given(ways(), st.integers(0, 99))
        def holds(how: dict[str, Any], seed: int) -> None:
            how.pop("forced_bos_token_id", None)  # of encoder-decoders only
            ids = ids_of(seed, 1 + 5 * (seed % 30))
            check(model, ours, ids, how, len(ids))

        holds()
        ids = ids_of(0, 130)
        with ours.sequence() as sequence:
            first = sequence.generate(ids, num_beams=3, max_new_tokens=5)
            assert sequence.ids == ids + first.ids
            again = sequence.generate(num_beams=3, max_new_tokens=4, ignore_eos=True)
        assert again.ids == ours.generate(ids + first.ids, num_beams=3, max_new_tokens=4, ignore_eos=True).ids


def llama(path: Path, **more: Any) -> Path:
    """Three pages long."""
    config = {
        "model_type": "mistral", "vocab_size": 53, "hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 3 * PAGE, "sliding_window": None,
        "eos_token_id": None, **more,
    }  # fmt: skip
    write_checkpoint(path, Drawn(config, "F32", 11))
    return path


def test_the_last_id_that_there_is_room_for_is_the_one_that_is_asked_for(tmp_path: Path) -> None:
    how: dict[str, Any] = {"num_beams": 3, "ignore_eos": True, "max_new_tokens": 5}
    with miaotui.load(llama(tmp_path), threads=1) as model:
        for eos in (3, 7):
            answer = model.generate([1, 2, 3], forced_eos_token_id=eos, **how).ids
            assert (answer[-1], len(answer)) == (eos, 5)


def searched(model: Any, ids: list[int]) -> list[Any]:
    """Answers and scores; the beams part before the second page ends."""
    out = model.generate(ids, num_beams=4, num_return_sequences=4, max_new_tokens=30)
    return [(a.ids, a.score) for a in (out, *out.alternatives)]


@pytest.mark.parametrize("window", [None, 40])
def test_beams_that_lost_their_pages_fit_where_they_fitted(tmp_path: Path, window: int | None) -> None:
    """A page for all and one for each is what they need alone; computed again they need no more."""
    ids = ids_of(3, 2 * PAGE - 20)
    with miaotui.load(llama(tmp_path, sliding_window=window), cache_tokens=9 * PAGE) as model:
        assert model.session.pages.n_pages == 9  # 1 + 4 * 2
        wanted, rng = searched(model, ids), np.random.default_rng(0)
        turn, taken = model.session.turn, [0]

        def thief(*work: Any) -> Any:
            result = turn(*work)
            for table in list(model.session.pages.tables):
                if rng.random() < 0.3:
                    model.session.pages.release(table)
                    taken[0] += 1
            return result

        model.session.turn = thief  # type: ignore[method-assign]
        for _ in range(3):
            assert searched(model, ids) == wanted
        assert taken[0] > 20


def test_beams_next_to_other_texts_are_those_made_alone(tmp_path: Path) -> None:
    """Room for one search: another search and answers wait, or take what is idle; nobody's bits change."""
    texts = [ids_of(i, 2 * PAGE - 20) for i in range(3)]
    with miaotui.load(llama(tmp_path), cache_tokens=9 * PAGE, threads=1) as model:
        wanted = [searched(model, ids) for ids in texts]
        plain = model.generate(texts[0], max_new_tokens=9).ids
        got: list[Any] = [None] * len(texts)
        wrong, over = list[Any](), threading.Event()

        def search_one(i: int) -> None:
            got[i] = searched(model, texts[i])

        def go_on() -> None:
            while not over.is_set():
                if (ids := [t.id for t in model.tokens(texts[0], max_new_tokens=9)]) != plain:
                    wrong.append(ids)

        workers = [threading.Thread(target=search_one, args=(i,), daemon=True) for i in range(len(texts))]
        other = threading.Thread(target=go_on, daemon=True)
        for w in (*workers, other):
            w.start()
        for w in workers:
            w.join(timeout=120)
        over.set()
        other.join(timeout=120)
        assert not any(w.is_alive() for w in (*workers, other))
        assert got == wanted
        assert wrong == []


@pytest.mark.parametrize("at", [2, 5, 11])
def test_a_search_that_is_interrupted_gives_every_page_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """As it hands the beams' pages on: those that were just shared are nobody's yet."""
    with miaotui.load(llama(tmp_path), cache_tokens=9 * PAGE) as model:
        pages, calls = model.session.pages, [0]
        wanted, share = searched(model, ids_of(3, 200)), pages.share

        def struck(table: Any) -> Any:
            calls[0] += 1
            twin = share(table)
            if calls[0] == at:
                raise KeyboardInterrupt
            return twin

        with monkeypatch.context() as patch:
            patch.setattr(pages, "share", struck)
            with pytest.raises(KeyboardInterrupt):
                searched(model, ids_of(3, 200))
        model.session.step([1], 0)
        counted = list(pages.n_free)
        pages.recount()
        assert pages.n_free == counted
        assert searched(model, ids_of(3, 200)) == wanted
