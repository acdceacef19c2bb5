"""Sampling: parity with transformers' processors, laws, known answers, and refusals."""

from __future__ import annotations

import math
from dataclasses import replace
from decimal import Decimal, localcontext

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from miaotui.errors import InputError
from miaotui.runtime.sampling import Sampler, SamplingParams, exp, nucleus_part, philox, sample, uniform, unit_bits

SIZES = st.sampled_from([1, 2, 3, 7, 64, 1023, 1024, 1025, 3001])
SEEDS = st.integers(0, 2**32 - 1)


def logits_of(seed, n, *, scale=3.0, grid=8):
    """Logits on a grid of 1/grid, so that there are ties and no rounding makes more of them."""
    return (np.round(np.random.default_rng(seed).standard_normal(n) * scale * grid) / grid).astype(np.float32)


def kept(logits, params, history=()):
    sampler = Sampler(len(logits), params)
    sampler.observe(history)
    ids, weights = sampler.candidates(logits, 1)
    return ids, weights / weights.sum()


def unit(n):
    """What weights are whole numbers of, the largest being 1: how far one is off, and n times that their sum."""
    return 2.0 ** -unit_bits(n)


# --- the generator -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [  # Random123's kat_vectors, philox4x32 with 10 rounds
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_known_answers(counter, key, words):
    assert philox(counter, key) == words


@given(st.integers(), st.integers(0, 2**64), st.integers(0, 2**64))
def test_uniform_is_53_bits_in_the_unit_interval(seed, sequence, position):
    u = uniform(seed, sequence, position)
    assert 0 <= u < 1
    assert (u * 2**53).is_integer()
    assert u == uniform(seed % 2**64, sequence, position)


def test_uniform_depends_on_every_part_of_its_key():
    base = uniform(1, 2, 3)
    others = [uniform(2, 2, 3), uniform(1, 3, 3), uniform(1, 2, 4), uniform(3, 2, 1), uniform(1 + 2**32, 2, 3)]
    others += [uniform(1, 2 + 2**32, 3), uniform(1, 2, 3 + 2**32), uniform(-1, 2, 3)]
    assert len({base, *others}) == len(others) + 1


# --- exp -----------------------------------------------------------------------------------------------------------


def test_exp_against_decimals_of_forty_digits():
    x = np.concatenate([np.linspace(-64, 0, 1201), [-708, 709, 1e-300, -1e-17, 0.34657359, -0.34657360]])
    got = exp(x)
    with localcontext() as context:
        context.prec = 40
        for value, mine in zip(x.tolist(), got.tolist(), strict=True):
            true = Decimal(value).exp()
            assert abs(Decimal(mine) - true) <= Decimal(math.ulp(mine)), value


def test_exp_of_zero_is_one_and_exp_works_in_place():
    assert exp(np.zeros(3)).tolist() == [1.0] * 3
    x = np.linspace(-30, 0, 20001)
    want = exp(x)
    assert exp(x, out=x) is x
    assert np.array_equal(x, want)
    assert exp(np.empty(0)).size == 0


