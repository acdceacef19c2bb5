"""BLOOM: a normed embedding, LayerNorms with bias, linear biases by distance, queries, keys and values head by head."""

from __future__ import annotations

from typing import Any

from ...errors import ConfigError
from ...runtime.spec import Attention, Config, FeedForward, Slopes, Stack
from .alibi import halved_slopes
from .base import Family, Part, Resolved
from .decoders import weight_and_bias
from .gpt2 import QKV, QKV_BIASES, biases_in
from .values import Key, flag, number, optional, size, token_ids

__all__ = ["BLOOM"]

MODEL = {
    "embed": Part("word_embeddings.weight"),
    **weight_and_bias("embed_norm", "word_embeddings_layernorm"),
    **weight_and_bias("norm", "ln_f"),
    "head": Part("lm_head.weight", outside=True),
}
_LAYER = "h.{i}"
LAYER = {
    **weight_and_bias("attn_norm", f"{_LAYER}.input_layernorm"),
    **{role: Part(f"{_LAYER}.self_attention.query_key_value.weight", QKV, by_head=True) for role in QKV},
    **{role: Part(f"{_LAYER}.self_attention.query_key_value.bias", QKV_BIASES, by_head=True) for role in QKV_BIASES},
    **weight_and_bias("o", f"{_LAYER}.self_attention.dense"),
    **weight_and_bias("ffn_norm", f"{_LAYER}.post_attention_layernorm"),
    **weight_and_bias("up", f"{_LAYER}.mlp.dense_h_to_4h"),
    **weight_and_bias("down", f"{_LAYER}.mlp.dense_4h_to_h"),
}


def _one(v: dict[str, Any], where: str, *names: str) -> int:
    """A size that files spell in two ways."""
    said = {name: v[name] for name in names if v[name] is not None}
    if len(set(said.values())) > 1:
        msg = f"{where}: {' and '.join(f'{name} is {value}' for name, value in said.items())}; expected one number"
        raise ConfigError(msg)
    value: int = next(iter(said.values()), DEFAULTS[names[0]])
    return value


DEFAULTS = {"hidden_size": 64, "n_layer": 2, "n_head": 8}


def _resolve(v: dict[str, Any], where: str) -> Resolved:
    d, n_layers = _one(v, where, "hidden_size", "n_embed"), _one(v, where, "n_layer", "num_hidden_layers")
    n_heads = _one(v, where, "n_head", "num_attention_heads")
    if d % n_heads:
        msg = f"{where}: hidden_size {d} is no multiple of the {n_heads} heads"
        raise ConfigError(msg)
    d_head, ffn = d // n_heads, FeedForward(v["n_inner"] or 4 * d, "gelu_tanh", gated=False)
    layer = (Attention(n_heads, n_heads, d_head, d_head**-0.5, bias=0), ffn)
    biases = (Slopes(halved_slopes(n_heads)),)
    config = Config(
        family="bloom",
        n_vocab=v["vocab_size"],
        n_context=v["seq_length"],
        decoder=Stack(d, "layer", v["layer_norm_epsilon"], (layer,) * n_layers, biases=biases),
        tied=v["tie_word_embeddings"],
        bos_ids=v["bos_token_id"],
        eos_ids=v["eos_token_id"],
    )
    return Resolved(config, biases_in(MODEL, LAYER))


BLOOM = Family(
    name="bloom",
    keys={
        "vocab_size": Key(250880, size()),
        "hidden_size": Key(None, optional(size())),
        "n_embed": Key(None, optional(size())),
        "n_layer": Key(None, optional(size(2**16))),
        "num_hidden_layers": Key(None, optional(size(2**16))),
        "n_head": Key(None, optional(size())),
        "num_attention_heads": Key(None, optional(size())),
        "layer_norm_epsilon": Key(1e-5, number(0, 1)),
        "seq_length": Key(2048, size()),  # of training; nothing limits distances
        "tie_word_embeddings": Key(default=True, check=flag),
        "bos_token_id": Key((1,), token_ids),
        "eos_token_id": Key((2,), token_ids),
        "n_inner": Key(None, optional(size())),  # of a pruned one: transformers has four times hidden_size alone
    },
    resolve=_resolve,
    model=MODEL,
    layer=LAYER,
    prefixes=("transformer.", ""),
    spelling={
        "n_layers": "n_layer",
        "d_model": "hidden_size",
        "n_heads": "n_head",
        "d_ff": "n_inner",
        "n_vocab": "vocab_size",
    },
    only={"apply_residual_connection_post_layernorm": (False,), "slow_but_exact": (False,)},
    harmless=frozenset({
        "attention_softmax_in_fp32", "bias_dropout_fusion", "masked_softmax_fusion", "offset_alibi", "pretraining_tp",
        "skip_bias_add", "skip_bias_add_qkv",
    }),  # of training; pretraining_tp matters where slow_but_exact is set
    heads_divide_width=True,
)  # fmt: skip
