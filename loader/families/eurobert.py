"""EuroBERT: Llama whose tokens see all of their text."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ...errors import ConfigError
from ..files import quote
from .base import Family, Resolved
from .bert import both
from .decoders import as_encoder
from .heads import HEAD_KEYS, read_head
from .llama import (
    ATTENTION_BIASES,
    BIAS_KEYS,
    IGNORED,
    KEYS,
    LAYER,
    MLP_BIASES,
    MODEL,
    PREFIXES,
    SPELLING,
    llama_like,
)
from .values import Key, anything, flag, number, size

__all__ = ["EUROBERT"]

_TOKENS = both("classifier", "classifier", outside=True)
HEADS = {
    "masked_lm": both("head", "lm_head", outside=True),
    "classes": both("head_dense", "dense", outside=True) | _TOKENS,
    "token_classes": _TOKENS,
}


def _resolve(v: dict[str, Any], where: str) -> Resolved:
    none: frozenset[str] = frozenset()
    biases = (ATTENTION_BIASES if v["attention_bias"] else none) | (MLP_BIASES if v["mlp_bias"] else none)
    plain = llama_like(v, where, "eurobert", biases=biases)
    head = read_head(v, where, widths=dict.fromkeys(HEADS, v["hidden_size"]), acts={"classes": "gelu"})
    if head.head is not None and head.head.pooled and v["classifier_pooling"] != "bos":
        msg = f"{where}: classifier_pooling is {quote(v['classifier_pooling'])}; this head is computed with 'bos' only"
        raise ConfigError(msg)
    if head.head is not None:
        of_head = HEADS[head.head.kind].keys() & {"head_dense_bias", "classifier_bias"}
        biases |= of_head | ({"head_bias"} if head.head.kind == "masked_lm" and v["mlp_bias"] else none)
    return replace(as_encoder(plain, head), biases=biases)


EUROBERT = Family(
    name="eurobert",
    keys={
        **KEYS,
        "vocab_size": Key(128256, size()),
        "hidden_size": Key(768, size()),
        "intermediate_size": Key(3072, size()),
        "num_hidden_layers": Key(12, size(2**16)),
        "num_attention_heads": Key(12, size()),
        "max_position_embeddings": Key(8192, size()),
        "rms_norm_eps": Key(1e-5, number(0, 1)),
        "attention_bias": Key(default=False, check=flag),
        "mlp_bias": Key(default=False, check=flag),
        "classifier_pooling": Key("late", anything),
        **HEAD_KEYS,
        "tie_word_embeddings": Key(default=False, check=flag),
    },
    resolve=_resolve,
    model={role: part for role, part in MODEL.items() if role != "head"},
    layer=LAYER,
    prefixes=PREFIXES,
    spelling=SPELLING,
    ignored=IGNORED,
    harmless=frozenset({"clf_pooling", "mask_token", "mask_token_id"}),
    bias_keys=BIAS_KEYS,
    heads_divide_width=True,
    architectures=("Model", "ForMaskedLM", "ForSequenceClassification", "ForTokenClassification"),
    heads=HEADS,
)
