"""mergekit's slices as a plan: layers in its order, some twice with one copy of their weights; and what it wrote."""

from __future__ import annotations

import builtins
import json
import sys
from dataclasses import replace

import miaotui
import numpy as np
import pytest
from checkpoints import FAMILIES, Drawn, models, random_tensors, write_checkpoint, write_safetensors
from helpers import open_weights, oracle
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from miaotui.errors import BackendError, PlanError
from miaotui.loader.open import open_model
from miaotui.loader.prune.mergekit import load_plan, plan_of_slices
from miaotui.loader.prune.plan import PrunePlan
from miaotui.tools.bench.shared import bytes_per_step
from miaotui.tools.cli import main
from miaotui.tools.importance.methods import Wish, find
from miaotui.tools.prune import prune
from pruning import plans, seven
from tolerance import bound

SLOW = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


def slices(*ranges, **more):
    """mergekit's config of one model's layers, [first, after the last]."""
    got = [{"sources": [{"model": "some/model", "layer_range": list(r)}]} for r in ranges]
    return {"slices": got, "merge_method": "passthrough", **more}


def stacked(tensors, order, gpt2):
    """Tensors of a model whose layers are copies of another's, in this order."""
    base = "transformer.h." if gpt2 else "model.layers."
    out = {name: value for name, value in tensors.items() if not name.startswith(base)}
    for new, old in enumerate(order):
        for name, value in tensors.items():
            if name.startswith(f"{base}{old}."):
                out[f"{base}{new}.{name.removeprefix(f'{base}{old}.')}"] = value
    return out


@settings(SLOW, max_examples=40)
@given(st.data(), st.sampled_from(FAMILIES))
def test_layers_in_any_order_are_the_stacked_model(tmp_path_factory, data, family):
    """What runs a layer twice is, bit for bit, the model that has it twice; and it is that model when written."""
    path = tmp_path_factory.mktemp("m")
    drawn = data.draw(models(family))
    for key in ("scale_attn_by_inverse_layer_idx", "layer_types", "use_sliding_window"):
        drawn.config.pop(key, None)
    write_checkpoint(path / "in", drawn)
    key = "n_layer" if family == "gpt2" else "num_hidden_layers"
    n = drawn.config[key]
    order = data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=5))
    plan = PrunePlan(order=order)
    assert PrunePlan.from_dict(json.loads(plan.to_json())) == plan
    (path / "two").mkdir()
    (path / "two" / "config.json").write_text(json.dumps({**drawn.config, key: len(order)}))
    tensors = stacked(random_tensors(drawn.config, drawn.seed), order, family == "gpt2")
    write_safetensors(path / "two" / "model.safetensors", tensors, dtype=drawn.dtype)
    prune(path / "in", path / "out", plan)
    ids = np.random.default_rng(0).integers(0, drawn.config["vocab_size"], 7).tolist()
    with (
        miaotui.load(path / "two") as wanted,
        miaotui.load(path / "in", prune=plan) as one,
        miaotui.load(path / "out") as other,
    ):
        assert one.config == other.config == wanted.config
        logits = wanted.logits(ids)
        assert np.array_equal(one.logits(ids), logits)
        assert np.array_equal(other.logits(ids), logits)
        layers = one.session.weights.decoder.layers
        assert all((a is b) == (i == j) for a, i in zip(layers, order, strict=True)
                   for b, j in zip(layers, order, strict=True))  # fmt: skip
        each = bytes_per_step(wanted.config, wanted.session.weights, 3)
        assert bytes_per_step(one.config, one.session.weights, 3) == each


