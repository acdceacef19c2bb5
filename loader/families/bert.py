"""BERT, RoBERTa, XLM-R, CamemBERT, ELECTRA: LayerNorm of each sum, learned positions, token types, biases."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from ...errors import ConfigError
from ...runtime.spec import Attention, Config, FeedForward, Stack
from ..files import quote
from ..roles import ROLES
from .base import Family, Part, Resolved
from .heads import ARCHITECTURES, HEAD_KEYS, Read, read_head
from .values import Key, activation, number, size, token_ids

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "BERT",
    "CAMEMBERT",
    "ELECTRA",
    "HARMLESS",
    "HEADS",
    "IGNORED",
    "KEYS",
    "ONLY",
    "ROBERTA",
    "ROBERTA_HEADS",
    "SPELLING",
    "XLM_ROBERTA",
    "both",
    "encoder_of",
]

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
    **HEAD_KEYS,
}
SPELLING = {
    "n_layers": "num_hidden_layers",
    "d_model": "hidden_size",
    "n_heads": "num_attention_heads",
    "d_ff": "intermediate_size",
    "n_vocab": "vocab_size",
}


def both(role: str, name: str, *, outside: bool = False) -> dict[str, Part]:
    """A weight and its bias: NAME.weight, NAME.bias."""
    parts = (role, "weight"), (f"{role}_bias", "bias")
    return {r: Part(f"{name}.{kind}", outside=outside) for r, kind in parts}


MODEL = {
    "embed": Part("embeddings.word_embeddings.weight"),
    "positions": Part("embeddings.position_embeddings.weight"),
    "token_types": Part("embeddings.token_type_embeddings.weight"),
    **both("embed_norm", "embeddings.LayerNorm"),
}
_LAYER = "encoder.layer.{i}"
LAYER = {
    **both("q", f"{_LAYER}.attention.self.query"),
    **both("k", f"{_LAYER}.attention.self.key"),
    **both("v", f"{_LAYER}.attention.self.value"),
    **both("o", f"{_LAYER}.attention.output.dense"),
    **both("attn_norm_sum", f"{_LAYER}.attention.output.LayerNorm"),
    **both("up", f"{_LAYER}.intermediate.dense"),
    **both("down", f"{_LAYER}.output.dense"),
    **both("ffn_norm_sum", f"{_LAYER}.output.LayerNorm"),
}
_TOKENS = both("classifier", "classifier", outside=True)
_SPANS = both("classifier", "qa_outputs", outside=True)
_POOLED = both("head_dense", "pooler.dense") | _TOKENS
HEADS = {
    "masked_lm": {
        **both("head_dense", "cls.predictions.transform.dense", outside=True),
        **both("head_norm", "cls.predictions.transform.LayerNorm", outside=True),
        "head": Part("cls.predictions.decoder.weight", outside=True),
        "head_bias": Part("cls.predictions.bias", outside=True, untied="cls.predictions.decoder.bias"),
    },
    "classes": _POOLED,
    "choice": _POOLED,
    "token_classes": _TOKENS,
    "spans": _SPANS,
}
ROBERTA_HEADS = {
    "masked_lm": {
        **both("head_dense", "lm_head.dense", outside=True),
        **both("head_norm", "lm_head.layer_norm", outside=True),
        "head": Part("lm_head.decoder.weight", outside=True),
        "head_bias": Part("lm_head.bias", outside=True, untied="lm_head.decoder.bias"),
    },
    "classes": both("head_dense", "classifier.dense", outside=True)
    | both("classifier", "classifier.out_proj", outside=True),
    "choice": _POOLED,
    "token_classes": _TOKENS,
    "spans": _SPANS,
}
ELECTRA_HEADS = {
    "masked_lm": {
        **both("head_dense", "generator_predictions.dense", outside=True),
        **both("head_norm", "generator_predictions.LayerNorm", outside=True),
        "head": Part("generator_lm_head.weight", outside=True),
        "head_bias": Part("generator_lm_head.bias", outside=True),
    },
    "replaced": both("head_dense", "discriminator_predictions.dense", outside=True)
    | both("classifier", "discriminator_predictions.dense_prediction", outside=True),
    "classes": ROBERTA_HEADS["classes"],
    "token_classes": _TOKENS,
    "spans": _SPANS,
}
#: Tensors of other heads than the one that `architectures` names, and second names of a tied product's parts.
IGNORED = (
    r"embeddings\.(position_ids|token_type_ids)",
    r"pooler\.dense\.(weight|bias)",
    r"cls\.(predictions\.(decoder\.)?bias|seq_relationship\.(weight|bias))",
    r"lm_head\.(decoder\.)?bias",
)
ONLY: dict[str, tuple[object, ...]] = {"is_decoder": (False,), "position_embedding_type": ("absolute",)}
HARMLESS = frozenset({
    "bos_token_id", "classifier_dropout", "directionality", "eos_token_id", "pooler_fc_size",
    "pooler_num_attention_heads", "pooler_num_fc_layers", "pooler_size_per_head", "pooler_type", "summary_activation",
    "summary_last_dropout", "summary_type", "summary_use_proj",
})  # fmt: skip


def encoder_of(  # noqa: PLR0913 - keywords
    v: Mapping[str, Any],
    where: str,
    family: str,
    *,
    head: Read,
    tables: tuple[Mapping[str, Part], ...],
    heads: Mapping[str, Mapping[str, Part]],
    padding: int | None = None,
    numbers: tuple[int, ...] | None = None,
) -> Resolved:
    """An encoder whose sums are normed. `heads`: where each kind's weights lie.

    `padding`: an id that has no position but the row of its number; other tokens count from the row after it.
    """
    first = 0 if padding is None else padding + 1
    d_model, n_heads, n_layers = v["hidden_size"], v["num_attention_heads"], v["num_hidden_layers"]
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
        encoder=Stack(d_model, "layer", v["layer_norm_eps"], (layer,) * n_layers),
        positions=padding or 0,
        padding=padding,
        n_types=v.get("type_vocab_size", 0),
        d_embed=v.get("embedding_size"),
        head=head.head,
        labels=head.labels,
        tied=head.tied,
    )
    there = [role for table in tables for role in table] + list(heads[head.head.kind] if head.head else ())
    return Resolved(config, frozenset(role for role in there if ROLES[role].kind == "bias"), numbers)


def _bert(v: dict[str, Any], where: str) -> Resolved:
    d, act = v["hidden_size"], v["hidden_act"]
    acts = {"masked_lm": act, "classes": "tanh", "choice": "tanh"}
    head = read_head(v, where, widths=dict.fromkeys(HEADS, d), acts=acts)
    return encoder_of(v, where, "bert", head=head, tables=(MODEL, LAYER), heads=HEADS)


def _roberta(v: dict[str, Any], where: str, *, family: str) -> Resolved:
    """Positions count from the row after the padding token's (fairseq's convention)."""
    if len(v["pad_token_id"]) != 1 or v["pad_token_id"][0] < 0:
        said = quote(list(v["pad_token_id"]))
        msg = f"{where}: pad_token_id is {said}; expected one id, after which positions are counted"
        raise ConfigError(msg)
    acts = {"masked_lm": "gelu", "classes": "tanh", "choice": "tanh"}
    head = read_head(v, where, widths=dict.fromkeys(ROBERTA_HEADS, v["hidden_size"]), acts=acts)
    padding = v["pad_token_id"][0]
    return encoder_of(v, where, family, head=head, tables=(MODEL, LAYER), heads=ROBERTA_HEADS, padding=padding)


def _electra(v: dict[str, Any], where: str) -> Resolved:
    """The embedding has a width of its own, where it is another than the stream's."""
    d, e = v["hidden_size"], v["embedding_size"]
    widths = dict.fromkeys(ELECTRA_HEADS, d) | {"masked_lm": e}
    acts = {"masked_lm": "gelu", "classes": "gelu", "replaced": v["hidden_act"]}
    head = read_head(v, where, widths=widths, acts=acts, pretraining="replaced")
    v = v | {"embedding_size": None if e == d else e}
    tables = (MODEL | both("embed_project", "embeddings_project"), LAYER)
    return encoder_of(v, where, "electra", head=head, tables=tables, heads=ELECTRA_HEADS)


