"""GPT-2: LayerNorm, learned positions, plain feed-forward, biases everywhere; matrices stored [in, out], QKV fused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...errors import ConfigError
from ...runtime.spec import Attention, Config, FeedForward, Stack
from ..roles import ROLES
from .base import Family, Part, Resolved
from .values import Key, activation, flag, number, optional, size, token_ids

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["GPT2", "KEYS", "SPELLING", "biases_in", "gpt_like"]

KEYS = {
    "vocab_size": Key(50257, size()),
    "n_positions": Key(1024, size()),
    "n_embd": Key(768, size()),
    "n_layer": Key(12, size(2**16)),
    "n_head": Key(12, size()),
    "n_inner": Key(None, optional(size())),
    "activation_function": Key("gelu_tanh", activation),
    "layer_norm_epsilon": Key(1e-5, number(0, 1)),
    "scale_attn_weights": Key(default=True, check=flag),
    "scale_attn_by_inverse_layer_idx": Key(default=False, check=flag),
    "tie_word_embeddings": Key(default=True, check=flag),
    "bos_token_id": Key((50256,), token_ids),
    "eos_token_id": Key((50256,), token_ids),
}

MODEL = {
    "embed": Part("wte.weight"),
    "positions": Part("wpe.weight"),
    "norm": Part("ln_f.weight"),
    "norm_bias": Part("ln_f.bias"),
    "head": Part("lm_head.weight", outside=True),
}

QKV, QKV_BIASES = ("q", "k", "v"), ("q_bias", "k_bias", "v_bias")
LAYER = {
    "attn_norm": Part("h.{i}.ln_1.weight"),
    "attn_norm_bias": Part("h.{i}.ln_1.bias"),
    "q": Part("h.{i}.attn.c_attn.weight", QKV, transposed=True),
    "k": Part("h.{i}.attn.c_attn.weight", QKV, transposed=True),
    "v": Part("h.{i}.attn.c_attn.weight", QKV, transposed=True),
    "q_bias": Part("h.{i}.attn.c_attn.bias", QKV_BIASES),
    "k_bias": Part("h.{i}.attn.c_attn.bias", QKV_BIASES),
    "v_bias": Part("h.{i}.attn.c_attn.bias", QKV_BIASES),
    "o": Part("h.{i}.attn.c_proj.weight", transposed=True),
    "o_bias": Part("h.{i}.attn.c_proj.bias"),
    "ffn_norm": Part("h.{i}.ln_2.weight"),
    "ffn_norm_bias": Part("h.{i}.ln_2.bias"),
    "up": Part("h.{i}.mlp.c_fc.weight", transposed=True),
    "up_bias": Part("h.{i}.mlp.c_fc.bias"),
    "down": Part("h.{i}.mlp.c_proj.weight", transposed=True),
    "down_bias": Part("h.{i}.mlp.c_proj.bias"),
}


SPELLING = {"n_layers": "n_layer", "d_model": "n_embd", "n_heads": "n_head", "d_ff": "n_inner", "n_vocab": "vocab_size"}


def gpt_like(  # noqa: PLR0913 - keywords
    v: dict[str, Any],
    where: str,
    family: str,
    *,
    biases: frozenset[str],
    attentions: Sequence[Mapping[str, Any]],
    n_kv_heads: int | None = None,
    first: int = 0,
) -> Resolved:
    """LayerNorm before each half, learned positions, plain feed-forward; heads divide the width.

    `attentions`: of each layer, what its `Attention` has besides sizes; `first`: the row of position 0.
    """
    d_model, n_heads = v["n_embd"], v["n_head"]
    if d_model % n_heads:
        msg = f"{where}: n_embd {d_model} is no multiple of n_head {n_heads}"
        raise ConfigError(msg)
    d_head = d_model // n_heads
    ffn = FeedForward(v["n_inner"] or 4 * d_model, v["activation_function"], gated=False)
    sizes = {"n_heads": n_heads, "n_kv_heads": n_kv_heads or n_heads, "d_head": d_head, "scale": d_head**-0.5}
    layers = tuple((Attention(**{**sizes, **own}), ffn) for own in attentions)
    config = Config(
        family=family,
        n_vocab=v["vocab_size"],
        n_context=v["n_positions"],
        decoder=Stack(d_model, "layer", v["layer_norm_epsilon"], layers),
        positions=first,
        tied=v["tie_word_embeddings"],
        bos_ids=v["bos_token_id"],
        eos_ids=v["eos_token_id"],
    )
    return Resolved(config, biases)


def biases_in(*tables: Mapping[str, Part]) -> frozenset[str]:
    """Every bias for which there is a tensor."""
    return frozenset(role for table in tables for role in table if ROLES[role].kind == "bias")


def _resolve(v: dict[str, Any], where: str) -> Resolved:
    d_head = max(1, v["n_embd"] // v["n_head"])
    scale, inverse = d_head**-0.5 if v["scale_attn_weights"] else 1.0, v["scale_attn_by_inverse_layer_idx"]
    scales = [{"scale": scale / (i + 1) if inverse else scale} for i in range(v["n_layer"])]
    return gpt_like(v, where, "gpt2", biases=biases_in(MODEL, LAYER), attentions=scales)


GPT2 = Family(
    name="gpt2",
    keys=KEYS,
    resolve=_resolve,
    model=MODEL,
    layer=LAYER,
    prefixes=("transformer.", ""),
    spelling=SPELLING,
    ignored=(r"h\.\d+\.attn\.(bias|masked_bias)",),
    names_pruned_heads=True,
    tokenizer_class="GPT2Tokenizer",
    harmless=frozenset(
        {
            "n_ctx",
            "n_special",  # this and the next as gpt2-medium, -large and -xl are published; transformers reads neither
            "predict_special_tokens",
            "reorder_and_upcast_attn",
            "summary_activation",
            "summary_first_dropout",
            "summary_proj_to_labels",
            "summary_type",
            "summary_use_proj",
        }
    ),
)
