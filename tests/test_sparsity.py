"""Zeros in plans: prune-then-load is load-then-mask, held sparse where that is smaller, and the same bits come out."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import miaotui
import numpy as np
import pytest
from checkpoints import FAMILIES, Drawn, models, random_tensors, small, write_checkpoint, write_safetensors
from helpers import by_name, open_weights, oracle
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from miaotui.errors import MemoryLimitError, MiaotuiError, PlanError
from miaotui.limits import Request
from miaotui.loader.checkpoint import Checkpoint, open_checkpoint
from miaotui.loader.load_plan import make_load_plan
from miaotui.loader.open import open_model
from miaotui.loader.pack import pack
from miaotui.loader.prune.compiled import compile_plan
from miaotui.loader.prune.masks import largest
from miaotui.loader.prune.options import parse_prune, select
from miaotui.loader.prune.plan import PrunePlan
from miaotui.loader.prune.receipt import Receipt
from miaotui.loader.prune.stored_zeros import counted
from miaotui.loader.quantize import pack_matrix
from miaotui.loader.roles import LINEAR
from miaotui.runtime.quantized import quantized_shape, unpack
from miaotui.runtime.sparse import SPARSE, pack_sparse, pack_sparse_rows, sparse_bytes
from miaotui.runtime.sparse_int8 import SPARSE_INT8, sparse_int8_bytes
from miaotui.tools.commands.inspect import facts
from miaotui.tools.prune import prune
from pruning import as_file, plans, seven, sliced, sparsities, stays, thinned, with_zeros
from tolerance import bound

if TYPE_CHECKING:
    from pathlib import Path

    from miaotui.loader.load_plan import LoadPlan
    from miaotui.runtime.spec import Config, Weights

SLOW = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
PATTERNS = ("2:4", "1:4", "4:8", "0.5", "0.9", "0.5/4x4", "0.75/2x8", "0.5/1x16")


def exact(weights: Weights) -> dict[str, np.ndarray]:
    return {name: w.f64() for name, w in by_name(weights).items()}


def config_of(path: Path) -> Config:
    return open_model(path).config


def counted_plan(path: Path, prune: object, quantize: str | None = None) -> LoadPlan:
    opened = open_model(path)
    return counted(make_load_plan(opened, quantize, select(prune, opened).ranked(opened).cut), opened.checkpoint)


def write_sparse(path: Path, drawn: Drawn, text: str) -> None:
    """A checkpoint whose layers' matrices have zeros by a pattern, in the file."""
    write_checkpoint(path, drawn)
    prune(path, path.with_name(path.name + "-zeros"), f"sparsity={text}")


@settings(SLOW, max_examples=60)
@given(st.data(), st.sampled_from(FAMILIES))
def test_prune_then_load_is_load_then_mask(tmp_path_factory, data, family):
    """Every family, every mixture of cuts, then zeros in what is left; each matrix sparse where that is fewer bytes."""
    path, drawn = tmp_path_factory.mktemp("s"), data.draw(models(family))
    write_checkpoint(path, replace(drawn, dtype=data.draw(st.sampled_from(["F32", "BF16", "F16", "F64"]))))
    config, whole = open_weights(path)
    plan = with_zeros(data.draw, config, data.draw(plans(config)))
    left, weights = open_weights(path, prune=plan)
    wanted = thinned(sliced(exact(whole), config, plan), plan)
    got = exact(weights)
    assert got.keys() == wanted.keys()
    assert left == compile_plan(plan, config).config
    for name, value in wanted.items():
        assert np.array_equal(got[name], value), name
    for w in weights:
        if w.dtype in SPARSE:
            event("sparse")
            dense = w.dtype.removesuffix("_sparse")
            assert w.nbytes == sparse_bytes(w.dtype, w.shape, w.kept) < np.prod(w.shape) * (4 if dense == "f32" else 2)
            assert w.kept >= np.count_nonzero(w.f64())


