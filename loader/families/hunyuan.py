"""Hunyuan (dense): Llama whose queries and keys are rotated first and normed after that; its own stretch of RoPE."""

from __future__ import annotations

from decimal import Decimal, localcontext
from typing import Any

from ...errors import ConfigError
from ..files import quote
from ..roles import ATTENTION
from .base import Family, Part, Resolved
from .decoders import remade
from .llama import ATTENTION_BIASES, BIAS_KEYS, IGNORED, KEYS, LAYER, MLP_BIASES, MODEL, PREFIXES, SPELLING, llama_like
from .rope import THETA
from .values import Key, checked, flag, number, size

__all__ = ["HUNYUAN"]

#: Keys next to `alpha` that its class reads nothing of.
UNREAD = {"type", "rope_type", "rope_theta", "alpha", "factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim"}


def _stretched(v: dict[str, Any], where: str) -> dict[str, Any]:
    """theta alpha^(d / (d - 2)), at any length, is what this family means by the kind "dynamic"."""
    name = "rope_scaling" if v["rope_scaling"] else "rope_parameters"
    scaling = v[name]
    if not isinstance(scaling, dict) or scaling.get("rope_type", scaling.get("type")) != "dynamic":
        return v
    where, d = f"{where}: {name}", v["head_dim"] or v["hidden_size"] // v["num_attention_heads"]
    unknown = [key for key in scaling if key not in UNREAD]
    if unknown or "alpha" not in scaling or d <= 2:  # noqa: PLR2004 - the exponent's own number
        msg = f"{where} is {quote(scaling)}; of kind 'dynamic' this family is computed with alpha alone, heads above 2"
        raise ConfigError(msg)
    alpha = checked("alpha", scaling["alpha"], number(1, 1e6), where)
    theta = checked("rope_theta", scaling.get("rope_theta", v["rope_theta"]), THETA, where)
    with localcontext() as ctx:  # libm's pow differs between machines
        ctx.prec = 40
        stretched = float(Decimal(theta) * Decimal(alpha) ** (Decimal(d) / Decimal(d - 2)))
    return v | {
        "rope_theta": checked("rope_theta, stretched by alpha,", stretched, THETA, where),
        "rope_scaling": None,
        "rope_parameters": None,
    }


def _resolve(v: dict[str, Any], where: str) -> Resolved:
    biases: frozenset[str] = ATTENTION_BIASES if v["attention_bias"] else frozenset()
    resolved = llama_like(_stretched(v, where), where, "hunyuan_v1_dense", biases=biases)
    return remade(resolved, attention={"norm_rotated": True})


HUNYUAN = Family(
    name="hunyuan_v1_dense",
    keys={
        **KEYS,
        "vocab_size": Key(290943, size()),
        "rms_norm_eps": Key(1e-5, number(0, 1)),
        "attention_bias": Key(default=False, check=flag),
    },
    resolve=_resolve,
    model=MODEL,
    layer={
        **{role: part for role, part in LAYER.items() if role not in MLP_BIASES},
        "q_norm": Part("layers.{i}.self_attn.query_layernorm.weight"),
        "k_norm": Part("layers.{i}.self_attn.key_layernorm.weight"),
    },
    prefixes=PREFIXES,
    spelling=SPELLING,
    ignored=IGNORED,
    only={"mlp_bias": (False,), "use_qk_norm": (True,), "use_cla": (False,)},
    harmless=frozenset({"eod_token_id", "pad_id", "im_start_id", "im_end_id", "im_newline_id", "text_start_id"}),
    bias_keys={ATTENTION: BIAS_KEYS[ATTENTION]},
)
