"""A narrower residual stream: a share of its dimensions, by magnitude, by activation, or in a basis of its own."""

from __future__ import annotations

import json

import miaotui
import numpy as np
import pytest
from checkpoints import FAMILIES, Drawn, models, small, write_checkpoint
from helpers import open_weights
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from miaotui.errors import PlanError
from miaotui.loader.checkpoint import open_checkpoint
from miaotui.loader.cut import compile_plan
from miaotui.loader.hidden import dimensions
from miaotui.loader.prune import PrunePlan
from miaotui.loader.wishes import resolve
from miaotui.tools.prune import prune
from pruning import plans, seven, sliced
from tolerance import bound

SLOW = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


def exact(weights):
    return {w.name: w.f64() for w in weights} | {"head": weights.head.f64()}


def magnitude(values, n_layers):
    """The score of every dimension, from weights by role; the sums spelled apart from the loader."""
    written = sum((values[name] ** 2).mean(0) for name in ("embed", "positions") if name in values)
    read = values["norm"] ** 2 * (values["head"] ** 2).sum(0)
    for i in range(n_layers):
        of = {name.rpartition(".")[2]: v for name, v in values.items() if name.startswith(f"layers.{i}.")}
        written = written + sum((of[role] ** 2).sum(1) for role in ("o", "down") if role in of)
        for norm, roles in (("attn_norm", "q k v"), ("ffn_norm", "gate up")):
            for role in roles.split():
                read = read + (of[norm] ** 2 * (of[role] ** 2).sum(0) if role in of else 0)
    return written * read


@settings(SLOW, max_examples=25)
@given(st.data(), st.sampled_from(FAMILIES), st.floats(0.01, 1))
def test_a_share_keeps_the_weightiest_dimensions(tmp_path_factory, data, family, ratio):
    path = tmp_path_factory.mktemp("w")
    write_checkpoint(path, data.draw(models(family)))
    config, whole = open_weights(path)
    base = data.draw(plans(config))
    left = compile_plan(base, config).config
    plan = resolve(PrunePlan(**{**vars(base), "width_ratio": ratio}), open_checkpoint(path), config)
    score = magnitude(sliced(exact(whole), config, base), left.n_layers)
    there = list(range(config.d_model) if base.width is None else base.width)
    kept = [there.index(j) for j in plan.width]
    step = left.n_heads if left.n_heads and left.d_model % left.n_heads == 0 else 1
    assert len(kept) == dimensions(ratio, left) == step * max(1, round(ratio * left.d_model / step + 1e-12))
    lost = np.setdiff1d(np.arange(len(there)), kept)
    assert lost.size == 0 or score[kept].min() >= score[lost].max() * (1 - 1e-12)
    assert plan.width_ratio is None
    assert any("magnitude" in note for note in plan.notes)
    assert (plan.layers, plan.heads, plan.ffn, plan.vocab) == (base.layers, base.heads, base.ffn, base.vocab)


def test_a_share_is_read_whole_and_cut_before_the_neurons(tmp_path):
    write_checkpoint(tmp_path, Drawn(seven()))
    checkpoint = open_checkpoint(tmp_path)
    config, _ = open_weights(tmp_path)
    both = resolve("width=0.5; ffn=0.5", checkpoint, config)
    first = resolve("width=0.5", checkpoint, config)
    again = resolve("ffn=0.5", checkpoint, config)
    assert len(first.width) == 32
    assert both.width == first.width
    assert both.ffn == resolve(PrunePlan(width=first.width, ffn_ratio=0.5), checkpoint, config).ffn != again.ffn
    assert resolve({"width": 0.5}, checkpoint, config) == first
    assert resolve("width=0.01", checkpoint, config).width[0] >= 0
    assert len(resolve("width=0.01", checkpoint, config).width) == config.n_heads
    with pytest.raises(PlanError, match=r"width_ratio 0\.5 is not resolved"):
        compile_plan(PrunePlan(width_ratio=0.5), config)
    with pytest.raises(PlanError, match="must be resolved"):
        PrunePlan(width_ratio=0.5).then(PrunePlan(layers="0"))
    assert PrunePlan(width="0-31").then(PrunePlan(width_ratio=0.5)) == PrunePlan(width="0-31", width_ratio=0.5)
    assert str(PrunePlan(width_ratio=0.5)) == "keep 0.5 of the width"
    assert PrunePlan.from_dict(json.loads(PrunePlan(width_ratio=0.5).to_json())).width_ratio == 0.5
    with pytest.raises(PlanError, match="share such as"):
        resolve("width=0.5.1", checkpoint, config)
    for bad in (0.0, 1.5, "0.0", "1.01"):
        with pytest.raises(PlanError, match=r"width_ratio.*above 0 and at most 1"):
            resolve({"width": bad}, checkpoint, config)


def logits_of_transformers(path, ids):
    from test_families import oracle, oracle_logits

    return oracle_logits(oracle(path), ids)


@pytest.mark.parametrize("family", [f for f in FAMILIES if f != "gpt2"])
def test_transformers_loads_a_narrower_one(tmp_path, family):
    """head_dim is written out, for it is the width divided by the heads no longer; norms average what is left."""
    pytest.importorskip("transformers")
    write_checkpoint(tmp_path / "in", small(family))
    _, _, refused = prune(tmp_path / "in", tmp_path / "out", "width=0.5")
    assert refused is None
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (written["hidden_size"], written["head_dim"]) == (6, 4)
    ids = [1, 5, 2, 8, 3]
    with miaotui.load(tmp_path / "out") as out, miaotui.load(tmp_path / "in", prune="width=0.5") as cut:
        found = out.logits(ids)
        assert np.array_equal(found, cut.logits(ids))
    wanted = logits_of_transformers(tmp_path / "out", ids)
    assert np.abs(found - wanted).max() <= bound("model", "f32", 2, scale=float(np.abs(wanted).max()))
