"""Falcon: parallel halves after one LayerNorm or two, or one after the other; rotation or linear biases."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ...errors import ConfigError
from ...runtime.spec import Attention, Config, FeedForward, Rope, Slopes, Stack
from .alibi import halved_slopes
from .base import Family, Part, Resolved
from .decoders import weight_and_bias
from .gpt2 import QKV, QKV_BIASES
from .rope import ROPE_KEYS, read_rope
from .values import Key, activation, flag, number, optional, size, token_ids

__all__ = ["FALCON"]

MODEL = {
    "embed": Part("word_embeddings.weight"),
    **weight_and_bias("norm", "ln_f"),
    "head": Part("lm_head.weight", outside=True),
}
_LAYER = "h.{i}"
_NORMS = {
    "attn_norm": ("input_layernorm", "ln_attn"),
    "ffn_norm": ("post_attention_layernorm", "ln_mlp", "input_layernorm"),  # the last: one norm before both halves
}


def _norm(role: str) -> dict[str, Part]:
    first, *others = _NORMS[role]
    return {
        name: replace(part, others=tuple(part.name.replace(first, other) for other in others))
        for name, part in weight_and_bias(role, f"{_LAYER}.{first}").items()
    }


LAYER = {
    **_norm("attn_norm"),
    **{role: Part(f"{_LAYER}.self_attention.query_key_value.weight", QKV, by_head=True) for role in QKV},
    **{role: Part(f"{_LAYER}.self_attention.query_key_value.bias", QKV_BIASES, by_head=True) for role in QKV_BIASES},
    **weight_and_bias("o", f"{_LAYER}.self_attention.dense"),
    **_norm("ffn_norm"),
    **weight_and_bias("up", f"{_LAYER}.mlp.dense_h_to_4h"),
    **weight_and_bias("down", f"{_LAYER}.mlp.dense_4h_to_h"),
}
_NORM_BIASES = frozenset({"norm_bias", "attn_norm_bias", "ffn_norm_bias"})


def _kv_heads(v: dict[str, Any], where: str) -> int:
    """Of the new architecture as many as it says; else one, or one for each query head."""
    n_heads, said = v["num_attention_heads"], v["num_kv_heads"]
    if v["new_decoder_architecture"]:
        n_kv_heads: int = n_heads if said is None else said
    else:
        n_kv_heads = 1 if v["multi_query"] else n_heads
        if not v["multi_query"] and said not in (None, n_heads):
            msg = f"{where}: num_kv_heads is {said}; without multi_query every one of the {n_heads} heads has its own"
            raise ConfigError(msg)
    if n_heads % n_kv_heads or v["hidden_size"] % n_heads:
        msg = f"{where}: hidden_size {v['hidden_size']}, {n_heads} heads and {n_kv_heads} key/value heads do not divide"
        raise ConfigError(msg)
    return n_kv_heads


def _resolve(v: dict[str, Any], where: str) -> Resolved:
    d, n_heads, n_kv_heads = v["hidden_size"], v["num_attention_heads"], _kv_heads(v, where)
    d_head, n_context = d // n_heads, v["max_position_embeddings"]
    if v["num_ln_in_parallel_attn"] not in (None, 2 if v["new_decoder_architecture"] else 1):
        msg = f"{where}: num_ln_in_parallel_attn is {v['num_ln_in_parallel_attn']}; expected 2 in the new architecture"
        raise ConfigError(msg)
    attention = Attention(n_heads, n_kv_heads, d_head, d_head**-0.5, rope=0)
    ropes: tuple[Rope, ...] = ()
    biases: tuple[Slopes, ...] = ()
    if v["alibi"]:
        attention = replace(attention, rope=None, bias=0)
        biases = (Slopes(halved_slopes(n_heads), rounded=True, scale=d_head**-0.5),)
    else:
        if d_head % 2:
            msg = f"{where}: the head's width is {d_head}; rotary positions need an even one"
            raise ConfigError(msg)
        rope, n_context = read_rope(v, where, n_context, d_head)
        ropes = (rope,)
    layer = (attention, FeedForward(v["ffn_hidden_size"] or 4 * d, v["activation"], gated=False))
    parallel = v["new_decoder_architecture"] or v["parallel_attn"]
    stack = Stack(d, "layer", v["layer_norm_epsilon"], (layer,) * v["num_hidden_layers"], parallel, biases=biases)
    config = Config(
        family="falcon",
        n_vocab=v["vocab_size"],
        n_context=n_context,
        decoder=stack,
        ropes=ropes,
        tied=v["tie_word_embeddings"],
        bos_ids=v["bos_token_id"],
        eos_ids=v["eos_token_id"],
    )
    own = frozenset({*QKV_BIASES, "o_bias", "up_bias", "down_bias"}) if v["bias"] else frozenset()
    return Resolved(config, _NORM_BIASES | own)


FALCON = Family(
    name="falcon",
    keys={
        "vocab_size": Key(65024, size()),
        "hidden_size": Key(4544, size()),
        "num_hidden_layers": Key(32, size(2**16)),
        "num_attention_heads": Key(71, size()),
        "num_kv_heads": Key(None, optional(size())),
        "num_ln_in_parallel_attn": Key(None, optional(size(2))),
        "layer_norm_epsilon": Key(1e-5, number(0, 1)),
        "alibi": Key(default=False, check=flag),
        "new_decoder_architecture": Key(default=False, check=flag),
        "multi_query": Key(default=True, check=flag),
        "parallel_attn": Key(default=True, check=flag),
        "bias": Key(default=False, check=flag),
        "max_position_embeddings": Key(2048, size()),
        "ffn_hidden_size": Key(None, optional(size())),
        "activation": Key("gelu", activation),
        "tie_word_embeddings": Key(default=True, check=flag),
        "bos_token_id": Key((11,), token_ids),
        "eos_token_id": Key((11,), token_ids),
        **ROPE_KEYS,
    },
    resolve=_resolve,
    model=MODEL,
    layer=LAYER,
    prefixes=("transformer.", ""),
    spelling={
        "n_layers": "num_hidden_layers",
        "d_model": "hidden_size",
        "n_heads": "num_attention_heads",
        "d_ff": "ffn_hidden_size",
        "n_vocab": "vocab_size",
    },
    ignored=(r"h\.\d+\.self_attention\.rotary_emb\.inv_freq",),
    only={"apply_residual_connection_post_layernorm": (False,)},
    harmless=frozenset({"ff_factor"}),  # of Falcon 2, which says ffn_hidden_size, too
    heads_divide_width=True,
)
