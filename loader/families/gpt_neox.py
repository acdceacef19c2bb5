"""GPT-NeoX (Pythia): two LayerNorms before parallel halves, a quarter of each head rotated, QKV fused head by head."""

from __future__ import annotations

from typing import Any

from .base import Family, Part, Resolved
from .decoders import remade, weight_and_bias
from .gpt2 import biases_in
from .llama import KEYS, SPELLING, llama_like
from .rope import THETA
from .values import Key, activation, flag, number, size

__all__ = ["GPT_NEOX"]

_LAYER = "layers.{i}"
_QKV, _QKV_BIASES = ("q", "k", "v"), ("q_bias", "k_bias", "v_bias")
MODEL = {
    "embed": Part("embed_in.weight"),
    **weight_and_bias("norm", "final_layer_norm"),
    "head": Part("lm_head.weight", outside=True, untied="embed_out.weight"),
}
LAYER = {
    **weight_and_bias("attn_norm", f"{_LAYER}.input_layernorm"),
    **{role: Part(f"{_LAYER}.attention.query_key_value.weight", _QKV, by_head=True) for role in _QKV},
    **{role: Part(f"{_LAYER}.attention.query_key_value.bias", _QKV_BIASES, by_head=True) for role in _QKV_BIASES},
    **weight_and_bias("o", f"{_LAYER}.attention.dense"),
    **weight_and_bias("ffn_norm", f"{_LAYER}.post_attention_layernorm"),
    **weight_and_bias("up", f"{_LAYER}.mlp.dense_h_to_4h"),
    **weight_and_bias("down", f"{_LAYER}.mlp.dense_4h_to_h"),
}
_OF_ATTENTION = frozenset({*_QKV_BIASES, "o_bias"})


def _resolve(v: dict[str, Any], where: str) -> Resolved:
    own = {"num_key_value_heads": None, "head_dim": None, "rms_norm_eps": v["layer_norm_eps"]}
    v |= own | {"partial_rotary_factor": v["rotary_pct"], "rope_theta": v["rotary_emb_base"]}
    biases = biases_in(MODEL, LAYER) - (frozenset() if v["attention_bias"] else _OF_ATTENTION)
    resolved = llama_like(v, where, "gpt_neox", biases=biases, part=0.25)
    return remade(resolved, stack={"norm": "layer", "parallel": v["use_parallel_residual"]}, ffn={"gated": False})


_NOT = ("num_key_value_heads", "head_dim", "rms_norm_eps", "rope_theta", "partial_rotary_factor")
GPT_NEOX = Family(
    name="gpt_neox",
    keys={
        **{name: key for name, key in KEYS.items() if name not in _NOT},
        "vocab_size": Key(50432, size()),
        "hidden_size": Key(6144, size()),
        "intermediate_size": Key(24576, size()),
        "num_hidden_layers": Key(44, size(2**16)),
        "num_attention_heads": Key(64, size()),
        "hidden_act": Key("gelu", activation),
        "layer_norm_eps": Key(1e-5, number(0, 1)),
        "bos_token_id": Key((0,), KEYS["bos_token_id"].check),
        "attention_bias": Key(default=True, check=flag),
        "use_parallel_residual": Key(default=True, check=flag),
        "rotary_pct": Key(0.25, number(0, 1, above=True)),
        "rotary_emb_base": Key(10000.0, THETA),
    },
    resolve=_resolve,
    model=MODEL,
    layer=LAYER,
    prefixes=("gpt_neox.", ""),
    spelling={name: key for name, key in SPELLING.items() if name not in ("n_kv_heads", "d_head")},
    ignored=(r"layers\.\d+\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)",),
    heads_divide_width=True,
)
