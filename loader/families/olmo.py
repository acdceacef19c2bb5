"""OLMo 1, 2, 3. 1: LayerNorm of ones. 2: norms of what a sublayer returns and of whole queries and keys. 3: windows."""

from __future__ import annotations

from typing import Any

from ...errors import ConfigError
from ..files import quote
from ..roles import ATTENTION
from .base import Family, Part, Resolved
from .decoders import layer_windows, remade, spell_types
from .llama import ATTENTION_BIASES, BIAS_KEYS, IGNORED, KEYS, LAYER, MODEL, PREFIXES, SPELLING, llama_like
from .rope import read_rope
from .values import Key, anything, flag, number, optional, size

__all__ = ["OLMO", "OLMO2", "OLMO3"]

_NORMS = ("attn_norm", "ffn_norm")
OWN_KEYS = {
    **{name: key for name, key in KEYS.items() if name != "head_dim"},
    "vocab_size": Key(50304, size()),
    "attention_bias": Key(default=False, check=flag),
    "bos_token_id": Key((), KEYS["bos_token_id"].check),
    "eos_token_id": Key((50279,), KEYS["eos_token_id"].check),
}
OWN_SPELLING = {name: key for name, key in SPELLING.items() if name != "d_head"}
PLAIN_LAYER = {role: part for role, part in LAYER.items() if role not in _NORMS}
OUT_LAYER = PLAIN_LAYER | {
    "attn_norm_out": Part("layers.{i}.post_attention_layernorm.weight"),
    "ffn_norm_out": Part("layers.{i}.post_feedforward_layernorm.weight"),
    "q_norm_whole": Part("layers.{i}.self_attn.q_norm.weight"),
    "k_norm_whole": Part("layers.{i}.self_attn.k_norm.weight"),
}
#: Of `F.layer_norm` in OLMo 1; no key says it.
OLMO_EPS = 1e-5


def _biases(v: dict[str, Any]) -> frozenset[str]:
    return ATTENTION_BIASES if v["attention_bias"] else frozenset()


def _olmo(v: dict[str, Any], where: str) -> Resolved:
    v |= {"head_dim": None, "rms_norm_eps": OLMO_EPS}
    resolved = llama_like(v, where, "olmo", biases=_biases(v))
    return remade(resolved, stack={"norm": "layer", "gains": False}, attention={"clip": v["clip_qkv"]})


def _olmo2(v: dict[str, Any], where: str) -> Resolved:
    return llama_like(v | {"head_dim": None}, where, "olmo2", biases=_biases(v))


def _olmo3(v: dict[str, Any], where: str) -> Resolved:
    """Layers with a window are rotated without scaling: `rope_scaling` is for the others, as in transformers."""
    v |= {"head_dim": None}
    windows = layer_windows(v, where, lambda i: (i + 1) % 4 != 0)
    by_type = v["rope_parameters"]
    full, sliding = v | {"rope_parameters": None}, v | {"rope_parameters": None, "rope_scaling": None}
    if by_type is not None:
        known = ("full_attention", "sliding_attention")
        if not isinstance(by_type, dict) or any(kind not in known for kind in by_type):
            msg = f"{where}: rope_parameters is {quote(by_type)}; expected an object for each of {' and '.join(known)}"
            raise ConfigError(msg)
        full, sliding = ({**v, "rope_scaling": None, "rope_parameters": by_type.get(kind)} for kind in known)
    resolved = llama_like(full, where, "olmo3", biases=_biases(v), windows=windows)
    rope, _ = read_rope(sliding, where, v["max_position_embeddings"], resolved.config.ropes[0].d_rotary)
    ropes = (resolved.config.ropes[0], rope)
    return remade(resolved, attention=lambda _, s: {"rope": 0 if s.window is None else 1}, ropes=ropes)


OLMO = Family(
    name="olmo",
    keys={name: key for name, key in OWN_KEYS.items() if name != "rms_norm_eps"}
    | {"clip_qkv": Key(None, optional(number(0, 1e6, above=True)))},
    resolve=_olmo,
    model={role: part for role, part in MODEL.items() if role != "norm"},
    layer=PLAIN_LAYER,
    prefixes=PREFIXES,
    spelling=OWN_SPELLING,
    ignored=IGNORED,
    bias_keys={ATTENTION: BIAS_KEYS[ATTENTION]},
    heads_divide_width=True,
)
OLMO2 = Family(
    name="olmo2",
    keys={**OWN_KEYS, "rms_norm_eps": Key(1e-5, number(0, 1))},
    resolve=_olmo2,
    model=MODEL,
    layer=OUT_LAYER,
    prefixes=PREFIXES,
    spelling=OWN_SPELLING,
    ignored=IGNORED,
    bias_keys={ATTENTION: BIAS_KEYS[ATTENTION]},
    heads_divide_width=True,
)
OLMO3 = Family(
    name="olmo3",
    keys={
        **OLMO2.keys,
        "rope_theta": Key(500000.0, KEYS["rope_theta"].check),
        "sliding_window": Key(4096, optional(size())),
        "layer_types": Key(None, anything),
    },
    resolve=_olmo3,
    model=MODEL,
    layer=OUT_LAYER,
    prefixes=PREFIXES,
    spelling=OWN_SPELLING,
    ignored=IGNORED,
    bias_keys={ATTENTION: BIAS_KEYS[ATTENTION]},
    heads_divide_width=True,
    spell_layers=spell_types,
)
