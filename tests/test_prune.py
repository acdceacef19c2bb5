"""What a plan keeps is what slicing the loaded weights would keep, bit for bit; what it cuts away is never read."""

from __future__ import annotations

import ctypes
import gc
import hashlib
import json
import mmap
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import miaotui
import numpy as np
import pytest
from checkpoints import FAMILIES, Drawn, models, random_tensors, small, write_checkpoint, write_safetensors
from helpers import by_name, open_weights, oracle, sizes
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from miaotui.errors import CheckpointError, MemoryLimitError, MiaotuiError, PlanError, TokenizerError
from miaotui.loader.checkpoint import Checkpoint
from miaotui.loader.config import parse_config
from miaotui.loader.load_plan import make_load_plan
from miaotui.loader.open import open_model
from miaotui.loader.prune.compiled import compile_plan
from miaotui.loader.prune.named import fingerprint
from miaotui.loader.prune.options import parse_prune, select
from miaotui.loader.prune.plan import PrunePlan
from miaotui.loader.prune.rank_ffn import best
from miaotui.loader.prune.receipt import Receipt
from miaotui.loader.quantize import pack_matrix, parse_quantize
from miaotui.loader.source import spans_by_file
from miaotui.runtime.quantized import quantized_shape
from miaotui.tools import demo
from pruning import as_file, masked, plans, seven, sliced
from tolerance import bound

if TYPE_CHECKING:
    from miaotui.runtime.spec import Config, Weights

SLOW = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
CUTS = ("layers", "heads", "ffn", "halves", "vocab", "width")


def exact(weights: Weights) -> dict[str, np.ndarray]:
    return {name: w.f64() for name, w in by_name(weights).items()}


def config_of(path: Path) -> Config:
    return open_model(path).config


@settings(SLOW, max_examples=60)
@given(st.data(), st.sampled_from(FAMILIES))
def test_prune_then_load_is_load_then_slice(tmp_path_factory, data, family):
    """Every family, every kind of cut and any mixture, as floats."""
    path = tmp_path_factory.mktemp("p")
    write_checkpoint(path, data.draw(models(family)))
    config, whole = open_weights(path)
    plan = data.draw(plans(config))
    left, weights = open_weights(path, prune=plan)
    got, wanted = exact(weights), sliced(exact(whole), config, plan)
    assert got.keys() == wanted.keys()
    for name, value in wanted.items():
        assert got[name].shape == value.shape, name
        assert np.array_equal(got[name], value), name
    dtypes = {w.name.split(".")[-1]: w.dtype for w in whole}
    assert all(w.dtype == dtypes[w.name.split(".")[-1]] for w in weights)
    assert left == compile_plan(plan, config).config


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_each_cut_in_each_family_rounded_to_integers(tmp_path_factory, family, cut):
    """What is kept is chosen first and rounded then: the packed bytes are those of the sliced matrix."""

    @settings(SLOW, max_examples=5)
    @given(st.data(), st.sampled_from(["int8", "int4,embed=int8", "down=int4"]))
    def run(data, how):
        path = tmp_path_factory.mktemp("q")
        write_checkpoint(path, data.draw(models(family)))
        config, whole = open_weights(path)
        plan = data.draw(plans(config, frozenset([cut])))
        try:
            _, weights = open_weights(path, how, plan)
        except CheckpointError as e:
            if "too small for" not in str(e):  # a row of one column, which no scale of float16 may tell from nothing
                raise
            reject()
        wanted, roles = sliced(exact(whole), config, plan), parse_quantize(how)
        for w in weights:
            dtype = roles.get(w.name.rpartition(".")[2])
            value = wanted[w.name]
            if dtype is None or value.ndim == 1 or w.name == "positions":
                assert np.array_equal(w.f64(), value)
                continue
            packed = np.empty(quantized_shape(dtype, value.shape), np.uint8)
            assert pack_matrix(value.astype(np.float32), "F32", dtype, packed)
            assert w.array.tobytes() == packed.tobytes(), w.name

    run()


