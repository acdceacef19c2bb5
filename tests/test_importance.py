"""Calibration statistics and pruning methods, each against its formula computed apart from the code, in NumPy."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import miaotui
import numpy as np
import pytest
from checkpoints import FAMILIES, Drawn, small, write_checkpoint
from helpers import by_name, empty_caches, open_weights, sizes
from hypothesis import given, settings
from hypothesis import strategies as st
from miaotui.errors import InputError, PlanError
from miaotui.loader import families
from miaotui.loader.config import resolve_config
from miaotui.loader.prune.plan import PrunePlan
from miaotui.runtime.forward.decoder import decoder
from miaotui.runtime.reference import Reference
from miaotui.runtime.rope import rope_tables
from miaotui.tools import perplexity, prune_sweep
from miaotui.tools.importance import depth, masks, structured
from miaotui.tools.importance import layers as layers_module
from miaotui.tools.importance import zeros as zeros_module
from miaotui.tools.importance.calibrate import calibrate, first_asked, windows_of
from miaotui.tools.importance.masks import Sparsity, parse_sparsity
from miaotui.tools.importance.methods import Text, Wish, find
from miaotui.tools.importance.numbers import narrowed, widened
from miaotui.tools.importance.rewrite import Rewrite, can_compensate
from miaotui.tools.importance.sparsegpt import sparsegpt
from miaotui.tools.importance.zeros import layer_by_layer, zeros
from miaotui.tools.prune import prune
from miaotui.tools.studies import flap_bias, process_plans
from pruning import seven
from real_files import real

WINDOWS = [[1, 5, 2, 8, 3, 3, 9], [4, 4, 0, 10], [7, 2]]


class Spy(Reference):
    """The float64 oracle, keeping what every product and norm is given, by the weight's name."""

    def __init__(self, *args):
        super().__init__(*args)
        self.seen = {}

    def linear(self, x, w, *args, **kwargs):
        self.seen[w.name] = x.copy()
        return super().linear(x, w, *args, **kwargs)

    def rms_norm(self, x, w, *args):
        self.seen[w.name] = x.copy()
        return super().rms_norm(x, w, *args)

    def layer_norm(self, x, w, *args):
        self.seen[w.name] = x.copy()
        return super().layer_norm(x, w, *args)


def spied(path, windows):
    return seen_by(*open_weights(path), windows)


def seen_by(config, weights, windows):
    seen = []
    for ids in windows:
        ops = Spy(np.array(ids[:-1]), 0, empty_caches(config), len(ids) - 1)
        decoder(ops, config, weights, rope_tables(config, len(ids)))
        seen.append(ops.seen)
    return {name: np.concatenate([one[name] for one in seen]) for name in seen[0]}


@pytest.mark.parametrize("family", FAMILIES)
def test_statistics_are_those_of_the_oracle(tmp_path, family):
    write_checkpoint(tmp_path, small(family))
    want = spied(tmp_path, WINDOWS)
    with miaotui.load(tmp_path, prefill_chunk=4) as model:  # a window takes more than one pass
        got = calibrate(model, WINDOWS, hessian=True)
    assert got.n == sum(len(w) - 1 for w in WINDOWS)
    for layer in range(2):
        for role, place in {"q": "attn_in", "o": "attn_out", "up": "ffn_in", "down": "ffn_out"}.items():
            x, name = want[f"layers.{layer}.{role}"], f"layers.{layer}.{place}"
            near = {"rtol": 1e-5, "atol": 1e-5 * float(np.abs(x).max()) ** 2 * len(x)}  # float32 activations
            np.testing.assert_allclose(got.total[name], x.sum(0), **near)
            np.testing.assert_allclose(got.squares[name], (x**2).sum(0), **near)
            np.testing.assert_allclose(got.hessian[name], x.T @ x, **near)
            np.testing.assert_allclose(got.variance(layer, place), x.var(0, ddof=1), **near)
            np.testing.assert_allclose(got.mean(layer, place), x.mean(0), **near)
    streams = [want["layers.0.attn_norm"], want["layers.1.attn_norm"], want["norm"]]
    norms = [np.linalg.norm(s, axis=1) for s in streams]
    want_bi = [1 - np.mean((streams[i] * streams[i + 1]).sum(1) / norms[i] / norms[i + 1]) for i in range(2)]
    np.testing.assert_allclose(depth.block_influence(got), want_bi, atol=1e-5)


def test_watching_changes_no_bit_and_statistics_no_run(tmp_path):
    write_checkpoint(tmp_path, small("llama"))
    with miaotui.load(tmp_path) as model:
        before = model.logits(WINDOWS[0])
        one, other = (calibrate(model, WINDOWS) for _ in range(2))
        assert np.array_equal(model.logits(WINDOWS[0]), before)
    assert all(np.array_equal(one.squares[k], other.squares[k]) for k in one.squares)
    with miaotui.load(tmp_path, quantize="int8") as model, pytest.raises(InputError, match="as floats"):
        calibrate(model, WINDOWS)


