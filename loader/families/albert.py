"""ALBERT: one layer's weights for all, or one for each group of layers; an embedding with a width of its own."""

from __future__ import annotations

from typing import Any

from ...errors import ConfigError
from .base import Family, Part, Resolved, shared_numbers
from .bert import HARMLESS, KEYS, ONLY, both, encoder_of
from .heads import ARCHITECTURES, read_head
from .values import Key, activation, size

__all__ = ["ALBERT"]

MODEL = {
    "embed": Part("embeddings.word_embeddings.weight"),
    "positions": Part("embeddings.position_embeddings.weight"),
    "token_types": Part("embeddings.token_type_embeddings.weight"),
    **both("embed_norm", "embeddings.LayerNorm"),
    **both("embed_project", "encoder.embedding_hidden_mapping_in"),
}
_LAYER = "encoder.albert_layer_groups.{i}.albert_layers.0"
LAYER = {
    **both("q", f"{_LAYER}.attention.query"),
    **both("k", f"{_LAYER}.attention.key"),
    **both("v", f"{_LAYER}.attention.value"),
    **both("o", f"{_LAYER}.attention.dense"),
    **both("attn_norm_sum", f"{_LAYER}.attention.LayerNorm"),
    **both("up", f"{_LAYER}.ffn"),
    **both("down", f"{_LAYER}.ffn_output"),
    **both("ffn_norm_sum", f"{_LAYER}.full_layer_layer_norm"),
}
_TOKENS = both("classifier", "classifier", outside=True)
_POOLED = both("head_dense", "pooler") | _TOKENS
HEADS = {
    "masked_lm": {
        **both("head_dense", "predictions.dense", outside=True),
        **both("head_norm", "predictions.LayerNorm", outside=True),
        "head": Part("predictions.decoder.weight", outside=True),
        "head_bias": Part("predictions.bias", outside=True, untied="predictions.decoder.bias"),
    },
    "classes": _POOLED,
    "choice": _POOLED,
    "token_classes": _TOKENS,
    "spans": both("classifier", "qa_outputs", outside=True),
}


def _resolve(v: dict[str, Any], where: str) -> Resolved:
    n_layers, n_groups = v["num_hidden_layers"], v["num_hidden_groups"]
    if n_groups > n_layers:
        msg = f"{where}: num_hidden_groups is {n_groups}, more than the {n_layers} layers"
        raise ConfigError(msg)
    widths = dict.fromkeys(HEADS, v["hidden_size"]) | {"masked_lm": v["embedding_size"]}
    acts = {"masked_lm": v["hidden_act"], "classes": "tanh", "choice": "tanh"}
    head = read_head(v, where, widths=widths, acts=acts)
    numbers = shared_numbers(n_layers, n_groups)
    return encoder_of(v, where, "albert", head=head, tables=(MODEL, LAYER), heads=HEADS, numbers=numbers)


ALBERT = Family(
    name="albert",
    keys=KEYS
    | {
        "vocab_size": Key(30000, size()),
        "embedding_size": Key(128, size()),
        "hidden_size": Key(4096, size()),
        "num_hidden_groups": Key(1, size(2**16)),
        "num_attention_heads": Key(64, size()),
        "intermediate_size": Key(16384, size()),
        "hidden_act": Key("gelu_tanh", activation),
    },
    resolve=_resolve,
    model=MODEL,
    layer=LAYER,
    prefixes=("albert.", ""),
    spelling={
        "n_layers": "num_hidden_layers",
        "d_model": "hidden_size",
        "n_heads": "num_attention_heads",
        "d_ff": "intermediate_size",
        "n_vocab": "vocab_size",
    },
    ignored=(
        r"embeddings\.(position_ids|token_type_ids)",
        r"pooler\.(weight|bias)",
        r"predictions\.(decoder\.)?bias",
        r"sop_classifier\.classifier\.(weight|bias)",
    ),
    only=ONLY | {"inner_group_num": (1,)},
    harmless=HARMLESS
    | {
        "classifier_dropout_prob",
        "down_scale_factor",
        "gap_size",
        "net_structure_type",
        "num_memory_blocks",
        "pad_token_id",
    },
    heads_divide_width=True,
    architectures=(*ARCHITECTURES, "ForPreTraining"),
    heads=HEADS,
    groups="num_hidden_groups",
)
