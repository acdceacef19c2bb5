"""GLM and GLM-4: half of each head rotated, neighbours together; GLM-4 norms what a sublayer returns, too."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from .base import Family, Part, Resolved
from .decoders import remade
from .llama import IGNORED, KEYS, LAYER, MODEL, PREFIXES, SPELLING, llama_like
from .rope import PARTIAL
from .values import Key, flag, number, optional, size

__all__ = ["GLM", "GLM4"]

_BIASES, _GATE_UP = frozenset({"q_bias", "k_bias", "v_bias"}), ("gate", "up")
GLM_LAYER = {
    **{role: part for role, part in LAYER.items() if not role.endswith("_bias") or role in _BIASES},
    **{role: Part("layers.{i}.mlp.gate_up_proj.weight", _GATE_UP) for role in _GATE_UP},
}


def _resolve(v: dict[str, Any], where: str, family: str) -> Resolved:
    resolved = llama_like(v, where, family, biases=_BIASES if v["attention_bias"] else frozenset(), part=0.5)
    return remade(resolved, ropes=(replace(resolved.config.ropes[0], interleaved=True),))


GLM = Family(
    name="glm",
    keys={
        **KEYS,
        "vocab_size": Key(151552, size()),
        "intermediate_size": Key(13696, size()),
        "num_hidden_layers": Key(40, size(2**16)),
        "num_key_value_heads": Key(2, optional(size())),
        "head_dim": Key(128, optional(size())),
        "max_position_embeddings": Key(131072, size()),
        "rms_norm_eps": Key(1.5625e-7, number(0, 1)),
        "attention_bias": Key(default=True, check=flag),
        "bos_token_id": Key((), KEYS["bos_token_id"].check),
        "eos_token_id": Key((151329, 151336, 151338), KEYS["eos_token_id"].check),
        **PARTIAL,
    },
    resolve=partial(_resolve, family="glm"),
    model=MODEL,
    layer=GLM_LAYER,
    prefixes=PREFIXES,
    spelling=SPELLING,
    ignored=IGNORED,
)
GLM4 = replace(
    GLM,
    name="glm4",
    resolve=partial(_resolve, family="glm4"),
    layer=GLM_LAYER
    | {
        "attn_norm_out": Part("layers.{i}.post_self_attn_layernorm.weight"),
        "ffn_norm_out": Part("layers.{i}.post_mlp_layernorm.weight"),
    },
)