@settings(SLOW, max_examples=25)
@given(st.data(), st.sampled_from(FAMILIES))
def test_what_is_left_has_the_bits_of_the_dense_run(tmp_path_factory, data, family):
    """Written with its zeros and loaded dense, or sparse as stored, for any number of threads and any chunks."""
    path = tmp_path_factory.mktemp("r")
    write_checkpoint(path / "in", data.draw(models(family)))
    config = config_of(path / "in")
    cuts = data.draw(st.frozensets(st.sampled_from(["layers", "heads", "ffn", "halves", "vocab"])))
    if config.family == "gpt2":  # where attention is scaled by a layer's number, fewer layers cannot be written
        cuts -= {"layers"}
    plan = with_zeros(data.draw, config, data.draw(plans(config, cuts)))
    prune(path / "in", path / "out", plan)
    with (
        miaotui.load(path / "in", prune=plan, threads=1) as model,
        miaotui.load(path / "in", prune=plan, threads=2, prefill_chunk=3) as other,
        miaotui.load(path / "out", threads=2) as dense,
        miaotui.load(path / "out", prune={"sparsity": "stored"}) as stored,
    ):
        ids = np.random.default_rng(1).integers(0, model.config.n_vocab, 9).tolist()
        logits = model.logits(ids)
        for one in (other, dense, stored):
            assert np.array_equal(logits, one.logits(ids))
        assert model.config == dense.config
        wanted = oracle(model.config, model.session.weights, ids)
        limit = bound("model", "f32", config.n_layers, scale=float(np.abs(wanted).max()))
        assert np.abs(logits - wanted).max() <= limit
        for one in (model, stored):
            taken = sum(-(-w.nbytes // 64) * 64 for w in one.session.weights if not w.mapped)
            assert one.memory["weights_resident"] == one.receipt.resident_bytes == taken


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("dtype", "how"), [("F32", None), ("BF16", None), ("F16", None), ("BF16", "int8"), ("F64", "int8")]
)
def test_each_pattern_in_each_family_and_dtype(tmp_path, family, dtype, how):
    """Wide enough that every matrix is held sparse; logits as of a file with the zeros in it, spelled by NumPy here."""
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4}
    sizes |= {"num_key_value_heads": 2, "head_dim": 16}
    sizes = {"n_embd": 64, "n_inner": 96, "n_head": 4} if family == "gpt2" else sizes
    drawn = Drawn({**small(family).config, **sizes}, dtype, seed=5)
    values = write_checkpoint(tmp_path / "in", drawn)
    ids = [1, 2, 3, 5, 8, 9, 0, 4]
    for n, text in enumerate(PATTERNS):
        write_checkpoint(tmp_path / f"out{n}", drawn)
        write_safetensors(tmp_path / f"out{n}" / "model.safetensors", by_file(values, drawn, text), dtype=dtype)
        with (
            miaotui.load(tmp_path / "in", prune={"sparsity": text}, quantize=how) as model,
            miaotui.load(tmp_path / f"out{n}", quantize=how) as dense,
            miaotui.load(tmp_path / f"out{n}", prune={"sparsity": "stored"}, quantize=how) as stored,
        ):
            assert not any("sparse" in w.dtype for w in dense.session.weights)
            for one in (model, stored):
                layers = [w for w in one.session.weights if w.name.startswith("layers.") and len(w.shape) == 2]
                assert {w.dtype for w in layers} == {f"{how or dtype.lower()}_sparse"}, text
                assert np.array_equal(one.logits(ids), dense.logits(ids)), text
                assert one.generate(ids, max_new_tokens=8).ids == dense.generate(ids, max_new_tokens=8).ids
            assert model.memory == stored.memory


def by_file(values: dict[str, np.ndarray], drawn: Drawn, text: str) -> dict[str, np.ndarray]:
    """A file's tensors with zeros in the layers' matrices: GPT-2's lie turned, q, k and v side by side."""
    turned, out = drawn.config["model_type"] == "gpt2", {}
    for name, value in values.items():
        out[name] = value
        if value.ndim == 2 and (".layers." in name or ".h." in name):
            w = value.T if turned else value
            mask = np.concatenate([stays(part, text) for part in np.split(w, 3 if "c_attn" in name else 1)])
            out[name] = np.where(mask.T if turned else mask, value, 0)
    return out


@settings(SLOW, max_examples=30)
@given(st.data(), st.sampled_from(FAMILIES))
def test_zeros_that_are_stored_stay_and_no_number_changes(tmp_path_factory, data, family):
    path = tmp_path_factory.mktemp("f")
    drawn = data.draw(models(family))
    share = data.draw(st.sampled_from([0.0, 0.02, 0.3, 0.5, 0.9, 1.0]))
    rng = np.random.default_rng(drawn.seed)
    values = random_tensors(drawn.config, drawn.seed)
    values = {n: np.where(rng.random(v.shape) < share, -0.0, v) if v.ndim == 2 else v for n, v in values.items()}
    write_checkpoint(path, drawn)
    write_safetensors(path / "model.safetensors", values, dtype=drawn.dtype)
    config, whole = open_weights(path)
    plan = with_zeros(data.draw, config, data.draw(plans(config)), "f")
    load = counted_plan(path, plan)
    weights = pack(load, open_checkpoint(path))
    wanted, got = sliced(exact(whole), config, plan), exact(weights)
    assert got.keys() == wanted.keys()
    for name, value in wanted.items():
        assert np.array_equal(got[name], value), name
    for source in load:
        assert (source.kept is None) == (source.zeros is None)
        if source.kept is not None:
            assert source.kept == np.count_nonzero(wanted[source.name])
    assert counted(load, open_checkpoint(path)) is load
    # without counting it is the same model, held dense
    assert all(np.array_equal(got[w.name], w.f64()) for w in open_weights(path, prune=plan)[1])


