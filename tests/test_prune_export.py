"""A pruned model that was written loads as the same bits, in transformers too where it has a spelling for it."""

from __future__ import annotations

import json
from dataclasses import replace

import miaotui
import numpy as np
import pytest
from checkpoints import FAMILIES, Drawn, models, small, write_checkpoint
from helpers import attentions, every_layer, open_weights, sizes
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from miaotui.errors import CheckpointError, ConfigError, InputError, PlanError
from miaotui.loader.prune.plan import PrunePlan
from miaotui.tools import export
from miaotui.tools.prune import prune
from pruning import plans, seven, some
from tolerance import bound

SLOW = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


def same_bits(a, b):
    ids = np.random.default_rng(0).integers(0, a.config.n_vocab, 7).tolist()
    return np.array_equal(a.logits(ids), b.logits(ids))


@pytest.mark.parametrize("family", FAMILIES)
def test_written_is_loaded_as_it_was_pruned(tmp_path_factory, family):
    """Every kind of cut, uneven layers too; GPT-2's width alone has no spelling."""

    @settings(SLOW, max_examples=25)
    @given(st.data())
    def run(data):
        path = tmp_path_factory.mktemp("e")
        drawn = data.draw(models(family))
        if family == "gpt2":
            drawn.config["scale_attn_by_inverse_layer_idx"] = False
        write_checkpoint(path / "in", drawn)
        config, _ = open_weights(path / "in")
        plan = data.draw(plans(config))
        plan = replace(plan, width=None) if family == "gpt2" else plan
        prune(path / "in", path / "out", plan)
        with miaotui.load(path / "in", prune=plan) as one, miaotui.load(path / "out") as other:
            assert one.config == other.config
            assert same_bits(one, other)
        # and once more: what was written can be pruned again
        second = data.draw(plans(other.config))
        second = replace(second, width=None) if family == "gpt2" else second
        prune(path / "out", path / "again", second)
        with miaotui.load(path / "in", prune=plan.then(second)) as one, miaotui.load(path / "again") as other:
            assert one.config == other.config
            assert same_bits(one, other)
        assert sorted(p.name for p in path.iterdir()) == ["again", "in", "out"]

    run()


@st.composite
def uniform(draw, config):
    """A plan that leaves all layers alike."""
    layers = draw(st.none() | some(config.n_layers))
    kept = range(config.n_layers) if layers is None else layers
    each, count = sizes(config).n_heads // sizes(config).n_kv_heads, draw(st.integers(1, sizes(config).n_kv_heads))
    heads, ffn = {}, {}
    if config.family != "gpt2" and draw(st.booleans()):
        queries = draw(st.integers(1, each))
        for i in kept:
            groups = draw(st.permutations(range(sizes(config).n_kv_heads)))[:count]
            heads[i] = tuple(sorted(g * each + q for g in groups for q in draw(st.permutations(range(each)))[:queries]))
    if draw(st.booleans()):
        size = draw(st.integers(1, sizes(config).d_ff))
        ffn = {i: tuple(draw(st.permutations(range(sizes(config).d_ff)))[:size]) for i in kept}
    width = draw(st.none() | some(config.d_model)) if config.family != "gpt2" else None
    return PrunePlan(layers, heads, ffn, vocab=draw(st.none() | some(config.n_vocab)), width=width)


@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_loads_a_uniform_one(tmp_path_factory, family):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from test_families import oracle, oracle_logits

    @settings(SLOW, max_examples=15)
    @given(st.data())
    def run(data):
        path = tmp_path_factory.mktemp("t")
        drawn = data.draw(models(family))
        if family == "gpt2":
            drawn.config["scale_attn_by_inverse_layer_idx"] = False
        write_checkpoint(path / "in", drawn)
        config, _ = open_weights(path / "in")
        plan = data.draw(uniform(config))
        _, _, refused = prune(path / "in", path / "out", plan)
        left, _ = open_weights(path / "out")
        assert (refused is not None) == (family == "llama" and left.d_model % sizes(left).n_heads != 0)
        assume(refused is None)
        ids = np.random.default_rng(0).integers(0, left.n_vocab, 8).tolist()
        wanted = oracle_logits(oracle(path / "out"), ids)
        with miaotui.load(path / "in", prune=plan) as model:
            got = model.logits(ids)
        limit = bound("model", "f32", left.n_layers, scale=float(np.abs(wanted).max()))
        assert np.abs(got - wanted).max() <= limit

    run()