@settings(SLOW, max_examples=40)
@given(st.data())
def test_plans_with_an_order_compose(tmp_path_factory, data):
    """One after the other is one plan; where two runs of a layer would be cut differently, it says so."""
    path = tmp_path_factory.mktemp("c")
    config = {**seven(16), "num_hidden_layers": 3}
    write_checkpoint(path, Drawn(config))
    whole, _ = open_weights(path)
    order = data.draw(st.lists(st.integers(0, 2), min_size=1, max_size=4))
    first = replace(data.draw(plans(whole, frozenset({"heads", "ffn"}))), layers=None, order=tuple(order))
    first = replace(first, **{name: {i: k for i, k in getattr(first, name).items() if i in order}
                              for name in ("heads", "ffn")})  # fmt: skip
    prune(path, path / "first", first)
    left, _ = open_weights(path / "first")
    second = data.draw(plans(left, data.draw(st.sampled_from([frozenset({"layers"}), frozenset({"heads", "layers"})]))))
    run = range(len(order)) if second.layers is None else second.layers
    alike = {old: {second.heads.get(new) for new in run if order[new] == old} for old in order}
    if any(len(kept) > 1 for kept in alike.values()):
        with pytest.raises(PlanError, match="runs twice"):
            first.then(second)
        return
    ids = [3, 1, 4, 1, 5]
    with miaotui.load(path / "first", prune=second) as one, miaotui.load(path, prune=first.then(second)) as other:
        assert one.config == other.config
        assert np.array_equal(one.logits(ids), other.logits(ids))


def test_up_scaling_shares_memory_and_runs(tmp_path):
    """SOLAR's way: both ends of a model overlap; gathered and quantised weights are made once too."""
    write_checkpoint(tmp_path / "in", Drawn(seven(), "BF16"))
    plan = plan_of_slices(slices((0, 5), (2, 7)))
    assert plan.order == (0, 1, 2, 3, 4, 2, 3, 4, 5, 6)
    assert str(plan) == "keep layers 0-4,2-6, in this order"
    plan.save(tmp_path / "plan.json")
    cut = {"drop_heads": [f"{i}:0,2" for i in range(7)], "ffn": 0.5}
    twice = {"plan": str(tmp_path / "plan.json"), "drop_heads": [f"{i}:0,2" for i in range(10)], "ffn": 0.5}
    for quantize in (None, "int8"):
        with (
            miaotui.load(tmp_path / "in", quantize=quantize, prune=twice) as model,
            miaotui.load(tmp_path / "in", quantize=quantize, prune=cut) as once,
        ):
            assert model.config.n_layers == 10
            assert model.memory["weights_resident"] == once.memory["weights_resident"]
            assert model.receipt.read_bytes == once.receipt.read_bytes
            assert len(model.receipt.entries) == len(once.receipt.entries)
            if quantize is None:
                wanted = oracle(model.config, model.session.weights, [5, 7, 1])
                limit = bound("model", "f32", 10, scale=float(np.abs(wanted).max()))
                assert np.abs(model.logits([5, 7, 1]) - wanted).max() <= limit


REFUSED = [
    ({**slices((0, 2)), "merge_method": "slerp"}, "merge_method is 'slerp'"),
    ({"slices": slices((0, 2))["slices"]}, "merge_method is None"),
    (slices((0, 2), models=[]), "'models' is not understood"),
    (slices((0, 2), parameters={"t": 0.5}), "'parameters' is not understood"),
    ({"slices": [], "merge_method": "passthrough"}, "expected a list of slices"),
    (slices((2, 2)), r"layer_range \[first"),
    (slices((-1, 2)), r"layer_range \[first"),
    (slices((0, 2.0)), r"layer_range \[first"),
    (slices((0, 70000)), r"layer_range \[first"),
    (slices((0, 40000), (0, 40000)), "over 65536 layers"),
    ({"slices": [{"sources": [{"model": "a", "layer_range": [0, 2], "parameters": {"scale": 0.5}}]}],
      "merge_method": "passthrough"}, "'parameters' is .* would change weights"),
    ({"slices": [{"sources": [{"model": m, "layer_range": [0, 2]} for m in "ab"]}], "merge_method": "passthrough"},
     "one source"),
    ({"slices": [{"sources": [{"model": m, "layer_range": [0, 2]}]} for m in "ab"], "merge_method": "passthrough"},
     "two models, 'a' and 'b'"),
    ({"slices": ["0-3"], "merge_method": "passthrough"}, "one source"),
]  # fmt: skip


