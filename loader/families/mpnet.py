"""MPNet: BERT without token types; to every layer's scores one table of relative positions is added."""

from __future__ import annotations

from typing import Any

from ...runtime.spec import Buckets
from .base import Family, Part, Resolved
from .bert import HARMLESS, IGNORED, KEYS, ONLY, ROBERTA_HEADS, SPELLING, both, encoder_of
from .decoders import remade
from .heads import ARCHITECTURES, read_head
from .values import Key, size

__all__ = ["MPNET"]

MODEL = {
    "embed": Part("embeddings.word_embeddings.weight"),
    "positions": Part("embeddings.position_embeddings.weight"),
    **both("embed_norm", "embeddings.LayerNorm"),
    "biases": Part("encoder.relative_attention_bias.weight"),
}
_LAYER = "encoder.layer.{i}"
LAYER = {
    **both("q", f"{_LAYER}.attention.attn.q"),
    **both("k", f"{_LAYER}.attention.attn.k"),
    **both("v", f"{_LAYER}.attention.attn.v"),
    **both("o", f"{_LAYER}.attention.attn.o"),
    **both("attn_norm_sum", f"{_LAYER}.attention.LayerNorm"),
    **both("up", f"{_LAYER}.intermediate.dense"),
    **both("down", f"{_LAYER}.output.dense"),
    **both("ffn_norm_sum", f"{_LAYER}.output.LayerNorm"),
}
#: Whatever the config says: transformers computes with these.
BUCKETS, PADDING = Buckets(32, 128, both_ways=True), 1


def _resolve(v: dict[str, Any], where: str) -> Resolved:
    acts = {"masked_lm": "gelu", "classes": "tanh", "choice": "tanh"}
    head = read_head(v, where, widths=dict.fromkeys(ROBERTA_HEADS, v["hidden_size"]), acts=acts)
    plain = encoder_of(v, where, "mpnet", head=head, tables=(MODEL, LAYER), heads=ROBERTA_HEADS, padding=PADDING)
    return remade(plain, stack={"biases": (BUCKETS,)}, attention={"bias": 0})


MPNET = Family(
    name="mpnet",
    keys={key: value for key, value in KEYS.items() if key != "type_vocab_size"} | {"vocab_size": Key(30527, size())},
    resolve=_resolve,
    model=MODEL,
    layer=LAYER,
    prefixes=("mpnet.", ""),
    spelling=SPELLING,
    ignored=IGNORED,
    only=ONLY | {"relative_attention_num_buckets": (BUCKETS.n,)},
    harmless=HARMLESS,
    heads_divide_width=True,
    architectures=ARCHITECTURES,
    heads=ROBERTA_HEADS,
)