@settings(SLOW, max_examples=20)
@given(st.data(), st.sampled_from(FAMILIES), st.sampled_from(["int8", "int4,embed=int8", "int4a", "down=int4"]))
def test_zeros_are_chosen_first_and_rounded_then(tmp_path_factory, data, family, how):
    """A quantised matrix has the numbers of the masked one; int8 alone, in fewer bytes where these are enough."""
    path = tmp_path_factory.mktemp("q")
    write_checkpoint(path, data.draw(models(family)))
    config, whole = open_weights(path)
    plan = with_zeros(data.draw, config, data.draw(plans(config)), "nsbf")
    wanted = thinned(sliced(exact(whole), config, plan), plan)
    _, weights = open_weights(path, how, plan)
    with miaotui.load(path, prune=plan, quantize=how) as model:
        for w, loaded in zip(weights, model.session.weights, strict=True):
            if not w.quantized:
                assert np.array_equal(w.f64(), wanted[w.name])
                assert np.array_equal(loaded.f64(), wanted[w.name])
                continue
            dtype = w.dtype.removesuffix("_sparse")
            packed = np.empty(quantized_shape(dtype, w.shape), np.uint8)
            assert pack_matrix(wanted[w.name].astype(np.float32), "F32", dtype, packed)
            for one in (w, loaded):
                if one.dtype == SPARSE_INT8:
                    event("int8 with few numbers")
                    assert one.array.nbytes == one.nbytes == sparse_int8_bytes(w.shape, one.kept) < packed.nbytes
                    assert one.kept >= np.count_nonzero(wanted[w.name])
                    assert np.array_equal(one.f64(), unpack(packed, dtype, w.shape)), w.name
                else:
                    assert one.array.tobytes() == packed.tobytes(), w.name
            if w.dtype == loaded.dtype:  # rounded by NumPy, and by the kernels
                assert w.array.tobytes() == loaded.array.tobytes()
        rounded = any(e.zeros and e.dtype in {"int4", "int4a"} for e in model.receipt.entries)
        assert rounded == any("take bytes" in note for note in model.receipt.notes)
        assert model.memory["weights_resident"] == model.receipt.resident_bytes
        assert model.memory["weights_resident"] == sum(-(-w.nbytes // 64) * 64 for w in model.session.weights
                                                       if not w.mapped)  # fmt: skip


@settings(SLOW, max_examples=60)
@given(st.data(), st.sampled_from(FAMILIES))
def test_composing_plans_with_zeros_is_one_plan(tmp_path_factory, data, family):
    """Cuts then zeros; zeros then layers, halves and rows; and zeros of other matrices next to those that are there."""
    path = tmp_path_factory.mktemp("c")
    write_checkpoint(path, data.draw(models(family)))
    config, whole = open_weights(path)
    first = data.draw(plans(config))
    between = compile_plan(first, config).config
    if data.draw(st.booleans()):
        first = replace(first, sparsity=data.draw(sparsities(between, "nsf")))
    second = data.draw(plans(between, data.draw(st.sampled_from([frozenset(["layers"]), frozenset()]))))
    after = compile_plan(second, between).config
    some = {r: t for r, t in data.draw(sparsities(after, "nsbf")).items() if r not in first.sparsity or t == "stored"}
    second = replace(second, sparsity=some)
    one = first.then(second)
    values = thinned(sliced(exact(whole), config, first), first)
    wanted = thinned(sliced(values, between, second), second)
    _, weights = open_weights(path, prune=one)
    got = exact(weights)
    assert got.keys() == wanted.keys()
    assert all(np.array_equal(got[name], value) for name, value in wanted.items())
    assert compile_plan(one, config).config == after
    assert PrunePlan().then(one) == one.then(PrunePlan()) == one
    assert PrunePlan.from_dict(as_file(one)) == one
    assert str(PrunePlan.from_dict(as_file(one))) == str(one)


def test_zeros_by_layer_follow_their_layers():
    first = PrunePlan("2-4", sparsity={"3.down": "2:4", "q": "0.5"})
    assert first.sparsity == {"q": "0.5", "3.down": "2:4"}
    after = first.then(PrunePlan("1,2", sparsity={"1.up": "1:2", "down": "stored", "2": "dense"}))
    wanted = {"q": "0.5", "down": "stored", "3.down": "2:4", "3.up": "1:2", "4.down": "dense"}
    assert after == PrunePlan("3,4", sparsity=wanted)
    assert first.then(PrunePlan("0,2")) == PrunePlan("2,4", sparsity={"q": "0.5"})
    rows = PrunePlan(sparsity={"q": "2:4", "o": "stored"})
    assert rows.then(PrunePlan(heads={0: "1"})) == PrunePlan(heads={0: "1"}, sparsity={"q": "2:4", "o": "stored"})
    assert rows.then(PrunePlan(heads={0: ""})).heads == {0: ()}
    assert PrunePlan(sparsity="2:4").then(PrunePlan(ffn={1: ""})).ffn == {1: ()}


def test_two_runs_of_a_layer_have_the_same_zeros(tmp_path):
    first = PrunePlan(order="0,1,1,2")
    both = first.then(PrunePlan(sparsity={"1.q": "2:4", "2.q": "2:4", "up": "0.5", "0.up": "dense"}))
    assert both == PrunePlan(order="0,1,1,2", sparsity={"1.q": "2:4", "up": "0.5", "0.up": "dense"})
    one_left = first.then(PrunePlan("0,2,3", sparsity={"1.q": "1:2", "2.q": "2:4"}))
    assert one_left == PrunePlan("0-2", sparsity={"1.q": "2:4"})
    assert PrunePlan(sparsity={"1.q": "2:4"}).then(first) == replace(first, sparsity={"1.q": "2:4"})
    write_checkpoint(tmp_path / "in", Drawn(seven(), "BF16"))
    prune(tmp_path / "in", tmp_path / "out", both)
    for how in (None, "int8"):
        with (
            miaotui.load(tmp_path / "in", prune=both, quantize=how) as model,
            miaotui.load(tmp_path / "out", quantize=how) as dense,
            miaotui.load(tmp_path / "out", prune="sparsity=stored", quantize=how) as stored,
        ):
            layers = model.session.weights.decoder.layers
            assert layers[1] is layers[2]
            assert {layers[1][0].linear["q"].w.dtype, layers[1][1].linear["up"].w.dtype} == {f"{how or 'bf16'}_sparse"}
            for one in (dense, stored):
                assert np.array_equal(model.logits([1, 2, 3, 4]), one.logits([1, 2, 3, 4]))


@pytest.mark.parametrize("how", [None, "int8"])
def test_zeros_are_chosen_from_what_a_share_of_the_width_leaves(tmp_path, monkeypatch, how):
    write_checkpoint(tmp_path, Drawn(seven()))
    config, whole = open_weights(tmp_path)
    wish = {"width": 0.75, "ffn": 0.5, "sparsity": "2:4"}
    ranked = parse_prune(wish, open_model(tmp_path))
    assert (len(ranked.width), {len(kept) for kept in ranked.ffn.values()}) == (48, {96})
    plain = parse_prune({"width": 0.75, "ffn": 0.5}, open_model(tmp_path))
    assert replace(ranked, sparsity={}) == plain  # ranked by all numbers, not by those that stay
    with miaotui.load(tmp_path, prune=wish) as model:
        wanted = thinned(sliced(exact(whole), config, ranked), ranked)
        assert all(np.array_equal(w.f64(), wanted[w.name]) for w in model.session.weights)
    with miaotui.load(tmp_path, prune=wish, quantize=how, max_context=24, threads=1) as model:
        taken = model.memory["allocated"]
        assert model.memory["weights_resident"] == model.receipt.resident_bytes
    with miaotui.load(tmp_path, prune=wish, quantize=how, max_context=24, threads=1, memory_limit=taken) as model:
        assert model.memory["allocated"] == taken
    monkeypatch.setattr(Checkpoint, "array", lambda *_: pytest.fail("data was read"))
    with pytest.raises(MemoryLimitError):
        miaotui.load(tmp_path, prune=wish, quantize=how, max_context=24, threads=1, memory_limit=taken - 1)
    with pytest.raises(PlanError, match=r"8:16 does not fit \[64, 36\]"):
        miaotui.load(tmp_path, prune={"width": 0.55, "sparsity": "8:16"})


CLASHES = [
    (PrunePlan(sparsity="2:4"), PrunePlan(sparsity="1:4"), "sparsity of q: the first plan makes zeros by 2:4"),
    (PrunePlan(sparsity={"3.o": "2:4"}), PrunePlan(sparsity={"o": "0.5"}), "sparsity of 3.o: the first plan"),
    (PrunePlan(sparsity={"o": "2:4"}), PrunePlan(heads={0: "1"}), "second's heads cuts that matrix"),
    (PrunePlan(sparsity={"q": "0.5/2x2"}), PrunePlan(heads={0: "1"}), "second's heads cuts that matrix"),
    (PrunePlan(sparsity={"q": "2:4"}), PrunePlan(width="0-3"), "second's width cuts that matrix"),
    (PrunePlan(sparsity={"down": "0.5"}), PrunePlan(ffn={1: "2"}), "second's ffn cuts that matrix"),
    (PrunePlan(sparsity={"down": "0.5"}), PrunePlan(ffn_ratio=0.5), "second's ffn_ratio cuts that matrix"),
    (PrunePlan(sparsity={"q": "0.5"}), PrunePlan(width_ratio=0.5), "second's width_ratio cuts that matrix"),
    (PrunePlan(sparsity={"o": "0.5/2x2"}), PrunePlan(width_ratio=0.5), "second's width_ratio cuts that matrix"),
    (PrunePlan(order="0,1,1,2"), PrunePlan(sparsity={"1.q": "2:4"}), "sparsity of q: layer 1 runs twice, as 1 and 2"),
    (PrunePlan(order="1,1"), PrunePlan(sparsity={"q": "2:4", "1.q": "dense"}), "sparsity of q: layer 1 runs twice"),
    (PrunePlan(order="1,1"), PrunePlan(sparsity={"2.q": "2:4"}), "the second plan keeps 2, but the first leaves 2"),
]


@pytest.mark.parametrize(("first", "second", "says"), CLASHES, ids=[str(i) for i in range(len(CLASHES))])
def test_zeros_that_would_be_others_are_refused(first, second, says):
    with pytest.raises(PlanError, match=says):
        first.then(second)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (PrunePlan(sparsity={"q": "2:4"}), PrunePlan(heads={0: "1"})),
        (PrunePlan(sparsity={"q": "0.5/1x2"}), PrunePlan(heads={0: "1"})),
        (PrunePlan(sparsity={"up": "0.5"}), PrunePlan(ffn_ratio=0.5)),
        (PrunePlan(sparsity={"down": "stored"}), PrunePlan(ffn_ratio=0.5, width_ratio=0.5)),
        (PrunePlan(sparsity={"q": "2:4"}), PrunePlan(ffn={0: "1"}, vocab="0-3")),
    ],
)
def test_zeros_stay_where_rows_go_or_none_are_chosen(first, second):
    assert first.then(second).sparsity == first.sparsity


