"""DeBERTa v2 and v3: BERT whose scores add products of queries and keys with rows of a table of distances.

The larger ones of v2 have a convolution next to the first layer.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ...errors import ConfigError
from ...runtime.spec import Convolution, Distances
from ..files import quote
from .base import Family, Part, Resolved
from .bert import HARMLESS, SPELLING, both, encoder_of
from .bert import HEADS as BERT_HEADS
from .decoders import remade
from .heads import ARCHITECTURES, HEAD_KEYS, read_head
from .values import ACTIVATIONS, Key, Unfit, activation, anything, flag, number, optional, size

if TYPE_CHECKING:
    from ...runtime.spec import RelativeTerm

__all__ = ["DEBERTA_V2"]

MODEL = {
    "embed": Part("embeddings.word_embeddings.weight"),
    "positions": Part("embeddings.position_embeddings.weight"),
    "token_types": Part("embeddings.token_type_embeddings.weight"),
    **both("embed_norm", "embeddings.LayerNorm"),
    "relative": Part("encoder.rel_embeddings.weight"),
    **both("relative_norm", "encoder.LayerNorm"),
    "convolution": Part("encoder.conv.conv.weight", folded="taps"),
    "convolution_bias": Part("encoder.conv.conv.bias"),
    **both("convolution_norm", "encoder.conv.LayerNorm"),
}
_LAYER = "encoder.layer.{i}"
LAYER = {
    **both("q", f"{_LAYER}.attention.self.query_proj"),
    **both("k", f"{_LAYER}.attention.self.key_proj"),
    **both("v", f"{_LAYER}.attention.self.value_proj"),
    **both("pos_k", f"{_LAYER}.attention.self.pos_key_proj"),
    **both("pos_q", f"{_LAYER}.attention.self.pos_query_proj"),
    **both("o", f"{_LAYER}.attention.output.dense"),
    **both("attn_norm_sum", f"{_LAYER}.attention.output.LayerNorm"),
    **both("up", f"{_LAYER}.intermediate.dense"),
    **both("down", f"{_LAYER}.output.dense"),
    **both("ffn_norm_sum", f"{_LAYER}.output.LayerNorm"),
}
_POOLED = both("head_dense", "pooler.dense", outside=True) | both("classifier", "classifier", outside=True)


def _either(role: str, legacy: str, newer: str) -> dict[str, Part]:
    """A weight and its bias, under the names of `legacy: true`, or of false."""
    others = both(role, f"lm_predictions.lm_head.{newer}")
    parts = both(role, f"cls.predictions.transform.{legacy}", outside=True)
    return {r: replace(part, others=(others[r].name,)) for r, part in parts.items()}


HEADS = BERT_HEADS | {
    "masked_lm": {
        **_either("head_dense", "dense", "dense"),
        **_either("head_norm", "LayerNorm", "LayerNorm"),
        "head": Part("cls.predictions.decoder.weight", outside=True),
        "head_bias": replace(BERT_HEADS["masked_lm"]["head_bias"], others=("lm_predictions.lm_head.bias",)),
    },
    "classes": _POOLED,
    "choice": _POOLED,
}
TERMS: tuple[RelativeTerm, ...] = ("c2p", "p2c")


def _terms(value: object) -> tuple[RelativeTerm, ...]:
    """Pass "p2c|c2p", or a list of these."""
    names = value.lower().split("|") if isinstance(value, str) else [] if value is None else value
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        names = [""]
    said = [str(name).strip() for name in names]
    if any(name not in TERMS for name in said):
        msg = f"some of {', '.join(TERMS)}, joined by |"
        raise Unfit(msg)
    return tuple(term for term in TERMS if term in said)


def _distances(v: dict[str, Any], where: str) -> Distances:
    """Of each distance a row, or of each bucket; as far as max_relative_positions, by default the positions."""
    longest = v["max_relative_positions"] if v["max_relative_positions"] > 0 else v["max_position_embeddings"]
    n, normed = v["position_buckets"], "layer_norm" in [x.strip() for x in str(v["norm_rel_ebd"]).lower().split("|")]
    if n <= 0:
        return Distances(longest, None, normed, v["share_att_key"])
    if n == 1 or longest - 1 <= n // 2:  # the logarithm of the distances would be of one, or of less
        msg = (
            f"{where}: position_buckets is {n}; expected 2 or more, and half of them less than max_relative_positions "
            f"less one ({longest - 1})"
        )
        raise ConfigError(msg)
    return Distances(n, longest, normed, v["share_att_key"])


def _convolution(v: dict[str, Any], where: str) -> Convolution | None:
    """Next to the first layer (v2-xlarge, v2-xxlarge). With an even width transformers itself fails."""
    taps, groups, act = v["conv_kernel_size"], v["conv_groups"], v["conv_act"]
    if not taps:
        return None
    acts: dict[str, Any] = {**ACTIVATIONS, "tanh": "tanh"}
    for key, fits, wanted in (
        ("conv_kernel_size", taps % 2 == 1, "odd numbers"),
        ("conv_groups", groups == 1, "1"),
        ("conv_act", isinstance(act, str) and act in acts, f"one of {', '.join(acts)}"),
    ):
        if not fits:
            msg = f"{where}: {key} is {quote(v[key])}; this family is computed with {wanted} only"
            raise ConfigError(msg)
    return Convolution(taps, acts[act])


def _resolve(v: dict[str, Any], where: str) -> Resolved:
    d, n_heads = v["hidden_size"], v["num_attention_heads"]
    for key, wanted in (("embedding_size", d), ("pooler_hidden_size", d), ("attention_head_size", d // n_heads)):
        if v[key] not in (None, wanted):
            msg = f"{where}: {key} is {v[key]}; this family is computed with {wanted} only, as its other sizes are"
            raise ConfigError(msg)
    acts = {"masked_lm": v["hidden_act"], "classes": v["pooler_hidden_act"], "choice": v["pooler_hidden_act"]}
    v = v if v["legacy"] else v | {"tie_word_embeddings": True}  # whose product has no matrix of its own
    head = read_head(v, where, widths=dict.fromkeys(HEADS, d), acts=acts)
    plain = encoder_of(v, where, "deberta-v2", head=head, tables=(MODEL, LAYER), heads=HEADS)
    terms: tuple[RelativeTerm, ...] = v["pos_att_type"]
    scale = (d // n_heads * (1 + len(terms))) ** -0.5  # counted even where there is no table
    distances = _distances(v, where) if v["relative_attention"] else None
    said: dict[str, Any] = {"scale": scale, "relative": terms if distances else ()}
    positions = 0 if v["position_biased_input"] else None
    convolution = _convolution(v, where)
    return remade(plain, stack={"relative": distances, "convolution": convolution}, attention=said, positions=positions)


DEBERTA_V2 = Family(
    name="deberta-v2",
    keys={
        "vocab_size": Key(128100, size()),
        "hidden_size": Key(1536, size()),
        "num_hidden_layers": Key(24, size(2**16)),
        "num_attention_heads": Key(24, size()),
        "intermediate_size": Key(6144, size()),
        "hidden_act": Key("gelu", activation),
        "max_position_embeddings": Key(512, size()),
        "type_vocab_size": Key(0, size(low=0)),
        "layer_norm_eps": Key(1e-7, number(0, 1)),
        "relative_attention": Key(default=False, check=flag),
        "max_relative_positions": Key(-1, size(low=-1)),
        "position_buckets": Key(-1, size(2**16, -1)),
        "pos_att_type": Key((), _terms),
        "share_att_key": Key(default=False, check=flag),
        "norm_rel_ebd": Key("none", anything),
        "position_biased_input": Key(default=True, check=flag),
        "legacy": Key(default=True, check=flag),
        "pooler_hidden_act": Key("gelu", activation),
        "pooler_hidden_size": Key(None, optional(size())),
        "attention_head_size": Key(None, optional(size())),
        "embedding_size": Key(None, optional(size())),
        "conv_kernel_size": Key(0, size(2**10 + 1, 0)),
        "conv_groups": Key(1, anything),
        "conv_act": Key("tanh", anything),
        **HEAD_KEYS,
    },
    resolve=_resolve,
    model=MODEL,
    layer=LAYER,
    prefixes=("deberta.", ""),
    spelling=SPELLING,
    ignored=(
        r"embeddings\.position_ids",
        r"pooler\.dense\.(weight|bias)",
        r"(cls|lm_predictions|mask_predictions)\..*",
        r"encoder\.LayerNorm\.(weight|bias)",  # of a table of distances that is not there
    ),
    only={"is_decoder": (False,)},
    harmless=HARMLESS | {"pad_token_id", "padding_idx", "pooler_dropout"},
    heads_divide_width=True,
    architectures=ARCHITECTURES,
    heads=HEADS,
    told={
        "positions": lambda config: config.positions is not None,
        "token_types": lambda config: config.n_types > 0,
    },
)