def test_transformers_refuses_what_we_say_it_refuses(tmp_path):
    """Uneven layers: transformers reads the config, and builds no model from it. We say so when writing."""
    transformers = pytest.importorskip("transformers")

    write_checkpoint(tmp_path / "in", Drawn({**seven(), "model_type": "mistral", "sliding_window": None}))
    plan = PrunePlan("0-2", {1: "0,1"}, {0: "0-9", 2: ""})
    _, _, refused = prune(tmp_path / "in", tmp_path / "out", plan)
    assert "layers differ" in refused
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written["per_layer_config"] == {
        "0": {"intermediate_size": 10},
        "1": {"num_attention_heads": 2, "num_key_value_heads": 1},
        "2": {"skip": ["mlp"]},
    }
    theirs = transformers.AutoConfig.from_pretrained(tmp_path / "out")
    assert [c.intermediate_size for c in theirs.per_layer_config] == [10, 192, 192]
    assert [c.num_key_value_heads for c in theirs.per_layer_config] == [2, 1, 2]
    assert theirs.per_layer_config[2].skip == ["mlp"]
    with pytest.raises(RuntimeError, match="per-layer attribute"):
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")


def test_windows_go_with_their_layers(tmp_path):
    config = {**small("qwen2").config, "num_hidden_layers": 5, "use_sliding_window": True, "sliding_window": 5}
    config |= {"max_window_layers": 2}
    write_checkpoint(tmp_path / "in", Drawn(config))
    prune(tmp_path / "in", tmp_path / "out", "keep-layers=0,3,4")
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written["layer_types"] == ["full_attention", "sliding_attention", "sliding_attention"]
    with miaotui.load(tmp_path / "in", prune="keep-layers=0,3,4") as one, miaotui.load(tmp_path / "out") as other:
        assert one.config == other.config
        assert [s.window for s in attentions(one.config)] == [None, 5, 5]
        assert np.array_equal(one.logits(list(range(11))), other.logits(list(range(11))))


def test_a_cut_vocabulary_is_written_with_its_ids(tmp_path):
    from miaotui.tools.demo import path

    text = "Once upon a time, in a house in a small village, there lived a young fox named Lucy."
    (tmp_path / "text.txt").write_text(text)
    prune(path(), tmp_path / "out", {"vocab": tmp_path / "text.txt", "keep_layers": "0-4"})
    prune(tmp_path / "out", tmp_path / "again", {"vocab": tmp_path / "text.txt", "keep_layers": "0-3"})
    wish = {"vocab": tmp_path / "text.txt", "keep_layers": "0-4"}
    with (
        miaotui.load(path(), prune=wish) as one,
        miaotui.load(tmp_path / "out") as other,
        miaotui.load(tmp_path / "again") as again,
    ):
        assert one.config.eos_ids == other.config.eos_ids == again.config.eos_ids
        assert one.config.bos_ids == other.config.bos_ids
        ids = one.tokenizer.encode(text)
        assert ids == other.tokenizer.encode(text) == again.tokenizer.encode(text)
        assert one.generate(text[:20], max_new_tokens=9).text == other.generate(text[:20], max_new_tokens=9).text
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (path() / "tokenizer.json").read_bytes()


@pytest.mark.parametrize("family", [f for f in FAMILIES if f != "gpt2"])
def test_pruned_then_quantised_on_disk_is_both_while_loading(tmp_path, family):
    from miaotui.tools.commands.quantize import quantize

    write_checkpoint(tmp_path / "in", small(family))
    plan = PrunePlan(None, {1: ""}, {0: "0,2-5"}, vocab="0-3,6-9", width="1-9")
    prune(tmp_path / "in", tmp_path / "pruned", plan)
    quantize(tmp_path / "pruned", tmp_path / "both", "int8")
    with miaotui.load(tmp_path / "in", prune=plan, quantize="int8") as one, miaotui.load(tmp_path / "both") as other:
        assert same_bits(one, other)
        assert other.memory["weights_resident"] == 0
    assert (tmp_path / "both" / "kept_vocab.json").is_file()


def test_token_ids_in_the_configs_follow_their_rows(tmp_path):
    config = {**small("llama").config, "bos_token_id": 2, "eos_token_id": [3, 5], "pad_token_id": 7}
    write_checkpoint(tmp_path / "in", Drawn(config))
    for n, generation in enumerate((None, {"eos_token_id": [5, 4], "bos_token_id": 3, "temperature": 0.5})):
        if generation is not None:
            (tmp_path / "in" / "generation_config.json").write_text(json.dumps(generation))
        prune(tmp_path / "in", tmp_path / f"out{n}", PrunePlan(vocab="1,3,5,7"))
        written = json.loads((tmp_path / f"out{n}" / "config.json").read_text())
        assert [written[f"{name}_token_id"] for name in ("bos", "eos", "pad")] == [None, [1, 2], 3]
        left, _ = open_weights(tmp_path / f"out{n}")
        with miaotui.load(tmp_path / "in", prune=PrunePlan(vocab="1,3,5,7")) as model:
            assert model.config == left
    assert (left.bos_ids, left.eos_ids) == ((1,), (2,))
    assert json.loads((tmp_path / "out1" / "generation_config.json").read_text())["temperature"] == 0.5