@pytest.mark.parametrize("text", ["dense", "4:4", "0", "0.0/2x2", "0.001", "q=1:1,3.down=0", "stored"])
def test_keeping_everything_changes_nothing(tmp_path, text):
    write_checkpoint(tmp_path, Drawn(seven(), "BF16"))
    with miaotui.load(tmp_path) as whole, miaotui.load(tmp_path, prune={"sparsity": text}) as kept:
        for a, b in zip(whole.session.weights, kept.session.weights, strict=True):
            assert (a.name, a.dtype, a.shape, a.mapped) == (b.name, b.dtype, b.shape, b.mapped)
        assert kept.memory == whole.memory
        assert np.array_equal(whole.logits([1, 2, 3]), kept.logits([1, 2, 3]))
    assert PrunePlan(sparsity="dense") == PrunePlan()


def test_zeros_that_would_take_more_bytes_lie_among_the_others(tmp_path):
    write_checkpoint(tmp_path, Drawn(seven()))
    _, whole = open_weights(tmp_path)
    plan = PrunePlan(sparsity={"down": "0.02"})
    with miaotui.load(tmp_path, prune=plan) as model:
        got = {e.weight: e for e in model.receipt.entries}["layers.3.down"]
        assert got.action == "resident: zeros 0.02, held dense"
        assert (got.dtype, got.kept, got.zeros) == ("f32", 64 * 189, "0.02")
        wanted = thinned(exact(whole), plan)
        assert all(np.array_equal(w.f64(), wanted[w.name]) for w in model.session.weights)