def test_a_half_that_is_gone_has_no_statistics(tmp_path):
    write_checkpoint(tmp_path, Drawn(seven()))
    with miaotui.load(tmp_path, prune=PrunePlan(heads={0: "", 3: ""}, ffn={1: "", 6: ""})) as model:
        got = calibrate(model, [[1, 2, 3, 4]])
    assert "layers.0.attn_in" not in got.squares
    assert "layers.1.ffn_in" not in got.squares
    assert {f"layers.{i}.attn_out" for i in (1, 2, 4, 5, 6)} < set(got.squares)
    assert np.all(np.abs(got.cosine) <= 3 + 1e-9)
    assert np.all(got.cosine != 0)


def test_calibration_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    from miaotui.tools.importance import calibrate as module

    write_checkpoint(tmp_path / "in", small("llama"))
    file, calls, real = tmp_path / "s.npz", [], module._add

    def stopping(*args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        real(*args, **kwargs)

    with miaotui.load(tmp_path / "in") as model:
        whole = calibrate(model, WINDOWS, hessian=True, stream=True)
        monkeypatch.setattr(module, "_add", stopping)
        with pytest.raises(KeyboardInterrupt):
            calibrate(model, WINDOWS, hessian=True, stream=True, file=file, batch=1)
        got = calibrate(model, WINDOWS, hessian=True, stream=True, file=file, batch=1)
        assert len(calls) == 4  # the third window alone
        assert got.n == whole.n
        assert np.array_equal(got.cosine, whole.cosine)
        for kind in ("total", "squares", "hessian", "stream"):
            one, other = getattr(got, kind), getattr(whole, kind)
            assert one.keys() == other.keys()
            assert all(np.array_equal(one[k], other[k]) for k in one)
        with pytest.raises(InputError, match="another model, text or method"):
            calibrate(model, WINDOWS[:2], hessian=True, stream=True, file=file)
        file.write_bytes(b"no archive")
        with pytest.raises(InputError, match="no statistics"):
            calibrate(model, WINDOWS, file=file)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "s.npz"]


SPARSE = st.sampled_from([Sparsity(0.5), Sparsity(0.3), Sparsity(0.5, 2, 4), Sparsity(0.5, 4, 8), Sparsity(0.75, 1, 4)])


@settings(deadline=None)
@given(st.integers(1, 7), st.integers(1, 19), SPARSE, st.integers(0, 99))
def test_masks_keep_the_largest(n, k, sparsity, seed):
    rng = np.random.default_rng(seed)
    w, norms = rng.standard_normal((n, k)), rng.random(k) + 0.1
    for new, scores, whole in (
        (masks.magnitude(w, sparsity), np.abs(w), not sparsity.m),
        (masks.wanda(w, norms, sparsity), np.abs(w) * norms, False),
    ):
        stays = new != 0
        assert np.array_equal(new[stays], w[stays])
        groups = [(scores.ravel(), stays.ravel())] if whole else list(zip(scores, stays, strict=True))
        for score, stay in groups:
            size = sparsity.m or len(score)
            for at in range(0, len(score), size):
                s, kept = score[at : at + size], stay[at : at + size]
                count = min(len(s), sparsity.n) if sparsity.m else len(s) - math.floor(len(s) * sparsity.share)
                assert np.array_equal(np.flatnonzero(kept), sorted(np.argsort(s)[len(s) - count :]))


def surgeon(w, h, sparsity):
    """The optimal brain surgeon, column by column, with the inverse of what is left of the Hessian taken again at each.

    As many columns as one block has, at most: zeros without a pattern are chosen once.
    """
    n, k = w.shape
    h = h + 0.01 * np.mean(np.diag(h)) * np.eye(k)
    cost = [np.linalg.inv(h[j:, j:])[0, 0] for j in range(k)]
    left, zero = w.copy(), np.zeros((n, k), bool)
    for j in range(k):
        if sparsity.m and j % sparsity.m == 0:
            part = left[:, j : j + sparsity.m] ** 2 / cost[j : j + sparsity.m]
            for i, row in enumerate(part):
                zero[i, j + np.argsort(row)[: max(0, len(row) - sparsity.n)]] = True
        elif not sparsity.m and j == 0:
            order = np.argsort((left**2 / cost).ravel())[: math.floor(n * k * sparsity.share)]
            zero.ravel()[order] = True
        inverse = np.linalg.inv(h[j:, j:])
        for i in np.flatnonzero(zero[:, j]):
            left[i, j:] -= left[i, j] / inverse[0, 0] * inverse[0]
            left[i, j] = 0
    return left, zero


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 5), st.integers(1, 12), SPARSE, st.integers(0, 99))
def test_sparsegpt_is_the_optimal_brain_surgeon(n, k, sparsity, seed):
    rng = np.random.default_rng(seed)
    w, x = rng.standard_normal((n, k)), rng.standard_normal((40, k)) @ rng.standard_normal((k, k))
    got = sparsegpt(w, x.T @ x, sparsity)
    left, zero = surgeon(w, x.T @ x, sparsity)
    np.testing.assert_allclose(got, left, rtol=1e-6, atol=1e-8)
    assert np.array_equal(got == 0, zero)


