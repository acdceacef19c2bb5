"""Cohere 1 and 2 (Command R, R7B, Aya): parallel halves after one LayerNorm, neighbours rotated, logits scaled."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..roles import ATTENTION
from .base import Family, Part, Resolved
from .decoders import layer_windows, remade, spell_types
from .llama import ATTENTION_BIASES, BIAS_KEYS, IGNORED, KEYS, LAYER, MODEL, PREFIXES, SPELLING, llama_like
from .values import Key, anything, flag, number, optional, size

__all__ = ["COHERE", "COHERE2"]

OWN_LAYER = {
    **{role: part for role, part in LAYER.items() if not role.endswith("_bias") or role in ATTENTION_BIASES},
    "ffn_norm": Part("layers.{i}.input_layernorm.weight"),
}
#: Of Command R+ alone: every head has gains of its own.
QK_NORMS = {f"{x}_norm_whole": Part(f"layers.{{i}}.self_attn.{x}_norm.weight", folded="heads") for x in "qk"}


def _cohere(v: dict[str, Any], where: str, family: str, windows: list[int | None] | None = None) -> Resolved:
    v |= {"head_dim": None, "rms_norm_eps": v["layer_norm_eps"]}
    biases = ATTENTION_BIASES if v["attention_bias"] else frozenset()
    resolved = llama_like(v, where, family, biases=biases, windows=windows)
    ropes = (replace(resolved.config.ropes[0], interleaved=True),)
    stack, normed = {"norm": "layer", "parallel": True}, v.get("use_qk_norm", False)
    resolved = remade(
        resolved, stack=stack, attention={"norm_heads": normed}, ropes=ropes, logit_scale=v["logit_scale"]
    )
    return replace(resolved, own=QK_NORMS if normed else {})


def _cohere1(v: dict[str, Any], where: str) -> Resolved:
    return _cohere(v, where, "cohere")


def _cohere2(v: dict[str, Any], where: str) -> Resolved:
    """Layers without a window are not rotated."""
    windows = layer_windows(v, where, lambda i: (i + 1) % v["sliding_window_pattern"] != 0)
    resolved = _cohere(v, where, "cohere2", windows)
    return remade(resolved, attention=lambda _, s: {"rope": None if s.window is None else 0})


COHERE = Family(
    name="cohere",
    keys={
        **{name: key for name, key in KEYS.items() if name not in ("head_dim", "rms_norm_eps")},
        "vocab_size": Key(256000, size()),
        "hidden_size": Key(8192, size()),
        "intermediate_size": Key(22528, size()),
        "num_hidden_layers": Key(40, size(2**16)),
        "num_attention_heads": Key(64, size()),
        "max_position_embeddings": Key(8192, size()),
        "rope_theta": Key(500000.0, KEYS["rope_theta"].check),
        "layer_norm_eps": Key(1e-5, number(0, 1)),
        "logit_scale": Key(0.0625, number(0, 1e6, above=True)),
        "tie_word_embeddings": Key(default=True, check=flag),
        "attention_bias": Key(default=False, check=flag),
        "use_qk_norm": Key(default=False, check=flag),
        "bos_token_id": Key((5,), KEYS["bos_token_id"].check),
        "eos_token_id": Key((255001,), KEYS["eos_token_id"].check),
    },
    resolve=_cohere1,
    model=MODEL,
    layer=OWN_LAYER,
    prefixes=PREFIXES,
    spelling={name: key for name, key in SPELLING.items() if name != "d_head"},
    ignored=IGNORED,
    bias_keys={ATTENTION: BIAS_KEYS[ATTENTION]},
    heads_divide_width=True,
)
COHERE2 = replace(
    COHERE,
    name="cohere2",
    keys={
        **{name: key for name, key in COHERE.keys.items() if name != "use_qk_norm"},
        "rope_theta": Key(10000.0, KEYS["rope_theta"].check),
        "sliding_window": Key(4096, optional(size())),
        "sliding_window_pattern": Key(4, size()),
        "layer_types": Key(None, anything),
    },
    resolve=_cohere2,
    only={
        "use_qk_norm": (False,),
        "rotary_pct": (1.0,),
        "position_embedding_type": ("rope_gptj",),
        "layer_switch": (4,),
        "order_of_interleaved_layers": ("local_attn_first",),
        "use_gated_activation": (True,),
        "use_parallel_block": (True,),
    },
    # the class divides the width by the heads, whatever head_dim says, and ties by tie_word_embeddings
    harmless=frozenset({"cache_implementation", "head_dim", "use_embedding_sharing", "use_parallel_embedding"}),
    spell_layers=spell_types,
)
