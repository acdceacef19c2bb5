"""Gemma 2 and 3 (text): Gemma with norms before and after each half, windows by layer, soft caps; two rotary tables."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ...errors import ConfigError
from ..files import quote
from ..roles import ATTENTION
from .around import Around
from .base import Family, Part, Resolved
from .decoders import as_encoder, layer_windows, remade, spell_types
from .gemma import GEMMA_KEYS, GEMMA_LAYER, GEMMA_MODEL, gemma_activation
from .heads import Read
from .llama import ATTENTION_BIASES, BIAS_KEYS, IGNORED, PREFIXES, SPELLING, llama_like
from .rope import THETA, read_rope
from .values import Key, anything, flag, number, optional, size

__all__ = ["GEMMA2", "GEMMA3_TEXT"]

_AT = "layers.{i}"
LAYER = GEMMA_LAYER | {
    "attn_norm_out": Part(f"{_AT}.post_attention_layernorm.weight", plus=1.0),
    "ffn_norm": Part(f"{_AT}.pre_feedforward_layernorm.weight", plus=1.0),
    "ffn_norm_out": Part(f"{_AT}.post_feedforward_layernorm.weight", plus=1.0),
}
CAP = Key(None, optional(number(0, 1e6, above=True)))
OWN_KEYS = {
    **{name: key for name, key in GEMMA_KEYS.items() if name != "hidden_act"},
    "hidden_activation": Key("gelu_tanh", gemma_activation),
    "hidden_size": Key(2304, size()),
    "intermediate_size": Key(9216, size()),
    "num_hidden_layers": Key(26, size(2**16)),
    "num_attention_heads": Key(8, size()),
    "num_key_value_heads": Key(4, optional(size())),
    "query_pre_attn_scalar": Key(256, number(0, 1e9, above=True)),
    "sliding_window": Key(4096, optional(size())),
    "layer_types": Key(None, anything),
    "final_logit_softcapping": replace(CAP, default=30.0),
    "attn_logit_softcapping": replace(CAP, default=50.0),
}
#: Read by nobody, or by caches alone: the activation that is used is hidden_activation.
HARMLESS = frozenset({"cache_implementation", "hidden_act"})


def _gemma(v: dict[str, Any], where: str, family: str, windows: list[int | None]) -> Resolved:
    """Gemma 2, of which Gemma 3 is a variant."""
    biases = ATTENTION_BIASES if v["attention_bias"] else frozenset()
    v |= {"hidden_act": v["hidden_activation"]}
    return remade(
        llama_like(v, where, family, biases=biases, windows=windows),
        stack={"embed_scale": v["hidden_size"] ** 0.5},
        attention={"scale": v["query_pre_attn_scalar"] ** -0.5, "soft_cap": v["attn_logit_softcapping"]},
        logit_soft_cap=v["final_logit_softcapping"],
    )


def _gemma2(v: dict[str, Any], where: str) -> Resolved:
    return _gemma(v, where, "gemma2", layer_windows(v, where, lambda i: i % 2 == 0))


def _gemma3(v: dict[str, Any], where: str) -> Resolved:
    """Layers with a window rotate by a theta of their own. EmbeddingGemma: tokens see those after them too."""
    whole, window = v["use_bidirectional_attention"], v["sliding_window"]
    if whole and window is not None:
        v |= {"sliding_window": window // 2 + 1}  # the file counts both sides
    v |= {"attn_logit_softcapping": None}
    windows = layer_windows(v, where, lambda i: (i + 1) % v["sliding_window_pattern"] != 0)
    given = v["rope_parameters"] or {}
    kinds = ("full_attention", "sliding_attention")
    if not isinstance(given, dict) or any(kind not in kinds for kind in given):
        msg = f"{where}: rope_parameters is {quote(given)}; expected an object with {' and '.join(kinds)}"
        raise ConfigError(msg)
    full, local = (v | {"rope_parameters": given.get(kind)} for kind in kinds)
    resolved = _gemma(full, where, "gemma3_text", windows)
    local |= {"rope_scaling": None, "rope_theta": v["rope_local_base_freq"]}
    near, _ = read_rope(local, where, v["max_position_embeddings"], v["head_dim"])
    ropes = (*resolved.config.ropes, near)
    resolved = remade(resolved, attention=lambda _, s: {"rope": 0 if s.window is None else 1}, ropes=ropes)
    return as_encoder(resolved, Read(tied=True)) if whole else resolved


GEMMA2 = Family(
    name="gemma2",
    keys=OWN_KEYS,
    resolve=_gemma2,
    model=GEMMA_MODEL,
    layer=LAYER,
    prefixes=PREFIXES,
    spelling=SPELLING,
    ignored=IGNORED,
    only={"use_bidirectional_attention": (None, False)},
    harmless=HARMLESS,
    bias_keys={ATTENTION: BIAS_KEYS[ATTENTION]},
    heads_divide_width=True,
    spell_layers=spell_types,
)
#: Gemma 3 from 4B on, as releases of transformers before 5 wrote it, and since.
GEMMA3 = Around(
    name="gemma3",
    inside="text_config",
    harmless=frozenset({
        "boi_token_index", "eoi_token_index", "image_token_id", "image_token_index", "boi_token_id", "eoi_token_id",
        "mm_tokens_per_image", "vision_config",
    }),
    prefixes=("language_model.model.", "model.language_model."),
    skipped=r"(model\.)?(vision_tower|multi_modal_projector)\..*",
    what="images",
    head="language_model.lm_head.weight",
)  # fmt: skip
GEMMA3_TEXT = replace(
    GEMMA2,
    name="gemma3_text",
    keys={name: key for name, key in OWN_KEYS.items() if name != "attn_logit_softcapping"}
    | {
        "use_bidirectional_attention": Key(default=False, check=optional(flag)),
        "vocab_size": Key(262208, size()),
        "max_position_embeddings": Key(131072, size()),
        "rope_theta": Key(1e6, THETA),
        "rope_local_base_freq": Key(1e4, THETA),
        "sliding_window_pattern": Key(6, size()),
        "final_logit_softcapping": CAP,
    },
    resolve=_gemma3,
    model=GEMMA_MODEL | {"head": replace(GEMMA_MODEL["head"], others=(GEMMA3.head,))},
    layer=LAYER | {f"{x}_norm": Part(f"{_AT}.self_attn.{x}_norm.weight", plus=1.0) for x in "qk"},
    only={"attn_logit_softcapping": ()},  # which transformers ignores in this family
    harmless=HARMLESS | {"_sliding_window_pattern"},
    ignored=(*IGNORED, GEMMA3.skipped),
    around=GEMMA3,
)
