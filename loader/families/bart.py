"""BART and what descends from it: learned or sinusoidal positions, norms of sums or of inputs, biases everywhere."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from ...dataclass import dataclass
from ...errors import ConfigError
from ...runtime.spec import Attention, Config, FeedForward, Shifted, Sinusoids, Stack
from ..files import quote
from ..roles import ROLES
from .base import Family, Part, Resolved
from .bert import both
from .decoding import DECODING_KEYS, decoding_of
from .heads import HEAD_KEYS, read_head
from .values import Key, activation, flag, optional, size, token_ids

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["BART", "BLENDERBOT", "BLENDERBOT_SMALL", "M2M100", "MARIAN", "MBART", "PEGASUS"]


@dataclass(frozen=True)
class _Kind:
    """What the members of the family differ in."""

    name: str
    norm_in: bool  # of what a sublayer reads, and one after the last layer; else of sums
    embed_norm: bool = False
    first: int | None = None  # the learned row of position 0; None: sinusoids
    norm_first: bool = False  # the decoder's embedding is normed before positions are added
    bias: bool = True  # final_logits_bias
    tensor2tensor: bool = False  # its sinusoids, which begin after the padding token's row
    own_embeddings: bool = False  # encoder and decoder may have a vocabulary each
    classes: bool = False  # transformers has a class with a head for classes
    wraps: bool = False  # without an answer, the decoder begins with the text's last id


KEYS: dict[str, Key] = {
    "vocab_size": Key(50265, size()),
    "d_model": Key(1024, size()),
    "encoder_layers": Key(12, size(2**16)),
    "decoder_layers": Key(12, size(2**16)),
    "encoder_attention_heads": Key(16, size()),
    "decoder_attention_heads": Key(16, size()),
    "encoder_ffn_dim": Key(4096, size()),
    "decoder_ffn_dim": Key(4096, size()),
    "activation_function": Key("gelu", activation),
    "max_position_embeddings": Key(1024, size()),
    "scale_embedding": Key(default=False, check=flag),
    "tie_word_embeddings": Key(default=True, check=flag),
    "pad_token_id": Key((1,), token_ids),
    "bos_token_id": Key((0,), token_ids),
    "eos_token_id": Key((2,), token_ids),
    **{name: HEAD_KEYS[name] for name in ("architectures", "id2label", "num_labels")},
    **DECODING_KEYS,
    "forced_eos_token_id": Key((2,), token_ids),
}
SPELLING = {
    "n_layers": "decoder_layers",
    "d_model": "d_model",
    "n_heads": "decoder_attention_heads",
    "d_ff": "decoder_ffn_dim",
    "n_vocab": "vocab_size",
}
ENCODER_SPELLING = {
    "n_layers": "encoder_layers",
    "n_heads": "encoder_attention_heads",
    "d_ff": "encoder_ffn_dim",
}
HARMLESS = frozenset({
    "add_bias_logits", "add_final_layer_norm", "classif_dropout", "decoder_layerdrop", "do_blenderbot_90_layernorm",
    "dropout", "encoder_layerdrop", "extra_layer_norm", "extra_pos_embeddings", "force_bos_token_to_be_generated",
    "init_std", "layernorm_variant", "normalize_before", "normalize_embedding", "num_hidden_layers",
    "static_position_embeddings",
})  # fmt: skip
#: Where the head of a class ...ForSequenceClassification lies.
CLASSES = both("head_dense", "classification_head.dense", outside=True)
CLASSES |= both("classifier", "classification_head.out_proj", outside=True)
_COPIES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
IGNORED = (r"(encoder|decoder)\.(embed_tokens\.weight|version|embed_positions\.weights?)", r"shared\.weight")


def _attention(role: str, name: str, i: str) -> dict[str, Part]:
    """Four matrices and their biases: `role` stands before theirs."""
    parts: dict[str, Part] = {}
    for short in "qkvo":
        parts |= both(f"{role}{short}", f"{i}.{name}.{'out' if short == 'o' else short}_proj")
    return parts


def _layer(kind: _Kind, i: str, *, cross: bool) -> dict[str, Part]:
    norm = "norm" if kind.norm_in else "norm_sum"
    parts = _attention("", "self_attn", i) | both(f"attn_{norm}", f"{i}.self_attn_layer_norm")
    if cross:
        parts |= _attention("cross_", "encoder_attn", i) | both(f"cross_{norm}", f"{i}.encoder_attn_layer_norm")
    return parts | both("up", f"{i}.fc1") | both("down", f"{i}.fc2") | both(f"ffn_{norm}", f"{i}.final_layer_norm")


def _model(kind: _Kind, side: str) -> dict[str, Part]:
    """The weights of one side that are no layer's."""
    own = f"{side}.embed_tokens.weight"
    parts = {"embed": Part("shared.weight", untied=own, others=(own,) if kind.own_embeddings else _COPIES)}
    if not kind.tensor2tensor:
        parts["positions"] = Part(f"{side}.embed_positions.weight", optional=kind.first is None)
    if kind.embed_norm:
        parts |= both("embed_norm", f"{side}.layernorm_embedding")
    return parts | (both("norm", f"{side}.layer_norm") if kind.norm_in else {})