# --- parity --------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=150)
@given(
    seed=SEEDS,
    n=SIZES,
    temperature=st.sampled_from([0.5, 0.7, 1.0, 1.5]),
    top_k=st.sampled_from([0, 1, 2, 5, 50, 1000, 5000]),
    top_p=st.sampled_from([1e-9, 0.1, 0.5, 0.9, 0.95, 0.999, 1.0]),
    min_p=st.sampled_from([0.0, 0.01, 0.1, 0.5, 1.0]),
    penalty=st.sampled_from([1.0, 0.8, 1.1, 2.0]),
)
def test_kept_set_and_probabilities_are_transformers(seed, n, temperature, top_k, top_p, min_p, penalty):
    torch = pytest.importorskip("torch")
    hf = pytest.importorskip("transformers").generation.logits_process
    logits = logits_of(seed, n)
    history = np.random.default_rng(seed + 1).integers(0, n, 5).tolist()
    scores = hf.RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([history]), torch.from_numpy(logits)[None])
    scores = hf.TemperatureLogitsWarper(temperature)(None, scores.double())
    if top_k:
        scores = hf.TopKLogitsWarper(top_k)(None, scores)
    if top_p < 1:
        reached = torch.cumsum(scores.sort(descending=True).values.softmax(-1), -1)
        assume(float((reached - top_p).abs().min()) > 1e-9)  # a boundary that rounding decides
        scores = hf.TopPLogitsWarper(top_p)(None, scores)
    if min_p:
        scores = hf.MinPLogitsWarper(min_p)(None, scores)
    want = scores.softmax(-1)[0].numpy()
    params = SamplingParams(temperature, top_k, top_p, min_p, penalty, do_sample=True)
    ids, got = kept(logits, params, history)
    # Ours keeps the lower ids where equal scores meet a top-p boundary; transformers' sort keeps some of them.
    some = want >= 0.5 * unit(n) * want.max()
    assert len(ids) == np.count_nonzero(some)
    near = {"rtol": 1e-12 + n * unit(n), "atol": unit(n)}
    np.testing.assert_allclose(np.sort(got), np.sort(want[some]), **near)
    if top_p == 1:
        assert ids.tolist() == np.flatnonzero(some).tolist()
        np.testing.assert_allclose(got, want[ids], **near)


@given(seed=SEEDS, n=SIZES, top_p=st.floats(0.01, 0.999), grid=st.sampled_from([1, 8, 2**20]))
def test_nucleus_is_a_prefix_of_the_stable_order(seed, n, top_p, grid):
    logits = logits_of(seed, n, grid=grid)
    ids, _ = kept(logits, SamplingParams(top_p=top_p, do_sample=True))
    order = np.argsort(-logits, kind="stable")
    p = np.exp(logits[order].astype(np.float64))
    p /= p.sum()
    assert ids.tolist() == sorted(order[: len(ids)].tolist())
    assert p[: len(ids)].sum() >= top_p - 1e-9
    assert p[: len(ids) - 1].sum() <= top_p + 1e-9


# --- laws ----------------------------------------------------------------------------------------------------------


@given(seed=SEEDS, n=SIZES, position=st.integers(0, 10**6))
def test_top_k_one_cold_and_tiny_top_p_are_greedy(seed, n, position):
    logits = np.random.default_rng(seed).permutation(n).astype(np.float32)  # no ties
    best = int(logits.argmax())
    one = SamplingParams(top_k=1, do_sample=True)
    cold = SamplingParams(temperature=5e-324, do_sample=True)
    zero = SamplingParams(temperature=0, do_sample=True)
    tiny = SamplingParams(top_p=5e-324, do_sample=True)
    sharp = SamplingParams(min_p=1, do_sample=True)
    for params in (SamplingParams(), one, cold, zero, tiny, sharp):
        assert sample(logits, [], params, position=position) == best


@given(seed=SEEDS, n=SIZES, shift=st.integers(-64, 64), position=st.integers(0, 1000))
def test_shift_invariance(seed, n, shift, position):
    logits = logits_of(seed, n)
    params = SamplingParams(temperature=0.7, top_k=40, top_p=0.9, do_sample=True, seed=seed)
    shifted = logits + np.float32(shift)
    assert sample(logits, [], params, position=position) == sample(shifted, [], params, position=position)


def test_greedy_takes_the_first_of_equals():
    assert sample(np.float32([1, 3, 3, 2]), [], SamplingParams(), position=0) == 1


def test_same_key_same_token_whatever_was_drawn_before():
    logits = logits_of(0, 500)
    params = SamplingParams(do_sample=True, seed=-7)
    forwards = Sampler(500, params, sequence=3)
    backwards = Sampler(500, params, sequence=3)
    there = [forwards.draw(logits, p) for p in range(50)]
    back = [backwards.draw(logits, p) for p in reversed(range(50))][::-1]
    assert there == back == [sample(logits, [], params, position=p, sequence=3) for p in range(50)]
    assert there != [sample(logits, [], params, position=p, sequence=4) for p in range(50)]