def test_what_has_no_spelling_is_refused_and_leaves_nothing(tmp_path):
    write_checkpoint(tmp_path / "in", small("gpt2"))
    with pytest.raises(PlanError, match="the width cannot be cut"):
        prune(tmp_path / "in", tmp_path / "out", "width=0-5")
    config = {**small("gpt2").config, "scale_attn_by_inverse_layer_idx": True}
    write_checkpoint(tmp_path / "in", Drawn(config))
    with pytest.raises(PlanError, match="scale_attn_by_inverse_layer_idx"):
        prune(tmp_path / "in", tmp_path / "out", "keep-layers=1")
    assert [p.name for p in tmp_path.iterdir()] == ["in"]
    prune(tmp_path / "in", tmp_path / "out", "keep-layers=0")


def test_the_source_is_never_written_over_and_nothing_is_left_half(tmp_path, monkeypatch):
    write_checkpoint(tmp_path / "in", Drawn(seven()))
    before = (tmp_path / "in" / "model.safetensors").read_bytes()
    with pytest.raises(InputError, match="exists"):
        prune(tmp_path / "in", tmp_path / "in", "keep-layers=0")
    calls = []

    def stop(*_):
        calls.append(1)
        raise KeyboardInterrupt

    monkeypatch.setattr(export.np, "ascontiguousarray", stop)  # in the middle of the tensors
    with pytest.raises(KeyboardInterrupt):
        prune(tmp_path / "in", tmp_path / "out", "keep-layers=0")
    assert calls
    assert [p.name for p in tmp_path.iterdir()] == ["in"]
    assert (tmp_path / "in" / "model.safetensors").read_bytes() == before


#: per_layer_config and pruned_heads that do not describe a model: family, keys, what the message says.
BROKEN = [
    ("llama", {"per_layer_config": {"2": {"skip": ["mlp"]}}}, "expected a layer, 0 to 1"),
    ("llama", {"per_layer_config": {"-1": {}}}, "expected a layer"),
    ("llama", {"per_layer_config": {"1": {}, "01": {}}}, "each once"),
    ("llama", {"per_layer_config": [1]}, "expected an object"),
    ("llama", {"per_layer_config": {"0": 3}}, "expected an object"),
    ("llama", {"per_layer_config": {"0": {"hidden_act": "relu"}}}, "unknown key 'hidden_act'"),
    ("llama", {"per_layer_config": {"0": {"intermediate_size": 0}}}, "integer of at least 1"),
    ("llama", {"per_layer_config": {"0": {"intermediate_size": True}}}, "integer of at least 1"),
    ("llama", {"per_layer_config": {"0": {"num_key_value_heads": 2}}}, "no multiple of 2"),
    ("llama", {"per_layer_config": {"0": {"skip": ["mlp", "attention"]}}}, "layer 0 has neither"),
    ("llama", {"per_layer_config": {"0": {"skip": "mlp"}}}, "expected a list"),
    ("llama", {"per_layer_config": {"0": {"skip": ["norm"]}}}, "expected a list"),
    ("llama", {"pruned_heads": {"0": [1]}}, "pruned_heads is not known of a llama model"),
    ("gpt2", {"per_layer_config": {"0": {"n_head": 1}}}, "unknown key 'n_head'"),
    ("gpt2", {"pruned_heads": {"0": [3]}}, "head 3, but there were 3"),
    ("gpt2", {"pruned_heads": {"0": [1, 1]}}, "named twice"),
    ("gpt2", {"pruned_heads": {"5": [1]}}, "expected a layer"),
]


def test_a_model_without_any_attention_is_written_and_cut_again(tmp_path):
    """No layer says how wide a head is: config.json does, and a plan that says it is not for another model."""
    write_checkpoint(tmp_path / "in", Drawn(seven(16)))
    prune(tmp_path / "in", tmp_path / "out", "drop-attention=0-6; width=0-9")
    again = PrunePlan(layers="0-2", model={"d_head": 4, "n_heads": 0})
    both = "drop-attention=0-2; keep-layers=0-2; width=0-9"
    with miaotui.load(tmp_path / "out", prune=again) as one, miaotui.load(tmp_path / "in", prune=both) as other:
        assert [s.n_heads for s in every_layer(one.config)] == [0, 0, 0]
        assert np.array_equal(one.logits([1, 2, 3]), other.logits([1, 2, 3]))


@pytest.mark.parametrize(("family", "keys", "says"), BROKEN, ids=[str(i) for i in range(len(BROKEN))])
def test_uneven_configs_that_fit_nothing_are_refused(tmp_path, family, keys, says):
    write_checkpoint(tmp_path, small(family))
    (tmp_path / "config.json").write_text(json.dumps({**small(family).config, **keys}))
    with pytest.raises(ConfigError, match=says):
        miaotui.load(tmp_path)