def _decoder(kind: _Kind) -> dict[str, Part]:
    head = {"head": Part("lm_head.weight", outside=True)}
    if kind.bias:
        head["head_bias"] = Part("final_logits_bias", outside=True, optional=True, folded="row")
    return _model(kind, "decoder") | head


def _stack(kind: _Kind, v: Mapping[str, Any], side: str, where: str) -> Stack:
    d, n_heads = v["d_model"], v[f"{side}_attention_heads"]
    if d % n_heads:
        msg = f"{where}: d_model {d} is no multiple of {side}_attention_heads {n_heads}"
        raise ConfigError(msg)
    d_head, decoder = d // n_heads, side == "decoder"
    own = Attention(n_heads, n_heads, d_head, d_head**-0.5, causal=decoder)
    cross = (Attention(n_heads, n_heads, d_head, d_head**-0.5, causal=False, cross=True),) if decoder else ()
    layer = (own, *cross, FeedForward(v[f"{side}_ffn_dim"], v["activation_function"], gated=False))
    return Stack(
        d,
        "layer",
        1e-5,
        (layer,) * v[f"{side}_layers"],
        embed_scale=d**0.5 if v["scale_embedding"] else 1.0,
        sinusoids=_sinusoids(kind, v, where),
        norm_first=kind.norm_first and decoder,
    )


