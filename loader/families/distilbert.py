"""DistilBERT: half of BERT's layers under other names, no token types."""

from __future__ import annotations

from typing import Any

from .base import Family, Part, Resolved
from .bert import HARMLESS, both, encoder_of
from .heads import ARCHITECTURES, HEAD_KEYS, read_head
from .values import Key, activation, size

__all__ = ["DISTILBERT"]

MODEL = {
    "embed": Part("embeddings.word_embeddings.weight"),
    "positions": Part("embeddings.position_embeddings.weight"),
    **both("embed_norm", "embeddings.LayerNorm"),
}
_LAYER = "transformer.layer.{i}"
LAYER = {
    **both("q", f"{_LAYER}.attention.q_lin"),
    **both("k", f"{_LAYER}.attention.k_lin"),
    **both("v", f"{_LAYER}.attention.v_lin"),
    **both("o", f"{_LAYER}.attention.out_lin"),
    **both("attn_norm_sum", f"{_LAYER}.sa_layer_norm"),
    **both("up", f"{_LAYER}.ffn.lin1"),
    **both("down", f"{_LAYER}.ffn.lin2"),
    **both("ffn_norm_sum", f"{_LAYER}.output_layer_norm"),
}
_TOKENS = both("classifier", "classifier", outside=True)
_POOLED = both("head_dense", "pre_classifier", outside=True) | _TOKENS
HEADS = {
    "masked_lm": {
        **both("head_dense", "vocab_transform", outside=True),
        **both("head_norm", "vocab_layer_norm", outside=True),
        **both("head", "vocab_projector", outside=True),
    },
    "classes": _POOLED,
    "choice": _POOLED,
    "token_classes": _TOKENS,
    "spans": both("classifier", "qa_outputs", outside=True),
}
SPELLING = {
    "n_layers": "n_layers",
    "d_model": "dim",
    "n_heads": "n_heads",
    "d_ff": "hidden_dim",
    "n_vocab": "vocab_size",
}
#: Its keys -> BERT's.
_AS = {
    "dim": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "hidden_dim": "intermediate_size",
    "activation": "hidden_act",
}


def _resolve(v: dict[str, Any], where: str) -> Resolved:
    acts = {"masked_lm": v["activation"], "classes": "relu", "choice": "relu"}
    head = read_head(v, where, widths=dict.fromkeys(HEADS, v["dim"]), acts=acts)
    v = {_AS.get(key, key): value for key, value in v.items()} | {"layer_norm_eps": 1e-12}
    return encoder_of(v, where, "distilbert", head=head, tables=(MODEL, LAYER), heads=HEADS)


DISTILBERT = Family(
    name="distilbert",
    keys={
        "vocab_size": Key(30522, size()),
        "dim": Key(768, size()),
        "n_layers": Key(6, size(2**16)),
        "n_heads": Key(12, size()),
        "hidden_dim": Key(3072, size()),
        "activation": Key("gelu", activation),
        "max_position_embeddings": Key(512, size()),
        **HEAD_KEYS,
    },
    resolve=_resolve,
    model=MODEL,
    layer=LAYER,
    prefixes=("distilbert.", ""),
    spelling=SPELLING,
    ignored=(r"embeddings\.position_ids",),
    harmless=HARMLESS | {"pad_token_id", "dropout", "sinusoidal_pos_embds", "tie_weights_"},
    heads_divide_width=True,
    architectures=ARCHITECTURES,
    heads=HEADS,
)