def test_sparsegpt_beats_wanda_and_magnitude_at_its_own_goal():
    rng = np.random.default_rng(0)
    w, mix = rng.standard_normal((24, 200)), np.eye(200) + 0.05 * rng.standard_normal((200, 200))
    x = (rng.standard_normal((600, 200)) @ mix) * rng.lognormal(size=200)  # columns of different sizes, correlated
    norms = np.sqrt((x**2).sum(0))
    for sparsity in (Sparsity(0.5), Sparsity(0.5, 2, 4)):
        news = [sparsegpt(w, x.T @ x, sparsity), masks.wanda(w, norms, sparsity), masks.magnitude(w, sparsity)]
        errors = [float(((x @ (w - new).T) ** 2).sum()) for new in news]
        assert errors[0] < errors[1] < errors[2]
    x[:, 7] = 0
    assert not sparsegpt(w, x.T @ x, Sparsity(0.5))[:, 7].any()


def test_greedy_drops_the_cheapest_each_time():
    worth = [5, 1, 4, 2, 3]
    steps = depth.greedy((5,), 2, lambda kept: -sum(worth[i] for i in kept[0]))
    assert steps == [((0, 2, 3, 4),), ((0, 2, 4),), ((0, 2),)]
    of_both = depth.greedy((2, 3), 1, lambda kept: 10 * sum(kept[0]) - sum(kept[1]))
    assert of_both == [((0,), (0, 1, 2)), ((0,), (1, 2)), ((0,), (2,))]
    with pytest.raises(InputError, match="--keep 3: expected 1 to 2"):
        depth.greedy((3, 2), 3, len)
    assert depth.most_influential(np.array([0.5, 0.1, 0.4]), 2) == (0, 2)
    for bad in (0, 6):
        with pytest.raises(InputError, match=f"--keep {bad}: expected 1 to 5"):
            depth.greedy((5,), bad, len)


@settings(deadline=None)
@given(st.integers(1, 4), st.integers(1, 6), st.floats(0.05, 1), st.integers(0, 99))
def test_units_by_layer_and_everywhere(layers, count, share, seed):
    rng = np.random.default_rng(seed)
    scores = [rng.random(count) for _ in range(layers)]
    for kept, s in zip(structured.by_layer(scores, share), scores, strict=True):
        assert set(kept) == set(np.argsort(s)[::-1][: max(1, math.floor(share * count + 0.5))])
    kept = structured.everywhere(scores, share)
    assert all(kept)
    assert sum(map(len, kept)) == max(layers, math.floor(share * layers * count + 0.5))
    standard = [(s - s.mean()) / (s.std() or 1) for s in scores]
    out = [s[j] for s, k in zip(standard, kept, strict=True) for j in range(count) if j not in k]
    extra = [s[j] for s, k in zip(standard, kept, strict=True) for j in k if j != np.argmax(s)]
    assert not out or not extra or max(out) <= min(extra)
    assert np.allclose(structured.units(np.arange(6.0), 3), [1, 5, 9])


def test_scores_are_their_formulas():
    rng = np.random.default_rng(1)
    w, x = rng.standard_normal((3, 5)), rng.standard_normal((50, 5)) + 2
    norms = np.sqrt((x**2).sum(0))
    assert np.allclose(structured.wanda_sp(w, norms), [np.mean(np.abs(w[:, j])) * norms[j] for j in range(5)])
    fluctuation = [x[:, j].var(ddof=1) * w[:, j] @ w[:, j] for j in range(5)]
    assert np.allclose(structured.flap(w, x.var(0, ddof=1)), fluctuation)
    less = w.copy()
    less[:, [1, 4]] = 0
    b = structured.compensation(w, x.mean(0), [0, 2, 3])
    assert np.allclose((x @ w.T).mean(0), (x @ less.T).mean(0) + b)  # the mean output is what it was