#: What a plan of the small Llama says of zeros, and what the message says. 12 wide, 7 neurons, 2 layers, tied.
BAD = [
    ("2-4", "sparsity: found '2-4'; expected N:M"),
    ("0:4", "expected N:M"),
    ("5:4", "expected N:M"),
    ("2:0", "expected N:M"),
    ("1:99999999", "expected N:M"),
    (1, "expected N:M"),
    (1.0, "share from 0 to below 1"),
    (-0.5, "share from 0 to below 1"),
    ("1.5", "share from 0 to below 1"),
    ("nan", "share from 0 to below 1"),
    (float("nan"), "share from 0 to below 1"),
    (True, "expected N:M"),
    (None, "expected N:M"),
    (["2:4"], "expected N:M"),
    ("0.5/0x4", "expected N:M"),
    ("0.5/4", "expected N:M"),
    ({"block": [4], "ratio": 0.5}, "expected N:M"),
    ({"block": [4, 4]}, "expected N:M"),
    ({"block": [2, 2.0], "ratio": 0.5}, "expected N:M"),
    ({"block": [2, 2], "ratio": 1}, "share from 0 to below 1"),
    ({"q": "2:5"}, r"q of layer 0: 2:5 does not fit \[12, 12\]: its 12 columns are no multiple of 5"),
    ("2:4", r"down of layer 0: 2:4 does not fit \[12, 7\]: its 7 columns are no multiple of 4"),
    ({"down": "0.5/5x1"}, "its 12 rows are no multiple of 5"),
    ({"down": "0.5/4x2"}, "its 7 columns are no multiple of 2"),
    ({"embed": "2:4"}, "'embed' is no matrix that can be sparse .its rows are looked up"),
    ({"positions": "2:4"}, "its rows are looked up"),
    ({"norm": "2:4"}, "'norm' is no matrix that can be sparse; expected some of q"),
    ({"q_bias": "2:4"}, "is no matrix"),
    ({"head": "2:4"}, "it is the embedding here"),
    ({"0.head": "2:4"}, "is no matrix"),
    ({"2.q": "2:4"}, "sparsity: there is no layer 2; the model has 2"),
    ({"2": "2:4"}, "sparsity: there is no layer 2"),
    ({"0-999999": "2:4"}, "there is no layer 999999"),
    ({"0-1.q": "2:4", "1.q": "1:4"}, "sparsity of 1.q: found 2:4 and 1:4; name each matrix once"),
    ({"-1.q": "2:4"}, "no index or range"),
    ({"x.q": "2:4"}, "no index or range"),
    ({0: "2:4"}, "a role, layers, or both"),
    ("q=2:4,q=1:2", "'q' is named twice"),
    ("2:4,1:2", "'all' is named twice"),
    ("q=", "expected N:M"),
]


