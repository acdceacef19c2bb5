"""OPT: GPT-2 with biases of another name, ReLU, and positions from row 2 of their table on. 350M: normed after."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .base import Family, Part, Resolved
from .decoders import remade, renamed, weight_and_bias
from .gpt2 import biases_in, gpt_like
from .values import Key, activation, flag, optional, size, token_ids

__all__ = ["EPS", "LAYER", "OPT"]

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
#: Of a model whose norms are of the sums, not of what is read: opt-350m.
NORMS_OF_SUMS: dict[str, Part | None] = {
    **dict.fromkeys(role for role in (*MODEL, *LAYER) if "norm" in role),
    **weight_and_bias("attn_norm_sum", f"{_LAYER}.self_attn_layer_norm"),
    **weight_and_bias("ffn_norm_sum", f"{_LAYER}.final_layer_norm"),
}
#: Of one whose embedding has a width of its own: opt-350m, too.
PROJECTIONS = {"embed_project": Part("project_in.weight"), "head_dense": Part("project_out.weight")}
_AS = {
    "hidden_size": "n_embd",
    "num_attention_heads": "n_head",
    "ffn_dim": "n_inner",
    "max_position_embeddings": "n_positions",
}


def _resolve(v: dict[str, Any], where: str) -> Resolved:
    own: dict[str, Part | None] = {} if v["do_layer_norm_before"] else dict(NORMS_OF_SUMS)
    if v["_remove_final_layer_norm"]:
        own |= {"norm": None, "norm_bias": None}
    d_embed = v["word_embed_proj_dim"]
    projects = d_embed not in (None, v["hidden_size"])
    own |= PROJECTIONS if projects else {}
    attentions: list[dict[str, Any]] = [{}] * v["num_hidden_layers"]
    named = renamed(v, _AS, layer_norm_epsilon=EPS)
    resolved = replace(gpt_like(named, where, "opt", biases=frozenset(), attentions=attentions, first=FIRST), own=own)
    biases = biases_in(resolved.placed(MODEL), resolved.placed(LAYER))
    if not v["enable_bias"]:
        biases = frozenset(role for role in biases if "norm" in role)
    resolved = replace(resolved, biases=biases)
    return remade(resolved, stack={"project_first": True}, d_embed=d_embed) if projects else resolved


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
        "do_layer_norm_before": Key(default=True, check=flag),
        "_remove_final_layer_norm": Key(default=False, check=flag),
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
    only={"layer_norm_elementwise_affine": (True,)},
    harmless=frozenset({"dropout", "layerdrop", "init_std"}),
    heads_divide_width=True,
)
