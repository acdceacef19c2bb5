"""StableLM: Llama with LayerNorm and a quarter of each head rotated; halves one after the other, or side by side."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .base import Family, Part, Resolved
from .decoders import remade, weight_and_bias
from .llama import IGNORED, KEYS, LAYER, MODEL, PREFIXES, SPELLING, llama_like
from .rope import PARTIAL
from .values import Key, flag, number, size

__all__ = ["STABLELM"]

_QKV = frozenset({"q_bias", "k_bias", "v_bias"})
#: Of parallel halves.
ONE_NORM = weight_and_bias("ffn_norm", "layers.{i}.input_layernorm")
#: Of StableLM 2 12B: every head has gains of its own, a tensor for each.
QK_NORMS = {f"{x}_norm_whole": Part(f"layers.{{i}}.self_attn.{x}_layernorm.norms.{{h}}.weight") for x in "qk"}
_NORMS = frozenset({"attn_norm_bias", "ffn_norm_bias", "norm_bias"})


def _resolve(v: dict[str, Any], where: str) -> Resolved:
    v |= {"head_dim": None, "rms_norm_eps": v["layer_norm_eps"]}
    biases = _NORMS | (_QKV if v["use_qkv_bias"] else frozenset())
    parallel = v["use_parallel_residual"]
    stack = {"norm": "layer", "parallel": parallel}
    normed = {"norm_heads": v["qk_layernorm"]}
    resolved = remade(llama_like(v, where, "stablelm", biases=biases, part=0.25), stack=stack, attention=normed)
    own = (ONE_NORM if parallel else {}) | (QK_NORMS if v["qk_layernorm"] else {})
    return replace(resolved, own=own)


STABLELM = Family(
    name="stablelm",
    keys={
        **{name: key for name, key in KEYS.items() if name not in ("head_dim", "rms_norm_eps")},
        "vocab_size": Key(50304, size()),
        "hidden_size": Key(2560, size()),
        "intermediate_size": Key(6912, size()),
        "max_position_embeddings": Key(4096, size()),
        "layer_norm_eps": Key(1e-5, number(0, 1)),
        "use_qkv_bias": Key(default=False, check=flag),
        "use_parallel_residual": Key(default=False, check=flag),
        "qk_layernorm": Key(default=False, check=flag),
        "bos_token_id": Key((0,), KEYS["bos_token_id"].check),
        "eos_token_id": Key((0,), KEYS["eos_token_id"].check),
        **PARTIAL,
    },
    resolve=_resolve,
    model=MODEL | {"norm_bias": Part("norm.bias")},
    layer={role: part for role, part in LAYER.items() if not role.endswith("_bias") or role in _QKV}
    | {
        "attn_norm_bias": Part("layers.{i}.input_layernorm.bias"),
        "ffn_norm_bias": Part("layers.{i}.post_attention_layernorm.bias"),
    },
    prefixes=PREFIXES,
    spelling={name: key for name, key in SPELLING.items() if name != "d_head"},
    ignored=IGNORED,
    harmless=frozenset({"hidden_dropout"}),
    heads_divide_width=True,
)