@pytest.mark.parametrize(("got", "says"), REFUSED)
def test_what_one_model_s_layers_cannot_be(tmp_path, got, says):
    (tmp_path / "plan.json").write_text(json.dumps(got))
    with pytest.raises(PlanError, match=rf"plan\.json.*{says}"):
        load_plan(tmp_path / "plan.json")


def test_order_is_checked_against_the_model(tmp_path):
    write_checkpoint(tmp_path, Drawn(seven(16)))
    with pytest.raises(PlanError, match="order: there is no layer 8; the model has 7"):
        miaotui.load(tmp_path, prune=slices((0, 5), (4, 9)))
    for bad, says in (
        ({"order": "0,1,0", "layers": "0"}, "both given"),
        ({"order": "0,-1"}, "no index"),
        ({"order": [0, -1]}, "negative"),
        ({"order": ""}, "nothing is kept"),
    ):
        with pytest.raises(PlanError, match=says):
            miaotui.load(tmp_path, prune={"format": "miaotui-prune", "version": 1, **bad})
    assert PrunePlan(order="1-3") == PrunePlan(layers="1-3")
    with pytest.raises(PlanError, match="write it first"):
        find(tmp_path, Wish("first", keep=2), None, PrunePlan(order="0,0"))


YAML = """
slices:
  - sources:
      - model: some/model
        layer_range: [0, 3]
  - sources:
      - model: {model: {path: some/model}}
        layer_range: [1, 7]
merge_method: passthrough
dtype: bfloat16
"""


def test_yaml_is_an_extra(tmp_path, capsys, monkeypatch):
    pytest.importorskip("yaml")
    write_checkpoint(tmp_path / "in", Drawn(seven(16)))
    plan = tmp_path / "plan.yml"
    plan.write_text(YAML)
    assert load_plan(plan).order == (0, 1, 2, 1, 2, 3, 4, 5, 6)
    assert main(["prune", str(tmp_path / "in"), str(tmp_path / "out"), "--plan", str(plan)]) == 0
    assert "note: its dtype, 'bfloat16', is not applied" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "config.json").read_text())["num_hidden_layers"] == 9
    for text, says in (("slices: [", "YAML"), ("- 1", "mapping"), ("format: miaotui-prune", "format"),
                       ("!!python/object/apply:os.getcwd []", "YAML")):  # fmt: skip
        plan.write_text(text)
        with pytest.raises(PlanError, match=says):
            load_plan(plan)
    plan.write_text(YAML)
    real = builtins.__import__
    monkeypatch.delitem(sys.modules, "yaml")
    monkeypatch.setattr(builtins, "__import__", lambda name, *rest: real("no.such" if name == "yaml" else name, *rest))
    with pytest.raises(BackendError, match=r"miaotui\[yaml\]"):
        load_plan(plan)


def test_what_mergekit_wrote_is_a_checkpoint(tmp_path):
    """Shards, an index with its own metadata, and its config next to them."""
    config = seven(16)
    write_checkpoint(tmp_path / "one", Drawn(config))
    tensors = random_tensors(config, 0)
    two = tmp_path / "two"
    two.mkdir()
    (two / "config.json").write_text(json.dumps({**config, "_name_or_path": "some/model", "torch_dtype": "float32"}))
    names = sorted(tensors)
    shards = {f"model-0000{i + 1}-of-00002.safetensors": names[i::2] for i in range(2)}
    for shard, held in shards.items():
        write_safetensors(two / shard, {name: tensors[name] for name in held})
    index = {"metadata": {"mergekit_version": "0.1.3", "total_size": 1}}
    index["weight_map"] = {name: shard for shard, held in shards.items() for name in held}
    (two / "model.safetensors.index.json").write_text(json.dumps(index))
    (two / "mergekit_config.yml").write_text("slices: [")  # not even read
    with open_model(two) as opened:
        assert not opened.corrections
    with miaotui.load(tmp_path / "one") as a, miaotui.load(two) as b:
        assert np.array_equal(a.logits([1, 2, 3]), b.logits([1, 2, 3]))
