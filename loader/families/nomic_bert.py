"""NomicBERT: BERT with rotary positions and a gated feed-forward, no bias but in norms and heads."""

from __future__ import annotations

from typing import Any

from ...errors import ConfigError
from ...runtime.spec import Attention, Config, FeedForward, Stack
from ..roles import ROLES
from .base import Family, Part, Resolved
from .bert import HARMLESS, KEYS, SPELLING, both
from .gpt2 import QKV
from .heads import read_head
from .rope import ROPE_KEYS, THETA, read_rope
from .values import Key, activation, optional, size

__all__ = ["NOMIC_BERT"]

MODEL = {
    "embed": Part("embeddings.word_embeddings.weight"),
    "token_types": Part("embeddings.token_type_embeddings.weight"),
    **both("embed_norm", "emb_ln"),
}
_LAYER = "encoder.layers.{i}"
LAYER = {
    **{x: Part(f"{_LAYER}.attn.Wqkv.weight", QKV) for x in QKV},
    "o": Part(f"{_LAYER}.attn.out_proj.weight"),
    **both("attn_norm_sum", f"{_LAYER}.norm1"),
    "gate": Part(f"{_LAYER}.mlp.fc12.weight"),
    "up": Part(f"{_LAYER}.mlp.fc11.weight"),
    "down": Part(f"{_LAYER}.mlp.fc2.weight"),
    **both("ffn_norm_sum", f"{_LAYER}.norm2"),
}
_TOKENS = both("classifier", "classifier", outside=True)
HEADS = {
    "masked_lm": {
        **both("head_dense", "cls.predictions.transform.dense", outside=True),
        **both("head_norm", "cls.predictions.transform.layer_norm", outside=True),
        "head": Part("cls.predictions.decoder.weight", outside=True),
        "head_bias": Part("cls.predictions.bias", outside=True, untied="cls.predictions.decoder.bias"),
    },
    "classes": both("head_dense", "pooler.dense") | _TOKENS,
    "token_classes": _TOKENS,
}


def _resolve(v: dict[str, Any], where: str) -> Resolved:
    d, n_heads = v["hidden_size"], v["num_attention_heads"]
    d_head = v["head_dim"] or d // n_heads
    if (v["head_dim"] is None and d % n_heads) or d_head % 2:
        msg = f"{where}: hidden_size {d}, {n_heads} heads: a head is {d / n_heads:g} wide; rotation needs an even width"
        raise ConfigError(msg)
    head = read_head(v, where, widths=dict.fromkeys(HEADS, d), acts={"masked_lm": v["hidden_act"], "classes": "tanh"})
    rope, n_context = read_rope(v, where, v["max_position_embeddings"], d_head)
    attention = Attention(n_heads, n_heads, d_head, d_head**-0.5, causal=False, rope=0)
    layer = (attention, FeedForward(v["intermediate_size"], v["hidden_act"], gated=True))
    config = Config(
        family="nomic_bert",
        n_vocab=v["vocab_size"],
        n_context=n_context,
        encoder=Stack(d, "layer", v["layer_norm_eps"], (layer,) * v["num_hidden_layers"]),
        ropes=(rope,),
        n_types=v["type_vocab_size"],
        head=head.head,
        labels=head.labels,
        tied=head.tied,
    )
    there = [*MODEL, *LAYER, *(HEADS[head.head.kind] if head.head else ())]
    return Resolved(config, frozenset(role for role in there if ROLES[role].kind == "bias"))


NOMIC_BERT = Family(
    name="nomic_bert",
    keys=KEYS
    | ROPE_KEYS
    | {
        "vocab_size": Key(30528, size()),
        "hidden_act": Key("silu", activation),
        "max_position_embeddings": Key(2048, size()),
        "head_dim": Key(None, optional(size())),
        "rope_theta": Key(1000.0, THETA),
    },
    resolve=_resolve,
    model=MODEL,
    layer=LAYER,
    prefixes=("nomic_bert.", ""),
    spelling=SPELLING | {"d_head": "head_dim"},
    ignored=(
        r"embeddings\.(position_ids|token_type_ids)",
        r"pooler\.dense\.(weight|bias)",
        r"cls\.predictions\.(decoder\.)?bias",
    ),
    harmless=HARMLESS | {"pad_token_id"},
    heads_divide_width=True,
    architectures=("Model", "ForMaskedLM", "ForSequenceClassification", "ForTokenClassification"),
    heads=HEADS,
)