def text_model(path, **more):
    """A random model whose tokenizer splits at spaces: token n is the word "n"."""
    config = {**seven(32), "num_hidden_layers": 3, **more}
    write_checkpoint(path, Drawn(config))
    vocab = {str(i): i for i in range(96)}
    model = {"type": "WordLevel", "vocab": vocab, "unk_token": "0"}
    (path / "tokenizer.json").write_text(json.dumps({"version": "1.0", "pre_tokenizer": {"type": "WhitespaceSplit"},
                                                     "added_tokens": [], "model": model}))  # fmt: skip
    return Text(" ".join(str(i % 96) for i in np.random.default_rng(0).integers(0, 96, 200)), window=32)


@pytest.mark.parametrize(
    ("method", "how"),
    [("magnitude", {}), *((m, {"one_pass": once}) for m in ("wanda", "sparsegpt") for once in (False, True))],
)
def test_zeros_are_written_in_place(tmp_path, method, how):
    text = text_model(tmp_path / "in")
    got = find(tmp_path / "in", Wish(method, sparsity=parse_sparsity("2:4"), **how), text)
    prune(tmp_path / "in", tmp_path / "out", got.plan, got.rewrite)
    with miaotui.load(tmp_path / "in") as before, miaotui.load(tmp_path / "out") as after:
        assert before.config == after.config
        for one, other in zip(before.session.weights, after.session.weights, strict=True):
            if len(one.shape) == 2 and one.name.startswith("layers."):
                assert ((other.f64().reshape(one.shape[0], -1, 4) != 0).sum(-1) == 2).all()
            else:
                assert np.array_equal(one.array, other.array)
    assert json.loads((tmp_path / "out" / "prune_plan.json").read_text())["notes"][0].startswith(f"--method {method}")


INPUT = {"q": "q", "k": "q", "v": "q", "o": "o", "gate": "up", "up": "up", "down": "down"}


def with_arrays(weights, i, made):
    """The weights with new matrices in layer `i`, by name."""

    def changed(linear):
        return replace(linear, w=replace(linear.w, array=made[linear.w.name].astype(np.float32), mapped=False))

    layers = list(weights.decoder.layers)
    layers[i] = tuple(replace(s, linear={role: changed(w) for role, w in s.linear.items()}) for s in layers[i])
    return replace(weights, decoder=replace(weights.decoder, layers=tuple(layers)))


def cut_in_numpy(method, config, weights, windows, sparsity):
    """Layer after layer: what the oracle's matrices read with the layers before it cut; new matrices by name."""
    made = {}
    for i in range(config.n_layers):
        seen, layer = seen_by(config, weights, windows), weights.decoder.layers[i]
        for role, linear in {role: each for s in layer for role, each in s.linear.items()}.items():
            reads, old = INPUT[role], linear.w
            w, x = old.f64(), seen[f"layers.{i}.{reads}"]
            if method == "sparsegpt":
                new, _ = surgeon(w, x.T @ x, sparsity)
            else:
                order = np.argsort(np.abs(w) * np.sqrt((x**2).sum(0)), axis=1)
                new = w.copy()
                np.put_along_axis(new, order[:, : math.floor(w.shape[1] * sparsity.share)], 0.0, 1)
            made[old.name] = new
        weights = with_arrays(weights, i, made)
    return made


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("method", ["wanda", "sparsegpt"])
def test_layer_by_layer_is_the_papers_loop(tmp_path, method, family):
    """Against float64 NumPy; and in one pass it is not: a layer sees what the cut ones before it put out."""
    config = {**small(family).config, "vocab_size": 96, **({"n_inner": 48} if family == "gpt2" else {})}
    config |= {"n_positions": 64} if family == "gpt2" else {"max_position_embeddings": 64}
    text = text_model(tmp_path / "in")
    write_checkpoint(tmp_path / "in", Drawn(config))
    sparsity = Sparsity(0.5)
    with miaotui.load(tmp_path / "in", prefill_chunk=5, max_context=32) as model:
        windows = windows_of(model, text.text, window=32)
        seen = layer_by_layer(model, windows, method, sparsity)
        once = zeros(method, sparsity, calibrate(model, windows, hessian=True))
        weights = {w.name: w.f64() for w in model.session.weights}
    want, differ = cut_in_numpy(method, *open_weights(tmp_path / "in"), windows, sparsity), 0
    for name, new in want.items():
        layer = name.split(".")[1]
        got = seen(name, weights[name])
        np.testing.assert_allclose(got, new, rtol=1e-3, atol=1e-4 * np.abs(new).max())  # float32 activations
        differ += not np.array_equal(got, once(name, weights[name]))
        assert layer != "0" or np.allclose(got, once(name, weights[name]), rtol=1e-6, atol=1e-7)
    assert differ
    prune(tmp_path / "in", tmp_path / "out", PrunePlan(), Rewrite(seen))  # GPT-2's q, k and v are one tensor there
    _, written = open_weights(tmp_path / "out")
    for w in written:
        old = weights[w.name]
        new = seen(w.name, old) if w.name in want else old
        np.testing.assert_array_equal(w.f64(), new.astype(np.float32))
    assert seen("layers.0.attn_norm", np.zeros(3)) is None