def blocks(*layers):
    """`block_configs`, as those checkpoints spell it: (queries a KV head, width of the feed-forward) or None."""
    rest = {"replace_with_linear": False, "sparsify": None}
    return [
        {
            "attention": {"n_heads_in_group": each, "no_op": each is None, "num_sink_tokens": None, **rest},
            "ffn": {"ffn_mult": None if width is None else width * 3 / 2 / 64, "no_op": width is None, **rest},
        }
        for each, width in layers
    ]


def write_nemotron(path, layers):
    """A random Llama of width 64 with four heads whose layers have these sizes; and its twin in our own spelling."""
    from checkpoints import random_tensors, write_safetensors

    config = {**seven(), "num_hidden_layers": len(layers)}
    tensors = {}
    for i, (each, width) in enumerate(layers):
        kv = 4 // each if each else 4
        own = random_tensors({**config, "num_key_value_heads": kv, "intermediate_size": width or 1}, 5)
        for name, value in own.items():
            half = "mlp" if ".mlp." in name or "post_attention" in name else "attention"
            there = each if half == "attention" else width
            if not name.startswith("model.layers.") or (name.startswith(f"model.layers.{i}.") and there):
                tensors[name] = value
    per_layer = {
        str(i): ({"num_key_value_heads": 4 // each} if each else {"skip": ["attention"]})
        | ({"intermediate_size": width} if width else {})
        | ({} if width or not each else {"skip": ["mlp"]})
        for i, (each, width) in enumerate(layers)
    }
    ours = {**config, "num_key_value_heads": 4, "per_layer_config": per_layer}
    theirs = {**config, "model_type": "nemotron-nas", "architectures": ["DeciLMForCausalLM"]}
    theirs |= {"intermediate_size": None, "num_key_value_heads": None, "block_configs": blocks(*layers)}
    for name, what in {"ours": ours, "theirs": theirs}.items():
        (path / name).mkdir()
        (path / name / "config.json").write_text(json.dumps(what))
        write_safetensors(path / name / "model.safetensors", tensors)


def test_nemotrons_blocks_are_a_llamas_uneven_layers(tmp_path):
    write_nemotron(tmp_path, [(2, 256), (None, 512), (4, None), (1, 256)])
    with miaotui.load(tmp_path / "ours") as one, miaotui.load(tmp_path / "theirs") as other:
        assert [(s.n_heads, s.n_kv_heads, s.d_ff) for s in every_layer(other.config)] == [
            (4, 2, 256), (0, 0, 512), (4, 1, 0), (4, 4, 256)
        ]  # fmt: skip
        assert one.config == other.config
        assert same_bits(one, other)
    prune(tmp_path / "theirs", tmp_path / "out", "keep-layers=0,1,3")
    with miaotui.load(tmp_path / "theirs", prune="keep-layers=0,1,3") as one, miaotui.load(tmp_path / "out") as other:
        assert one.config == other.config
        assert same_bits(one, other)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda b: b[:1], "a list of 2 objects"),
        (lambda b: [{**b[0], "attention": {"n_heads_in_group": 3}}, b[1]], "do not come in groups of 3"),
        (lambda b: [{**b[0], "attention": {"replace_with_linear": True}}, b[1]], "'replace_with_linear' is True"),
        (lambda b: [{**b[0], "ffn": {}}, b[1]], "expected a gated one"),
        (lambda b: [{"attention": {"no_op": True}, "ffn": {"no_op": True}}, b[1]], "layer 0 has neither"),
        (lambda b: [{"ffn": b[0]["ffn"]}, b[1]], r"\[0\].attention is None"),
        (lambda b: [{**b[0], "ffn": {"ffn_mult": "2"}}, b[1]], "ffn_mult is '2'"),
    ],
    ids=range(7),
)
def test_blocks_that_fit_nothing_are_refused(tmp_path, change, says):
    write_nemotron(tmp_path, [(2, 256), (4, 512)])
    config = json.loads((tmp_path / "theirs" / "config.json").read_text())
    config["block_configs"] = change(config["block_configs"])
    (tmp_path / "theirs" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=says):
        miaotui.load(tmp_path / "theirs")


def test_numbers_of_another_size_than_the_header_s_are_not_written(tmp_path):
    whole, short = np.zeros((2, 3), np.float32), np.zeros(3, np.uint16)
    made = [("a", "F32", (2, 3), lambda: whole), ("b", "BF16", (4,), lambda: short)]
    message = r"b: 6 bytes were made, and its dtype and shape are 8"
    with pytest.raises(CheckpointError, match=message), export.new_directory(tmp_path / "out") as directory:
        export.write_safetensors(directory / "model.safetensors", made, "pt")
    assert not (tmp_path / "out").exists()
