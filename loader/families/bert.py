"""BERT, and what RoBERTa shares with it: LayerNorm of each sum, learned positions, token types, biases everywhere."""

from __future__ import annotations

from typing import Any

from ...errors import ConfigError
from ...runtime.spec import Attention, Config, FeedForward, Stack
from ..roles import ROLES
from .base import Family, Part, Resolved
from .values import Key, activation, number, size, token_ids

__all__ = ["BERT", "ROBERTA"]

KEYS = {
    "vocab_size": Key(30522, size()),
    "hidden_size": Key(768, size()),
    "num_hidden_layers": Key(12, size(2**16)),
    "num_attention_heads": Key(12, size()),
    "intermediate_size": Key(3072, size()),
    "hidden_act": Key("gelu", activation),
    "max_position_embeddings": Key(512, size()),
    "type_vocab_size": Key(2, size()),
    "layer_norm_eps": Key(1e-12, number(0, 1)),
    "pad_token_id": Key((0,), token_ids),
}

MODEL = {
    "embed": Part("embeddings.word_embeddings.weight"),
    "positions": Part("embeddings.position_embeddings.weight"),
    "token_types": Part("embeddings.token_type_embeddings.weight"),
    "embed_norm": Part("embeddings.LayerNorm.weight"),
    "embed_norm_bias": Part("embeddings.LayerNorm.bias"),
}

LAYER = {
    "q": Part("encoder.layer.{i}.attention.self.query.weight"),
    "q_bias": Part("encoder.layer.{i}.attention.self.query.bias"),
    "k": Part("encoder.layer.{i}.attention.self.key.weight"),
    "k_bias": Part("encoder.layer.{i}.attention.self.key.bias"),
    "v": Part("encoder.layer.{i}.attention.self.value.weight"),
    "v_bias": Part("encoder.layer.{i}.attention.self.value.bias"),
    "o": Part("encoder.layer.{i}.attention.output.dense.weight"),
    "o_bias": Part("encoder.layer.{i}.attention.output.dense.bias"),
    "attn_norm_sum": Part("encoder.layer.{i}.attention.output.LayerNorm.weight"),
    "attn_norm_sum_bias": Part("encoder.layer.{i}.attention.output.LayerNorm.bias"),
    "up": Part("encoder.layer.{i}.intermediate.dense.weight"),
    "up_bias": Part("encoder.layer.{i}.intermediate.dense.bias"),
    "down": Part("encoder.layer.{i}.output.dense.weight"),
    "down_bias": Part("encoder.layer.{i}.output.dense.bias"),
    "ffn_norm_sum": Part("encoder.layer.{i}.output.LayerNorm.weight"),
    "ffn_norm_sum_bias": Part("encoder.layer.{i}.output.LayerNorm.bias"),
}

SPELLING = {
    "n_layers": "num_hidden_layers",
    "d_model": "hidden_size",
    "n_heads": "num_attention_heads",
    "d_ff": "intermediate_size",
    "n_vocab": "vocab_size",
}
#: Of tensors that belong to heads, which the hidden states do not pass.
IGNORED = (r"embeddings\.position_ids", r"pooler\.dense\.(weight|bias)", r"cls\..*", r"lm_head\..*")
ONLY: dict[str, tuple[object, ...]] = {"is_decoder": (False,), "position_embedding_type": ("absolute",)}
HARMLESS = frozenset({"bos_token_id", "classifier_dropout", "directionality", "eos_token_id", "tie_word_embeddings", "pooler_fc_size", "pooler_num_attention_heads",
                      "pooler_num_fc_layers", "pooler_size_per_head", "pooler_type"})  # fmt: skip
ARCHITECTURES = ("Model", "ForMaskedLM", "ForPreTraining")


def _resolve(family: str, v: dict[str, Any], where: str, first: int) -> Resolved:
    """`first`: the row of position 0."""
    d_model, n_heads = v["hidden_size"], v["num_attention_heads"]
    if d_model % n_heads:
        msg = f"{where}: hidden_size {d_model} is no multiple of num_attention_heads {n_heads}"
        raise ConfigError(msg)
    if v["max_position_embeddings"] <= first:
        msg = f"{where}: max_position_embeddings is {v['max_position_embeddings']}; the first {first} are no token's"
        raise ConfigError(msg)
    d_head = d_model // n_heads
    attention = Attention(n_heads, n_heads, d_head, d_head**-0.5, causal=False)
    layer = (attention, FeedForward(v["intermediate_size"], v["hidden_act"], gated=False))
    config = Config(
        family=family,
        n_vocab=v["vocab_size"],
        n_context=v["max_position_embeddings"] - first,
        encoder=Stack(d_model, "layer", v["layer_norm_eps"], (layer,) * v["num_hidden_layers"]),
        positions=first,
        n_types=v["type_vocab_size"],
    )
    return Resolved(config, frozenset(role for role in (*MODEL, *LAYER) if ROLES[role].kind == "bias"))


BERT = Family(
    name="bert",
    keys=KEYS,
    resolve=lambda v, where: _resolve("bert", v, where, 0),
    model=MODEL,
    layer=LAYER,
    prefixes=("bert.", ""),
    spelling=SPELLING,
    ignored=IGNORED,
    only=ONLY,
    harmless=HARMLESS,
    heads_divide_width=True,
    architectures=ARCHITECTURES,
)


def _roberta(v: dict[str, Any], where: str) -> Resolved:
    """Positions count from the row after the padding token's (fairseq's convention)."""
    if len(v["pad_token_id"]) != 1 or v["pad_token_id"][0] < 0:
        msg = f"{where}: pad_token_id is {v['pad_token_id']}; expected one id, after which positions are counted"
        raise ConfigError(msg)
    return _resolve("roberta", v, where, v["pad_token_id"][0] + 1)


ROBERTA = Family(
    name="roberta",
    keys=KEYS | {"vocab_size": Key(50265, size()), "pad_token_id": Key((1,), token_ids)},
    resolve=_roberta,
    model=MODEL,
    layer=LAYER,
    prefixes=("roberta.", ""),
    spelling=SPELLING,
    ignored=IGNORED,
    only=ONLY,
    harmless=HARMLESS,
    heads_divide_width=True,
    architectures=ARCHITECTURES,
)