@pytest.mark.parametrize("dtype", ["F32", "BF16"])
def test_a_layer_sees_the_very_bits_of_the_written_model(tmp_path, monkeypatch, dtype):
    """The sums of the last layer are those of the checkpoint that has the layers before it cut."""
    text = text_model(tmp_path / "in")
    write_checkpoint(tmp_path / "in", replace(Drawn({**seven(32), "num_hidden_layers": 3}), dtype=dtype))
    sums, real = {}, zeros_module.zeros
    monkeypatch.setattr(zeros_module, "zeros", lambda m, s, got: sums.update(got.squares) or real(m, s, got))
    cut = find(tmp_path / "in", Wish("sparsegpt", sparsity=Sparsity(0.5, 2, 4)), text)
    prune(tmp_path / "in", tmp_path / "out", cut.plan, cut.rewrite)
    with miaotui.load(tmp_path / "out", max_context=32, prefill_chunk=32) as model:
        got = calibrate(model, windows_of(model, text.text, window=32))
    assert np.array_equal(sums["layers.2.attn_in"], got.squares["layers.2.attn_in"])  # before its own cut matrices
    assert not np.array_equal(sums["layers.2.ffn_in"], got.squares["layers.2.ffn_in"])


@pytest.mark.parametrize("method", ["wanda", "sparsegpt"])
def test_layer_by_layer_goes_on_where_it_was_stopped(tmp_path, monkeypatch, method):
    text = replace(text_model(tmp_path / "in"), file=tmp_path / "s.npz")
    calls, real = [], layers_module._feed

    def stopping(*args, **kwargs):
        calls.append(args[1])
        if len(calls) == 4:  # layer 0 twice, layer 1 as it is, and as it is cut
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    wish = Wish(method, sparsity=Sparsity(0.5))
    whole = find(tmp_path / "in", wish, replace(text, file=None))
    monkeypatch.setattr(layers_module, "_feed", stopping)
    with pytest.raises(KeyboardInterrupt):
        find(tmp_path / "in", wish, text)
    got = find(tmp_path / "in", wish, text)
    assert calls == [0, 0, 1, 1, 1, 1, 2]
    again = find(tmp_path / "in", wish, text)
    assert len(calls) == 7
    with miaotui.load(tmp_path / "in") as model:
        for layer in range(model.config.n_layers):
            w = by_name(model.session.weights)[f"layers.{layer}.down"].f64()
            for other in (got, again):
                assert np.array_equal(*(x.rewrite.matrix(f"layers.{layer}.down", w) for x in (other, whole)))
    with pytest.raises(InputError, match="another model, text or method"):
        find(tmp_path / "in", replace(wish, sparsity=Sparsity(0.25)), text)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_flap_writes_biases_that_keep_the_mean(tmp_path, family):
    """Neurons that never move are a constant: cut and taken up by the bias, the model computes what it did."""
    text = text_model(tmp_path / "in")
    if family == "gpt2":
        write_checkpoint(tmp_path / "in", Drawn({**small("gpt2").config, "vocab_size": 96, "n_inner": 48}))
    cut = find(tmp_path / "in", Wish("flap", ffn=0.5, heads=0.5), text)
    plan, without = cut.plan, Wish("flap", ffn=0.5, heads=0.5, compensate=False)
    assert find(tmp_path / "in", without, text).plan == plan
    prune(tmp_path / "in", tmp_path / "out", plan, cut.rewrite)
    config, weights = open_weights(tmp_path / "in")
    with miaotui.load(tmp_path / "in", prefill_chunk=32) as model, miaotui.load(tmp_path / "out") as out:
        ids = model.tokenizer.encode(text.text)
        got = calibrate(model, [ids[at : at + 33] for at in range(0, len(ids) - 1, 32)])
        assert sum(len(k) for k in plan.ffn.values()) == round(0.5 * config.n_layers * sizes(config).d_ff)
        before, after = by_name(weights), by_name(out.session.weights)
        for i in range(config.n_layers):
            lost = [j for j in range(sizes(config).d_ff) if j not in plan.ffn[i]]
            w = before[f"layers.{i}.down"].f64()
            old = before.get(f"layers.{i}.down_bias")
            want = w[:, lost] @ (got.total[f"layers.{i}.ffn_out"] / got.n)[lost]
            want = want + (old.f64() if old is not None else 0)
            np.testing.assert_allclose(after[f"layers.{i}.down_bias"].f64(), want, rtol=1e-5, atol=1e-6)
            assert f"layers.{i}.o_bias" in after


