"""Qwen3: Llama with an RMSNorm on every query and key head, a head width of its own, and windows on some layers."""

from __future__ import annotations

from typing import Any

from ..roles import ATTENTION
from .base import Family, Part, Resolved
from .llama import ATTENTION_BIASES, BIAS_KEYS, IGNORED, LAYER, MODEL, PREFIXES, SPELLING, llama_like
from .qwen2 import QWEN_KEYS, qwen_windows
from .values import Key, flag, size

__all__ = ["QWEN3"]


def _resolve(v: dict[str, Any], where: str) -> Resolved:
    biases = ATTENTION_BIASES if v["attention_bias"] else frozenset()
    return llama_like(v, where, "qwen3", biases=biases, windows=qwen_windows(v, where))


QWEN3 = Family(
    name="qwen3",
    keys={**QWEN_KEYS, "head_dim": Key(128, size()), "attention_bias": Key(default=False, check=flag)},
    resolve=_resolve,
    model=MODEL,
    layer={
        **LAYER,
        "q_norm": Part("layers.{i}.self_attn.q_norm.weight"),
        "k_norm": Part("layers.{i}.self_attn.k_norm.weight"),
    },
    prefixes=PREFIXES,
    spelling=SPELLING,
    ignored=IGNORED,
    tokenizer_class="Qwen2Tokenizer",
    only={"mlp_bias": (False,)},
    bias_keys={ATTENTION: BIAS_KEYS[ATTENTION]},
)
