"""MPT: LayerNorm without bias, no bias anywhere, linear biases by distance, queries, keys and values in one matrix."""

from __future__ import annotations

from typing import Any

from ...errors import ConfigError
from ...runtime.spec import Attention, Config, FeedForward, Slopes, Stack
from ..files import quote
from .alibi import interleaved_slopes
from .base import ONLY, Family, Part, Resolved
from .gpt2 import QKV
from .ignored import IGNORED
from .values import Key, anything, flag, number, optional, read, size, token_ids

__all__ = ["MPT"]

MODEL = {
    "embed": Part("wte.weight"),
    "norm": Part("norm_f.weight"),
    "head": Part("lm_head.weight", outside=True),
}
_LAYER = "blocks.{i}"
LAYER = {
    "attn_norm": Part(f"{_LAYER}.norm_1.weight"),
    **{x: Part(f"{_LAYER}.attn.Wqkv.weight", QKV) for x in QKV},
    "o": Part(f"{_LAYER}.attn.out_proj.weight"),
    "ffn_norm": Part(f"{_LAYER}.norm_2.weight"),
    "up": Part(f"{_LAYER}.ffn.up_proj.weight"),
    "down": Part(f"{_LAYER}.ffn.down_proj.weight"),
}
#: Keys of `attn_config`; those that would change what is computed, at the values that transformers computes with.
ATTENTION = {"softmax_scale": Key(None, optional(number(0, 1e6))), "clip_qkv": Key(None, optional(number(0, 1e6)))}
ATTENTION_ONLY: dict[str, tuple[object, ...]] = ONLY | {
    "attn_type": ("multihead_attention",),
    "prefix_lm": (False,),
    "qk_ln": (False,),
    "alibi": (True,),
    "alibi_bias_max": (8,),  # the authors' code takes another, transformers does not
    "attn_uses_sequence_id": (False,),
}
ATTENTION_HARMLESS = IGNORED | {"attn_impl", "attn_pdrop"}


def _attention(v: dict[str, Any], where: str) -> dict[str, Any]:
    given = v["attn_config"] or {}
    if not isinstance(given, dict):
        msg = f"{where}: attn_config is {quote(given)}; expected an object or null"
        raise ConfigError(msg)
    for name, value in given.items():
        if value is None or name in ATTENTION or name in ATTENTION_HARMLESS or value in ATTENTION_ONLY.get(name, ()):
            continue
        wanted = " or ".join(map(repr, ATTENTION_ONLY.get(name, ()))) or "null"
        msg = f"{where}: attn_config.{name} is {quote(value)}; an mpt model is computed with {wanted} only"
        raise ConfigError(msg)
    return read(given, ATTENTION, f"{where}: attn_config")


def _resolve(v: dict[str, Any], where: str) -> Resolved:
    d, n_heads = v["d_model"], v["n_heads"]
    if d % n_heads:
        msg = f"{where}: d_model {d} is no multiple of n_heads {n_heads}"
        raise ConfigError(msg)
    own, d_head = _attention(v, where), d // n_heads
    scale = d_head**-0.5 if own["softmax_scale"] is None else own["softmax_scale"]
    ffn = FeedForward(v["intermediate_size"] or 4 * d, "gelu", gated=False)
    layer = (Attention(n_heads, n_heads, d_head, scale, bias=0, clip=own["clip_qkv"] or None), ffn)
    biases = (Slopes(interleaved_slopes(n_heads)),)
    config = Config(
        family="mpt",
        n_vocab=v["vocab_size"],
        n_context=v["max_seq_len"],
        decoder=Stack(d, "layer", v["layer_norm_epsilon"], (layer,) * v["n_layers"], biases=biases),
        tied=v["tie_word_embeddings"],
        bos_ids=v["bos_token_id"],
        eos_ids=v["eos_token_id"],
    )
    return Resolved(config, frozenset())


MPT = Family(
    name="mpt",
    keys={
        "vocab_size": Key(50368, size()),
        "d_model": Key(2048, size()),
        "n_heads": Key(16, size()),
        "n_layers": Key(24, size(2**16)),
        "max_seq_len": Key(2048, size()),
        "layer_norm_epsilon": Key(1e-5, number(0, 1)),
        "attn_config": Key(None, anything),
        "tie_word_embeddings": Key(default=True, check=flag),
        "bos_token_id": Key((), token_ids),
        "eos_token_id": Key((), token_ids),
        "intermediate_size": Key(None, optional(size())),  # of a pruned one: transformers has four times d_model alone
    },
    resolve=_resolve,
    model=MODEL,
    layer=LAYER,
    prefixes=("transformer.", ""),
    spelling={
        "n_layers": "n_layers",
        "d_model": "d_model",
        "n_heads": "n_heads",
        "d_ff": "intermediate_size",
        "n_vocab": "vocab_size",
    },
    only={"expansion_ratio": (4,), "no_bias": (True,), "logit_scale": ()},
    harmless=frozenset({
        "embedding_fraction", "emb_pdrop", "init_config", "init_device", "learned_pos_emb", "norm_type", "resid_pdrop",
        "tokenizer_name", "verbose",
    }),  # learned_pos_emb: ignored by transformers, whose model has no such table
    heads_divide_width=True,
)  # fmt: skip