@settings(SLOW, max_examples=40)
@given(st.data(), st.sampled_from(FAMILIES))
def test_what_is_left_runs(tmp_path_factory, data, family):
    """Uneven layers give what the float64 oracle gives, for any number of threads and any cut of the prompt."""
    path = tmp_path_factory.mktemp("r")
    write_checkpoint(path, data.draw(models(family)))
    plan = data.draw(plans(config_of(path)))
    with (
        miaotui.load(path, prune=plan, threads=1) as model,
        miaotui.load(path, prune=plan, threads=2, prefill_chunk=3) as other,
    ):
        ids = np.random.default_rng(1).integers(0, model.config.n_vocab, 9).tolist()
        logits = model.logits(ids)
        assert np.array_equal(logits, other.logits(ids))
        config, weights = open_weights(path, prune=plan)
        assert config == model.config
        wanted = oracle(config, weights, ids)
        limit = bound("model", "f32", config.n_layers, scale=float(np.abs(wanted).max()))
        assert np.abs(logits - wanted).max() <= limit
        assert model.memory["weights_resident"] == sum(
            -(-w.nbytes // 64) * 64 for w in model.session.weights if not w.mapped
        )


@settings(SLOW, max_examples=40)
@given(st.data(), st.sampled_from(FAMILIES))
def test_what_is_left_computes_what_zeros_would(tmp_path_factory, data, family):
    """Cut layers, halves, heads and neurons add nothing: the whole model with zeros there is the same model."""
    drawn = data.draw(models(family))
    config = parse_config(drawn.config, "drawn")
    cuts = data.draw(st.frozensets(st.sampled_from(["layers", "heads", "ffn", "halves"])))
    as_zeros(tmp_path_factory.mktemp("z"), drawn, data.draw(plans(config, cuts)))


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_that_differ_in_everything(tmp_path, family):
    sizes = {"hidden_size": 24, "intermediate_size": 17, "num_hidden_layers": 5, "num_attention_heads": 4}
    sizes |= {"num_key_value_heads": 2, "head_dim": 6}
    if family == "gpt2":
        sizes = {"n_embd": 24, "n_inner": 17, "n_layer": 5, "n_head": 4}
    drawn = Drawn({**small(family).config, **sizes, "eos_token_id": None}, seed=7)
    as_zeros(tmp_path, drawn, PrunePlan(None, {1: "2,3", 2: "0,3", 3: ""}, {0: "0-4,9", 2: "16", 4: ""}))


def as_zeros(path: Path, drawn: Drawn, plan: PrunePlan) -> None:
    """Compare the pruned model with the whole one that has zeros instead."""
    write_checkpoint(path / "in", drawn)
    write_checkpoint(path / "zeros", drawn)
    config = config_of(path / "in")
    zeros = masked(random_tensors(drawn.config, drawn.seed), config, plan)
    write_safetensors(path / "zeros" / "model.safetensors", zeros, dtype=drawn.dtype)
    ids = np.random.default_rng(2).integers(0, config.n_vocab, 9).tolist()
    with miaotui.load(path / "in", prune=plan) as model, miaotui.load(path / "zeros") as whole:
        got, wanted = model.logits(ids), whole.logits(ids)
        limit = bound("model", "f32", config.n_layers, scale=float(np.abs(wanted).max()))
        assert np.abs(got - wanted).max() <= limit


#: What `miaotui prune --keep-layers 1-4 --drop-heads 1:0,1 --drop-attention 2 --drop-ffn 3 --width 0-95 --sparsity 2:4`
#: wrote for the demo model before layers were tuples of sublayers.
VERSION_1 = """{"format": "miaotui-prune", "version": 1,
 "model": {"family": "llama", "n_layers": 6, "d_model": 128, "n_heads": 4, "n_kv_heads": 2, "d_head": 32, "d_ff": 352,
  "n_vocab": 1024, "layout": "fdc4c3826261854591ba9c932c8efc3a71e4245b94de7e2da3942e0299cc0bc6"},
 "layers": "1-4", "heads": {"1": "2-3", "2": ""}, "ffn": {"3": ""}, "width": "0-95", "sparsity": "2:4"}"""


def test_a_plan_of_version_1_means_what_it_meant(tmp_path):
    (tmp_path / "plan.json").write_text(VERSION_1)
    with miaotui.load(demo.path(), prune=tmp_path / "plan.json") as model:
        kinds = [[type(s).__name__ for s in layer] for layer in model.config.decoder.layers]
        assert kinds == [["Attention", "FeedForward"], ["FeedForward"], ["Attention"], ["Attention", "FeedForward"]]
        assert [sizes(model.config, i).n_heads for i in range(4)] == [2, 0, 4, 4]
        digest = hashlib.sha256(model.logits([1, 5, 9, 700]).tobytes()).hexdigest()
    assert digest == "bc44c8f3a6814e4389e77fe18dc2a045ef3fe52d650491c9dff43472d2b9570f"


@settings(SLOW, max_examples=60)
@given(st.data(), st.sampled_from(FAMILIES))
def test_composing_plans_is_one_plan(tmp_path_factory, data, family):
    path = tmp_path_factory.mktemp("c")
    write_checkpoint(path, data.draw(models(family)))
    config, whole = open_weights(path)
    first = data.draw(plans(config))
    second = data.draw(plans(compile_plan(first, config).config))
    one = first.then(second)
    _, weights = open_weights(path, prune=one)
    between = compile_plan(first, config).config
    wanted = sliced(sliced(exact(whole), config, first), between, second)
    got = exact(weights)
    assert got.keys() == wanted.keys()
    assert all(np.array_equal(got[name], value) for name, value in wanted.items())
    assert compile_plan(one, config).config == compile_plan(second, between).config
    assert PrunePlan().then(first) == first.then(PrunePlan()) == first


@settings(SLOW, max_examples=20)
@given(st.data(), st.sampled_from(FAMILIES), st.booleans())
def test_keeping_everything_changes_nothing(tmp_path_factory, data, family, named):
    path = tmp_path_factory.mktemp("k")
    write_checkpoint(path, data.draw(models(family)))
    config = config_of(path)
    plan = PrunePlan()
    if named:  # every index by name
        layers = tuple(range(config.n_layers))
        plan = PrunePlan(
            layers,
            {i: tuple(range(sizes(config).n_heads)) for i in layers},
            {i: tuple(range(sizes(config).d_ff)) for i in layers},
            vocab=tuple(range(config.n_vocab)),
            width=tuple(range(config.d_model)),
        )
    (config, whole), (left, kept) = open_weights(path), open_weights(path, prune=plan)
    assert left == config
    for a, b in zip(whole, kept, strict=True):
        assert (a.name, a.dtype, a.shape, a.mapped) == (b.name, b.dtype, b.shape, b.mapped)
        assert np.array_equal(a.f64(), b.f64())


@settings(SLOW, max_examples=40)
@given(st.data(), st.sampled_from([f for f in FAMILIES if f != "gpt2"]))
def test_what_loses_nothing_is_mapped(tmp_path_factory, data, family):
    """A tensor that keeps all its columns and one range of rows is a view of the file; the receipt says the same."""
    path = tmp_path_factory.mktemp("m")
    write_checkpoint(path, replace(data.draw(models(family)), dtype="F32"))
    config, whole = open_weights(path)
    plan = data.draw(plans(config))
    _, weights = open_weights(path, prune=plan)
    before = {w.name: w for w in whole}
    layers = range(config.n_layers) if plan.layers is None else plan.layers
    for w in weights:
        name = w.name
        if name.startswith("layers."):
            _, new, role = name.split(".")
            name = f"layers.{layers[int(new)]}.{role}"
        assert w.mapped or w.shape != before[name].shape
        if w.shape == before[name].shape:
            assert w.mapped


@settings(max_examples=40)
@given(st.data())
def test_a_plan_survives_its_file(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("f")
    write_checkpoint(path, small("llama"))
    config = config_of(path)
    plan = data.draw(plans(config))
    plan = replace(plan, model=fingerprint(config, open_model(path).checkpoint), notes=("drawn",))
    plan.save(path / "plan.json")
    again = PrunePlan.load(path / "plan.json")
    assert again == plan
    assert again.notes == plan.notes
    assert PrunePlan.from_dict(as_file(plan)) == plan
    assert str(again) == str(plan)
    compile_plan(again, config, open_model(path).checkpoint)


SMALL = {"n_layers": 2, "n_heads": 3, "d_ff": 7, "n_vocab": 11, "d_model": 12}
#: What is asked of the small Llama (two layers, three heads on one KV head, seven neurons), and what the message says.
BAD = [
    ({"layers": "0-2"}, r"layers: there is no layer 2; the model has 2 \(0 to 1\)"),
    ({"layers": ""}, "nothing is kept"),
    ({"layers": [0, 0]}, "0 is named twice"),
    ({"layers": [-1]}, "-1 is negative"),
    ({"layers": "0-"}, "no index or range"),
    ({"layers": "1-0"}, "no index or range"),
    ({"layers": "0-99999999"}, "there is no layer 99999999"),
    ({"layers": True}, "expected indices"),
    ({"layers": 1.5}, "expected indices"),
    ({"heads": {"0": "3"}}, "heads of layer 0: there is no head 3; it has 3"),
    ({"heads": {"2": "0"}}, "heads: there is no layer 2"),
    ({"heads": {"0-1": "0"}}, "not one layer"),
    ({"heads": {"x": "0"}}, "no index or range"),
    ({"heads": "0"}, "a set of indices for each layer"),
    ({"heads": {"0": ""}, "ffn": {"0": ""}}, "layer 0 would keep neither"),
    ({"ffn": {"1": "7"}}, "ffn of layer 1: there is no neuron 7"),
    ({"ffn_ratio": 0}, "above 0 and at most 1"),
    ({"ffn_ratio": 1.01}, "above 0 and at most 1"),
    ({"ffn_ratio": float("nan")}, "above 0 and at most 1"),
    ({"ffn_ratio": "0.5"}, "above 0 and at most 1"),
    ({"width_ratio": 1.01}, "width_ratio: found 1.01; expected a number above 0 and at most 1"),
    ({"vocab": "11"}, "vocab: there is no token 11"),
    ({"vocab": ""}, "nothing is kept"),
    ({"width": "12"}, "width: there is no dimension 12"),
    ({"depth": "1"}, "unknown key 'depth'"),
    ({"model": {"family": "gpt2"}}, "another model: its family"),
    ({"model": {"n_layers": 3}}, "another model: its n_layers is 3, this model's 2"),
    ({"model": {"layout": "0" * 64}}, "another model: its layout"),
    ({"model": {"colour": 1}}, "no part of a fingerprint"),
    ({"model": "llama"}, "expected an object"),
    ({"notes": "why"}, "expected a list"),
    ({"version": 2}, "reads 'miaotui-prune', version 1"),
    ({"format": "other"}, "reads 'miaotui-prune'"),
]


@pytest.mark.parametrize(("wish", "says"), BAD, ids=[str(i) for i in range(len(BAD))])
def test_bad_plans_are_refused_before_any_data_is_read(tmp_path, monkeypatch, wish, says):
    write_checkpoint(tmp_path, small("llama"))
    (tmp_path / "plan.json").write_text(json.dumps({"format": "miaotui-prune", "version": 1, **wish}))
    monkeypatch.setattr(Checkpoint, "array", lambda *_: pytest.fail("data was read"))
    with pytest.raises(PlanError, match=says) as error:
        miaotui.load(tmp_path, prune=tmp_path / "plan.json")
    assert len(str(error.value)) < 400


FORMS = [
    ("keep-layers=5", "keep-layers=5.: there is no layer 5"),
    ("keep-layers=0; keep-layers=1", "given twice"),
    ("keep=0", "'keep' is not understood"),
    ("drop-heads=0", "expected LAYER:HEADS"),
    ("drop-heads=0:1+0:2", "each layer once"),
    ("drop-heads=0:3", "no head 3 in layer 0; it has 3"),
    ("drop-heads=4:0", "no layer 4; the model has 2"),
    ("drop-layers=0,1", "nothing is kept"),
    ("drop-attention=0; drop-ffn=0", "neither attention nor feed-forward"),
    ("ffn=1.5", "above 0 and at most 1"),
    ("ffn=most", "a share above 0 and at most 1, such as 0.75"),
    ("width=1.5", "above 0 and at most 1"),
    ("width=most", "no index or range"),
    ("vocab=nowhere.txt", "cannot be read"),
    ("plan=nowhere.json", "nowhere.json"),
    ("nowhere.json", "nowhere.json"),
    (3, "expected a PrunePlan"),
]


@pytest.mark.parametrize(("wish", "says"), FORMS, ids=[str(wish) for wish, _ in FORMS])
def test_bad_short_forms_are_refused(tmp_path, monkeypatch, wish, says):
    write_checkpoint(tmp_path, small("llama"))
    monkeypatch.setattr(Checkpoint, "array", lambda *_: pytest.fail("data was read"))
    with pytest.raises(MiaotuiError, match=says):
        miaotui.load(tmp_path, prune=wish)


def test_torn_groups_are_refused(tmp_path):
    write_checkpoint(tmp_path, Drawn(seven()))  # four heads on two KV heads
    for heads in ("0,1,2", "0,2,3"):
        with pytest.raises(PlanError, match=r"KV groups torn apart: KV head 0 keeps"):
            miaotui.load(tmp_path, prune=PrunePlan(heads={0: heads}))
    for heads, left in {"0,1": (2, 1), "1,3": (2, 2), "2": (1, 1), "": (0, 0)}.items():
        with miaotui.load(tmp_path, prune=PrunePlan(heads={1: heads})) as model:
            assert (sizes(model.config, 1).n_heads, sizes(model.config, 1).n_kv_heads) == left
            assert model.logits([1, 2]).shape == (2, 96)


def test_plans_that_do_not_follow_are_refused():
    first = PrunePlan(layers="2-4", heads={3: "0,2"}, vocab="0-4")
    assert first.then(PrunePlan(layers="1", heads={1: "1"}, vocab="4")) == PrunePlan("3", {3: "2"}, vocab="4")
    for other in (PrunePlan(layers="3"), PrunePlan(heads={3: "0"}), PrunePlan(heads={1: "2"}), PrunePlan(vocab="5")):
        with pytest.raises(PlanError, match="the first leaves"):
            first.then(other)
    with pytest.raises(PlanError, match="must be resolved"):
        PrunePlan(ffn_ratio=0.5).then(first)
    with pytest.raises(PlanError, match="n_layers 5, the first leaves 3"):
        first.then(PrunePlan(layers="0", model={"n_layers": 5}))


def test_short_forms_are_the_plans_that_they_say(tmp_path):
    write_checkpoint(tmp_path, Drawn(seven()))
    opened = open_model(tmp_path)
    checkpoint, config = opened.checkpoint, opened.config
    PrunePlan(layers="1-5").save(tmp_path / "plan.json")
    wanted = {
        "keep-layers=0-2": PrunePlan("0-2"),
        "drop-layers=0,6; width=0-7": PrunePlan("1-5", width="0-7"),
        "drop-heads=3:0,1": PrunePlan(heads={3: "2,3"}),
        "drop-heads=3:0,1+4:1,2; drop-attention=5; drop-ffn=6": PrunePlan(
            heads={3: "2,3", 4: "0,3", 5: ""}, ffn={6: ""}
        ),
        f"plan={tmp_path / 'plan.json'}; keep-layers=1,2; drop-ffn=1": PrunePlan("2,3", ffn={2: ""}),
        str(tmp_path / "plan.json"): PrunePlan("1-5"),
    }
    for text, plan in wanted.items():
        got = parse_prune(text, opened)
        assert got == replace(plan, model=fingerprint(config, checkpoint)), text
    assert parse_prune({"keep_layers": [0, 1], "drop_heads": {0: [0, 1]}}, opened) == replace(
        PrunePlan("0,1", {0: "2,3"}), model=fingerprint(config, checkpoint)
    )
    assert parse_prune(None, opened) is None


@settings(SLOW, max_examples=25)
@given(st.data(), st.sampled_from(FAMILIES), st.floats(0.01, 1))
def test_a_ratio_keeps_the_weightiest_neurons(tmp_path_factory, data, family, ratio):
    path = tmp_path_factory.mktemp("w")
    write_checkpoint(path, data.draw(models(family)))
    config, whole = open_weights(path)
    base = data.draw(plans(config))
    plan = parse_prune(replace(base, ffn_ratio=ratio), open_model(path))
    values = sliced(exact(whole), config, base)
    for new, old in enumerate(range(config.n_layers) if base.layers is None else base.layers):
        if not sizes(compile_plan(base, config).config, new).d_ff:
            continue
        gate, up, down = (values.get(f"layers.{new}.{role}") for role in ("gate", "up", "down"))
        score = (up**2).sum(1) * (down**2).sum(0) * (1 if gate is None else (gate**2).sum(1))
        there = base.ffn.get(old, tuple(range(sizes(config).d_ff)))
        kept = np.array([there.index(i) for i in plan.ffn[old]])
        assert len(kept) == max(1, int(ratio * len(there) + 0.5))
        lost = np.setdiff1d(np.arange(len(there)), kept)
        assert lost.size == 0 or score[kept].min() >= score[lost].max() * (1 - 1e-12)
    assert any("magnitude" in note for note in plan.notes)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("quantize", [None, "int8"])
def test_memory_refuses_before_a_ratio_reads_anything(tmp_path, monkeypatch, family, quantize):
    """To the byte: what loading then takes is enough, one byte less is refused, and by then no tensor was touched."""
    write_checkpoint(tmp_path / "m", replace(small(family), dtype="BF16"))
    PrunePlan(ffn_ratio=0.6).save(tmp_path / "plan.json")
    for wish in ("ffn=0.6", {"plan": str(tmp_path / "plan.json")}, {"ffn": 0.6, "keep_layers": "1"}):
        with miaotui.load(tmp_path / "m", prune=wish, quantize=quantize) as model:
            needed = model.memory["allocated"]
        miaotui.load(tmp_path / "m", prune=wish, quantize=quantize, memory_limit=needed).close()
        with monkeypatch.context() as patch:
            patch.setattr(Checkpoint, "array", lambda *_: pytest.fail("data was read"))
            with pytest.raises(MemoryLimitError):
                miaotui.load(tmp_path / "m", prune=wish, quantize=quantize, memory_limit=needed - 1)


def test_of_equal_scores_the_lower_number_is_kept():
    assert best(np.array([1.0, 3.0, 1.0, 1.0]), 0.5) == [0, 1]
    assert best(np.zeros(5), 0.01) == [0]


def test_a_cut_vocabulary_speaks_the_tokenizers_language(tmp_path):
    """The demo model with the words of one text: the same text comes out while it stays inside, and ids map back."""
    from miaotui.tools.demo import path

    said = "Once upon a time, in a house in a small village, there lived a young fox named Lucy."
    (tmp_path / "text.txt").write_text(said)
    with miaotui.load(path()) as whole, miaotui.load(path(), prune=f"vocab={tmp_path / 'text.txt'}") as model:
        assert model.config.n_vocab < whole.config.n_vocab
        ids = model.tokenizer.encode(said)
        assert max(ids) < model.config.n_vocab
        assert model.tokenizer.decode(ids) == whole.tokenizer.decode(whole.tokenizer.encode(said))
        kept = [whole.tokenizer.token_to_id(model.tokenizer.id_to_token(i)) for i in range(model.config.n_vocab)]
        assert kept == sorted(kept)
        assert np.array_equal(model.logits(ids), whole.logits([kept[i] for i in ids])[:, kept])
        assert [kept[i] for i in model.config.eos_ids] == list(whole.config.eos_ids)
        assert model.generate("Once upon a time", max_new_tokens=12).text.startswith(", in a house in a small village")
        with pytest.raises(TokenizerError, match=r"needs token .* cut from the vocabulary"):
            model.generate("quixotic zebra")


def resident_pages(file: Path) -> np.ndarray:
    """Which pages of a file the system holds, by mincore on a mapping of our own that touches none."""
    size = file.stat().st_size
    with file.open("rb") as f:
        mapping = mmap.mmap(f.fileno(), size, access=mmap.ACCESS_COPY)
    pages = (ctypes.c_ubyte * -(-size // mmap.PAGESIZE))()
    start = ctypes.c_char.from_buffer(mapping)
    failed = ctypes.CDLL(None, use_errno=True).mincore(
        ctypes.c_void_p(ctypes.addressof(start)), ctypes.c_size_t(size), pages
    )
    assert not failed, os.strerror(ctypes.get_errno())
    return np.frombuffer(pages, np.uint8) & 1 == 1


def forget(file: Path) -> None:
    """Have the system drop a file's pages; skips where it does not."""
    gc.collect()
    fd = os.open(file, os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)
    if resident_pages(file).any():
        pytest.skip("this system does not drop a file's pages when asked (posix_fadvise): nothing could be seen")


@pytest.mark.skipif(sys.platform != "linux", reason="mincore and posix_fadvise as Linux has them")
@pytest.mark.parametrize(
    ("wish", "quantize"),
    [
        ("keep-layers=0-2", None),
        ("keep-layers=0-2", "int8"),
        ("keep-layers=1,5", None),
        ("keep-layers=0-2; sparsity=2:4", None),
        ("keep-layers=1,5; sparsity=stored", None),
        ("width=0-63", None),
        ("drop-heads=1:0,1+4:2,3; drop-attention=0; drop-ffn=6", None),
    ],
)
def test_only_kept_pages_are_read(tmp_path, wish, quantize):
    """By the operating system's account: kept tensors and one page a range, and the header's."""
    write_checkpoint(tmp_path, Drawn(seven(128)))
    file = tmp_path / "model.safetensors"
    forget(file)
    with miaotui.load(tmp_path, prune=wish, quantize=quantize) as model:
        model.generate([1, 2, 3], max_new_tokens=4)
        seen = resident_pages(file)
        opened = open_model(tmp_path)
        plan = make_load_plan(opened, quantize, select(wish, opened).ranked(opened).cut)
        [spans] = spans_by_file(plan).values()
        kept = np.zeros(len(seen), bool)
        for a, b in spans:
            kept[a // mmap.PAGESIZE : -(-b // mmap.PAGESIZE)] = True
        data = min(t.start for t in opened.checkpoint.tensors.values())
        header = np.arange(len(seen)) <= data // mmap.PAGESIZE
        assert not (seen & ~kept & ~header).any()
        assert model.receipt.read_bytes == sum(b - a for a, b in spans)
        assert model.receipt.read_bytes < 0.95 * model.receipt.file_bytes
        assert (seen & kept).sum() * mmap.PAGESIZE <= model.receipt.read_bytes + len(spans) * 2 * mmap.PAGESIZE


@pytest.mark.skipif(sys.platform != "linux", reason="/proc/self/smaps as Linux has it")
@pytest.mark.parametrize(("wish", "random"), [(None, False), ("keep-layers=0-2", True)])
def test_the_system_does_not_read_on_into_what_was_cut(tmp_path, wish, random):
    """Not later either, when pages were dropped and are touched again: the mapping is marked so ("rr")."""
    write_checkpoint(tmp_path, Drawn(seven()))
    gc.collect()
    with miaotui.load(tmp_path, prune=wish):
        maps = Path("/proc/self/smaps").read_text("utf-8").split(str(tmp_path / "model.safetensors"))[1:]
        flags = [part.split("VmFlags:")[1].split("\n")[0].split() for part in maps]
        assert flags
        assert all(("rr" in got) == random for got in flags)


def test_the_receipt_accounts_for_every_byte(tmp_path):
    write_checkpoint(tmp_path, Drawn(seven()))
    with miaotui.load(tmp_path) as whole, miaotui.load(tmp_path, prune="keep-layers=0-2; width=0-31") as cut:
        receipt = whole.receipt
        assert receipt.read_bytes == receipt.file_bytes == sum(e.read_bytes for e in receipt.entries)
        assert receipt.untouched == ()
        assert all(e.action == "mapped" and e.sha256 is None for e in receipt.entries)
        receipt = cut.receipt
        assert receipt.resident_bytes == cut.memory["weights_resident"]
        assert receipt.mapped_bytes == cut.memory["weights_mapped"]
        assert receipt.untouched_bytes + sum(e.tensor_bytes for e in receipt.entries) == receipt.file_bytes
        assert len(receipt.untouched) == 4 * 9
        entries = {e.weight: e for e in receipt.entries}
        assert entries["layers.2.o"].read_bytes == 32 * 64 * 4  # rows 0 to 31
        assert entries["layers.2.q"].read_bytes == 64 * 64 * 4 - 32 * 4  # columns 0 to 31: to the last row's middle
        assert receipt.plan == "keep layers 0-2; width 0-31"
        assert receipt.lines()[-5] == receipt.plan
        assert "sha-256" not in receipt.lines()[0]  # no column without hashes
        assert receipt.lines()[0].endswith("made")
        assert Receipt.from_dict(json.loads(json.dumps(receipt.as_dict()))) == receipt


def test_hashes_are_of_the_kept_bytes(tmp_path):
    import hashlib

    write_checkpoint(tmp_path, Drawn(seven(), "BF16"))
    _, whole = open_weights(tmp_path)
    bits = {w.name: w.array for w in whole if w.array.dtype == np.uint16}
    with miaotui.load(tmp_path, prune="keep-layers=2; ffn=0.5") as model:
        plan = parse_prune("keep-layers=2; ffn=0.5", open_model(tmp_path))
        got = {e.weight: e.sha256 for e in model.hashed_receipt().entries}
        up, down = bits["layers.2.up"][list(plan.ffn[2])], bits["layers.2.down"][:, list(plan.ffn[2])]
        for name, value in {"layers.0.up": up, "layers.0.down": down, "embed": bits["embed"]}.items():
            assert got[name] == hashlib.sha256(value.tobytes()).hexdigest()


def test_packed_matrices_may_lose_layers_but_no_rows(tmp_path):
    from miaotui.tools.commands.quantize import quantize

    write_checkpoint(tmp_path / "in", Drawn(seven()))
    quantize(tmp_path / "in", tmp_path / "out", "int8")
    how = "keep-layers=1-3"
    with miaotui.load(tmp_path / "in", prune=how, quantize="int8") as a, miaotui.load(tmp_path / "out", prune=how) as b:
        assert np.array_equal(a.logits([1, 2, 3]), b.logits([1, 2, 3]))
    with pytest.raises(PlanError, match="panels that cannot be cut or thinned"):
        miaotui.load(tmp_path / "out", prune="drop-heads=0:0,1")
    with pytest.raises(PlanError, match="int8 already"):
        miaotui.load(tmp_path / "out", prune="ffn=0.5")
