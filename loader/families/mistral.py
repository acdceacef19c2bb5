"""Mistral: Llama without biases, every layer with one sliding window or none."""

from __future__ import annotations

from typing import Any

from ...errors import ConfigError
from ..files import quote
from .base import Family, Resolved
from .llama import IGNORED, KEYS, LAYER, MODEL, PREFIXES, SPELLING, llama_like
from .values import Key, anything, optional, size

__all__ = ["MISTRAL"]


def _resolve(v: dict[str, Any], where: str) -> Resolved:
    n_layers, window = v["num_hidden_layers"], v["sliding_window"]
    wanted = "full_attention" if window is None else "sliding_attention"
    # transformers ignores `layer_types` in this family; a file that means something by it is another model.
    if v["layer_types"] not in (None, [wanted] * n_layers):
        msg = f"{where}: layer_types is {quote(v['layer_types'])}; with sliding_window {window} all are {wanted}"
        raise ConfigError(msg)
    return llama_like(v, where, "mistral", windows=[window] * n_layers)


MISTRAL = Family(
    name="mistral",
    keys={
        **KEYS,
        "intermediate_size": Key(14336, KEYS["intermediate_size"].check),
        "num_key_value_heads": Key(8, KEYS["num_key_value_heads"].check),
        "max_position_embeddings": Key(4096 * 32, KEYS["max_position_embeddings"].check),
        "sliding_window": Key(4096, optional(size())),
        "layer_types": Key(None, anything),
    },
    resolve=_resolve,
    model=MODEL,
    layer=LAYER,
    prefixes=PREFIXES,
    spelling=SPELLING,
    ignored=IGNORED,
    only={"attention_bias": (False,), "mlp_bias": (False,)},
)
