"""SynthID's watermark: transformers' bits and scores, by its definition, and in answers of every kind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import miaotui
import numpy as np
import pytest
from checkpoints import Drawn, write_checkpoint
from hypothesis import given
from hypothesis import strategies as st
from miaotui.errors import InputError
from miaotui.loader.generation import APPLIED
from miaotui.runtime.sampling import Sampler, SamplingParams
from miaotui.runtime.synthid import MOST_KEYS, Tournament, _table, hash_of, margins
from miaotui.runtime.watermark import watermark_from
from pruning import seven

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KEYS = [654, 400, 836, 123, 340, 443, 597, 160, 57]
HOW: dict[str, Any] = {"ngram_len": 5, "keys": KEYS}
IDS = [1, 9, 30, 2, 14]
#: Of transformers 5.24 and torch 2.13: the table's first bits; g of three n-grams of a text; g of the first 40 ids.
TABLE = "011011111110010000010110011110101011011001011111"
TEXT, OF_TEXT = [11, 49151, 7, 0, 300, 12, 5], [[0, 0, 1, 1, 0], [0, 0, 1, 0, 0], [0, 0, 0, 1, 0]]
OF_IDS = [
    "0011110011101111010110010000111100111010",
    "0110110100000110010111100110111100110110",
    "0010100001010110111010101110100111001101",
    "1101001010011101011100111110010111000101",
    "0101101011010000110001110011111010101111",
]
#: What differs in how contexts are hashed, remembered and skipped.
KINDS: list[dict[str, Any]] = [
    {"ngram_len": 3, "keys": [5, 2**63 - 1, -(2**63), 11, 999, 3]},
    {"ngram_len": 5, "keys": list(range(30)), "skip_first_ngram_calls": True, "sampling_table_size": 1000},
    {"ngram_len": 2, "keys": [3], "context_history_size": 2, "sampling_table_seed": 2**40 + 5},
    {"ngram_len": 1, "keys": [3, 4]},
    {"ngram_len": 1, "keys": [3, 4], "context_history_size": 0},
    {"ngram_len": 2, "keys": [3, 9], "debug_mode": True, "context_history_size": 1},
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[miaotui.Model]:
    path = tmp_path_factory.mktemp("m")
    write_checkpoint(path, Drawn({**seven(16), "num_hidden_layers": 1}))
    with miaotui.load(path, cache_tokens=2048, threads=1) as loaded:
        yield loaded


# ---------------------------------------------------------------------------------------------- bits and scores
def test_bits_are_those_of_transformers() -> None:
    assert "".join(map(str, _table(0, 65536)[:48].astype(int))) == TABLE
    how = Tournament(5, tuple(KEYS[:5]))
    for at, wanted in enumerate(OF_TEXT):
        g = how.layers(hash_of(TEXT[at : at + 4]), np.array([TEXT[at + 4]]))
        assert [int(each[0]) for each in g] == wanted
    g = how.layers(hash_of(TEXT[:4]), np.arange(40))
    assert ["".join(map(str, each.astype(int))) for each in g] == OF_IDS


@pytest.mark.ci  # 3 s
@pytest.mark.parametrize("how", KINDS, ids=range(len(KINDS)))
def test_scores_are_those_of_transformers(how: dict[str, Any]) -> None:
    """transformers' in float64: ours are what float32 makes of these. In float32 its m loses what 1 - m needs."""
    torch = pytest.importorskip("torch")
    processors = pytest.importorskip("transformers.generation.logits_process")
    rest = {"context_history_size": 1024, "sampling_table_seed": 0, "sampling_table_size": 2**16}
    theirs = processors.SynthIDTextWatermarkLogitsProcessor(**{**rest, **how}, device="cpu")
    rng, text, n_vocab = np.random.default_rng(1), [7, 8], 50
    ours = watermark_from(how, n_vocab).begin()
    ours.observe(text, answer=False)
    for _ in range(25):
        x = (rng.standard_normal(n_vocab) * 4).astype(np.float32)
        out = [] if "debug_mode" in how else [3, 9]
        x[out] = -np.inf
        wanted = theirs(torch.tensor([text]), torch.tensor(x)[None].double())[0].numpy()
        got = x.copy()
        ours.mark(got)
        near = wanted > -30  # what is less likely by e^40 before the tournament has no part in its sums
        assert np.allclose(got[near], wanted[near], rtol=2**-23, atol=2**-23)
        assert (got[~near] < -29).all()
        assert np.isneginf(got[out]).all()
        text.append(int(rng.integers(0, 4)))
        ours = ours.copy()
        ours.observe(text[-1:], answer=True)