def _sinusoids(kind: _Kind, v: Mapping[str, Any], where: str) -> Sinusoids | None:
    if kind.first is not None:
        return None
    if not kind.tensor2tensor:
        return Sinusoids(0, v["d_model"] / 2)
    if len(v["pad_token_id"]) != 1 or v["pad_token_id"][0] < 0:
        said = quote(list(v["pad_token_id"]))
        msg = f"{where}: pad_token_id is {said}; expected one id, after which positions are counted"
        raise ConfigError(msg)
    return Sinusoids(v["pad_token_id"][0] + 1, v["d_model"] // 2 - 1, single=True, blank=True)


def _resolve(v: dict[str, Any], where: str, *, kind: _Kind) -> Resolved:
    n_vocab, source = v["vocab_size"], None
    if kind.own_embeddings and not v["share_encoder_decoder_embeddings"]:
        n_vocab, source = v["decoder_vocab_size"] or n_vocab, n_vocab
    config = Config(
        family=kind.name,
        n_vocab=n_vocab,
        n_source=source,
        n_context=v["max_position_embeddings"],
        encoder=_stack(kind, v, "encoder", where),
        decoder=_stack(kind, v, "decoder", where),
        positions=kind.first if kind.first is not None else 0,
        padding=v["pad_token_id"][0] if kind.tensor2tensor else None,
        tied=v["tie_word_embeddings"],
        bos_ids=v["bos_token_id"],
        eos_ids=v["eos_token_id"],
        decoding=decoding_of(v, n_vocab, where),
    )
    config = _with_classes(config, kind, v, where)
    own = _decoder(kind) if config.head is None else _model(kind, "decoder") | CLASSES
    roles = [*own, *_layer(kind, "", cross=True)]
    return Resolved(config, frozenset(role for role in roles if ROLES[role].kind == "bias"))


def _with_classes(config: Config, kind: _Kind, v: dict[str, Any], where: str) -> Config:
    """With a head, where its class has one: it reads the decoder at the text's last end. Errors: `ConfigError`."""
    if not kind.classes:
        return config
    width = v["d_model"]
    read = read_head(v, where, widths={"classes": width}, acts={"classes": "tanh"})
    if read.head is None:
        return config
    if len(v["eos_token_id"]) != 1:
        said = quote(list(v["eos_token_id"]))
        msg = f"{where}: eos_token_id is {said}; expected one id, at whose last place in a text the head reads"
        raise ConfigError(msg)
    padding = v["pad_token_id"][0] if v["pad_token_id"] else None
    shifted = Shifted(v["eos_token_id"][0], kind.wraps)
    head = replace(read.head, pooling="last", padding=padding, shifted=shifted)
    return replace(config, head=head, labels=read.labels)


def _family(kind: _Kind, more: dict[str, Key], tokenizer_class: str | None = None) -> Family:
    return Family(
        name=kind.name,
        keys=KEYS | more,
        resolve=partial(_resolve, kind=kind),
        model=_decoder(kind),
        layer=_layer(kind, "decoder.layers.{i}", cross=True),
        encoder=_model(kind, "encoder"),
        encoder_layer=_layer(kind, "encoder.layers.{i}", cross=False),
        prefixes=("model.", ""),
        spelling=SPELLING,
        encoder_spelling=ENCODER_SPELLING,
        ignored=IGNORED,
        only={"is_encoder_decoder": (True,)},
        harmless=HARMLESS,
        heads_divide_width=True,
        architectures=("ForConditionalGeneration", "Model", *(("ForSequenceClassification",) if kind.classes else ())),
        heads={"classes": CLASSES},
        tokenizer_class=tokenizer_class,
    )


def _ids(**ids: int | None) -> dict[str, Key]:
    """Defaults of token ids: bos_token_id and so on."""
    return {f"{name}_token_id": Key(() if i is None else (i,), token_ids) for name, i in ids.items()}


_TWO = {
    "share_encoder_decoder_embeddings": Key(default=True, check=flag),
    "decoder_vocab_size": Key(None, optional(size())),
}
BART = _family(_Kind("bart", norm_in=False, embed_norm=True, first=2, classes=True), _ids(decoder_start=2))
MBART = _family(_Kind("mbart", norm_in=True, embed_norm=True, first=2, classes=True, wraps=True), {})
MARIAN = _family(
    _Kind("marian", norm_in=False, own_embeddings=True),
    {"vocab_size": Key(58101, size()), **_TWO, **_ids(decoder_start=58100, pad=58100, bos=None, eos=0, forced_eos=0)},
    "MarianTokenizer",
)
PEGASUS = _family(_Kind("pegasus", norm_in=True), _ids(decoder_start=0, pad=0, bos=None, eos=1, forced_eos=1))
BLENDERBOT = _family(
    _Kind("blenderbot", norm_in=True, first=0),
    {
        "vocab_size": Key(8008, size()),
        "d_model": Key(2560, size()),
        "encoder_layers": Key(2, size(2**16)),
        "decoder_layers": Key(24, size(2**16)),
        "encoder_attention_heads": Key(32, size()),
        "decoder_attention_heads": Key(32, size()),
        "encoder_ffn_dim": Key(10240, size()),
        "decoder_ffn_dim": Key(10240, size()),
        "max_position_embeddings": Key(128, size()),
        **_ids(decoder_start=1, pad=0, bos=1),
    },
)
BLENDERBOT_SMALL = _family(
    _Kind("blenderbot-small", norm_in=False, embed_norm=True, first=0, norm_first=True),
    {
        "d_model": Key(512, size()),
        "encoder_layers": Key(8, size(2**16)),
        "decoder_layers": Key(8, size(2**16)),
        "encoder_ffn_dim": Key(2048, size()),
        "decoder_ffn_dim": Key(2048, size()),
        "max_position_embeddings": Key(512, size()),
        **_ids(decoder_start=1, pad=0, bos=1),
    },
    "BlenderbotSmallTokenizer",
)
M2M100 = _family(
    _Kind("m2m_100", norm_in=True, bias=False, tensor2tensor=True),
    {
        "vocab_size": Key(128112, size()),
        "activation_function": Key("relu", activation),
        "scale_embedding": Key(default=True, check=flag),
        **_ids(decoder_start=2, forced_eos=None),
    },
    "M2M100Tokenizer",
)
