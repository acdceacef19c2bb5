"""A narrower residual stream: a share of its dimensions, by magnitude, by activation, or in a basis of its own."""

from __future__ import annotations

import json

import miaotui
import numpy as np
import pytest
from checkpoints import FAMILIES, Drawn, models, random_tensors, small, write_checkpoint, write_safetensors
from helpers import by_name, every_layer, open_weights, sizes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from miaotui.errors import InputError, PlanError
from miaotui.loader.open import open_model
from miaotui.loader.prune.compiled import compile_plan
from miaotui.loader.prune.options import parse_prune
from miaotui.loader.prune.plan import PrunePlan
from miaotui.loader.prune.rank_width import dimensions
from miaotui.tools.importance import slicegpt
from miaotui.tools.importance.calibrate import calibrate
from miaotui.tools.importance.masks import Sparsity
from miaotui.tools.importance.methods import Wish, find
from miaotui.tools.prune import prune
from pruning import plans, seven, sliced
from test_importance import spied, text_model
from tolerance import bound

SLOW = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


def exact(weights):
    return {name: w.f64() for name, w in by_name(weights).items()}


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
    plan = parse_prune(PrunePlan(**{**vars(base), "width_ratio": ratio}), open_model(path))
    score = magnitude(sliced(exact(whole), config, base), left.n_layers)
    there = list(range(config.d_model) if base.width is None else base.width)
    kept = [there.index(j) for j in plan.width]
    step = sizes(left).n_heads if sizes(left).n_heads and left.d_model % sizes(left).n_heads == 0 else 1
    assert len(kept) == dimensions(ratio, left) == step * max(1, round(ratio * left.d_model / step + 1e-12))
    lost = np.setdiff1d(np.arange(len(there)), kept)
    assert lost.size == 0 or score[kept].min() >= score[lost].max() * (1 - 1e-12)
    assert plan.width_ratio is None
    assert any("magnitude" in note for note in plan.notes)
    assert (plan.layers, plan.heads, plan.ffn, plan.vocab) == (base.layers, base.heads, base.ffn, base.vocab)


def test_a_share_is_read_whole_and_cut_before_the_neurons(tmp_path):
    write_checkpoint(tmp_path, Drawn(seven()))
    opened = open_model(tmp_path)
    config = opened.config
    both = parse_prune("width=0.5; ffn=0.5", opened)
    first = parse_prune("width=0.5", opened)
    again = parse_prune("ffn=0.5", opened)
    assert len(first.width) == 32
    assert both.width == first.width
    assert both.ffn == parse_prune(PrunePlan(width=first.width, ffn_ratio=0.5), opened).ffn != again.ffn
    assert parse_prune({"width": 0.5}, opened) == first
    assert parse_prune("width=0.01", opened).width[0] >= 0
    assert len(parse_prune("width=0.01", opened).width) == sizes(config).n_heads
    with pytest.raises(PlanError, match=r"width_ratio 0\.5 is not resolved"):
        compile_plan(PrunePlan(width_ratio=0.5), config)
    with pytest.raises(PlanError, match="must be resolved"):
        PrunePlan(width_ratio=0.5).then(PrunePlan(layers="0"))
    assert PrunePlan(width="0-31").then(PrunePlan(width_ratio=0.5)) == PrunePlan(width="0-31", width_ratio=0.5)
    assert str(PrunePlan(width_ratio=0.5)) == "keep 0.5 of the width"
    assert PrunePlan.from_dict(json.loads(PrunePlan(width_ratio=0.5).to_json())).width_ratio == 0.5
    with pytest.raises(PlanError, match="a share above 0"):
        parse_prune("width=0.5.1", opened)
    for bad in (0.0, 1.5, "0.0", "1.01"):
        with pytest.raises(PlanError, match=r"width.*above 0 and at most 1"):
            parse_prune({"width": bad}, opened)


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
        got = out.logits(ids)
        assert np.array_equal(got, cut.logits(ids))
    wanted = logits_of_transformers(tmp_path / "out", ids)
    assert np.abs(got - wanted).max() <= bound("model", "f32", 2, scale=float(np.abs(wanted).max()))


def found_of(path, wish, text, base=None):
    got = find(path, wish, text, base)
    return got, prune(path, path.parent / "out", got.plan, got.rewrite)[2]


def windows(text):
    ids = [int(word) for word in text.text.split()]
    return [ids[at : at + text.window + 1] for at in range(0, len(ids) - 1, text.window)]


def normal(path, text):
    """What every norm puts out without its gains, by the float64 oracle: a matrix [tokens, d] for each norm."""
    config, _ = open_weights(path)
    seen = spied(path, windows(text))
    return [x / np.sqrt((x**2).mean(1, keepdims=True) + config.stack.eps) for name, x in seen.items() if "norm" in name]