@given(st.lists(st.tuples(st.floats(-8, 8, width=32), st.integers(0, 7)), min_size=1, max_size=9))
def test_a_layer_has_what_the_winner_of_two_has(drawn: list[tuple[float, int]]) -> None:
    """Two ids are drawn, and of unequal g the larger wins: by adding the chances of all pairs."""
    scores, bits = np.array([x for x, _ in drawn], np.float32), np.array([b for _, b in drawn])
    p = np.exp(scores.astype(np.float64))
    p /= p.sum()
    layers = [(bits >> i & 1).astype(np.bool_) for i in range(3)]
    for g in layers:
        wins = 1.0 * (g[:, None] > g[None, :]) + 0.5 * (g[:, None] == g[None, :])
        p = 2 * p * (wins @ p)
    assert np.allclose(np.exp(margins(scores, layers)), p, rtol=1e-9, atol=1e-12)


def test_the_tournament_is_among_what_stages_leave() -> None:
    """Temperature and top-k come first, as in transformers."""
    logits = np.random.default_rng(3).standard_normal(200).astype(np.float32) * 3
    sampler = Sampler(200, SamplingParams(do_sample=True, temperature=0.7, top_k=12, seed=1))
    sampler.marking = watermark_from(HOW, 200).begin()
    sampler.observe([1, 2], answer=False)
    sampler.observe([3, 4])
    left = np.argsort(-logits)[:12]
    p = np.exp(logits[left].astype(np.float64) / 0.7)
    p /= p.sum()
    for g in Tournament(5, tuple(KEYS)).layers(hash_of([0, 0, 3, 4]), left):
        p *= 1 + g - p[g].sum()
    ids, weights = sampler.candidates(logits, 4)
    chances = dict(zip(ids.tolist(), (weights / weights.sum()).tolist(), strict=True))
    assert np.allclose([chances.get(i, 0) for i in left.tolist()], p, rtol=1e-5, atol=1e-9)
    assert set(chances) <= set(left.tolist())


@given(st.integers(1, 4), st.integers(0, 4), st.booleans(), st.lists(st.integers(0, 1), max_size=20))
def test_a_context_that_comes_again_is_not_marked(n: int, size: int, skips: bool, text: list[int]) -> None:  # noqa: FBT001
    """By the definition: a list of hashes that zeros fill, the last in front."""
    marking = Tournament(n, (3, 8), history=size, skips=skips).begin()
    remembered = [0] * size
    for at in range(len(text) + 1):
        context = ([0] * (n - 1) + text[:at])[at:]
        row = np.linspace(0, 1, 12, dtype=np.float32)
        marking.mark(row)
        skipped = skips and at < n - 1
        assert (row[0] == 0) == (skipped or hash_of(context) in remembered)  # a marked row is of logarithms
        if not skipped:
            remembered = [hash_of(context), *remembered][:size]
        if at < len(text):
            twin = marking.copy()
            twin.observe(text[at : at + 1], answer=True)
            marking, twin = twin, marking
            twin.observe([5, 5, 5], answer=True)  # and the copy knows nothing of it


def test_a_cut_vocabulary_has_the_whole_ones_bits() -> None:
    kept = tuple(range(1, 90, 3))
    whole, cut = (watermark_from(HOW, 90, ids).begin() for ids in (None, kept))
    for marking, scale in ((whole, 1), (cut, 0)):
        marking.observe([kept[i] if scale else i for i in (3, 7, 7)], answer=True)
    row = np.full(90, -np.inf, np.float32)
    row[list(kept)] = of_cut = np.linspace(-2, 2, len(kept), dtype=np.float32)
    whole.mark(row)
    cut.mark(of_cut)
    assert np.array_equal(row[list(kept)], of_cut)