@pytest.mark.parametrize(("sparsity", "says"), BAD, ids=[str(i) for i in range(len(BAD))])
def test_bad_zeros_are_refused_before_any_data_is_read(tmp_path, monkeypatch, sparsity, says):
    write_checkpoint(tmp_path, small("llama"))
    monkeypatch.setattr(Checkpoint, "array", lambda *_: pytest.fail("data was read"))
    with pytest.raises(PlanError, match=says) as error:
        miaotui.load(tmp_path, prune={"format": "miaotui-prune", "version": 1, "sparsity": sparsity})
    assert len(str(error.value)) < 400


FORMS = [
    ("sparsity=2:3; ffn=0.5", r"2:3 does not fit \[12, 4\]"),  # four of seven neurons: known before they are ranked
    ("sparsity=gate=2:5,up=stored", "gate of layer 0: 2:5 does not fit"),
    ("sparsity=half", "expected N:M"),
    ("sparsity=2:4; sparsity=1:4", "given twice"),
]


@pytest.mark.parametrize(("wish", "says"), FORMS, ids=[wish for wish, _ in FORMS])
def test_bad_short_forms_are_refused(tmp_path, monkeypatch, wish, says):
    write_checkpoint(tmp_path, small("llama"))
    monkeypatch.setattr(Checkpoint, "array", lambda *_: pytest.fail("data was read"))
    with pytest.raises(MiaotuiError, match=says):
        miaotui.load(tmp_path, prune=wish)


def test_neurons_are_ranked_before_zeros_are_made(tmp_path):
    write_checkpoint(tmp_path, Drawn(seven()))
    opened = open_model(tmp_path)
    config = opened.config
    both, alone = (parse_prune(f"ffn=0.5{more}", opened) for more in ("; sparsity=2:4", ""))
    assert both == replace(alone, sparsity="2:4")
    _, whole = open_weights(tmp_path)
    wanted, got = thinned(sliced(exact(whole), config, both), both), exact(open_weights(tmp_path, prune=both)[1])
    assert all(np.array_equal(got[name], value) for name, value in wanted.items())


def test_a_model_without_gates_says_so(tmp_path):
    write_checkpoint(tmp_path, small("gpt2"))
    with pytest.raises(PlanError, match="sparsity of gate: this model's feed-forward has none"):
        miaotui.load(tmp_path, prune="sparsity=gate=2:4")
    with miaotui.load(tmp_path, prune="sparsity=0.5") as model:
        assert not any(w.name.endswith("gate") for w in model.session.weights)