def test_dimensions_by_activation(tmp_path):
    text = text_model(tmp_path / "in")
    plan = find(tmp_path / "in", Wish("activation", width=0.25), text).plan
    seen = spied(tmp_path / "in", windows(text))
    score = sum((seen[f"layers.{i}.{role}"] ** 2).sum(0) for i in range(3) for role in ("q", "up"))
    assert plan.width == tuple(sorted(np.argsort(-score)[:8]))
    assert not plan.heads
    assert not plan.ffn
    both = find(tmp_path / "in", Wish("activation", width=0.25, ffn=0.5), text).plan
    assert both.width == plan.width
    assert len(both.ffn) == 3
    prune(tmp_path / "in", tmp_path / "out", both)
    with miaotui.load(tmp_path / "out") as out:
        assert (out.config.d_model, sizes(out.config).d_ff, sizes(out.config).d_head) == (8, 48, 8)
    write_checkpoint(tmp_path / "in", Drawn({**small("gpt2").config, "vocab_size": 96}))
    plan = find(tmp_path / "in", Wish("activation", width=0.5), text).plan
    with miaotui.load(tmp_path / "in", prune=plan) as model:  # it runs, though config.json has no words for it
        assert (model.config.d_model, sizes(model.config).d_head) == (6, 4)
    with pytest.raises(PlanError, match="the width cannot be cut"):
        prune(tmp_path / "in", tmp_path / "gpt2", plan)


def test_the_basis_is_that_of_the_singular_values(tmp_path):
    """Statistics against the oracle; the share that stays against the singular values of what the norms put out."""
    text = text_model(tmp_path / "in")
    z = normal(tmp_path / "in", text)
    assert len(z) == 2 * 3 + 1
    whole = np.concatenate(z)
    with miaotui.load(tmp_path / "in", prefill_chunk=9) as model:
        got = calibrate(model, windows(text), stream=True).stream["all"]
    near = {"rtol": 1e-5, "atol": 1e-5 * len(whole)}
    np.testing.assert_allclose(got, whole.T @ whole, **near)
    s = np.linalg.svd(whole, compute_uv=False)
    for width in (1, 7, 20, 32):
        q = slicegpt.basis(got, width)
        assert q.shape == (32, width)
        np.testing.assert_allclose(q.T @ q, np.eye(width), atol=1e-12)
        assert np.all(q[np.abs(q).argmax(0), range(width)] > 0)
        assert slicegpt.explained(got, q) == pytest.approx((s[:width] ** 2).sum() / (s**2).sum(), rel=1e-5)
    assert find(tmp_path / "in", Wish("slicegpt", width=0.5), text).scores["explained"] == pytest.approx(
        (s[:16] ** 2).sum() / (s**2).sum(), rel=1e-5
    )


SLICED = [(f, tied) for f in FAMILIES if f != "gpt2" for tied in (True, False)]


@pytest.mark.parametrize(("family", "tied"), SLICED)
@pytest.mark.parametrize("width", [1.0, 0.5])
def test_sliced_is_the_whole_model_with_its_stream_projected(tmp_path, family, tied, width):
    """Whatever is written to the stream goes through Q Q^T, norms still divide by the mean over all d dimensions."""
    own = {"qwen3": {"head_dim": 10}, "llama": {"attention_bias": True, "mlp_bias": True}}.get(family, {})
    text = text_model(tmp_path / "in", model_type=family, tie_word_embeddings=tied, rms_norm_eps=0.03, **own)
    got, refused = found_of(tmp_path / "in", Wish("slicegpt", width=width), text)
    assert refused is None
    q = got.rewrite.basis.q
    tensors = random_tensors(json.loads((tmp_path / "in" / "config.json").read_text()), 0)
    for name, x in tensors.items():
        if name.endswith(("o_proj.weight", "down_proj.weight", "o_proj.bias", "down_proj.bias")):
            tensors[name] = q @ (q.T @ x)
    head = tensors.setdefault("lm_head.weight", tensors["model.embed_tokens.weight"])
    tensors["model.embed_tokens.weight"] = tensors["model.embed_tokens.weight"] @ q @ q.T
    (tmp_path / "projected").mkdir()
    config = json.loads((tmp_path / "in" / "config.json").read_text()) | {"tie_word_embeddings": False}
    (tmp_path / "projected" / "config.json").write_text(json.dumps(config))
    write_safetensors(tmp_path / "projected" / "model.safetensors", {**tensors, "lm_head.weight": head})
    ids = windows(text)[0]
    with miaotui.load(tmp_path / "projected") as whole, miaotui.load(tmp_path / "out") as out:
        wanted, logits = whole.logits(ids), out.logits(ids)
        assert (out.config.d_model, sizes(out.config).d_head) == (int(32 * width), sizes(whole.config).d_head)
        assert not out.config.tied
        limit = bound("model", "f32", whole.config.n_layers, scale=float(np.abs(wanted).max()))
        assert np.abs(logits - wanted).max() <= limit
    if width == 1.0:
        with miaotui.load(tmp_path / "in") as before:
            assert np.abs(logits - before.logits(ids)).max() <= limit
    pytest.importorskip("transformers")
    theirs = logits_of_transformers(tmp_path / "out", ids)
    assert np.abs(logits - theirs).max() <= limit


