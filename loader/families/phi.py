"""Phi 1, 1.5 and 2: parallel halves after one LayerNorm, biases everywhere. Phi 3 and 4: Llama, fused; LongRoPE."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .base import Family, Part, Resolved
from .decoders import remade, weight_and_bias
from .gpt2 import biases_in
from .llama import IGNORED, KEYS, LAYER, MODEL, PREFIXES, SPELLING, llama_like
from .rope import PARTIAL
from .values import Key, activation, flag, number, optional, size

__all__ = ["PHI", "PHI3"]

_LAYER = "layers.{i}"
PHI_MODEL = {
    "embed": Part("embed_tokens.weight"),
    **weight_and_bias("norm", "final_layernorm"),
    **weight_and_bias("head", "lm_head", outside=True),
}
PHI_LAYER = {
    **weight_and_bias("attn_norm", f"{_LAYER}.input_layernorm"),
    **weight_and_bias("q", f"{_LAYER}.self_attn.q_proj"),
    **weight_and_bias("k", f"{_LAYER}.self_attn.k_proj"),
    **weight_and_bias("v", f"{_LAYER}.self_attn.v_proj"),
    **weight_and_bias("o", f"{_LAYER}.self_attn.dense"),
    **weight_and_bias("ffn_norm", f"{_LAYER}.input_layernorm"),
    **weight_and_bias("up", f"{_LAYER}.mlp.fc1"),
    **weight_and_bias("down", f"{_LAYER}.mlp.fc2"),
}
QK_NORMS = {
    role: part for x in "qk" for role, part in weight_and_bias(f"{x}_norm", f"{_LAYER}.self_attn.{x}_layernorm").items()
}
_QKV, _GATE_UP = ("q", "k", "v"), ("gate", "up")
PHI3_LAYER = {
    **{role: part for role, part in LAYER.items() if not role.endswith("_bias")},
    **{role: Part(f"{_LAYER}.self_attn.qkv_proj.weight", _QKV) for role in _QKV},
    **{role: Part(f"{_LAYER}.mlp.gate_up_proj.weight", _GATE_UP) for role in _GATE_UP},
}


#: What the first files called LongRoPE; transformers reads all of these as one.
OLDER = ("su", "yarn")


def _phi(v: dict[str, Any], where: str) -> Resolved:
    v |= {"rms_norm_eps": v["layer_norm_eps"]}
    own = QK_NORMS if v["qk_layernorm"] else {}
    resolved = llama_like(v, where, "phi", biases=biases_in(PHI_MODEL, PHI_LAYER, own), part=0.5)
    return replace(remade(resolved, stack={"norm": "layer", "parallel": True}, ffn={"gated": False}), own=own)


def _phi3(v: dict[str, Any], where: str) -> Resolved:
    scaling = v["rope_scaling"]
    if isinstance(scaling, dict):  # older names of longrope
        kinds = {key: "longrope" for key in ("type", "rope_type") if scaling.get(key) in OLDER}
        v |= {"rope_scaling": scaling | kinds}
    return llama_like(v, where, "phi3", windows=[v["sliding_window"]] * v["num_hidden_layers"], part=1.0)


PHI = Family(
    name="phi",
    keys={
        **{name: key for name, key in KEYS.items() if name != "rms_norm_eps"},
        "vocab_size": Key(51200, size()),
        "hidden_size": Key(2048, size()),
        "intermediate_size": Key(8192, size()),
        "num_hidden_layers": Key(24, size(2**16)),
        "hidden_act": Key("gelu_tanh", activation),
        "layer_norm_eps": Key(1e-5, number(0, 1)),
        "qk_layernorm": Key(default=False, check=flag),
        **PARTIAL,
    },
    resolve=_phi,
    model=PHI_MODEL,
    layer=PHI_LAYER,
    prefixes=PREFIXES,
    spelling=SPELLING,
    ignored=IGNORED,
)
PHI3 = Family(
    name="phi3",
    keys={
        **KEYS,
        "vocab_size": Key(32064, size()),
        "hidden_size": Key(3072, size()),
        "intermediate_size": Key(8192, size()),
        "max_position_embeddings": Key(4096, size()),
        "rms_norm_eps": Key(1e-5, number(0, 1)),
        "eos_token_id": Key((32000,), KEYS["eos_token_id"].check),
        "sliding_window": Key(None, optional(size())),
        "original_max_position_embeddings": Key(4096, optional(size())),
        **PARTIAL,
    },
    resolve=_phi3,
    model=MODEL,
    layer=PHI3_LAYER,
    prefixes=PREFIXES,
    spelling=SPELLING,
    ignored=IGNORED,
    only={
        "attention_bias": (False,),
        "mlp_bias": (False,),
        "lm_head_bias": (False,),  # this and the next two as Phi-4-mini is published; transformers reads none of them
        "full_attn_mod": (1,),
        "interpolate_factor": (1,),
    },
)
