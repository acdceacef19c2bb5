"""Apertus: Llama with norms of queries and keys, and a plain feed-forward with xIELU, whose slopes are weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..roles import ATTENTION
from .base import Family, Part, Resolved
from .decoders import remade
from .llama import ATTENTION_BIASES, BIAS_KEYS, IGNORED, KEYS, LAYER, MODEL, PREFIXES, SPELLING, llama_like
from .values import Key, activation, flag, number, size

__all__ = ["APERTUS"]

_AT = "layers.{i}"
OWN_LAYER = {
    **{role: part for role, part in LAYER.items() if not role.endswith("_bias") or role in ATTENTION_BIASES},
    "attn_norm": Part(f"{_AT}.attention_layernorm.weight"),
    "ffn_norm": Part(f"{_AT}.feedforward_layernorm.weight"),
    "q_norm": Part(f"{_AT}.self_attn.q_norm.weight"),
    "k_norm": Part(f"{_AT}.self_attn.k_norm.weight"),
}
del OWN_LAYER["gate"]
XIELU = {
    "act_p": Part(f"{_AT}.mlp.act_fn.alpha_p", softplus=True),
    "act_n": Part(f"{_AT}.mlp.act_fn.alpha_n", softplus=True),
    "act_beta": Part(f"{_AT}.mlp.act_fn.beta", folded="number"),
    "act_eps": Part(f"{_AT}.mlp.act_fn.eps", folded="number"),
}
THETA = 12000000.0
#: Where a file says nothing of rotation.
ROPE = {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192}
ROPE |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}


def _activation(value: object) -> str | None:
    """None is xIELU, as in the records."""
    return None if value == "xielu" else activation(value)


def _resolve(v: dict[str, Any], where: str) -> Resolved:
    v |= {"head_dim": None}
    if not v["rope_scaling"] and not v["rope_parameters"]:
        v |= {"rope_parameters": ROPE, "rope_theta": THETA}
    biases = ATTENTION_BIASES if v["attention_bias"] else frozenset()
    resolved = remade(llama_like(v, where, "apertus", biases=biases), ffn={"gated": False})
    return resolved if v["hidden_act"] is not None else replace(resolved, own=XIELU)


APERTUS = Family(
    name="apertus",
    keys={
        **{name: key for name, key in KEYS.items() if name != "head_dim"},
        "vocab_size": Key(131072, size()),
        "intermediate_size": Key(14336, size()),
        "hidden_act": Key(None, _activation),
        "max_position_embeddings": Key(65536, size()),
        "rms_norm_eps": Key(1e-5, number(0, 1)),
        "rope_theta": Key(THETA, KEYS["rope_theta"].check),
        "attention_bias": Key(default=False, check=flag),
    },
    resolve=_resolve,
    model=MODEL,
    layer=OWN_LAYER,
    prefixes=PREFIXES,
    spelling={name: key for name, key in SPELLING.items() if name != "d_head"},
    ignored=IGNORED,
    only={"mlp_bias": (False,), "post_norm": (False,), "qk_norm": (True,)},
    bias_keys={ATTENTION: BIAS_KEYS[ATTENTION]},
    heads_divide_width=True,
)