def test_sliced_keeps_its_dtype_its_layers_and_its_plan(tmp_path):
    text = text_model(tmp_path / "in")
    write_checkpoint(tmp_path / "in", Drawn({**seven(32), "num_hidden_layers": 3}, "BF16"))
    base = PrunePlan("0,2", {0: "0,1", 2: ""}, {2: "0-9"}, width="0-27")
    got, refused = found_of(tmp_path / "in", Wish("slicegpt", width=0.75), text, base)
    assert "layers differ" in refused
    assert got.plan == base
    assert "directions of the 28" in got.plan.notes[0]
    with miaotui.load(tmp_path / "out") as out, miaotui.load(tmp_path / "in", prune=base) as cut:
        assert {w.dtype for w in out.session.weights if len(w.shape) > 1} == {"bf16"}
        assert every_layer(out.config) == every_layer(cut.config)
        assert out.config.d_model == 22  # 0.75 of 28, in multiples of two heads
        assert all((w.f64() == 1).all() for w in out.session.weights if "norm" in w.name)
    again = find(tmp_path / "in", Wish("slicegpt", width=0.75), text, base)
    assert np.array_equal(again.rewrite.basis.q, got.rewrite.basis.q)
    second = find(tmp_path / "out", Wish("slicegpt", width=0.5), text)  # and once more
    prune(tmp_path / "out", tmp_path / "again", second.plan, second.rewrite)
    with miaotui.load(tmp_path / "again") as model:
        assert model.config.d_model == 12
        assert model.logits([1, 2, 3]).shape == (3, 96)


def test_new_weights_are_not_made_of_a_plans_zeros(tmp_path):
    text = text_model(tmp_path / "in")
    for wish in (Wish("slicegpt", width=0.5), Wish("sparsegpt", sparsity=Sparsity(0.5))):
        with pytest.raises(PlanError, match=r"makes new weights, where the plan's zeros \(2:4 in down\) would be none"):
            find(tmp_path / "in", wish, text, PrunePlan(sparsity={"down": "2:4"}))
        find(tmp_path / "in", wish, text, PrunePlan(sparsity="stored"))


def test_what_slicegpt_does_not_take(tmp_path):
    text = text_model(tmp_path / "in")
    write_checkpoint(tmp_path / "in", Drawn({**small("gpt2").config, "vocab_size": 96}))
    with pytest.raises(PlanError, match="gpt2 has LayerNorm"):
        find(tmp_path / "in", Wish("slicegpt", width=0.5), text)
    for wish in ({"method": "slicegpt", "ffn": 0.5}, {"method": "wanda-sp", "width": 0.5}, {"method": "slicegpt"}):
        with pytest.raises(InputError, match=r"(expected|give) --"):
            Wish(**wish)
    with pytest.raises(InputError, match="above 0 and at most 1"):
        Wish("slicegpt", width=0.0)
    write_checkpoint(tmp_path / "in", Drawn(seven(32)))
    tensors = random_tensors(seven(32), 0)
    tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")
    write_safetensors(tmp_path / "in" / "model.safetensors", tensors)
    with pytest.raises(PlanError, match=r"stored as lm_head\.weight alone"):
        found_of(tmp_path / "in", Wish("slicegpt", width=0.5), text)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in"]


def test_the_command_takes_a_share_of_the_width_for_the_method(tmp_path, capsys):
    from miaotui.tools.cli import main

    (tmp_path / "text.txt").write_text(text_model(tmp_path / "in").text)
    more = ["--text", str(tmp_path / "text.txt"), "--window", "32"]
    for method in ("slicegpt", "activation"):
        command = ["prune", str(tmp_path / "in"), str(tmp_path / method), "--method", method, "--width", "0.5"]
        assert main([*command, *more]) == 0
        with miaotui.load(tmp_path / method) as model:
            assert (model.config.d_model, sizes(model.config).d_head) == (16, 8)
    assert "a basis of 16 directions of the 32" in capsys.readouterr().out
    command = ["prune", str(tmp_path / "in"), str(tmp_path / "both"), "--method", "slicegpt"]
    assert main([*command, "--width", "0-15", *more]) == 2  # those are the plan's: the method has no share


def test_a_sweep_leaves_out_what_a_family_cannot_have(tmp_path, capsys):
    from miaotui.tools.cli import main

    (tmp_path / "text.txt").write_text(text_model(tmp_path / "in").text)
    write_checkpoint(tmp_path / "in", Drawn({**small("gpt2").config, "vocab_size": 96}))
    command = ["prune", str(tmp_path / "in"), "--sweep", "--text", str(tmp_path / "text.txt"), "--window", "8"]
    command += ["--tokens", "64", "--out", str(tmp_path / "out"), "--methods", "slicegpt"]
    assert main([*command, "first"]) == 0
    out = capsys.readouterr().out
    assert out.count("left out: slicegpt turns models with RMSNorm") == 2
    assert [r["cut"] for r in json.loads((tmp_path / "out" / "sweep.json").read_text())["results"]] == [
        "--method first --keep 1"
    ]
    assert main(command) == 1
    assert "none of slicegpt can cut this model" in capsys.readouterr().err
