"""The encoders of T5 (v1.1, Flan-T5, mT5) and UMT5 alone: RMSNorm, unscaled scores, classes of distances added."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from ...errors import ConfigError
from ...runtime.spec import Attention, Buckets, Config, FeedForward, Stack
from ..files import quote
from .base import Family, Part, Resolved
from .values import ACTIVATIONS, Key, anything, number, size

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["MT5", "T5", "UMT5"]

_LAYER = "encoder.block.{i}.layer"
_BIAS = "SelfAttention.relative_attention_bias.weight"
MODEL = {
    "embed": Part("shared.weight"),
    "norm": Part("encoder.final_layer_norm.weight"),
    "biases": Part(f"encoder.block.0.layer.0.{_BIAS}"),
}
LAYER = {
    "attn_norm": Part(f"{_LAYER}.0.layer_norm.weight"),
    **{x: Part(f"{_LAYER}.0.SelfAttention.{x}.weight") for x in "qkvo"},
    "ffn_norm": Part(f"{_LAYER}.1.layer_norm.weight"),
    "gate": Part(f"{_LAYER}.1.DenseReluDense.wi_0.weight"),
    "up": Part(f"{_LAYER}.1.DenseReluDense.wi_1.weight", others=(f"{_LAYER}.1.DenseReluDense.wi.weight",)),
    "down": Part(f"{_LAYER}.1.DenseReluDense.wo.weight"),
}


def _feed_forward(v: dict[str, Any], where: str) -> FeedForward:
    """`feed_forward_proj`: an activation, or "gated-" before one; "gated-gelu" means the tanh form."""
    said = v["feed_forward_proj"]
    name = str(said).removeprefix("gated-")
    gated = name != said
    if name not in ACTIVATIONS:
        msg = f"{where}: feed_forward_proj is {quote(said)}; expected one of {', '.join(ACTIVATIONS)}, or gated-..."
        raise ConfigError(msg)
    activation: Any = "gelu_tanh" if said == "gated-gelu" else ACTIVATIONS[name]
    return FeedForward(v["d_ff"], activation, gated=gated)


def _resolve(v: dict[str, Any], where: str, *, family: str) -> Resolved:
    n, longest = v["relative_attention_num_buckets"], v["relative_attention_max_distance"]
    if longest <= n // 4:  # the logarithm of the distances would be of less than one
        msg = f"{where}: relative_attention_max_distance is {longest}; expected more than {n // 4}, of {n} buckets"
        raise ConfigError(msg)
    heads, ffn = v["num_heads"], _feed_forward(v, where)
    layer = (Attention(heads, heads, v["d_kv"], 1.0, causal=False, bias=0), ffn)
    buckets = (Buckets(n, longest, both_ways=True),)
    config = Config(
        family=family,
        n_vocab=v["vocab_size"],
        n_context=v["n_positions"],
        encoder=Stack(v["d_model"], "rms", v["layer_norm_epsilon"], (layer,) * v["num_layers"], biases=buckets),
    )
    return Resolved(config, frozenset())


def _t5_like(name: str, n_vocab: int, defaults: Mapping[str, object]) -> Family:
    own = name == "umt5"  # each layer has a table of its own
    model = {role: part for role, part in MODEL.items() if not own or role != "biases"}
    return Family(
        name=name,
        keys={
            "vocab_size": Key(n_vocab, size()),
            "d_model": Key(512, size()),
            "d_kv": Key(64, size()),
            "d_ff": Key(defaults.get("d_ff", 2048), size()),
            "num_layers": Key(defaults.get("num_layers", 6), size(2**16)),
            "num_heads": Key(defaults.get("num_heads", 8), size()),
            "relative_attention_num_buckets": Key(32, size(2**16, 4)),
            "relative_attention_max_distance": Key(128, size()),
            "layer_norm_epsilon": Key(1e-6, number(0, 1)),
            "feed_forward_proj": Key(defaults.get("feed_forward_proj", "relu"), anything),
            "n_positions": Key(512, size()),  # of training; nothing limits distances
        },
        resolve=partial(_resolve, family=name),
        model=model,
        layer={**LAYER, "own_bias": Part(f"{_LAYER}.0.{_BIAS}")} if own else LAYER,
        prefixes=("",),
        spelling={
            "n_layers": "num_layers",
            "d_model": "d_model",
            "n_heads": "num_heads",
            "d_head": "d_kv",
            "d_ff": "d_ff",
            "n_vocab": "vocab_size",
        },
        ignored=(r"encoder\.embed_tokens\.weight",),  # the embedding again
        only={"is_encoder_decoder": (True, False)},
        harmless=frozenset({
            "bos_token_id", "classifier_dropout", "decoder_start_token_id", "dense_act_fn", "dropout_rate",
            "eos_token_id", "initializer_factor", "is_gated_act", "num_decoder_layers", "output_past",
            "scale_decoder_outputs", "tie_word_embeddings", "tokenizer_class",
        }),  # of the decoder, or said by feed_forward_proj
        architectures=("EncoderModel",),
    )  # fmt: skip


_V1_1 = {"d_ff": 1024, "num_layers": 8, "num_heads": 6, "feed_forward_proj": "gated-gelu"}
T5 = _t5_like("t5", 32128, {})
MT5 = _t5_like("mt5", 250112, _V1_1)
UMT5 = _t5_like("umt5", 250112, _V1_1)