def test_known_tokens():
    logits = (np.arange(1000, dtype=np.float32) * 37 % 101) / 16
    params = SamplingParams(temperature=0.8, top_p=0.95, do_sample=True, seed=7)
    assert [sample(logits, [], params, position=p) for p in range(8)] == [958, 412, 8, 393, 292, 338, 805, 270]


def test_frequencies_are_the_probabilities():
    logits = np.log(np.float32([0.5, 0.25, 0.125, 0.0625, 0.0625]))
    sampler = Sampler(5, SamplingParams(do_sample=True, seed=1))
    n = 20_000
    counts = np.bincount([sampler.draw(logits, p) for p in range(n)], minlength=5)
    expected = np.array([0.5, 0.25, 0.125, 0.0625, 0.0625]) * n
    assert ((counts - expected) ** 2 / expected).sum() < 18.5  # chi-square, 4 degrees, 0.1 %


def test_repetition_penalty_counts_an_id_once_and_only_seen_ids():
    logits = np.float32([2, 1.5, -1, 1])
    params = SamplingParams(repetition_penalty=2.0)
    assert sample(logits, [], params, position=0) == 0
    assert sample(logits, [0, 0, 0], params, position=3) == 1
    _, p = kept(logits, SamplingParams(repetition_penalty=2.0, do_sample=True), [0, 2, 0])
    want = np.exp([1, 1.5, -2, 1])
    np.testing.assert_allclose(p, want / want.sum(), rtol=1e-12)
    assert logits.tolist() == [2, 1.5, -1, 1]  # the session's logits are left alone


@given(seed=SEEDS, position=st.integers(0, 10**9))
def test_minus_infinity_is_never_drawn(seed, position):
    logits = np.full(100, -np.inf, np.float32)
    logits[[17, 90]] = 0
    params = SamplingParams(temperature=1e300, top_k=50, do_sample=True, seed=seed)
    assert sample(logits, [], params, position=position) in {17, 90}


def test_huge_vocabulary_is_worked_in_blocks():
    logits = logits_of(5, 152_064, grid=2**18)
    for kwargs in ({}, {"top_p": 0.9}, {"top_k": 50}, {"min_p": 0.01}, {"temperature": 3.0, "top_p": 0.999}):
        ids, p = kept(logits, SamplingParams(do_sample=True, **kwargs))
        want = np.exp(logits[ids].astype(np.float64) / kwargs.get("temperature", 1.0))
        one = unit(len(logits))
        np.testing.assert_allclose(p, want / want.sum(), rtol=1e-12 + len(logits) * one, atol=one)


@settings(deadline=None)
@given(
    seed=SEEDS, n=SIZES, shuffle=SEEDS, top_p=st.sampled_from([1.0, 0.9, 0.3]), top_k=st.sampled_from([0, 7, 1000]),
    temperature=st.sampled_from([0.1, 1.0, 50.0]),
)  # fmt: skip
def test_weights_are_whole_and_their_order_does_not_matter(seed, n, shuffle, top_p, top_k, temperature):
    logits = np.random.default_rng(seed).standard_normal(n).astype(np.float32)
    assume(len(set(logits.tolist())) == n)
    moved = np.random.default_rng(shuffle).permutation(n)
    params = SamplingParams(temperature, top_k, top_p, do_sample=True)
    ids, weights = Sampler(n, params).candidates(logits, 1)
    others, same = Sampler(n, params).candidates(logits[moved], 1)
    assert weights.dtype == np.int64
    assert weights.max() == 1 << unit_bits(n)
    assert 0 < int(weights.sum()) < 1 << 62
    assert dict(zip(ids.tolist(), weights.tolist(), strict=True)) == dict(
        zip(moved[others].tolist(), same.tolist(), strict=True)
    )


