"""`config.json` -> `Config`: defaults as transformers resolves them, strict types and ranges, refusals by name."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from checkpoints import DECODERS, ENCODERS, FAMILIES, SEQ2SEQ, Drawn, models
from helpers import attentions, feed_forwards, sizes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from miaotui.errors import ConfigError
from miaotui.loader.config import parse_config
from miaotui.loader.families import FAMILIES as KNOWN
from miaotui.runtime.spec import Config, Rope

WHERE = "somewhere/config.json"


def parse(family: str = "llama", **keys: Any) -> Config:
    """Resolve a file that says only this."""
    return parse_config({"model_type": family, **keys}, WHERE)


def test_every_family_of_the_tests_is_known_and_none_besides() -> None:
    # transformers has no nemotron-nas: test_prune_export.py has a Llama next to it
    assert set(KNOWN) == {*FAMILIES, "nemotron-nas", *ENCODERS, *DECODERS, *SEQ2SEQ}


def windows(config: Config) -> tuple[int | None, ...]:
    return tuple(s.window for s in attentions(config))


def scales(config: Config) -> tuple[float, ...]:
    return tuple(s.scale for s in attentions(config))


@pytest.mark.parametrize("family", FAMILIES)
def test_defaults_are_those_of_transformers(family: str) -> None:
    """An empty file means the same model to transformers and to us."""
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoConfig.for_model(family)
    ours = parse(family)
    assert ours.n_layers == theirs.num_hidden_layers
    assert ours.d_model == theirs.hidden_size
    assert sizes(ours).n_heads == theirs.num_attention_heads
    assert ours.n_vocab == theirs.vocab_size
    assert ours.n_context == theirs.max_position_embeddings
    assert ours.tied == theirs.tie_word_embeddings
    assert ours.bos_ids == (() if theirs.bos_token_id is None else (theirs.bos_token_id,))
    assert ours.eos_ids == (() if theirs.eos_token_id is None else (theirs.eos_token_id,))
    if family == "gpt2":
        assert sizes(ours).d_ff == 4 * theirs.n_embd
        assert ours.stack.eps == theirs.layer_norm_epsilon
        assert (ours.stack.norm, ours.ropes, ours.positions) == ("layer", (), 0)
        assert {(s.gated, s.activation) for s in feed_forwards(ours)} == {(False, "gelu_tanh")}
        return
    assert sizes(ours).d_ff == theirs.intermediate_size
    assert sizes(ours).n_kv_heads == theirs.num_key_value_heads
    assert sizes(ours).d_head == (getattr(theirs, "head_dim", None) or theirs.hidden_size // theirs.num_attention_heads)
    assert ours.stack.eps == theirs.rms_norm_eps
    assert ours.ropes == (Rope(theirs.rope_parameters["rope_theta"], sizes(ours).d_head),)
    assert windows(ours) == (theirs.sliding_window if family == "mistral" else None,) * ours.n_layers
    assert (ours.stack.norm, ours.positions) == ("rms", None)
    assert {(s.gated, s.activation) for s in feed_forwards(ours)} == {(True, "silu")}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from([f for f in FAMILIES if f != "gpt2"]).flatmap(models))
def test_drawn_configs_resolve_as_in_transformers(drawn: Drawn) -> None:
    transformers = pytest.importorskip("transformers")
    text = json.dumps(drawn.config)
    theirs = transformers.AutoConfig.for_model(**json.loads(text))
    ours = parse_config(json.loads(text), WHERE)
    assert sizes(ours).n_kv_heads == theirs.num_key_value_heads
    assert sizes(ours).d_head == (getattr(theirs, "head_dim", None) or theirs.hidden_size // theirs.num_attention_heads)
    [own] = ours.ropes
    rope = theirs.rope_parameters
    assert {s.rope for s in attentions(ours)} == {0}
    assert (own.kind, own.theta, own.d_rotary) == (rope["rope_type"], rope["rope_theta"], sizes(ours).d_head)
    assert own.factor == rope.get("factor", 1.0)
    if own.kind in {"llama3", "yarn"}:
        assert own.original_context == rope["original_max_position_embeddings"]
    if own.kind == "yarn":
        module = pytest.importorskip("transformers.modeling_rope_utils")
        _, factor = module.ROPE_INIT_FUNCTIONS["yarn"](theirs, "cpu")
        assert math.isclose(own.attention_factor, factor, rel_tol=1e-15)
    if hasattr(theirs, "layer_types") and theirs.layer_types is not None:
        window = theirs.sliding_window
        assert list(windows(ours)) == [window if kind == "sliding_attention" else None for kind in theirs.layer_types]


# --- one file at a time: what a key means ---------------------------------------------------------------------------


def test_smollm2_as_published() -> None:
    js: dict[str, Any] = {"transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16"}}}
    config = parse(
        architectures=["LlamaForCausalLM"],
        attention_bias=False,
        attention_dropout=0.0,
        bos_token_id=1,
        eos_token_id=2,
        hidden_act="silu",
        hidden_size=576,
        initializer_range=0.041666666666666664,
        intermediate_size=1536,
        is_llama_config=True,
        max_position_embeddings=8192,
        mlp_bias=False,
        num_attention_heads=9,
        num_hidden_layers=30,
        num_key_value_heads=3,
        pad_token_id=2,
        pretraining_tp=1,
        rms_norm_eps=1e-05,
        rope_interleaved=False,
        rope_scaling=None,
        rope_theta=100000,
        tie_word_embeddings=True,
        torch_dtype="bfloat16",
        transformers_version="4.42.3",
        use_cache=True,
        vocab_size=49152,
        **js,
    )
    assert (sizes(config).d_head, sizes(config).n_kv_heads, config.n_layers, config.tied) == (64, 3, 30, True)
    assert config.ropes == (Rope(100000.0, 64),)


def test_both_spellings_of_rope_mean_the_same() -> None:
    scaling = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    old = parse(rope_theta=5e5, rope_scaling={"rope_type": "llama3", **scaling})
    new = parse(rope_parameters={"rope_type": "llama3", "rope_theta": 5e5, **scaling})
    assert old == new
    assert old.ropes == (Rope(5e5, 128, "llama3", 8.0, 8192, low_freq_factor=1.0, high_freq_factor=4.0),)


def test_scaling_reaches_further_than_the_trained_context() -> None:
    yarn = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    config = parse("qwen2", max_position_embeddings=32768, rope_scaling=yarn)
    assert config.n_context == 131072
    assert math.isclose(config.ropes[0].attention_factor, 0.1 * math.log(4) + 1)
    assert parse(max_position_embeddings=100, rope_scaling={"type": "dynamic", "factor": 2.5}).n_context == 250


def test_what_yarn_files_say_of_training_changes_nothing() -> None:
    yarn = {"type": "yarn", "factor": 16.0, "original_max_position_embeddings": 128}
    plain = parse(rope_scaling=yarn, max_position_embeddings=2048)
    for finetuned in (True, False, None):
        assert parse(rope_scaling={**yarn, "finetuned": finetuned}, max_position_embeddings=2048) == plain
    zero = {**yarn, "beta_fast": 0, "beta_slow": 0.0}  # the defaults, as in transformers
    assert parse(rope_scaling=zero, max_position_embeddings=2048) == plain


def test_gpt2_medium_as_it_is_published() -> None:
    keys = {"n_embd": 1024, "n_head": 16, "n_layer": 24, "n_special": 0, "predict_special_tokens": True, "n_ctx": 1024}
    config = parse("gpt2", **keys)
    assert (config.n_layers, config.d_model) == (24, 1024)


def test_windows() -> None:
    assert windows(parse("mistral", num_hidden_layers=2, sliding_window=None)) == (None, None)
    assert windows(parse("mistral", num_hidden_layers=2, sliding_window=7)) == (7, 7)
    qwen = {"num_hidden_layers": 3, "sliding_window": 9}
    assert windows(parse("qwen2", **qwen)) == (None,) * 3
    assert windows(parse("qwen2", use_sliding_window=True, max_window_layers=2, **qwen)) == (None, None, 9)
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    assert windows(parse("qwen3", use_sliding_window=True, layer_types=kinds, **qwen)) == (9, None, 9)


def test_gpt2_scales() -> None:
    keys = {"n_layer": 3, "n_head": 4, "n_embd": 64}
    assert scales(parse("gpt2", **keys)) == (0.25, 0.25, 0.25)
    assert scales(parse("gpt2", scale_attn_weights=False, **keys)) == (1.0, 1.0, 1.0)
    inverse = parse("gpt2", scale_attn_by_inverse_layer_idx=True, **keys)
    assert scales(inverse) == (0.25, 0.125, 0.25 / 3)


def test_generation_config_wins_and_foreign_ids_are_dropped() -> None:
    raw = {"model_type": "gpt2", "vocab_size": 53, "bos_token_id": 50256, "eos_token_id": 51}
    assert parse_config(raw, WHERE).bos_ids == ()
    assert parse_config(raw, WHERE).eos_ids == (51,)
    both = parse_config(raw, WHERE, {"eos_token_id": [3, 9, 3, -1, 60], "bos_token_id": None})
    assert (both.bos_ids, both.eos_ids) == ((), (3, 9))
    with pytest.raises(ConfigError, match=r"generation_config\.json .*eos_token_id is 'x'"):
        parse_config(raw, WHERE, {"eos_token_id": "x"})
    with pytest.raises(ConfigError, match="expected an object"):
        parse_config(raw, WHERE, [1])


def test_null_asks_for_nothing() -> None:
    assert parse(quantization_config=None, whatever=None) == parse()


# --- refusals -------------------------------------------------------------------------------------------------------

NAN, INF = float("nan"), float("inf")
ROPE: dict[str, Any] = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}

REFUSED: list[tuple[str, dict[str, Any], str]] = [
    *[
        ("llama", {"hidden_size": bad}, "hidden_size")
        for bad in (0, -1, True, 64.0, NAN, "64", None, [64], 2**31, 10**40)
    ],
    *[("llama", {"num_hidden_layers": bad}, "num_hidden_layers") for bad in (0, 2**16 + 1, 1.5)],
    *[("llama", {"rms_norm_eps": bad}, "rms_norm_eps") for bad in (NAN, INF, -1e-6, "1e-6", True, 10**400)],
    *[("llama", {"rope_theta": bad}, "rope_theta") for bad in (0, -1.0, NAN, INF, None, "10000")],
    ("llama", {"tie_word_embeddings": 1}, "tie_word_embeddings"),
    ("llama", {"hidden_act": "quick_gelu"}, "hidden_act is 'quick_gelu'"),
    ("llama", {"hidden_act": ["silu"]}, "hidden_act"),
    ("llama", {"num_attention_heads": 7}, "no multiple of num_attention_heads"),
    ("llama", {"num_key_value_heads": 5}, "no multiple of num_key_value_heads"),
    ("llama", {"head_dim": 63}, "even"),
    ("llama", {"hidden_size": 2**31 - 1, "num_attention_heads": 1, "head_dim": 2**30}, "2**40"),
    ("llama", {"hidden_size": 2**17, "intermediate_size": 2**22, "num_hidden_layers": 2**16}, "2**46"),
    ("llama", {"logit_scale": 0.5}, "unknown key 'logit_scale'"),
    ("llama", {"sliding_window": 4096}, "sliding_window"),
    ("llama", {"quantization_config": {"bits": 4}}, "quantization_config"),
    ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    ("llama", {"rope_interleaved": True}, "rope_interleaved is True"),
    ("llama", {"pretraining_tp": 2}, "pretraining_tp"),
    ("llama", {"pruned_heads": {"0": [1]}}, "pruned_heads"),
    ("llama", {"bos_token_id": 1.0}, "bos_token_id"),
    ("llama", {"eos_token_id": [2, True]}, "eos_token_id"),
    ("llama", {"architectures": ["LlamaForQuestionAnswering"]}, "architectures"),
    ("llama", {"architectures": ["LlamaForSequenceClassification"], "num_labels": 3, "id2label": {"0": "a"}}, "num_l"),
    ("llama", {"architectures": ["LlamaForSequenceClassification"], "id2label": {"1": "a"}}, "id2label"),
    ("llama", {"rope_scaling": 2.0}, "rope_scaling is 2.0"),
    ("llama", {"rope_scaling": {"rope_type": "longrope", "factor": 2.0}}, "longrope"),
    ("llama", {"rope_scaling": {"rope_type": "linear", "type": "dynamic", "factor": 2.0}}, "kind of scaling"),
    ("llama", {"rope_scaling": {"type": "linear"}}, "'factor'"),
    ("llama", {"rope_scaling": {"type": "linear", "factor": 0}}, "factor is 0"),
    ("llama", {"rope_scaling": {"type": "linear", "factor": "2"}}, "factor is '2'"),
    ("llama", {"rope_scaling": {"type": "linear", "factor": 2.0, "mrope_section": [1]}}, "mrope_section"),
    ("llama", {"rope_parameters": {"rope_type": ["linear"]}}, "kind of scaling"),
    ("llama", {"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "full_attention"),
    ("llama", {"rope_scaling": {**ROPE, "high_freq_factor": 1.0}}, "high_freq_factor"),
    ("llama", {"rope_scaling": {k: ROPE[k] for k in ("rope_type", "factor")}}, "low_freq_factor"),
    ("llama", {"rope_scaling": {**ROPE, "original_max_position_embeddings": 0}}, "original_max_position_embeddings"),
    ("llama", {"rope_scaling": {"type": "dynamic", "factor": 0.5}}, "factor"),
    (
        "llama",
        {"rope_scaling": {"type": "dynamic", "factor": 2.0, "original_max_position_embeddings": 7}},
        "original_max_position_embeddings is 7",
    ),
    ("llama", {"head_dim": 2, "rope_scaling": {"type": "dynamic", "factor": 2.0}}, "wider than 2"),
    ("llama", {"rope_theta": 1.0, "rope_scaling": {"type": "yarn", "factor": 2.0}}, "rope_theta is 1.0"),
    ("llama", {"rope_scaling": {"type": "yarn", "factor": 2.0, "truncate": 1}}, "truncate"),
    ("llama", {"rope_scaling": {"type": "yarn"}}, "factor"),
    *[
        ("llama", {"rope_scaling": {"type": "yarn", "factor": 4.0, name: tiny}}, name)
        for name in ("beta_fast", "beta_slow", "factor")
        for tiny in (5e-324, 1e-320)
    ],
    ("llama", {"rope_scaling": {"type": "yarn", "factor": 4.0, "finetuned": "yes"}}, "finetuned"),
    ("llama", {"rope_scaling": {"type": "linear", "factor": 1e-320}}, "factor is 1e-320"),
    ("llama", {"rope_theta": 1e-320}, "rope_theta is 1e-320"),
    ("mistral", {"sliding_window": 0}, "sliding_window"),
    ("mistral", {"layer_types": ["full_attention"] * 32}, "layer_types"),
    ("mistral", {"attention_bias": True}, "attention_bias"),
    ("qwen2", {"attention_bias": False}, "attention_bias"),
    ("qwen2", {"use_mrope": True}, "use_mrope"),
    ("qwen2", {"max_window_layers": -1}, "max_window_layers"),
    ("qwen2", {"num_hidden_layers": 2, "layer_types": ["sliding_attention"] * 2}, "layer_types"),
    ("qwen3", {"num_hidden_layers": 2, "layer_types": ["full_attention"]}, "layer_types"),
    ("qwen3", {"num_hidden_layers": 1, "layer_types": "full_attention"}, "layer_types"),
    ("qwen3", {"head_dim": None}, "head_dim"),
    ("gpt2", {"n_head": 5}, "no multiple of n_head"),
    ("gpt2", {"hidden_size": 64}, "unknown key 'hidden_size'"),
    ("gpt2", {"add_cross_attention": True}, "add_cross_attention"),
    ("gpt2", {"n_embd": 2**20, "n_inner": 1, "n_head": 1, "n_positions": 2**31 - 1}, "positions x width"),
    ("mamba", {}, "model_type is 'mamba'"),
]


@pytest.mark.parametrize(("family", "keys", "named"), REFUSED, ids=[f"{i}-{r[2]}" for i, r in enumerate(REFUSED)])
def test_refused_by_name(family: str, keys: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse(family, **keys)
    message = str(error.value)
    assert named in message
    assert message.startswith(WHERE)
    assert len(message) < (1500 if "reads decoders: " in message else 500)  # every family's name


@pytest.mark.parametrize("raw", [None, [], "llama", 3, {}, {"model_type": None}, {"model_type": ["llama"]}])
def test_no_config_at_all(raw: object) -> None:
    with pytest.raises(ConfigError, match=r"config\.json"):
        parse_config(raw, WHERE)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_json_value_gives_a_config_or_a_config_error(data: st.DataObject) -> None:
    """Put an arbitrary value at any key, or inside the rope's dict: never another exception."""
    family = data.draw(st.sampled_from(FAMILIES))
    keys = [*KNOWN[family].keys, "architectures", "pruned_heads", "pretraining_tp"]
    raw: dict[str, Any] = {"model_type": family}
    for name in data.draw(st.lists(st.sampled_from(keys), max_size=3)):
        raw[name] = data.draw(JSON)
    if "rope_scaling" in keys and data.draw(st.booleans()):
        kind = data.draw(st.sampled_from(["linear", "dynamic", "llama3", "yarn"]))
        inner = st.sampled_from([*ROPE, "attention_factor", "original_max_position_embeddings", "beta_fast", "mscale"])
        value = st.sampled_from([0, 1, 1.0, 2.0, 4.0, 1e9, NAN, None, True, "x"])
        raw["rope_scaling"] = {**data.draw(st.dictionaries(inner, value)), "rope_type": kind}
    try:
        config = parse_config(raw, WHERE)
    except ConfigError as error:
        assert len(str(error)) < 500  # noqa: PT017 - either outcome is right
    else:
        assert sizes(config).n_heads % sizes(config).n_kv_heads == 0


def test_scales_and_bounds_below_one_are_some() -> None:
    said = {"softmax_scale": 0.125, "clip_qkv": 0.5}
    config = parse_config({"model_type": "mpt", "attn_config": said}, "config.json")
    assert {(attention.scale, attention.clip) for attention in attentions(config)} == {(0.125, 0.5)}