def test_short_forms_are_the_plans_that_they_say(tmp_path):
    write_checkpoint(tmp_path, Drawn(seven()))
    opened = open_model(tmp_path)
    wanted = {
        "sparsity=2:4": dict.fromkeys(LINEAR, "2:4"),
        "sparsity=.5": dict.fromkeys(LINEAR, "0.5"),
        "sparsity=0.5/4x8": dict.fromkeys(LINEAR, "0.5/4x8"),
        "sparsity=2:4,down=stored": dict.fromkeys(LINEAR, "2:4") | {"down": "stored"},
        "sparsity=q=2:4, 0-1.down=0.25": {"q": "2:4", "0.down": "0.25", "1.down": "0.25"},
        "sparsity=2:4,3=dense": dict.fromkeys(LINEAR, "2:4") | {f"3.{role}": "dense" for role in LINEAR},
    }
    for text, sparsity in wanted.items():
        got = parse_prune(text, opened)
        assert got.sparsity == sparsity, text
        assert PrunePlan.from_dict(as_file(got)) == got
    for value in ({"block": [4, 8], "ratio": 0.5}, {"all": {"block": [4, 8], "ratio": 0.5}}, "0.5/4x8"):
        assert PrunePlan(sparsity=value).sparsity == dict.fromkeys(LINEAR, "0.5/4x8")
    assert as_file(PrunePlan(sparsity="2:4"))["sparsity"] == "2:4"
    assert PrunePlan(sparsity=0.25) == PrunePlan(sparsity="0.25")
    assert str(PrunePlan(sparsity="2:4")) == "keep everything; zeros: 2:4"
    assert str(PrunePlan("0-2", sparsity="q=2:4,v=2:4,0-2.down=0.5")) == (
        "keep layers 0-2; zeros: 2:4 in q, v; 0.5 in down of 0-2"
    )
    # the head is one of these where it is not the embedding
    write_checkpoint(tmp_path / "untied", Drawn({**seven(), "tie_word_embeddings": False}))
    with miaotui.load(tmp_path / "untied", prune="sparsity=head=2:4") as model:
        assert [w.name for w in model.session.weights if w.dtype in SPARSE] == ["head"]