# ---------------------------------------------------------------------------------------------- answers
def mean_g(ids: list[int]) -> float:
    """What a detector looks at: of marked texts it is above a half."""
    how = Tournament(5, tuple(KEYS))
    g = [how.layers(hash_of(ids[at - 4 : at]), np.array([ids[at]])) for at in range(4, len(ids))]
    return float(np.mean(g))


def test_marked_answers_are_found_and_do_not_depend_on_how_they_are_made(model: miaotui.Model, tmp_path: Path) -> None:
    asked: dict[str, Any] = {"max_new_tokens": 60, "ignore_eos": True, "temperature": 3.0, "seed": 4}
    plain = model.generate(IDS, **asked).ids
    asked["watermarking_config"] = HOW
    marked = model.generate(IDS, **asked).ids
    assert mean_g(marked) > 0.6 > mean_g(plain) + 0.04
    assert model.generate([[3], IDS], **asked)[1].ids == marked
    assert model.generate(IDS, draft="ngram", **asked).ids == marked
    assert [token.id for token in model.tokens(IDS, **asked)] == marked
    sequence = model.sequence()
    sequence.feed(IDS[:-1])
    sequence.save(tmp_path / "text")
    for text in (sequence, model.load_sequence(tmp_path / "text")):
        assert text.generate(IDS[-1:], **asked).ids == marked


def test_what_forbids_ids_forbids_marked_ones(model: miaotui.Model) -> None:
    """transformers lets them come back with `debug_mode`, where all ids are equally likely."""
    few: dict[str, Any] = {"max_new_tokens": 20, "ignore_eos": True, "watermarking_config": {**HOW, "debug_mode": True}}
    free = model.generate(IDS, **few).ids
    barred = model.generate(IDS, suppress_tokens=free, **few).ids
    assert not set(free) & set(barred)
    beams = model.generate(IDS, num_beams=3, suppress_tokens=free, **few).ids
    assert len(beams) == 20
    assert not set(free) & set(beams)


# ---------------------------------------------------------------------------------------------- errors
def test_bad_values_are_refused(model: miaotui.Model) -> None:
    for value, said in (
        ({"ngram_len": 5}, "SynthID's watermark needs 'keys' too"), ({"keys": [1]}, "needs 'ngram_len' too"),
        ({**HOW, "x": 1}, r"unknown field 'x'; known are greenlist_ratio.*SynthID's watermark, ngram_len, keys"),
        ({**HOW, "bias": 1.0}, "'bias' is a field of green lists, and 'ngram_len' one of SynthID's watermark"),
        ({**HOW, "ngram_len": 0}, r"\['ngram_len'\]=0: expected an integer from 1 to 1024"),
        ({**HOW, "ngram_len": True}, "an integer from 1 to 1024"),
        ({**HOW, "keys": []}, rf"\['keys'\]: 0 keys found, expected 1 to {MOST_KEYS}"),
        ({**HOW, "keys": [1] * (MOST_KEYS + 1)}, "257 keys found"),
        ({**HOW, "keys": [1, 2**63]}, r"\['keys'\]\[1\]=9223372036854775808: expected an integer from -2\^63"),
        ({**HOW, "keys": [0.5]}, r"\['keys'\]\[0\]=0.5: expected an integer"), ({**HOW, "keys": 3}, "a list of 1 to"),
        ({**HOW, "keys": "12"}, "a list of 1 to"),
        ({**HOW, "sampling_table_size": 2**20 + 1}, "an integer from 1 to 1048576"),
        ({**HOW, "sampling_table_seed": -1}, r"an integer from 0 to 2\^63 - 1"),
        ({**HOW, "context_history_size": -1}, "an integer from 0"),
        ({**HOW, "debug_mode": 1}, r"\['debug_mode'\]=1: expected True or False"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=f"^watermarking_config.*{said}"):
            model.generate(IDS, max_new_tokens=1, watermarking_config=value)
        assert not APPLIED["watermarking_config"](value)  # nor is it followed where a file says it
    for value in [*KINDS, {**HOW, "keys": [1] * MOST_KEYS, "ngram_len": 1024, "sampling_table_size": 2**20}]:
        assert watermark_from(value, 90)
        assert APPLIED["watermarking_config"](value)