BERT = Family(
    name="bert",
    keys=KEYS,
    resolve=_bert,
    model=MODEL,
    layer=LAYER,
    prefixes=("bert.", ""),
    spelling=SPELLING,
    ignored=IGNORED,
    only=ONLY,
    harmless=HARMLESS | {"pad_token_id"},
    heads_divide_width=True,
    architectures=(*ARCHITECTURES, "ForPreTraining"),
    heads=HEADS,
)


def _roberta_like(name: str, n_vocab: int) -> Family:
    return Family(
        name=name,
        keys=KEYS | {"vocab_size": Key(n_vocab, size()), "pad_token_id": Key((1,), token_ids)},
        resolve=partial(_roberta, family=name),
        model=MODEL,
        layer=LAYER,
        prefixes=("roberta.", ""),
        spelling=SPELLING,
        ignored=IGNORED,
        only=ONLY,
        harmless=HARMLESS,
        heads_divide_width=True,
        architectures=ARCHITECTURES,
        heads=ROBERTA_HEADS,
    )


ROBERTA = _roberta_like("roberta", 50265)
XLM_ROBERTA = _roberta_like("xlm-roberta", 30522)
CAMEMBERT = _roberta_like("camembert", 30522)
ELECTRA = Family(
    name="electra",
    keys=KEYS
    | {
        "embedding_size": Key(128, size()),
        "hidden_size": Key(256, size()),
        "intermediate_size": Key(1024, size()),
        "num_attention_heads": Key(4, size()),
    },
    resolve=_electra,
    model=MODEL | both("embed_project", "embeddings_project"),
    layer=LAYER,
    prefixes=("electra.", ""),
    spelling=SPELLING,
    ignored=IGNORED,
    only=ONLY,
    harmless=HARMLESS | {"pad_token_id"},
    heads_divide_width=True,
    architectures=(*(a for a in ARCHITECTURES if a != "ForMultipleChoice"), "ForPreTraining"),
    heads=ELECTRA_HEADS,
)