def test_plans_of_units_and_depth(tmp_path):
    text = text_model(tmp_path / "in")
    for method in ("activation", "wanda-sp"):
        plan = find(tmp_path / "in", Wish(method, ffn=0.25, heads=0.5), text).plan
        assert [len(k) for k in plan.ffn.values()] == [24] * 3
        assert all(k in ((0, 1), (2, 3)) for k in plan.heads.values())  # a KV head goes with its queries
    bi = find(tmp_path / "in", Wish("block-influence", keep=2), text)
    assert bi.plan.layers == tuple(sorted(np.argsort(-np.array(bi.scores["layers"]))[:2]))
    sleb = find(tmp_path / "in", Wish("greedy", keep=2), text)
    losses = {}
    for gone in range(3):
        from miaotui.tools.perplexity import measure

        with miaotui.load(tmp_path / "in", prune=f"drop-layers={gone}") as model:
            losses[gone] = measure(model, text.text, window=32)["nll_per_token"]
    assert sleb.plan.layers == tuple(i for i in range(3) if i != min(losses, key=losses.get))
    assert sleb.scores["steps"][0]["nll"] == pytest.approx(min(losses.values()))
    again = find(tmp_path / "in", Wish("greedy", keep=1), text, sleb.plan)  # of what a first plan leaves
    assert set(again.plan.layers) < set(sleb.plan.layers)


def test_wishes_that_no_method_grants(tmp_path):
    for wish, says in (
        ({"method": "wanda", "keep": 3}, "found --keep; expected --sparsity"),
        ({"method": "wanda"}, "nothing says how much"),
        ({"method": "flap", "ffn": 1.5}, "above 0 and at most 1"),
        ({"method": "chance", "keep": 3}, "--method chance"),
        ({"method": "magnitude", "sparsity": Sparsity(0.5), "one_pass": True}, "--one-pass is wanda's"),
    ):
        with pytest.raises(InputError, match=says):
            Wish(**wish)
    for bad in ("4:2", "1.0", "0", "half", "2:2", "-1"):
        with pytest.raises(InputError, match="expected a share"):
            parse_sparsity(bad)
    text = text_model(tmp_path / "in", model_type="mistral", sliding_window=None)
    with pytest.raises(PlanError, match="--no-compensation"):
        find(tmp_path / "in", Wish("flap", ffn=0.5), text)
    with pytest.raises(InputError, match="--text"):
        find(tmp_path / "in", Wish("wanda", sparsity=Sparsity(0.5)), None)


@pytest.mark.parametrize("name", [name for name, family in families.FAMILIES.items() if family.bias_keys])
def test_a_key_for_biases_is_of_the_one_that_takes_up_what_flap_cuts(name):
    block = {"attention": {"n_heads_in_group": 1}, "ffn": {"ffn_mult": 1.0}}
    more = {"num_hidden_layers": 1, "block_configs": [block]} if name == "nemotron-nas" else {}
    for half, key in families.FAMILIES[name].bias_keys.items():
        needed = {"attention": "o_bias", "feed_forward": "down_bias"}[half]
        for value in (True, False):
            biases = resolve_config({"model_type": name, key: value, **more}, "config.json").biases
            assert (needed in biases) == value


def test_flap_is_refused_where_the_key_is_not_of_the_bias_that_it_needs():
    with pytest.raises(PlanError, match="o_bias, and a qwen2_moe checkpoint has no such bias"):
        can_compensate("qwen2_moe", "o_bias", there=False)


@settings(deadline=None)
@given(st.lists(st.floats(-1e30, 1e30, allow_nan=False), min_size=1, max_size=20))
def test_narrowing_rounds_once_to_the_nearest(values):
    x = np.array(values)
    got = widened(narrowed(x, "BF16"), "BF16")
    bits = narrowed(x, "BF16").astype(np.int32)
    for step in (-1, 1):
        other = widened((bits + step).clip(0, 0xFFFF).astype(np.uint16), "BF16")
        fits = np.isfinite(other)
        assert (np.abs(got - x)[fits] <= np.abs(other - x)[fits]).all()
    assert np.array_equal(narrowed(got, "BF16"), narrowed(x, "BF16"))
    assert np.array_equal(narrowed(np.array([1 + 2**-8 + 2**-40, 1 + 2**-8]), "BF16"), [0x3F81, 0x3F80])


@pytest.fixture
def untimed(monkeypatch):
    """A sweep whose speeds say nothing."""
    from miaotui.tools import prune_sweep

    monkeypatch.setattr(prune_sweep, "PAUSE", 0)
    monkeypatch.setattr(prune_sweep, "ROUNDS", 1)


