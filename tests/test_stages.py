"""Stages of a draw: the definition against formulas and transformers, and the kernel against the definition."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from miaotui.errors import InputError
from miaotui.runtime import exact
from miaotui.runtime.cpu.kernels.draw_base import LOW
from miaotui.runtime.drawing import PART
from miaotui.runtime.sampling import Sampler, SamplingParams
from miaotui.runtime.sampling_params import ORDER
from miaotui.runtime.stages import Standing, staged, surprise
from test_draws import drawn, logits_of

#: One value for each parameter that asks for a stage.
ON = {
    "temperature": [0.5, 1.7, 1e-3], "top_n_sigma": [0.7, 1.5], "top_k": [1, 7, 200], "top_p": [0.3, 0.9],
    "min_p": [0.02, 1.0], "typical_p": [0.2, 0.9], "epsilon_cutoff": [3e-4, 0.02], "eta_cutoff": [3e-4, 0.05],
    "xtc_probability": [0.5, 1.0], "mirostat": [2], "dynatemp_range": [0.4, 2.0], "adaptive": [0.3, 2.0],
    "top_h": [0.3, 1.0],
}  # fmt: skip
MORE = {
    "xtc_probability": {"xtc_threshold": 0.02}, "mirostat": {"mirostat_tau": 2.0, "mirostat_eta": 0.3},
    "dynatemp_range": {"dynatemp_exponent": 1.7},
}  # fmt: skip


def left(scores, how: dict, *stages: str, chance: int = 0, mu: float = 10.0) -> list[int]:
    """Ids that stages leave."""
    return np.flatnonzero(after(scores, *stages, chance=chance, mu=mu, **how).weights).tolist()


def after(scores, *stages: str, chance: int = 0, mu: float = 10.0, **how) -> Standing:
    """A row and its temperature after stages."""
    row = Standing(np.array(scores, np.float32))
    staged(row, stages, SamplingParams(do_sample=True, seed=1, **how), chance, mu)
    return row


@settings(max_examples=300)
@given(
    seed=st.integers(0, 2**32),
    n=st.sampled_from([1, 2, 16, 33, 300, PART + 1]),
    names=st.sets(st.sampled_from(sorted(ON)), min_size=1),
    pick=st.randoms(use_true_random=False),
    grid=st.sampled_from([1, 4, 2**20]),
    hidden=st.sampled_from([0.0, 0.5]),
)
def test_the_kernel_draws_what_the_stages_leave(seed, n, names, pick, grid, hidden):
    """Any parameters in any order, five tokens long, as Mirostat remembers."""
    if {"adaptive", "dynatemp_range"} <= names:
        names = names - {"adaptive"}
    how = {name: pick.choice(ON[name]) for name in sorted(names)}
    for name in names & MORE.keys():
        how |= MORE[name]
    order = list(ORDER[:-1])
    pick.shuffle(order)
    params = SamplingParams(do_sample=True, seed=seed, sampler_order=(*order, "mirostat"), **how)
    ours, theirs = Sampler(n, params), Sampler(n, params)
    rows = logits_of(seed, (5, n), grid)
    rows[np.random.default_rng(seed).random(rows.shape) < hidden] = -np.inf
    rows[:, n // 2] = 0.5
    for position, row in enumerate(rows, 3):
        token = ours.draw(row, position)
        assert drawn(row[None], [theirs], position) == [token]
        assert np.array_equal(ours.surprises, theirs.surprises)
        ours.observe([token])
        theirs.observe([token])


@pytest.mark.parametrize("how", [{"top_k": 3}, {"top_k": 9}, {"top_p": 0.2}, {"top_p": 0.6}, {"typical_p": 0.5}])
def test_scores_are_told_apart_to_their_last_bit(how):
    """Neighbouring floats, so that only the last digits of their keys differ."""
    scores = (np.float32(1.5).view(np.int32) + np.arange(13, dtype=np.int32)).view(np.float32)
    params = SamplingParams(do_sample=True, seed=1, epsilon_cutoff=1e-9, **how)
    assert params.stages
    for seed in range(3):
        row = np.random.default_rng(seed).permutation(scores)
        samplers = [Sampler(len(row), params) for _ in range(2)]
        for position in range(30):
            assert drawn(row[None], samplers[:1], position) == [samplers[1].draw(row, position)]


@given(
    seed=st.integers(0, 2**32), how=st.sampled_from([{"temperature": 0.7}, {"top_k": 9, "top_p": 0.8}, {"min_p": 0.1}])
)
def test_the_long_way_leaves_what_the_short_one_does(seed, how):
    row = logits_of(seed, (300,), grid=4)
    short = Sampler(300, SamplingParams(do_sample=True, seed=seed, **how))
    assert not short.params.stages
    stages = tuple(name for name in ORDER if name in how)
    ids, weights = short.candidates(row, 1)
    standing = Standing(row.copy())
    staged(standing, stages, short.params, 0, 0.0)
    assert np.array_equal(np.flatnonzero(standing.weights), ids)
    assert np.array_equal(standing.weights[ids], weights)


P = np.log([0.4, 0.3, 0.15, 0.1, 0.05]).astype(np.float32)


def test_known_answers():
    """Worked out by hand, for p = .4 .3 .15 .1 .05: entropy 1.3923 nats; -log p: .916 1.204 1.897 2.303 2.996."""
    assert left(P, {"epsilon_cutoff": 0.12}, "epsilon_cutoff") == [0, 1, 2]
    assert left(P, {"epsilon_cutoff": 0.9}, "epsilon_cutoff") == [0]  # the largest stays
    assert left(P, {"eta_cutoff": 0.3}, "eta_cutoff") == [0, 1, 2]  # min(.3, sqrt(.3) e^-1.3923 = .1361)
    assert left(P, {"typical_p": 0.29}, "typical_p") == [1]  # |1.204 - 1.392| is the least
    assert left(P, {"typical_p": 0.35}, "typical_p") == [0, 1]
    assert left(P, {"typical_p": 0.75}, "typical_p") == [0, 1, 2]
    assert left([0, -1, -2, -3], {"top_n_sigma": 0.9}, "top_n_sigma") == [0, 1]  # deviation sqrt(1.25) = 1.118
    assert left([0, -1, -2, -3], {"top_n_sigma": 0.8}, "top_n_sigma") == [0]
    assert left([0, -1, -2, -3], {"top_n_sigma": 1.8}, "top_n_sigma") == [0, 1, 2]
    assert left(P, {"xtc_probability": 1.0, "xtc_threshold": 0.12}, "xtc") == [2, 3, 4]
    assert left(P, {"xtc_probability": 1.0, "xtc_threshold": 0.35}, "xtc") == [0, 1, 2, 3, 4]  # one is none too many
    assert left(P, {"xtc_probability": 0.5, "xtc_threshold": 0.12}, "xtc", chance=1 << 52) == [0, 1, 2, 3, 4]
    assert left(P, {"xtc_probability": 0.5, "xtc_threshold": 0.12}, "xtc", chance=(1 << 52) - 1) == [2, 3, 4]
    assert left([0, 0, 0, -9], {"xtc_probability": 1.0}, "xtc") == [2, 3]  # of equals the last is kept
    assert left(P, {"mirostat": 2}, "mirostat", mu=2.0) == [0, 1]  # -log2 .3 = 1.737, -log2 .15 = 2.737
    assert left(P, {"mirostat": 2}, "mirostat", mu=-1.0) == [0]
    assert [len(left(P, {"top_h": h}, "top_h")) for h in (0.1, 0.52, 0.53, 0.72, 0.73, 0.89, 0.9, 1)] == [
        1, 1, 2, 2, 3, 3, 4, 5,  # -p log p sum to .367 .728 1.012 1.243 1.392: to .263 .523 .727 .892 of it all
    ]  # fmt: skip
    assert left(np.zeros(300), {"top_h": 0.505}, "top_h") == list(range(50))  # of 100, each has 1 %
    assert left(np.zeros(300), {"top_h": 1.0}, "top_h") == list(range(100))
    assert left([-2, 5, -2, 5, 5], {"top_h": 0.7}, "top_h") == [1, 3]  # of equals the first
    assert left(P, {"top_k": 3, "top_p": 0.8}, "top_k", "top_p") == [0, 1]  # .4 + .3 of .85
    assert left(P, {"top_k": 3, "top_p": 0.8}, "top_p", "top_k") == [0, 1, 2]


def test_a_temperature_that_follows_the_entropy():
    def heated(scores, **how) -> float:
        return after(scores, "temperature", **how).temperature

    entropy = -math.fsum(math.exp(x) * x for x in map(float, P)) / math.fsum(math.exp(float(x)) for x in P)
    assert entropy == pytest.approx(1.3923, abs=1e-4)
    assert heated(P, temperature=0.9, dynatemp_range=0.5) == pytest.approx(0.4 + entropy / math.log(5), abs=1e-6)
    bent = 0.4 + (entropy / math.log(5)) ** 2.5
    assert heated(P, temperature=0.9, dynatemp_range=0.5, dynatemp_exponent=2.5) == pytest.approx(bent, abs=1e-6)
    assert heated(np.zeros(7), temperature=0.9, dynatemp_range=0.5) == pytest.approx(1.4, abs=1e-12)
    assert heated(P, temperature=0.8, adaptive=1.2) == pytest.approx(0.8 * (entropy / 1.2 - 0.5), abs=1e-6)
    assert heated(P, temperature=0.8, adaptive=0.5) == 0.8
    assert left(P, {"adaptive": 3.0, "temperature": 0.8}, "temperature") == [0]  # sharp enough: greedy


def shares(row: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """exp(x / T) / sum exp(x / T), in float64."""
    weights = np.exp((row.astype(np.float64) - row.max()) / temperature)
    return weights / weights.sum()


def entropy(row: np.ndarray) -> float:
    """-sum p log p, in nats."""
    p = shares(row)
    return -math.fsum(p[p > 0] * np.log(p[p > 0]))


@settings(max_examples=300)
@given(
    seed=st.integers(0, 2**32),
    n=st.sampled_from([1, 2, 3, 33, 300]),
    scale=st.sampled_from([1e-3, 0.3, 1, 3, 40, 1e4, 1e30]),
    grid=st.sampled_from([1, 4, 2**20]),
    hidden=st.sampled_from([0.0, 0.5, 1.0]),
    far=st.sampled_from([(), (50.0,), (9.0, 9.0), (-3e38,), (3e38, -3e38)]),
    t=st.sampled_from([0.3, 1.0, 1.7]),
    amount=st.floats(0.01, 4),
    bent=st.sampled_from([0.5, 1.0, 1.7]),
    chance=st.integers(0, 2**53 - 1),
)
def test_the_other_stages_leave_what_their_formulas_do(seed, n, scale, grid, hidden, far, t, amount, bent, chance):
    """Formulas of docs/sampling.md. Among the rows: one token, ties, tokens that are out, far ones, any spread."""
    row = logits_of(seed, (n,), grid, scale)
    row[np.random.default_rng(seed).random(n) < hidden] = -np.inf
    row[: len(far)] = far[:n]
    row[n // 2] = 0.5
    alive = np.flatnonzero(row > -np.inf)
    x = row[alive].astype(np.float64)
    # top_n_sigma: x >= max - n sigma
    kept = np.flatnonzero(after(row, "top_n_sigma", top_n_sigma=amount).alive)
    sure = 1e-6 * (x.max() - x.min())
    least = x.max() - amount * x.std()
    assert set(alive[x >= least + sure]) <= set(kept) <= set(alive[x >= least - sure]) | {int(row.argmax())}
    # xtc: of p >= threshold, at the temperature, all but the least likely; of equals the last stays
    p, threshold = shares(row, t), min(amount / 8, 1.0)
    probability = 0.25 + bent / 4
    if np.abs(p - threshold).min() > 1e-9:
        top = np.flatnonzero(p >= threshold)
        done = len(top) > 1 and chance * 2.0**-53 < probability
        gone = set(top) - {top[row[top] == row[top].min()][-1]} if done else set()
        how = {"temperature": t, "xtc_probability": probability, "xtc_threshold": threshold}
        assert left(row, how, "temperature", "xtc", chance=chance) == sorted(set(left(row, how, "temperature")) - gone)
    # top_h: of the 100 largest the first whose -p log p sum to a share of all of it, and the largest
    largest, share = np.argsort(-row, kind="stable")[:100], min(amount / 3, 1.0)
    p = shares(row[largest])
    reached = np.cumsum(-p * np.log(np.maximum(p, 1e-300)))
    kept = left(row, {"top_h": share}, "top_h")
    assert kept == sorted(largest[: len(kept)])
    least, most = (int((reached <= share * reached[-1] + off).sum()) for off in (-1e-9, 1e-9))
    assert max(1, least) <= len(kept) <= max(1, most)
    # temperatures by the entropy H: greedy at 0, where the first of the largest is left
    low, high, m = max(0.0, t - amount), t + amount, alive.size
    by_range = low + (high - low) * (entropy(row) / math.log(m)) ** bent if m > 1 else t
    for how, wanted in (
        ({"dynatemp_range": amount, "dynatemp_exponent": bent}, by_range),
        ({"adaptive": amount}, t * min(1.0, max(0.0, entropy(row) / amount - 0.5))),
    ):
        standing = after(row, "temperature", temperature=t, **how)
        if wanted < 1e-5:
            first = "adaptive" in how and entropy(row) < amount * (0.5 - 1e-9)
            assert set(np.flatnonzero(standing.weights)) <= set(np.flatnonzero(row == row.max()))
            assert not first or np.flatnonzero(standing.weights).tolist() == [row.argmax()]
        else:
            assert standing.temperature == pytest.approx(wanted, abs=1e-6)
            assert standing.weights / standing.total == pytest.approx(shares(row, standing.temperature), abs=1e-12)


def test_mirostat_follows_its_aim():
    """mu starts at twice tau; of each id that is drawn, the surprise over tau is taken off it, times eta."""
    params = SamplingParams(do_sample=True, seed=3, mirostat=2, mirostat_tau=1.5, mirostat_eta=0.2)
    sampler, mu = Sampler(5, params), 3.0
    for position in range(1, 30):
        p = np.exp(P.astype(np.float64))
        p = np.where(-np.log2(p / p.sum()) <= mu, p, 0)
        token = sampler.draw(P, position)
        assert p[token] > 0
        assert sampler.draw(P, position) == token  # again: nothing is remembered before it is observed
        mu -= 0.2 * (-math.log2(p[token] / p.sum()) - 1.5)
        sampler.observe([token])
        assert sampler.surprises[0] == pytest.approx(mu, abs=1e-6)
    assert not sampler.tells_ahead


@given(x=st.floats(-690, 690))
def test_exp_and_log_of_one_number(x):
    assert exact.exp_of(x) == pytest.approx(math.exp(x), rel=1e-15)
    if -40 <= x <= 40:
        assert exact.exp_of(x) == exact.exp(np.array([x]))[0]


@given(x=st.floats(1e-280, 1e280))
def test_log_of_one_number(x):
    assert exact.log_of(x) == pytest.approx(math.log(x), rel=4e-16, abs=4e-16)
    assert surprise(1, 8) == pytest.approx(3.0, rel=1e-15)


@given(base=st.floats(1, 2), n=st.integers(0, 200))
def test_powers(base, n):
    assert exact.power(base, n) == pytest.approx(base**n, rel=1e-13)
    assert exact.power(2.0, 5000) == math.inf


def test_two_random_numbers_have_nothing_to_do_with_each_other():
    pairs = np.array([exact.random_bits(5, 2, i) for i in range(20_000)]) * 2.0**-53
    assert [exact.uniform_bits(5, 2, i) for i in range(9)] == [exact.random_bits(5, 2, i)[0] for i in range(9)]
    assert np.abs(np.corrcoef(pairs.T)[0, 1]) < 0.03
    assert np.abs(pairs.mean(axis=0) - 0.5).max() < 0.02


@pytest.mark.parametrize("n", [20, 1000])
@pytest.mark.parametrize("seed", range(6))
def test_transformers_leaves_the_same(n, seed):
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    row = logits_of(seed, (n,))
    scores = torch.from_numpy(row)[None]
    for name, value, warper in (
        ("typical_p", 0.3, transformers.TypicalLogitsWarper), ("typical_p", 0.9, transformers.TypicalLogitsWarper),
        ("epsilon_cutoff", 3e-3, transformers.EpsilonLogitsWarper), ("eta_cutoff", 3e-3, transformers.EtaLogitsWarper),
        ("eta_cutoff", 0.3, transformers.EtaLogitsWarper), ("top_k", 7, transformers.TopKLogitsWarper),
        ("top_h", 0.4, transformers.TopHLogitsWarper), ("top_h", 0.9, transformers.TopHLogitsWarper),
        ("top_p", 0.7, transformers.TopPLogitsWarper), ("min_p", 0.05, transformers.MinPLogitsWarper),
    ):  # fmt: skip
        wanted = torch.isfinite(warper(value)(None, scores.clone()))[0].nonzero().ravel().tolist()
        assert left(row, {name: value}, name) == wanted, name


def test_which_way_is_taken():
    assert SamplingParams(0.7, 3, 0.9, 0.1, do_sample=True, seed=1).stages == ()
    assert SamplingParams(0.7, 3, do_sample=True, seed=1, sampler_order=("temperature", "top_k")).stages == ()
    assert SamplingParams(0.7, 3, do_sample=True, seed=1, sampler_order=("top_k", "temperature")).stages == (
        "top_k", "temperature",
    )  # fmt: skip
    assert SamplingParams(typical_p=0.3, mirostat=2, do_sample=True, seed=1).stages == ("typical_p", "mirostat")
    assert SamplingParams(adaptive=2, do_sample=True, seed=1).stages == ("temperature",)
    assert SamplingParams(typical_p=0.3, do_sample=False).stages == ()
    assert float(LOW) == -math.inf


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"sampler_order": ("top_k",), "top_p": 0.5}, "lacks 'top_p', which top_p=0.5 asks for; .* with top_p=1.0"),
        (
            {"sampler_order": ("top_k",), "adaptive": 1},
            "sampler_order: lacks 'temperature', which adaptive=1.0 asks for",
        ),
        ({"sampler_order": "top_k"}, "sampler_order='top_k': expected a list of some of temperature, top_n_sigma"),
        ({"sampler_order": 3}, "sampler_order=3: expected a list of some of temperature, top_n_sigma"),
        ({"sampler_order": ["topk"]}, "'topk' is no stage; expected a list of some of temperature, top_n_sigma"),
        ({"sampler_order": ["top_k", "top_k"]}, "top_k comes twice"),
        ({"sampler_order": ["mirostat", "top_k"]}, "mirostat is the last stage, or none"),
        ({"mirostat": 1}, r"mirostat=1: expected 0 \(off\) or 2"),
        ({"adaptive": 1.0, "dynatemp_range": 0.1}, "adaptive=1.0: dynatemp_range sets the temperature"),
        *[({name: math.nan}, f"{name}=nan: expected") for name in ("typical_p", "eta_cutoff", "top_n_sigma")],
        *[({name: -0.1}, f"{name}=-0.1: expected") for name in ("typical_p", "top_h", "xtc_probability")],
        ({"top_h": 1.5}, r"top_h=1.5: expected a number in \[0, 1\] \(0 is off\)"),
        *[({name: 0}, f"{name}=0: expected") for name in ("typical_p", "mirostat_tau", "xtc_threshold")],
    ],
)
def test_what_cannot_be_is_refused(how, words):
    with pytest.raises(InputError, match=words):
        SamplingParams(**how)


def test_every_parameter_of_a_stage_has_its_place():
    assert {name for name in itertools.chain(ON, MORE) if name not in SamplingParams.__dataclass_fields__} == set()
