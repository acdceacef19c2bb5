"""Llama 1, 2 and 3, SmolLM, TinyLlama; and what Mistral and Qwen share with them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...errors import ConfigError
from ...runtime.spec import Attention, Config, FeedForward, Stack
from ..roles import ATTENTION, FEED_FORWARD
from .base import Family, Part, Resolved
from .rope import ROPE_KEYS, read_rope
from .values import Key, activation, flag, number, optional, size, token_ids

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "ATTENTION_BIASES",
    "BIAS_KEYS",
    "IGNORED",
    "KEYS",
    "LAYER",
    "LLAMA",
    "MLP_BIASES",
    "MODEL",
    "PREFIXES",
    "SPELLING",
    "llama_like",
]

#: Keys and defaults of Llama; the other families change a few.
KEYS = {
    "vocab_size": Key(32000, size()),
    "hidden_size": Key(4096, size()),
    "intermediate_size": Key(11008, size()),
    "num_hidden_layers": Key(32, size(2**16)),
    "num_attention_heads": Key(32, size()),
    "num_key_value_heads": Key(None, optional(size())),
    "head_dim": Key(None, optional(size())),
    "hidden_act": Key("silu", activation),
    "max_position_embeddings": Key(2048, size()),
    "rms_norm_eps": Key(1e-6, number(0, 1)),
    "tie_word_embeddings": Key(default=False, check=flag),
    "bos_token_id": Key((1,), token_ids),
    "eos_token_id": Key((2,), token_ids),
    **ROPE_KEYS,
}

MODEL = {
    "embed": Part("embed_tokens.weight"),
    "norm": Part("norm.weight"),
    "head": Part("lm_head.weight", outside=True),
}

#: Roles of a layer; a bias is looked for only where the config asks for it.
LAYER = {
    "attn_norm": Part("layers.{i}.input_layernorm.weight"),
    "q": Part("layers.{i}.self_attn.q_proj.weight"),
    "k": Part("layers.{i}.self_attn.k_proj.weight"),
    "v": Part("layers.{i}.self_attn.v_proj.weight"),
    "o": Part("layers.{i}.self_attn.o_proj.weight"),
    "ffn_norm": Part("layers.{i}.post_attention_layernorm.weight"),
    "gate": Part("layers.{i}.mlp.gate_proj.weight"),
    "up": Part("layers.{i}.mlp.up_proj.weight"),
    "down": Part("layers.{i}.mlp.down_proj.weight"),
    "q_bias": Part("layers.{i}.self_attn.q_proj.bias"),
    "k_bias": Part("layers.{i}.self_attn.k_proj.bias"),
    "v_bias": Part("layers.{i}.self_attn.v_proj.bias"),
    "o_bias": Part("layers.{i}.self_attn.o_proj.bias"),
    "gate_bias": Part("layers.{i}.mlp.gate_proj.bias"),
    "up_bias": Part("layers.{i}.mlp.up_proj.bias"),
    "down_bias": Part("layers.{i}.mlp.down_proj.bias"),
}

ATTENTION_BIASES = frozenset({"q_bias", "k_bias", "v_bias", "o_bias"})
MLP_BIASES = frozenset({"gate_bias", "up_bias", "down_bias"})
BIAS_KEYS = {ATTENTION: "attention_bias", FEED_FORWARD: "mlp_bias"}
SPELLING = {
    "n_layers": "num_hidden_layers",
    "d_model": "hidden_size",
    "n_heads": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads",
    "d_head": "head_dim",
    "d_ff": "intermediate_size",
    "n_vocab": "vocab_size",
}
PREFIXES = ("model.", "")
IGNORED = (r"layers\.\d+\.self_attn\.rotary_emb\.inv_freq", r"rotary_emb\.inv_freq")


def llama_like(  # noqa: PLR0913 - keywords
    v: dict[str, Any],
    where: str,
    family: str,
    *,
    biases: frozenset[str] = frozenset(),
    windows: Sequence[int | None] | None = None,
    part: float | None = None,
) -> Resolved:
    """RMSNorm before each half, rotary positions, grouped queries, gated feed-forward; no bias unless named.

    `part`: of a head that is rotated, where the file does not say it; None: the whole, and no file says another.
    """
    d_model, n_heads, n_layers = v["hidden_size"], v["num_attention_heads"], v["num_hidden_layers"]
    d_head = v["head_dim"] or d_model // n_heads
    n_kv_heads = v["num_key_value_heads"] or n_heads
    if v["head_dim"] is None and d_model % n_heads:
        msg = (
            f"{where}: hidden_size {d_model} is no multiple of num_attention_heads {n_heads}, and head_dim is not given"
        )
        raise ConfigError(msg)
    if n_heads % n_kv_heads:
        msg = f"{where}: num_attention_heads {n_heads} is no multiple of num_key_value_heads {n_kv_heads}"
        raise ConfigError(msg)
    if d_head % 2 and part is None:
        msg = f"{where}: the head's width is {d_head}; rotary positions need an even one"
        raise ConfigError(msg)
    rope, n_context = read_rope(v, where, v["max_position_embeddings"], d_head, part)
    ffn = FeedForward(v["intermediate_size"], v["hidden_act"], gated=True)
    windows = [None] * n_layers if windows is None else windows
    layer = {w: (Attention(n_heads, n_kv_heads, d_head, d_head**-0.5, window=w, rope=0), ffn) for w in windows}
    config = Config(
        family=family,
        n_vocab=v["vocab_size"],
        n_context=n_context,
        decoder=Stack(d_model, "rms", v["rms_norm_eps"], tuple(layer[w] for w in windows)),
        ropes=(rope,),
        tied=v["tie_word_embeddings"],
        bos_ids=v["bos_token_id"],
        eos_ids=v["eos_token_id"],
    )
    return Resolved(config, biases)


def _resolve(v: dict[str, Any], where: str) -> Resolved:
    none: frozenset[str] = frozenset()
    biases = (ATTENTION_BIASES if v["attention_bias"] else none) | (MLP_BIASES if v["mlp_bias"] else none)
    return llama_like(v, where, "llama", biases=biases)


LLAMA = Family(
    name="llama",
    keys={**KEYS, "attention_bias": Key(default=False, check=flag), "mlp_bias": Key(default=False, check=flag)},
    resolve=_resolve,
    model=MODEL,
    layer=LAYER,
    prefixes=PREFIXES,
    spelling=SPELLING,
    ignored=IGNORED,
    only={"rope_interleaved": (False,), "use_qk_norm": (False,), "use_sliding_window": (False,)},
    harmless=frozenset({"is_llama_config"}),
    bias_keys=BIAS_KEYS,
    heads_divide_width=True,
)
