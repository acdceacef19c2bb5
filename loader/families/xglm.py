"""XGLM: OPT's layers, a scaled embedding, and sinusoids for positions, as M2M100 has them."""

from __future__ import annotations

from typing import Any

from ...errors import ConfigError
from ...runtime.spec import Sinusoids
from .base import Family, Part, Resolved
from .decoders import remade, renamed, weight_and_bias
from .gpt2 import biases_in, gpt_like
from .opt import EPS, LAYER
from .values import Key, activation, flag, optional, size, token_ids

__all__ = ["XGLM"]

MODEL = {
    "embed": Part("embed_tokens.weight"),
    **weight_and_bias("norm", "layer_norm"),
    "head": Part("lm_head.weight", outside=True),
}
#: Which sinusoid is position 0's; no key says it.
FIRST = 2
_AS = {
    "d_model": "n_embd",
    "attention_heads": "n_head",
    "num_layers": "n_layer",
    "ffn_dim": "n_inner",
    "max_position_embeddings": "n_positions",
}


def _resolve(v: dict[str, Any], where: str) -> Resolved:
    d, pad = v["d_model"], v["pad_token_id"]
    if d < 2 * FIRST or d % v["attention_heads"]:
        msg = f"{where}: d_model is {d}; expected at least {2 * FIRST}, and a multiple of attention_heads"
        raise ConfigError(msg)
    if pad is not None and pad >= FIRST:
        msg = f"{where}: pad_token_id is {pad}; expected 0 or 1, as the sinusoid of this number is no position's"
        raise ConfigError(msg)
    attentions: list[dict[str, Any]] = [{}] * v["num_layers"]
    named = renamed(v, _AS, layer_norm_epsilon=EPS)
    resolved = gpt_like(named, where, "xglm", biases=biases_in(MODEL, LAYER), attentions=attentions)
    stack = {
        "embed_scale": d**0.5 if v["scale_embedding"] else 1.0,
        "sinusoids": Sinusoids(FIRST, d // 2 - 1, single=True),
    }
    return remade(resolved, stack=stack, positions=None)


XGLM = Family(
    name="xglm",
    keys={
        "vocab_size": Key(256008, size()),
        "max_position_embeddings": Key(2048, size()),
        "d_model": Key(1024, size()),
        "ffn_dim": Key(4096, size()),
        "num_layers": Key(24, size(2**16)),
        "attention_heads": Key(16, size()),
        "activation_function": Key("gelu", activation),
        "scale_embedding": Key(default=True, check=flag),
        "tie_word_embeddings": Key(default=True, check=flag),
        "pad_token_id": Key(1, optional(size(low=0))),
        "bos_token_id": Key((0,), token_ids),
        "eos_token_id": Key((2,), token_ids),
    },
    resolve=_resolve,
    model=MODEL,
    layer=LAYER,
    prefixes=("model.", ""),
    spelling={
        "n_layers": "num_layers",
        "d_model": "d_model",
        "n_heads": "attention_heads",
        "d_ff": "ffn_dim",
        "n_vocab": "vocab_size",
    },
    ignored=(r"embed_positions\.weights",),  # of transformers before 4.34: a table of the formula
    harmless=frozenset({"dropout", "layerdrop"}),
    heads_divide_width=True,
)
