"""OPT: GPT-2 with biases of another name, ReLU, and positions that begin at row 2 of their table."""

from __future__ import annotations

from typing import Any

from ...errors import ConfigError
from .base import Family, Part, Resolved
from .decoders import renamed, weight_and_bias
from .gpt2 import biases_in, gpt_like
from .values import Key, activation, flag, optional, size, token_ids

__all__ = ["OPT"]

_LAYER = "layers.{i}"
#: Rows of the table of positions that are no token's (fairseq's convention); no key says it.
FIRST = 2
EPS = 1e-5
MODEL = {
    "embed": Part("embed_tokens.weight"),
    "positions": Part("embed_positions.weight"),
    **weight_and_bias("norm", "final_layer_norm"),
    "head": Part("lm_head.weight", outside=True),
}
LAYER = {
    **weight_and_bias("attn_norm", f"{_LAYER}.self_attn_layer_norm"),
    **weight_and_bias("q", f"{_LAYER}.self_attn.q_proj"),
    **weight_and_bias("k", f"{_LAYER}.self_attn.k_proj"),
    **weight_and_bias("v", f"{_LAYER}.self_attn.v_proj"),
    **weight_and_bias("o", f"{_LAYER}.self_attn.out_proj"),
    **weight_and_bias("ffn_norm", f"{_LAYER}.final_layer_norm"),
    **weight_and_bias("up", f"{_LAYER}.fc1"),
    **weight_and_bias("down", f"{_LAYER}.fc2"),
}
_NORMS = frozenset({"attn_norm_bias", "ffn_norm_bias", "norm_bias"})
_AS = {
    "hidden_size": "n_embd",
    "num_attention_heads": "n_head",
    "ffn_dim": "n_inner",
    "max_position_embeddings": "n_positions",
}


def _resolve(v: dict[str, Any], where: str) -> Resolved:
    if v["word_embed_proj_dim"] not in (None, v["hidden_size"]):
        msg = (
            f"{where}: word_embed_proj_dim is {v['word_embed_proj_dim']} and hidden_size {v['hidden_size']}; an opt "
            "model whose embedding has a width of its own (opt-350m) is not computed"
        )
        raise ConfigError(msg)
    biases = biases_in(MODEL, LAYER) if v["enable_bias"] else _NORMS
    attentions: list[dict[str, Any]] = [{}] * v["num_hidden_layers"]
    named = renamed(v, _AS, layer_norm_epsilon=EPS)
    return gpt_like(named, where, "opt", biases=biases, attentions=attentions, first=FIRST)


OPT = Family(
    name="opt",
    keys={
        "vocab_size": Key(50272, size()),
        "hidden_size": Key(768, size()),
        "num_hidden_layers": Key(12, size(2**16)),
        "num_attention_heads": Key(12, size()),
        "ffn_dim": Key(3072, size()),
        "max_position_embeddings": Key(2048, size()),
        "word_embed_proj_dim": Key(None, optional(size())),
        "activation_function": Key("relu", activation),
        "enable_bias": Key(default=True, check=flag),
        "tie_word_embeddings": Key(default=True, check=flag),
        "bos_token_id": Key((2,), token_ids),
        "eos_token_id": Key((2,), token_ids),
    },
    resolve=_resolve,
    model=MODEL,
    layer=LAYER,
    prefixes=("model.decoder.", "decoder.", ""),
    spelling={
        "n_layers": "num_hidden_layers",
        "d_model": "hidden_size",
        "n_heads": "num_attention_heads",
        "d_ff": "ffn_dim",
        "n_vocab": "vocab_size",
    },
    only={
        "do_layer_norm_before": (True,),
        "_remove_final_layer_norm": (False,),
        "layer_norm_elementwise_affine": (True,),
    },
    harmless=frozenset({"dropout", "layerdrop", "init_std"}),
    heads_divide_width=True,
)
