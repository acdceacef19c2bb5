"""ModernBERT: norms before each half but the first, windows on most layers, two rotary tables, fused matrices."""

from __future__ import annotations

from typing import Any

from ...errors import ConfigError
from ...runtime.spec import Attention, Config, FeedForward, Stack
from ..roles import ROLES
from .base import Family, Part, Resolved
from .bert import both
from .gpt2 import QKV, QKV_BIASES
from .heads import ARCHITECTURES, HEAD_KEYS, read_head
from .rope import ROPE_KEYS, THETA, layer_kinds, read_ropes
from .values import Key, activation, anything, flag, number, optional, size

__all__ = ["MODERNBERT"]

MODEL = {
    "embed": Part("embeddings.tok_embeddings.weight"),
    **both("embed_norm", "embeddings.norm"),
    **both("norm", "final_norm"),
}
_LAYER = "layers.{i}"
GATE_UP, GATE_UP_BIASES = ("gate", "up"), ("gate_bias", "up_bias")
LAYER = {
    "attn_norm": Part(f"{_LAYER}.attn_norm.weight", start=1),
    "attn_norm_bias": Part(f"{_LAYER}.attn_norm.bias", start=1),
    **{x: Part(f"{_LAYER}.attn.Wqkv.weight", QKV) for x in QKV},
    **{x: Part(f"{_LAYER}.attn.Wqkv.bias", QKV_BIASES) for x in QKV_BIASES},
    **both("o", f"{_LAYER}.attn.Wo"),
    **both("ffn_norm", f"{_LAYER}.mlp_norm"),
    **{x: Part(f"{_LAYER}.mlp.Wi.weight", GATE_UP) for x in GATE_UP},
    **{x: Part(f"{_LAYER}.mlp.Wi.bias", GATE_UP_BIASES) for x in GATE_UP_BIASES},
    **both("down", f"{_LAYER}.mlp.Wo"),
}
_DENSE = both("head_dense", "head.dense", outside=True) | both("head_norm", "head.norm", outside=True)
_CLASSES = _DENSE | both("classifier", "classifier", outside=True)
HEADS = {
    "masked_lm": _DENSE | both("head", "decoder", outside=True),
    "classes": _CLASSES,
    "choice": _CLASSES,
    "token_classes": _CLASSES,
    "spans": _CLASSES,
}
#: Key -> the biases that it is about.
BIASES = {
    "norm_bias": ("embed_norm_bias", "norm_bias", "attn_norm_bias", "ffn_norm_bias", "head_norm_bias"),
    "attention_bias": ("q_bias", "k_bias", "v_bias", "o_bias"),
    "mlp_bias": ("gate_bias", "up_bias", "down_bias"),
    "decoder_bias": ("head_bias",),
    "classifier_bias": ("head_dense_bias",),
}


def _resolve(v: dict[str, Any], where: str) -> Resolved:
    d, n_heads, n_layers = v["hidden_size"], v["num_attention_heads"], v["num_hidden_layers"]
    if d % n_heads or d // n_heads % 2:
        msg = f"{where}: hidden_size {d}, {n_heads} heads: a head is {d / n_heads:g} wide; rotation needs an even width"
        raise ConfigError(msg)
    acts = dict.fromkeys(HEADS, v["classifier_activation"])
    head = read_head(v, where, widths=dict.fromkeys(HEADS, d), acts=acts, poolings={"cls": "first", "mean": "mean"})
    d_head, every = d // n_heads, v["global_attn_every_n_layers"]
    pattern = ["sliding_attention" if i % every else "full_attention" for i in range(n_layers)]
    thetas = {"full_attention": v["global_rope_theta"], "sliding_attention": v["local_rope_theta"]}
    thetas = {kind: theta or THETAS[kind] for kind, theta in thetas.items()}
    ropes, n_context = read_ropes(v, where, v["max_position_embeddings"], d_head, thetas)
    ffn = FeedForward(v["intermediate_size"], v["hidden_activation"], gated=True)
    # local_attention counts both sides; a window here counts one side and the token itself
    sees = {"full_attention": (None, 0), "sliding_attention": (v["local_attention"] // 2 + 1, 1)}
    layers = tuple(
        (Attention(n_heads, n_heads, d_head, d_head**-0.5, causal=False, window=window, rope=rope), ffn)
        for window, rope in (sees[kind] for kind in layer_kinds(v, where, pattern))
    )
    config = Config(
        family="modernbert",
        n_vocab=v["vocab_size"],
        n_context=n_context,
        encoder=Stack(d, "layer", v["norm_eps"], layers),
        ropes=ropes,
        head=head.head,
        labels=head.labels,
        tied=head.tied,
    )
    lacking = {role for key, roles in BIASES.items() if not v[key] for role in roles}
    there = {*MODEL, *LAYER, *(HEADS[head.head.kind] if head.head else ())} - lacking
    return Resolved(config, frozenset(role for role in there if ROLES[role].kind == "bias"))


THETAS = {"full_attention": 160_000.0, "sliding_attention": 10_000.0}
MODERNBERT = Family(
    name="modernbert",
    keys={
        "vocab_size": Key(50368, size()),
        "hidden_size": Key(768, size()),
        "intermediate_size": Key(1152, size()),
        "num_hidden_layers": Key(22, size(2**16)),
        "num_attention_heads": Key(12, size()),
        "hidden_activation": Key("gelu", activation),
        "max_position_embeddings": Key(8192, size()),
        "norm_eps": Key(1e-5, number(0, 1)),
        **{key: Key(default=key == "decoder_bias", check=flag) for key in BIASES},
        "local_attention": Key(128, size(low=0)),
        "global_attn_every_n_layers": Key(3, size()),
        "layer_types": Key(None, anything),
        "global_rope_theta": Key(None, optional(THETA)),
        "local_rope_theta": Key(None, optional(THETA)),
        "classifier_activation": Key("gelu", activation),
        "classifier_pooling": Key("cls", anything),
        **HEAD_KEYS,
        **ROPE_KEYS,
    },
    resolve=_resolve,
    model=MODEL,
    layer=LAYER,
    prefixes=("model.", ""),
    spelling={
        "n_layers": "num_hidden_layers",
        "d_model": "hidden_size",
        "n_heads": "num_attention_heads",
        "d_ff": "intermediate_size",
        "n_vocab": "vocab_size",
    },
    harmless=frozenset(
        {
            "bos_token_id",
            "deterministic_flash_attn",
            "eos_token_id",
            "initializer_cutoff_factor",
            "layer_norm_eps",
            "position_embedding_type",
            "reference_compile",
            "repad_logits_with_grad",
            "sparse_pred_ignore_index",
            "sparse_prediction",  # of the loss
        }
    ),  # layer_norm_eps and position_embedding_type: published, and read by nobody; norm_eps and RoPE are
    heads_divide_width=True,
    architectures=ARCHITECTURES,
    heads=HEADS,
)