def test_memory_is_known_before_data_is_read(tmp_path, monkeypatch):
    """For chosen zeros to the byte; for stored ones what is sure already is refused, and the rest after counting."""
    write_sparse(tmp_path / "in", Drawn(seven(), "BF16"), "2:4")
    stored = {"sparsity": "stored"}
    cases = [(tmp_path / "in", {"sparsity": "2:4"}), (tmp_path / "in-zeros", stored)]
    takes = []
    for path, wish in cases:
        with miaotui.load(path, prune=wish, max_context=24, threads=1) as model:
            takes.append(model.memory["allocated"])
            got = facts(path, Request(max_context=24, threads=1, prune=wish))
            assert {k: v for k, v in got["memory"].items() if k != "total"} == model.memory
            assert model.memory["allocated"] == (
                model.session.backend.arena.nbytes
                + model.memory["constants"]
                + sum(-(-w.nbytes // 64) * 64 for w in model.session.weights if not w.mapped)
            )
        with miaotui.load(path, prune=wish, max_context=24, threads=1, memory_limit=takes[-1]):
            pass
    assert takes[0] == takes[1]
    with pytest.raises(MemoryLimitError):
        miaotui.load(tmp_path / "in-zeros", prune=stored, max_context=24, threads=1, memory_limit=takes[1] - 1)
    monkeypatch.setattr(Checkpoint, "array", lambda *_: pytest.fail("data was read"))
    with pytest.raises(MemoryLimitError):
        miaotui.load(tmp_path / "in", prune=cases[0][1], max_context=24, threads=1, memory_limit=takes[0] - 1)
    with pytest.raises(MemoryLimitError):
        miaotui.load(tmp_path / "in-zeros", prune=stored, max_context=24, threads=1, memory_limit=takes[1] // 3)


def test_the_receipt_tells_of_zeros(tmp_path):
    write_checkpoint(tmp_path, Drawn(seven()))
    wish = "keep-layers=0-2; sparsity=2:4,down=0.5/4x4"
    with miaotui.load(tmp_path, prune=wish, quantize="up=int8,gate=int4") as model:
        receipt = model.receipt
        entries = {e.weight: e for e in receipt.entries}
        q, up, gate, down, norm = (entries[f"layers.1.{role}"] for role in ("q", "up", "gate", "down", "ffn_norm"))
        assert (q.zeros, q.kept, q.dtype) == ("2:4", 64 * 32, "f32_sparse")
        assert (q.tensor_bytes, q.read_bytes) == (16384, 16384)
        assert q.resident_bytes == sparse_bytes(q.dtype, q.shape, q.kept)
        assert q.action == "resident: zeros 2:4, held sparse"
        assert (up.zeros, up.kept, up.dtype) == ("2:4", 192 * 32, "int8_sparse")
        assert up.resident_bytes == sparse_int8_bytes(up.shape, up.kept)
        assert up.action == "resident: quantised from F32 and zeros 2:4, held sparse"
        assert (gate.zeros, gate.kept, gate.dtype) == ("2:4", 192 * 32, "int4")
        assert gate.action == "resident: quantised from F32 and zeros 2:4, held dense"
        assert (down.zeros, down.kept) == ("0.5/4x4", 64 * 96)
        assert (norm.zeros, norm.kept) == (None, None)
        text = "\n".join(receipt.lines())
        assert "f32_sparse [64, 64], 2,048 numbers" in text
        assert "chosen by magnitude" in text
        assert "zeros of int4 matrices take bytes" in text
        assert "counted" not in text
        assert receipt.plan == "keep layers 0-2; zeros: 2:4 in q, k, v, o, gate, up; 0.5/4x4 in down"
        assert Receipt.from_dict(json.loads(json.dumps(receipt.as_dict()))) == receipt
    with miaotui.load(tmp_path, prune="sparsity=stored") as model:
        assert any("read once to count them" in note for note in model.receipt.notes)


def test_what_a_method_wrote_runs_sparse(tmp_path):
    """The zeros of `--method sparsegpt --sparsity 2:4`, from the demo model."""
    from miaotui.tools.demo import path
    from miaotui.tools.importance.masks import Sparsity
    from miaotui.tools.importance.methods import Text, Wish, find

    text = "Once upon a time, in a house in a small village, there lived a young fox named Lucy. " * 6
    got = find(path(), Wish("sparsegpt", sparsity=Sparsity(0.5, 2, 4)), Text(text, tokens=256))
    prune(path(), tmp_path / "out", got.plan, got.rewrite)
    with miaotui.load(tmp_path / "out") as dense, miaotui.load(tmp_path / "out", prune="sparsity=stored") as model:
        layers = [w for w in model.session.weights if w.name.startswith("layers.") and len(w.shape) == 2]
        assert {w.dtype for w in layers} == {"bf16_sparse"}
        assert all(w.kept <= np.prod(w.shape) // 2 for w in layers)
        ids = model.tokenizer.encode("Once upon a time, there lived")
        assert np.array_equal(model.logits(ids), dense.logits(ids))
        assert model.generate("Once", max_new_tokens=16).text == dense.generate("Once", max_new_tokens=16).text


def test_packed_matrices_have_no_zeros_to_find(tmp_path):
    from miaotui.tools.commands.quantize import quantize

    write_checkpoint(tmp_path / "in", Drawn(seven()))
    quantize(tmp_path / "in", tmp_path / "out", "int8")
    for text in ("2:4", "stored"):
        with pytest.raises(PlanError, match="cannot be cut or thinned"):
            miaotui.load(tmp_path / "out", prune={"sparsity": text})


@given(st.integers(0, 9), st.integers(1, 40), st.data(), st.sampled_from(sorted(SPARSE)))
def test_rows_packed_in_pieces_are_the_matrix_packed_at_once(n, k, data, dtype):
    rng = np.random.default_rng(n * 41 + k)
    numbers = rng.integers(0, 2**16, (n, k)).astype(SPARSE[dtype])
    mask = rng.random((n, k)) < data.draw(st.sampled_from([0.0, 0.3, 1.0]))
    size = sparse_bytes(dtype, (n, k), int(mask.sum()))
    whole, pieces = np.zeros((2, size), np.uint8)
    pack_sparse(numbers, mask, dtype, whole)
    cuts = sorted({0, n, *data.draw(st.lists(st.integers(0, n), max_size=3))})
    for a, b in zip(cuts, [*cuts[1:], n], strict=True):
        pack_sparse_rows(numbers[a:b], mask[a:b], dtype, pieces, n, a)
    assert np.array_equal(whole, pieces)


@given(st.data(), st.integers(1, 5), st.integers(1, 40))
def test_the_largest_are_those_that_sorting_finds(data, n, k):
    """Few numbers are compared in pairs, many by a partition; equals are kept from the left."""
    scores = np.array(data.draw(st.lists(st.lists(st.integers(0, 4), min_size=k, max_size=k), min_size=n, max_size=n)))
    count = data.draw(st.integers(0, k))
    wanted = np.zeros((n, k), bool)
    np.put_along_axis(wanted, np.argsort(-scores, axis=1, kind="stable")[:, :count], values=True, axis=1)
    assert np.array_equal(largest(scores, count), wanted)
