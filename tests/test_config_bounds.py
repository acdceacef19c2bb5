"""Limits of the keys of config.json, on both sides of each, in every family; and defaults that no class there has."""

from __future__ import annotations

import math

import pytest
from miaotui.loader.families import FAMILIES
from miaotui.loader.families.values import Key, Unfit

LARGEST = 2**31 - 1

#: How many layers, experts and groups of layers: from one.
MANY = 2**16
COUNTS = {
    "decoder_layers", "encoder_layers", "n_layer", "n_layers", "num_decoder_layers", "num_experts",
    "num_experts_per_tok", "num_hidden_groups", "num_hidden_layers", "num_layers", "num_local_experts",
}  # fmt: skip

#: Other integers than sizes from 1 to LARGEST.
INTEGERS: dict[str, tuple[int, int]] = {
    **dict.fromkeys(COUNTS, (1, MANY)),
    "conv_kernel_size": (0, 1025), "local_attention": (0, LARGEST), "max_relative_positions": (-1, LARGEST),
    "max_window_layers": (0, LARGEST), "num_labels": (1, 2**20), "num_ln_in_parallel_attn": (1, 2),
    "position_buckets": (-1, MANY), "relative_attention_num_buckets": (4, MANY),
}  # fmt: skip
OWN = {
    ("deberta-v2", "type_vocab_size"): (0, LARGEST), ("qwen2_moe", "sliding_window"): (0, LARGEST),
    ("xglm", "pad_token_id"): (0, LARGEST),
}  # fmt: skip

#: Numbers: the least, whether it fits, the most.
FACTOR, BASE, SHARE, EPSILON = (0, False, 1e6), (1, True, 1e15), (0, False, 1), (0, True, 1)
NUMBERS: dict[str, tuple[float, bool, float]] = {
    "attention_multiplier": FACTOR, "attn_logit_softcapping": FACTOR, "clip_qkv": FACTOR,
    "embedding_multiplier": FACTOR, "final_logit_softcapping": FACTOR, "global_rope_theta": BASE,
    "layer_norm_eps": EPSILON, "layer_norm_epsilon": EPSILON, "local_rope_theta": BASE, "logit_scale": FACTOR,
    "logits_scaling": FACTOR, "norm_eps": EPSILON, "norm_epsilon": EPSILON, "partial_rotary_factor": SHARE,
    "query_pre_attn_scalar": (0, False, 1e9), "residual_multiplier": FACTOR, "rms_norm_eps": EPSILON,
    "rope_local_base_freq": BASE, "rope_theta": BASE, "rotary_emb_base": BASE, "rotary_pct": SHARE,
}  # fmt: skip
#: Families that may turn a part of each head; of others `partial_rotary_factor` is 1.
PARTLY = {"glm", "glm4", "phi", "phi3", "stablelm"}


def fits(key: Key, value: object) -> bool:
    try:
        key.check(value)
    except Unfit:
        return False
    return True


KEYS = [(family, name, key) for family, of in FAMILIES.items() for name, key in of.keys.items()]
SIZES = [(f, n, k) for f, n, k in KEYS if not fits(k, 1.0) and fits(k, 1) and not fits(k, -2)]
REALS = [(f, n, k) for f, n, k in KEYS if fits(k, 1.0) and not fits(k, 1e300)]


def ids(keys: list[tuple[str, str, Key]]) -> list[str]:
    return [f"{family}-{name}" for family, name, _ in keys]


@pytest.mark.parametrize(("family", "name", "key"), SIZES, ids=ids(SIZES))
def test_integers(family: str, name: str, key: Key) -> None:
    least, most = OWN.get((family, name), INTEGERS.get(name, (1, LARGEST)))
    assert [fits(key, n) for n in (least - 1, least, most, most + 1)] == [False, True, True, False]
    assert not any(fits(key, x) for x in (True, str(most)))
    assert key.default is None or fits(key, key.default)


@pytest.mark.parametrize(("family", "name", "key"), REALS, ids=ids(REALS))
def test_numbers(family: str, name: str, key: Key) -> None:
    least, included, most = NUMBERS[name]
    if name == "partial_rotary_factor" and family not in PARTLY:
        least, included = 1, True
    below, above = math.nextafter(least, -math.inf), math.nextafter(least, math.inf)
    assert [fits(key, x) for x in (below, least, most, math.nextafter(most, math.inf))] == [
        False,
        included,
        True,
        False,
    ]
    assert fits(key, above) == (above <= most)
    assert not any(fits(key, x) for x in (math.nan, True))
    assert key.default is None or fits(key, key.default)


def test_every_family_has_some_of_each() -> None:
    assert len(SIZES) > 400
    assert len(REALS) > 80


#: Defaults of keys that transformers' classes do not write.
DEFAULTS = {
    "bloom": {"seq_length": 2048}, "cohere2": {"sliding_window_pattern": 4},
    "deberta-v2": {
        "conv_act": "tanh", "conv_groups": 1, "conv_kernel_size": 0, "norm_rel_ebd": "none", "position_buckets": -1,
        "share_att_key": False,
    },
    "gemma3_text": {"rope_local_base_freq": 1e4, "rope_theta": 1e6, "sliding_window_pattern": 6},
    "gpt_neox": {"rotary_emb_base": 1e4, "rotary_pct": 0.25}, "modernbert": {"global_attn_every_n_layers": 3},
    "nemotron-nas": {
        "attention_bias": False, "bos_token_id": (1,), "eos_token_id": (2,), "hidden_act": "silu", "hidden_size": 4096,
        "max_position_embeddings": 2048, "mlp_bias": False, "num_attention_heads": 32, "num_hidden_layers": 32,
        "partial_rotary_factor": 1.0, "rms_norm_eps": 1e-6, "rope_theta": 1e4, "tie_word_embeddings": False,
        "vocab_size": 32000,
    },
    "nomic_bert": {"tie_word_embeddings": True}, "qwen3_moe": {"max_window_layers": 28},
    "mt5": {"n_positions": 512}, "umt5": {"n_positions": 512},
    "t5": {"decoder_start_token_id": (0,), "n_positions": 512},
}  # fmt: skip
#: Of no family does a missing one ask for anything.
NONE_ASKED = {"bad_words_ids", "bos_token_id", "forced_bos_token_id", "forced_eos_token_id"}


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_defaults_that_their_classes_do_not_write(family: str) -> None:
    """A scale of RoPE's angles they have in `rope_parameters`."""
    configurations = pytest.importorskip("transformers").AutoConfig
    theirs = {} if family == "nemotron-nas" else configurations.for_model(family).to_dict()
    keys = FAMILIES[family].keys.items()
    ours = {name: key.default for name, key in keys if name not in theirs and key.default is not None}
    ropes = theirs.get("rope_parameters") or {}
    told = dict(DEFAULTS.get(family, {}))
    for name in ours.keys() & {"rope_theta", "partial_rotary_factor"} - told.keys():
        usual = 1.0 if name == "partial_rotary_factor" else None
        found = [ropes] if "rope_type" in ropes else ropes.values()
        told[name] = next((each[name] for each in found if name in each), usual)
    asked = {name: value for name, value in ours.items() if name not in NONE_ASKED or value}
    assert asked == told