@pytest.mark.ci  # 6 s
@pytest.mark.usefixtures("untimed")
def test_a_sweep_compares_and_chooses(tmp_path, capsys):
    from miaotui.tools.cli import main

    (tmp_path / "text.txt").write_text(text_model(tmp_path / "in").text)
    command = ["prune", str(tmp_path / "in"), "--sweep", "--text", str(tmp_path / "text.txt"), "--window", "16"]
    methods = ["--methods", "first", "magnitude", "flap"]
    assert main([*command, "--out", str(tmp_path / "s"), *methods, "--max-perplexity-ratio", "1e9"]) == 0
    assert "over 39 tokens" in capsys.readouterr().out  # of the last fifth of 200 words, the first is not predicted
    record = json.loads((tmp_path / "s" / "sweep.json").read_text())
    got = {r["cut"].removeprefix("--method "): r for r in record["results"]}
    assert {"first --keep 1", "magnitude --sparsity 2:4", "flap --ffn 0.5", "flap --heads 0.5"} < set(got)
    assert record["best"] == "--method first --keep 1"
    assert got["first --keep 1"]["bytes_per_step"] < record["original"]["bytes_per_step"]
    matrices = 3 * (32 * 32 * 2 + 16 * 32 * 2 + 3 * 96 * 32)
    thinned = got["magnitude --sparsity 2:4"]
    assert thinned["zeros"] == matrices // 2
    assert thinned["bytes_per_step"] < record["original"]["bytes_per_step"]  # held sparse
    assert thinned["memory"] < record["original"]["memory"]
    plan = PrunePlan.load(tmp_path / "s" / "plans" / "first-keep1.json")
    assert plan.layers == (0,)
    with miaotui.load(tmp_path / "in") as whole, miaotui.load(tmp_path / "in", prune=plan) as cut:
        from miaotui.tools.bench.quality import log_softmax
        from miaotui.tools.perplexity import losses

        text = (tmp_path / "text.txt").read_text()
        ids = whole.tokenizer.encode(text[len(text) * 4 // 5 :])
        windows = [ids[at : at + 17] for at in range(0, len(ids) - 1, 16)]
        total = sum(len(w) - 1 for w in windows)
        nll = sum(losses(cut, w).sum() for w in windows) / total
        kl = sum(
            (np.exp(p) * (p - log_softmax(cut.logits(w[:-1])))).sum()
            for w in windows
            for p in [log_softmax(whole.logits(w[:-1]))]
        )
    assert got["first --keep 1"]["ppl"] == pytest.approx(math.exp(nll))
    assert got["first --keep 1"]["kl"] == pytest.approx(kl / total)
    assert main([*command, "--out", str(tmp_path / "s"), "--keep-layers", "0"]) == 2
    assert main([*command, "--out", str(tmp_path / "s"), "--methods", "chance"]) == 2
    assert main(command) == 2


def test_the_best_within_a_budget():
    from miaotui.tools.prune_sweep import best

    names = ("cut", "ppl", "ppl_ratio", "speed", "bytes_per_step", "memory")
    rows = [dict(zip(names, r, strict=True)) for r in (("a", 2, 1.1, 1.2, 90, 900), ("b", 3, 1.6, 1.9, 50, 500))]
    assert best(rows)["cut"] == "a"
    assert best(rows, max_memory=600)["cut"] == "b"
    assert best(rows, min_speedup=1.5)["cut"] == "b"
    assert best(rows, max_perplexity_ratio=2.0)["cut"] == "b"
    assert best(rows, max_perplexity_ratio=1.2)["cut"] == "a"
    assert best(rows, max_perplexity_ratio=1.2, min_speedup=1.5) is None


@pytest.mark.parametrize("name", ["demo7", "demo", "stories260k", "capp-gpt2"])
def test_the_lesson_s_tables_are_the_files(name):
    docs = Path(__file__).resolve().parent.parent / "docs"
    record = json.loads((docs / "benchmarks" / f"prune-quality-{name}.json").read_text(encoding="utf-8"))
    assert prune_sweep.table(record) in (docs / "pruning.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["demo7", "demo"])
def test_the_lesson_on_flap_s_bias_is_its_files(name):
    docs = Path(__file__).resolve().parent.parent / "docs"
    record = json.loads((docs / "benchmarks" / f"flap-bias-{name}.json").read_text(encoding="utf-8"))
    lesson = (docs / "pruning.md").read_text(encoding="utf-8")
    for got in record["ffn"].values():
        factors = " | ".join(f"{got['factors'][f]:.3f}" for f in ("-1.0", "0.0", "0.25", "0.5", "0.75", "1.0"))
        spread = f"{min(got['random']):.3f} to {max(got['random']):.3f}"
        shares = f"{min(got['constant_share']):.1%} to {max(got['constant_share']):.1%}"
        assert f"| {factors} | {got['without_first']:.3f} | {spread} | {shares} |" in lesson
    for kind in ("without", "with"):
        assert " | ".join(f"{r[kind]:.3f}" for r in record["ffn"]["0.5"]["one_layer"]) in lesson


def test_what_a_constant_can_take_up(tmp_path):
    """`constant_share` by its definition, token by token; factor 1 and 0 are FLAP with and without its biases."""
    rng = np.random.default_rng(2)
    w, x, kept = rng.standard_normal((3, 6)), rng.standard_normal((40, 6)) + 1, [1, 4]
    gone = [0, 2, 3, 5]
    lost = x[:, gone] @ w[:, gone].T
    want = (lost.mean(0) ** 2).sum() / (lost**2).sum(1).mean()
    assert flap_bias.constant_share(w, x.mean(0), x.T @ x / len(x), kept) == pytest.approx(want)
    text = text_model(tmp_path / "in")
    got = flap_bias.study(tmp_path / "in", text, text.text, 0.5)
    assert all(0 < share < 1 for share in got["constant_share"])
    for factor, compensate in (("1.0", True), ("0.0", False)):
        cut = find(tmp_path / "in", Wish("flap", ffn=0.5, uniform=True, compensate=compensate), text)
        prune(tmp_path / "in", tmp_path / factor, cut.plan, cut.rewrite)
        with miaotui.load(tmp_path / factor) as model:
            ppl = perplexity.measure(model, text.text, window=text.window)["ppl"]
        assert got["factors"][factor] == pytest.approx(ppl, rel=1e-6)
    assert len(got["one_layer"]) == 3


@pytest.mark.usefixtures("untimed")
def test_records_a_line_each_and_what_is_asked_of_them(tmp_path, capsys):
    """A line by itself, and of it only what follows a token: in the sweep's perplexity and in greedy's choice."""
    from miaotui.tools.cli import main

    text = text_model(tmp_path / "in")
    words = text.text.split()
    lines = [" ".join([*words[at : at + 6], "7", *words[at + 6 : at + 9]]) for at in range(0, 90, 9)]
    (tmp_path / "lines.txt").write_text("\n".join(lines) + "\n")
    with miaotui.load(tmp_path / "in") as model:
        windows = windows_of(model, "\n".join(lines), window=32, lines=True)
        assert windows == [model.tokenizer.encode(line) for line in lines]
        assert sum(len(w) - 1 for w in windows_of(model, "\n".join(lines), window=4, lines=True, tokens=20)) == 20
        first = first_asked(model, windows, "7")
        assert [w[a] for w, a in zip(windows, first, strict=True)] == [7] * 10
        asked = np.concatenate([perplexity.losses(model, w)[a:] for w, a in zip(windows, first, strict=True)])
        for bad, says in (("x", "vocabulary has no"), ("8", "window 0 has no")):
            with pytest.raises(InputError, match=says):
                first_asked(model, [[1, 2, 8]], bad)
    command = ["prune", str(tmp_path / "in"), "--sweep", "--text", str(tmp_path / "lines.txt"), "--window", "16"]
    command += ["--judge", str(tmp_path / "lines.txt"), "--lines", "--behind", "7", "--methods", "greedy"]
    assert main([*command, "--out", str(tmp_path / "s")]) == 0
    assert f"over {len(asked)} tokens" in capsys.readouterr().out
    record = json.loads((tmp_path / "s" / "sweep.json").read_text())
    assert record["original"]["ppl"] == pytest.approx(math.exp(asked.mean()))
    assert record["results"][-1]["steps"][-1]["nll"] == pytest.approx(math.log(record["results"][-1]["ppl"]), rel=1e-6)
    assert (record["judged"]["lines"], record["judged"]["behind"]) == (True, "7")


def test_plans_for_capp_gpt2_come_back_as_its_ids():
    path = real("models", "capp-gpt2-hf")
    with miaotui.load(path) as model:
        lines = list(process_plans.plans(model, 5, seed=3))
        assert lines == list(process_plans.plans(model, 5, seed=3))
        for line in lines:
            ids = model.tokenizer.encode(line)
            assert "|".join(model.tokenizer.id_to_token(i) for i in ids) == line
            assert ids[6] == model.tokenizer.token_to_id("<SOS>")
    from miaotui.tools.demo import path as demo

    with miaotui.load(demo()) as model, pytest.raises(InputError, match="expected capp-gpt2's"):
        next(process_plans.plans(model, 1))
