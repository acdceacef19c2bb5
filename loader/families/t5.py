"""T5 (v1.1, Flan-T5, mT5) and UMT5, whole or the encoder alone: RMSNorm, unscaled scores, biases by distance."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from ...errors import ConfigError
from ...runtime.spec import Attention, Buckets, Config, FeedForward, Stack
from ..files import quote
from .base import Family, Part, Resolved
from .decoding import DECODING_KEYS, decoding_of
from .values import ACTIVATIONS, Key, anything, flag, names, number, optional, size, token_ids

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["MT5", "T5", "UMT5"]

_BIAS = "SelfAttention.relative_attention_bias.weight"
_COPIES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")


def _model(side: str) -> dict[str, Part]:
    return {
        "embed": Part("shared.weight", others=_COPIES),
        "norm": Part(f"{side}.final_layer_norm.weight"),
        "biases": Part(f"{side}.block.0.layer.0.{_BIAS}"),
    }


def _layer(side: str) -> dict[str, Part]:
    block, ffn = f"{side}.block.{{i}}.layer", 2 if side == "decoder" else 1
    parts = {
        "attn_norm": Part(f"{block}.0.layer_norm.weight"),
        **{x: Part(f"{block}.0.SelfAttention.{x}.weight") for x in "qkvo"},
        "ffn_norm": Part(f"{block}.{ffn}.layer_norm.weight"),
        "gate": Part(f"{block}.{ffn}.DenseReluDense.wi_0.weight"),
        "up": Part(f"{block}.{ffn}.DenseReluDense.wi_1.weight", others=(f"{block}.{ffn}.DenseReluDense.wi.weight",)),
        "down": Part(f"{block}.{ffn}.DenseReluDense.wo.weight"),
    }
    if side == "decoder":
        parts |= {"cross_norm": Part(f"{block}.1.layer_norm.weight")}
        parts |= {f"cross_{x}": Part(f"{block}.1.EncDecAttention.{x}.weight") for x in "qkvo"}
    return parts


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
    heads, ffn, d = v["num_heads"], _feed_forward(v, where), v["d_model"]
    own = Attention(heads, heads, v["d_kv"], 1.0, causal=False, bias=0)
    buckets = Buckets(n, longest, both_ways=True)
    encoder = Stack(d, "rms", v["layer_norm_epsilon"], ((own, ffn),) * v["num_layers"], biases=(buckets,))
    config = Config(family=family, n_vocab=v["vocab_size"], n_context=v["n_positions"], encoder=encoder)
    if not _whole(v):
        return Resolved(config, frozenset())
    cross = Attention(heads, heads, v["d_kv"], 1.0, causal=False, cross=True)
    layers = ((replace(own, causal=True), cross, ffn),) * (v["num_decoder_layers"] or v["num_layers"])
    # what once went with a head that is the embedding: T5 multiplies what that reads, mT5 never does
    scales = v["tie_word_embeddings"] if v["scale_decoder_outputs"] is None else v["scale_decoder_outputs"]
    config = replace(
        config,
        decoder=replace(encoder, layers=layers, biases=(replace(buckets, both_ways=False),)),
        tied=v["tie_word_embeddings"],
        logit_scale=d**-0.5 if scales and family != "mt5" else 1.0,
        bos_ids=v["bos_token_id"],
        eos_ids=v["eos_token_id"],
        decoding=decoding_of(v, v["vocab_size"], where),
    )
    return Resolved(config, frozenset())


def _whole(v: dict[str, Any]) -> bool:
    """Whether there is a decoder: by the class that `architectures` names, or by `is_encoder_decoder`."""
    classes = v["architectures"]
    return not any(name.endswith("EncoderModel") for name in classes) if classes else v["is_encoder_decoder"]


def _t5_like(name: str, n_vocab: int, defaults: Mapping[str, object]) -> Family:
    own = name == "umt5"  # each layer has a table of its own
    sides = {
        side: (
            {role: part for role, part in _model(side).items() if not own or role != "biases"},
            _layer(side) | ({"own_bias": Part(f"{side}.block.{{i}}.layer.0.{_BIAS}")} if own else {}),
        )
        for side in ("encoder", "decoder")
    }
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
            "num_decoder_layers": Key(None, optional(size(2**16))),
            "tie_word_embeddings": Key(default=True, check=flag),
            "scale_decoder_outputs": Key(None, optional(flag)),
            "architectures": Key((), names),
            "is_encoder_decoder": Key(default=True, check=flag),
            "bos_token_id": Key((), token_ids),
            "eos_token_id": Key((1,), token_ids),
            **DECODING_KEYS,
            "decoder_start_token_id": Key((0,), token_ids),
        },
        resolve=partial(_resolve, family=name),
        model=sides["decoder"][0] | {"head": Part("lm_head.weight", outside=True)},
        layer=sides["decoder"][1],
        encoder=sides["encoder"][0],
        encoder_layer=sides["encoder"][1],
        prefixes=("",),
        spelling={
            "n_layers": "num_decoder_layers",
            "d_model": "d_model",
            "n_heads": "num_heads",
            "d_head": "d_kv",
            "d_ff": "d_ff",
            "n_vocab": "vocab_size",
        },
        encoder_spelling={"n_layers": "num_layers"},
        ignored=(
            r"(encoder|decoder)\.embed_tokens\.weight",  # the embedding again
            r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",  # read by nobody
        ),
        only={"is_encoder_decoder": (True, False)},
        harmless=frozenset({
            "classifier_dropout", "dense_act_fn", "dropout_rate", "initializer_factor", "is_gated_act", "output_past",
            "tokenizer_class",
        } | ({"scalable_attention"} if own else set())),  # of training, or said by feed_forward_proj, or by the family
        architectures=("ForConditionalGeneration", "Model"),
        tokenizer_class="T5Tokenizer",
        encoder_alone=f"{name.upper()}EncoderModel",
    )  # fmt: skip


_V1_1 = {"d_ff": 1024, "num_layers": 8, "num_heads": 6, "feed_forward_proj": "gated-gelu"}
T5 = _t5_like("t5", 32128, {})
MT5 = _t5_like("mt5", 250112, _V1_1)
UMT5 = _t5_like("umt5", 250112, _V1_1)
