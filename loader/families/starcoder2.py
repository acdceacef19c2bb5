"""StarCoder2: LayerNorm, biases, plain feed-forward, grouped queries, every layer with one sliding window or none."""

from __future__ import annotations

from typing import Any

from ..roles import ATTENTION, FEED_FORWARD
from .base import Family, Part, Resolved
from .decoders import remade, weight_and_bias
from .gpt2 import biases_in
from .llama import IGNORED, KEYS, MODEL, PREFIXES, SPELLING, llama_like
from .values import Key, activation, flag, number, optional, size

__all__ = ["STARCODER2"]

_LAYER = "layers.{i}"
LAYER = {
    **weight_and_bias("attn_norm", f"{_LAYER}.input_layernorm"),
    **weight_and_bias("q", f"{_LAYER}.self_attn.q_proj"),
    **weight_and_bias("k", f"{_LAYER}.self_attn.k_proj"),
    **weight_and_bias("v", f"{_LAYER}.self_attn.v_proj"),
    **weight_and_bias("o", f"{_LAYER}.self_attn.o_proj"),
    **weight_and_bias("ffn_norm", f"{_LAYER}.post_attention_layernorm"),
    **weight_and_bias("up", f"{_LAYER}.mlp.c_fc"),
    **weight_and_bias("down", f"{_LAYER}.mlp.c_proj"),
}
OWN_MODEL = MODEL | {"norm_bias": Part("norm.bias")}
_NORMS = frozenset({"attn_norm_bias", "ffn_norm_bias", "norm_bias"})


def _resolve(v: dict[str, Any], where: str) -> Resolved:
    v |= {"rms_norm_eps": v["norm_epsilon"]}
    biases = biases_in(OWN_MODEL, LAYER) if v["use_bias"] else _NORMS
    windows = [v["sliding_window"]] * v["num_hidden_layers"]
    resolved = llama_like(v, where, "starcoder2", biases=biases, windows=windows)
    return remade(resolved, stack={"norm": "layer"}, ffn={"gated": False})


STARCODER2 = Family(
    name="starcoder2",
    keys={
        **{name: key for name, key in KEYS.items() if name != "rms_norm_eps"},
        "vocab_size": Key(49152, size()),
        "hidden_size": Key(3072, size()),
        "intermediate_size": Key(12288, size()),
        "num_hidden_layers": Key(30, size(2**16)),
        "num_attention_heads": Key(24, size()),
        "num_key_value_heads": Key(2, optional(size())),
        "hidden_act": Key("gelu_tanh", activation),
        "max_position_embeddings": Key(4096, size()),
        "norm_epsilon": Key(1e-5, number(0, 1)),
        "tie_word_embeddings": Key(default=True, check=flag),
        "bos_token_id": Key((50256,), KEYS["bos_token_id"].check),
        "eos_token_id": Key((50256,), KEYS["eos_token_id"].check),
        "sliding_window": Key(None, optional(size())),
        "use_bias": Key(default=True, check=flag),
    },
    resolve=_resolve,
    model=OWN_MODEL,
    layer=LAYER,
    prefixes=PREFIXES,
    spelling=SPELLING,
    ignored=IGNORED,
    only={"mlp_type": ("default",), "norm_type": ("layer_norm",)},
    # the last two stand next to norm_epsilon and hidden_act, which transformers reads
    harmless=frozenset({"residual_dropout", "embedding_dropout", "layer_norm_epsilon", "activation_function"}),
    bias_keys={ATTENTION: "use_bias", FEED_FORWARD: "use_bias"},
)
