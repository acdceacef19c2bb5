"""Gemma 1: Llama whose norms multiply with 1 + w, and whose embedding is scaled by the root of its width."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..roles import ATTENTION
from .base import Family, Resolved
from .decoders import remade
from .llama import ATTENTION_BIASES, BIAS_KEYS, IGNORED, KEYS, LAYER, MODEL, PREFIXES, SPELLING, llama_like
from .values import Key, activation, flag, optional, size

__all__ = ["GEMMA", "GEMMA_KEYS", "GEMMA_LAYER", "GEMMA_MODEL", "gemma_activation", "gemma_like"]

GEMMA_MODEL = MODEL | {"norm": replace(MODEL["norm"], plus=1.0)}
GEMMA_LAYER = {
    role: replace(part, plus=1.0) if role in ("attn_norm", "ffn_norm") else part
    for role, part in LAYER.items()
    if not role.endswith("_bias") or role in ATTENTION_BIASES
}


def gemma_activation(value: object) -> str:
    """The first releases said "gelu" and meant its tanh form: so transformers reads it."""
    name = activation(value)
    return "gelu_tanh" if name == "gelu" else name


GEMMA_KEYS = {
    **KEYS,
    "vocab_size": Key(256000, size()),
    "hidden_size": Key(3072, size()),
    "intermediate_size": Key(24576, size()),
    "num_hidden_layers": Key(28, size(2**16)),
    "num_attention_heads": Key(16, size()),
    "num_key_value_heads": Key(16, optional(size())),
    "head_dim": Key(256, size()),
    "hidden_act": Key("gelu_tanh", gemma_activation),
    "max_position_embeddings": Key(8192, size()),
    "tie_word_embeddings": Key(default=True, check=flag),
    "attention_bias": Key(default=False, check=flag),
    "bos_token_id": Key((2,), KEYS["bos_token_id"].check),
    "eos_token_id": Key((1,), KEYS["eos_token_id"].check),
}


def gemma_like(v: dict[str, Any], where: str, family: str) -> Resolved:
    """Llama with the embedding scaled."""
    biases = ATTENTION_BIASES if v["attention_bias"] else frozenset()
    return remade(llama_like(v, where, family, biases=biases), stack={"embed_scale": v["hidden_size"] ** 0.5})


def _resolve(v: dict[str, Any], where: str) -> Resolved:
    return gemma_like(v, where, "gemma")


GEMMA = Family(
    name="gemma",
    keys=GEMMA_KEYS,
    resolve=_resolve,
    model=GEMMA_MODEL,
    layer=GEMMA_LAYER,
    prefixes=PREFIXES,
    spelling=SPELLING,
    ignored=IGNORED,
    only={"hidden_activation": (None, "gelu_pytorch_tanh"), "use_bidirectional_attention": (None, False)},
    bias_keys={ATTENTION: BIAS_KEYS[ATTENTION]},
)
