"""Llamas with a difference: Granite, SmolLM3, Seed-OSS, Helium, ERNIE 4.5, Arcee, Ministral, EXAONE 4."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ...errors import ConfigError
from ..files import quote
from ..roles import ATTENTION, FEED_FORWARD
from .base import Family, Part, Resolved, layer_type
from .decoders import layer_windows, remade, spell_types
from .llama import (
    ATTENTION_BIASES,
    BIAS_KEYS,
    IGNORED,
    KEYS,
    LAYER,
    MLP_BIASES,
    MODEL,
    PREFIXES,
    SPELLING,
    llama_like,
)
from .values import Key, activation, anything, flag, number, optional, size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ...runtime.spec import Attention

__all__ = ["ARCEE", "ERNIE", "EXAONE4", "GRANITE", "HELIUM", "MINISTRAL", "SEED_OSS", "SMOLLM3"]

NONE: frozenset[str] = frozenset()
FLAGS = {"attention_bias": Key(default=False, check=flag), "mlp_bias": Key(default=False, check=flag)}
FACTOR = number(0, 1e6, above=True)
NO_BIAS = {role: part for role, part in LAYER.items() if not role.endswith("_bias")}


def _biases(v: dict[str, Any]) -> frozenset[str]:
    return (ATTENTION_BIASES if v["attention_bias"] else NONE) | (MLP_BIASES if v["mlp_bias"] else NONE)


def _ids(bos: int, eos: int) -> dict[str, Key]:
    return {
        "bos_token_id": Key((bos,), KEYS["bos_token_id"].check),
        "eos_token_id": Key((eos,), KEYS["eos_token_id"].check),
    }


_SHARED: dict[str, Any] = {
    "model": MODEL,
    "layer": LAYER,
    "prefixes": PREFIXES,
    "spelling": SPELLING,
    "ignored": IGNORED,
}


def _interleaved(resolved: Resolved) -> Resolved:
    return remade(resolved, ropes=(replace(resolved.config.ropes[0], interleaved=True),))


# --- Granite: factors on the embedding, the scores, what sublayers add, and the logits


def _granite(v: dict[str, Any], where: str) -> Resolved:
    return remade(
        llama_like(v, where, "granite", biases=_biases(v)),
        stack={"embed_scale": v["embedding_multiplier"], "residual_scale": v["residual_multiplier"]},
        attention={"scale": v["attention_multiplier"]},
        logit_scale=1 / v["logits_scaling"],
    )


_FACTORS = ("embedding_multiplier", "residual_multiplier", "attention_multiplier", "logits_scaling")
GRANITE = Family(
    name="granite",
    keys={**KEYS, **FLAGS, **{name: Key(1.0, FACTOR) for name in _FACTORS}},
    resolve=_granite,
    bias_keys=BIAS_KEYS,
    **_SHARED,
)


# --- SmolLM3: some layers are not rotated


def _smollm3(v: dict[str, Any], where: str) -> Resolved:
    n, said = v["num_hidden_layers"], v["no_rope_layers"]
    rotated = [(i + 1) % v["no_rope_layer_interval"] != 0 for i in range(n)] if said is None else said
    if not isinstance(rotated, list) or len(rotated) < n or any(r not in (0, 1) for r in rotated):
        msg = f"{where}: no_rope_layers is {quote(said)}; expected {n} times 0 or 1, 1 where a layer is rotated"
        raise ConfigError(msg)
    window = v["sliding_window"] if v["use_sliding_window"] else None
    windows = layer_windows(v | {"sliding_window": window}, where, lambda i: not rotated[i])
    resolved = llama_like(v, where, "smollm3", biases=_biases(v), windows=windows)
    return remade(resolved, attention=lambda i, _: {"rope": 0 if rotated[i] else None})


def _spell_smollm3(attentions: Sequence[Attention]) -> dict[str, Any]:
    return {
        "no_rope_layers": [int(s.rope is not None) for s in attentions],
        "layer_types": [layer_type(s.window) for s in attentions],
    }


SMOLLM3 = Family(
    name="smollm3",
    keys={
        **KEYS,
        **FLAGS,
        **_ids(128000, 128001),
        "vocab_size": Key(128256, size()),
        "hidden_size": Key(2048, size()),
        "num_hidden_layers": Key(36, size(2**16)),
        "num_attention_heads": Key(16, size()),
        "num_key_value_heads": Key(4, optional(size())),
        "max_position_embeddings": Key(32768, size()),
        "rope_theta": Key(2000000.0, KEYS["rope_theta"].check),
        "tie_word_embeddings": Key(default=True, check=flag),
        "no_rope_layers": Key(None, anything),
        "no_rope_layer_interval": Key(4, size()),
        "use_sliding_window": Key(default=False, check=flag),
        "sliding_window": Key(None, optional(size())),
        "layer_types": Key(None, anything),
    },
    resolve=_smollm3,
    harmless=frozenset({"max_window_layers", "pretraining_tp"}),  # its class reads neither
    bias_keys=BIAS_KEYS,
    spell_layers=_spell_smollm3,
    **_SHARED,
)


# --- Seed-OSS: a key of its own for the bias of the attention's last product


def _seed_oss(v: dict[str, Any], where: str) -> Resolved:
    biases = ATTENTION_BIASES - {"o_bias"} if v["attention_bias"] else NONE
    biases |= frozenset({"o_bias"}) if v["attention_out_bias"] else NONE
    return llama_like(v, where, "seed_oss", biases=biases | (MLP_BIASES if v["mlp_bias"] else NONE))


SEED_OSS = Family(
    name="seed_oss",
    keys={
        **KEYS,
        **FLAGS,
        **_ids(0, 2),
        "vocab_size": Key(155136, size()),
        "intermediate_size": Key(27648, size()),
        "num_hidden_layers": Key(64, size(2**16)),
        "num_attention_heads": Key(80, size()),
        "num_key_value_heads": Key(8, optional(size())),
        "head_dim": Key(128, optional(size())),
        "max_position_embeddings": Key(524288, size()),
        "attention_bias": Key(default=True, check=flag),
        "attention_out_bias": Key(default=False, check=flag),
    },
    resolve=_seed_oss,
    bias_keys={FEED_FORWARD: BIAS_KEYS[FEED_FORWARD]},
    harmless=frozenset({"residual_dropout"}),
    **_SHARED,
)


# --- Helium, ERNIE 4.5: neighbours are rotated together


def _helium(v: dict[str, Any], where: str) -> Resolved:
    if v["num_attention_heads"] * v["head_dim"] != v["hidden_size"]:
        msg = f"{where}: {v['num_attention_heads']} heads of {v['head_dim']} are not hidden_size {v['hidden_size']}"
        raise ConfigError(msg)
    biases = _biases(v) - {"o_bias"}
    return _interleaved(llama_like(v, where, "helium", biases=biases))


HELIUM = Family(
    name="helium",
    keys={
        **KEYS,
        **FLAGS,
        "vocab_size": Key(48000, size()),
        "hidden_size": Key(2560, size()),
        "intermediate_size": Key(7040, size()),
        "num_hidden_layers": Key(24, size(2**16)),
        "num_attention_heads": Key(20, size()),
        "num_key_value_heads": Key(20, optional(size())),
        "head_dim": Key(128, size()),
        "max_position_embeddings": Key(4096, size()),
        "rms_norm_eps": Key(1e-8, number(0, 1)),
        "rope_theta": Key(100000.0, KEYS["rope_theta"].check),
    },
    resolve=_helium,
    bias_keys={FEED_FORWARD: BIAS_KEYS[FEED_FORWARD]},
    **_SHARED,
)


def _ernie(v: dict[str, Any], where: str) -> Resolved:
    biases = ATTENTION_BIASES | MLP_BIASES if v["use_bias"] else NONE
    return _interleaved(llama_like(v, where, "ernie4_5", biases=biases))


ERNIE = Family(
    name="ernie4_5",
    keys={
        **KEYS,
        "vocab_size": Key(103424, size()),
        "hidden_size": Key(1024, size()),
        "intermediate_size": Key(3072, size()),
        "num_hidden_layers": Key(18, size(2**16)),
        "num_attention_heads": Key(16, size()),
        "num_key_value_heads": Key(2, optional(size())),
        "head_dim": Key(128, optional(size())),
        "max_position_embeddings": Key(131072, size()),
        "rms_norm_eps": Key(1e-5, number(0, 1)),
        "rope_theta": Key(500000.0, KEYS["rope_theta"].check),
        "tie_word_embeddings": Key(default=True, check=flag),
        "use_bias": Key(default=False, check=flag),
    },
    resolve=_ernie,
    bias_keys={ATTENTION: "use_bias", FEED_FORWARD: "use_bias"},
    **_SHARED,
)


# --- Arcee: a plain feed-forward with the square of ReLU


def _arcee(v: dict[str, Any], where: str) -> Resolved:
    biases = _biases(v) - {"gate_bias"}
    return remade(llama_like(v, where, "arcee", biases=biases), ffn={"gated": False})


ARCEE = Family(
    name="arcee",
    keys={
        **KEYS,
        **FLAGS,
        **_ids(128000, 128001),
        "hidden_size": Key(2560, size()),
        "intermediate_size": Key(18432, size()),
        "hidden_act": Key("relu2", activation),
        "max_position_embeddings": Key(4096, size()),
        "rms_norm_eps": Key(1e-5, number(0, 1)),
    },
    resolve=_arcee,
    bias_keys=BIAS_KEYS,
    heads_divide_width=True,
    **_SHARED | {"layer": {role: part for role, part in LAYER.items() if not role.startswith("gate")}},
)


# --- Ministral: windows by layer


def _ministral(v: dict[str, Any], where: str) -> Resolved:
    windows = layer_windows(v, where, lambda _: True)
    return llama_like(v, where, "ministral", windows=windows)


MINISTRAL = Family(
    name="ministral",
    keys={
        **KEYS,
        "intermediate_size": Key(14336, size()),
        "num_key_value_heads": Key(8, optional(size())),
        "max_position_embeddings": Key(4096 * 32, size()),
        "sliding_window": Key(4096, optional(size())),
        "layer_types": Key(None, anything),
    },
    resolve=_ministral,
    only={"attention_bias": (False,), "mlp_bias": (False,)},
    **_SHARED | {"layer": NO_BIAS},
)


# --- EXAONE 4: norms of what a sublayer returns; where some layers have windows, those alone are rotated


def _exaone4(v: dict[str, Any], where: str) -> Resolved:
    pattern = v["sliding_window_pattern"] or 0
    if v["layer_types"] is None and type(pattern) is not int:
        msg = f"{where}: sliding_window_pattern is {quote(pattern)}; without layer_types, expected an integer"
        raise ConfigError(msg)
    windows = layer_windows(v, where, lambda i: bool(pattern) and (i + 1) % pattern != 0)
    everywhere = v["sliding_window"] is None
    resolved = llama_like(v, where, "exaone4", windows=windows)
    return remade(resolved, attention=lambda _, s: {"rope": None if s.window is None and not everywhere else 0})


EXAONE4 = Family(
    name="exaone4",
    keys={
        **KEYS,
        **_ids(0, 2),
        "vocab_size": Key(102400, size()),
        "intermediate_size": Key(16384, size()),
        "num_key_value_heads": Key(32, optional(size())),
        "rms_norm_eps": Key(1e-5, number(0, 1)),
        "sliding_window": Key(4096, optional(size())),
        "sliding_window_pattern": Key(4, anything),  # of no meaning next to layer_types
        "layer_types": Key(None, anything),
    },
    resolve=_exaone4,
    spell_layers=spell_types,
    **_SHARED
    | {
        "layer": {
            **{role: part for role, part in NO_BIAS.items() if role not in ("attn_norm", "ffn_norm")},
            "attn_norm_out": Part("layers.{i}.post_attention_layernorm.weight"),
            "ffn_norm_out": Part("layers.{i}.post_feedforward_layernorm.weight"),
            "q_norm": Part("layers.{i}.self_attn.q_norm.weight"),
            "k_norm": Part("layers.{i}.self_attn.k_norm.weight"),
        }
    },
)