def test_the_sum_of_any_vocabulary_fits():
    for n in (1, 2, 255, 256, 257, 151_936, 2**18, 2**19 - 1):
        assert n << unit_bits(n) < 1 << 62


@settings(deadline=None)
@given(seed=SEEDS, n=st.sampled_from([1025, 3001, 20_011]), top_p=st.floats(1e-6, 0.9999), grid=st.sampled_from([1, 9]))
def test_a_nucleus_by_levels_is_that_of_a_sort(seed, n, top_p, grid):
    logits = logits_of(seed, n, grid=grid)
    _, every = Sampler(n, SamplingParams(do_sample=True)).candidates(logits, 1)
    assert len(every) == n
    ids, _ = Sampler(n, SamplingParams(top_p=top_p, do_sample=True)).candidates(logits, 1)
    order = np.argsort(-logits, kind="stable")
    assert set(ids.tolist()) == set(order[: len(ids)].tolist())
    reached = np.cumsum(every[order])
    needed = -(-int(reached[-1]) * nucleus_part(top_p) // 2**53)
    assert len(ids) == int(np.searchsorted(reached, needed)) + 1


# --- refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("temperature", v) for v in (math.nan, math.inf, -math.inf, -0.1, "1", None, True, 10**400, 1j)),
        *(("top_k", v) for v in (-1, 1.0, True, "5", math.nan)),
        *(("top_p", v) for v in (0, -0.1, 1.0001, math.nan, "x", True)),
        *(("min_p", v) for v in (-1e-9, 1.1, math.nan, None)),
        *(("repetition_penalty", v) for v in (0, -1, math.nan, math.inf, 1e-60, 1e60)),
        *(("seed", v) for v in (1.0, True, "7", math.nan)),
        *(("do_sample", v) for v in (1, "yes", None)),
    ],
)
def test_refused_parameters_are_named(name, value):
    with pytest.raises(InputError, match=f"^{name}=.*expected"):
        SamplingParams(**{name: value})


def test_numpy_scalars_are_numbers():
    params = SamplingParams(temperature=np.float32(0.5), top_k=np.int64(3), seed=np.uint8(2), do_sample=np.True_)
    assert params == SamplingParams(temperature=0.5, top_k=3, seed=2, do_sample=True)
    assert type(params.top_k) is int


def test_a_seed_that_is_not_given_is_drawn():
    one, other = SamplingParams(do_sample=True), SamplingParams(do_sample=True, seed=None)
    assert one.seed != other.seed
    assert 0 <= one.seed < 2**63
    assert one.drawn_by == one.seed == Sampler(9, one).seed
    assert replace(one, top_k=3).seed == one.seed
    logits = np.zeros(1000, np.float32)
    again = SamplingParams(do_sample=True, seed=one.seed)
    assert again == one
    for position in range(9):
        assert sample(logits, [], again, position=position) == sample(logits, [], one, position=position)
    for greedy in (SamplingParams(), SamplingParams(do_sample=True, temperature=0), SamplingParams(seed=None)):
        assert greedy.seed is greedy.drawn_by is None
    assert SamplingParams(seed=7).drawn_by is None


@pytest.mark.parametrize("do_sample", [False, True])
@pytest.mark.parametrize(
    ("bad", "word"), [(math.nan, "are not numbers"), (math.inf, r"hold \+inf"), (None, "are all -inf")]
)
def test_damaged_logits(do_sample, bad, word):
    logits = np.zeros(10, np.float32) if bad is not None else np.full(10, -np.inf, np.float32)
    logits[3] = bad if bad is not None else -np.inf
    with pytest.raises(InputError, match=f"the logits after position 6.*{word}"):
        sample(logits, [1], SamplingParams(do_sample=do_sample, repetition_penalty=1.1), position=7)


def test_wrong_shape_of_logits():
    with pytest.raises(InputError, match="shape"):
        Sampler(10, SamplingParams(do_sample=True)).draw(np.zeros(9, np.float32), 0)
