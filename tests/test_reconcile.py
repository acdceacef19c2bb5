"""Sizes that config.json has wrong are read from the headers; tensors that contradict each other are refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import miaotui
import numpy as np
import pytest
from checkpoints import FAMILIES, Drawn, models, random_tensors, shapes, small, write_checkpoint, write_safetensors
from helpers import attentions, every_layer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from miaotui.errors import CheckpointError
from miaotui.loader.load_plan import make_load_plan
from miaotui.loader.open import open_model
from miaotui.loader.prune.plan import PrunePlan
from miaotui.tools.cli import main
from miaotui.tools.prune import prune
from pruning import plans

SLOW = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
NO_IDS = {"bos_ids": (), "eos_ids": ()}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4}


def opened(path):
    with open_model(path) as model:
        return model.config, make_load_plan(model), model.corrections


@pytest.mark.parametrize("family", FAMILIES)
def test_a_cut_model_under_its_old_config(tmp_path_factory, family):
    """What a plan leaves, saved with the config.json of before, is the model that the right config.json gives."""

    @settings(SLOW, max_examples=40)
    @given(st.data())
    def run(data):
        path = tmp_path_factory.mktemp("r")
        drawn = data.draw(models(family))
        drawn.config.pop("scale_attn_by_inverse_layer_idx", None)
        drawn.config.pop("layer_types", None)
        drawn.config.pop("use_sliding_window", None)
        write_checkpoint(path / "in", drawn)
        config = opened(path / "in")[0]
        cuts = data.draw(st.frozensets(st.sampled_from(["layers", "heads", "ffn", "vocab"])))
        plan = data.draw(plans(config, cuts))
        prune(path / "in", path / "right", plan)
        shutil.copytree(path / "right", path / "old")
        shutil.copyfile(path / "in" / "config.json", path / "old" / "config.json")
        right, (got, _, told) = opened(path / "right")[0], opened(path / "old")
        assert replace(got, **NO_IDS) == replace(right, **NO_IDS)
        assert bool(told) == (replace(right, **NO_IDS) != replace(config, **NO_IDS))
        ids = np.random.default_rng(0).integers(0, right.n_vocab, 7).tolist()
        with miaotui.load(path / "right") as one, miaotui.load(path / "old") as other:
            assert np.array_equal(one.logits(ids), other.logits(ids))
            assert other.receipt.notes == other.corrections == told
        prune(path / "old", path / "again", PrunePlan())  # and written, it is right
        again, _, nothing = opened(path / "again")
        assert replace(again, **NO_IDS) == replace(right, **NO_IDS)
        assert not nothing

    run()


@pytest.mark.parametrize("family", FAMILIES)
def test_one_tensor_of_another_shape_is_refused_by_name(tmp_path_factory, family):
    """Whatever tensor, whatever axis: only the embedding of a tied model has nothing to contradict it."""

    @settings(SLOW, max_examples=60)
    @given(st.data())
    def run(data):
        path = tmp_path_factory.mktemp("s")
        drawn = data.draw(models(family))
        path.joinpath("config.json").write_text(json.dumps(drawn.config))
        tensors = random_tensors(drawn.config, 0)
        name = data.draw(st.sampled_from(sorted(tensors)))
        shape = list(shapes(drawn.config)[name])
        axis = data.draw(st.integers(0, len(shape) - 1))
        shape[axis] = data.draw(st.integers(0, 2 * shape[axis] + 2).filter(lambda n: n != shape[axis]))
        write_safetensors(path / "model.safetensors", {**tensors, name: np.zeros(shape, np.float32)})
        alone = name.endswith(("embed_tokens.weight", "wte.weight")) and "lm_head.weight" not in tensors
        if alone and axis == 0 and shape[0]:
            config, _, told = opened(path)
            assert config.n_vocab == shape[0]
            assert [line.partition(":")[0] for line in told] == [
                f"config.json says vocab_size {drawn.config['vocab_size']}, the tensors {shape[0]}"
            ]
            return
        with pytest.raises(CheckpointError) as error:
            opened(path)
        assert name in str(error.value)
        assert str(shape) in str(error.value)

    run()


def written(path, config, **new):
    """A random Llama of `config` with the tensors that `config | new` has."""
    write_checkpoint(path, Drawn({**config, **new}))
    path.joinpath("config.json").write_text(json.dumps(config))
    return path


SEVEN = {**small("llama").config, **HEADS, "hidden_size": 16, "num_hidden_layers": 7}


@pytest.mark.parametrize(
    ("new", "says"),
    [
        ({"num_hidden_layers": 3}, ["config.json says num_hidden_layers 7, the tensors 3"]),
        ({"intermediate_size": 5}, ["config.json says intermediate_size 7, the tensors 5"]),
        ({"intermediate_size": 9}, ["config.json says intermediate_size 7, the tensors 9"]),
        ({"num_attention_heads": 2}, ["config.json says num_attention_heads 4, the tensors 2"]),
        (
            {"num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 5},
            [
                "config.json says vocab_size 11, the tensors 5",
                "config.json says num_attention_heads 4, the tensors 2",
                "config.json says num_key_value_heads 2, the tensors 1",
            ],
        ),
    ],
)
def test_every_size_is_told(tmp_path, new, says):
    config, _, told = opened(written(tmp_path / "m", SEVEN, **new))
    assert list(told) == [f"{line}: the size of the tensors is used" for line in says]
    assert opened(written(tmp_path / "n", {**SEVEN, **new}))[0] == config


def test_layers_that_differ_are_told_by_number(tmp_path, capsys):
    write_checkpoint(tmp_path / "in", Drawn(SEVEN))
    plan = PrunePlan(ffn={0: "0-2", 2: "0-2", 3: "0-2", 5: "1"}, heads={6: "0,1"})
    prune(tmp_path / "in", tmp_path / "out", plan)
    (tmp_path / "out" / "config.json").write_text(json.dumps(SEVEN))
    assert main(["inspect", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "note: config.json says intermediate_size 7, the tensors 3 in layers 0,2-3, 1 in layers 5: the" in out
    assert (
        "note: config.json says num_attention_heads 4, the tensors 2 in layers 6: the size of the tensors is used"
        in out
    )
    assert "layer 5: 4 heads on 2, feed-forward 1" in out
    assert main(["perplexity", __file__, "--model", str(tmp_path / "out")]) == 1  # it has no tokenizer
    assert "note: config.json says intermediate_size 7" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("config", "new", "says"),
    [
        ({"num_attention_heads": 8}, {"num_attention_heads": 3, "num_key_value_heads": 2}, "3 query heads and 2 key"),
        ({"num_hidden_layers": 2}, {"num_hidden_layers": 3}, r"layers\.2\.\S+ is no part of a llama model of 2 layers"),
        ({"hidden_size": 20}, {"hidden_size": 16}, r"\[11, 16\]; config.json makes it \[11, 20\]"),
        ({"head_dim": 16}, {"head_dim": 6}, "has 24 query dimensions; expected a multiple of 16"),
    ],
)
def test_what_stays_an_error(tmp_path, config, new, says):
    base = {**SEVEN, **config}
    with pytest.raises(CheckpointError, match=says):
        opened(written(tmp_path / "m", base, **new))


def test_layers_told_apart_by_the_config_are_not_guessed(tmp_path):
    qwen = {**small("qwen2").config, "num_hidden_layers": 4, "use_sliding_window": True, "sliding_window": 5}
    mixed = {**qwen, "max_window_layers": 2}
    with pytest.raises(CheckpointError, match=r"layers 0 to 2; config\.json describes 4 that are not alike"):
        opened(written(tmp_path / "a", mixed, num_hidden_layers=3))
    alike = {**qwen, "layer_types": ["sliding_attention"] * 4}
    config, _, told = opened(written(tmp_path / "b", alike, num_hidden_layers=3, layer_types=["sliding_attention"] * 3))
    assert ([s.window for s in attentions(config)], len(told)) == ([5, 5, 5], 1)


def test_nemotron_blocks_give_way_to_the_tensors(tmp_path):
    plain = {**SEVEN, "num_hidden_layers": 2, "intermediate_size": 256}
    blocks = [{"attention": {"n_heads_in_group": 2}, "ffn": {"ffn_mult": 1.0}}] * 2
    write_checkpoint(tmp_path, Drawn({**plain, "intermediate_size": 9}))
    nemotron = {**plain, "model_type": "nemotron-nas", "block_configs": blocks, "intermediate_size": None}
    (tmp_path / "config.json").write_text(json.dumps(nemotron))
    config, _, told = opened(tmp_path)
    assert ([s.d_ff for s in every_layer(config)], len(told)) == ([9, 9], 1)
