"""Qwen2 and 2.5: Llama with biases on queries, keys and values, and windows on some layers; Qwen3 shares the keys."""

from __future__ import annotations

from typing import Any

from ...errors import ConfigError
from ..files import quote
from .base import Family, Resolved
from .llama import IGNORED, KEYS, LAYER, MODEL, PREFIXES, SPELLING, llama_like
from .values import Key, anything, flag, optional, size

__all__ = ["QWEN2", "QWEN_KEYS", "qwen_windows"]

QWEN_KEYS = {
    **KEYS,
    "vocab_size": Key(151936, KEYS["vocab_size"].check),
    "intermediate_size": Key(22016, KEYS["intermediate_size"].check),
    "num_key_value_heads": Key(32, KEYS["num_key_value_heads"].check),
    "max_position_embeddings": Key(32768, KEYS["max_position_embeddings"].check),
    "bos_token_id": Key((), KEYS["bos_token_id"].check),
    "eos_token_id": Key((), KEYS["eos_token_id"].check),
    "use_sliding_window": Key(default=False, check=flag),
    "sliding_window": Key(4096, optional(size())),
    "max_window_layers": Key(28, size(low=0)),
    "layer_types": Key(None, anything),
}


def qwen_windows(v: dict[str, Any], where: str) -> list[int | None]:
    """Return each layer's window: from `layer_types`, or for layers from `max_window_layers` on."""
    n_layers = v["num_hidden_layers"]
    window = v["sliding_window"] if v["use_sliding_window"] else None
    kinds = v["layer_types"]
    if kinds is None:
        return [window if i >= v["max_window_layers"] else None for i in range(n_layers)]
    known = ("full_attention",) if window is None else ("full_attention", "sliding_attention")
    if not isinstance(kinds, list) or len(kinds) != n_layers or any(kind not in known for kind in kinds):
        msg = (
            f"{where}: layer_types is {quote(kinds)}; expected a list of {n_layers} times {' or '.join(known)} "
            f"(use_sliding_window is {v['use_sliding_window']}, sliding_window {v['sliding_window']})"
        )
        raise ConfigError(msg)
    return [window if kind == "sliding_attention" else None for kind in kinds]


def _resolve(v: dict[str, Any], where: str) -> Resolved:
    biases = frozenset({"q_bias", "k_bias", "v_bias"})
    return llama_like(v, where, "qwen2", biases=biases, windows=qwen_windows(v, where))


QWEN2 = Family(
    name="qwen2",
    keys=QWEN_KEYS,
    resolve=_resolve,
    model=MODEL,
    layer=LAYER,
    prefixes=PREFIXES,
    spelling=SPELLING,
    ignored=IGNORED,
    tokenizer_class="Qwen2Tokenizer",
    only={"attention_bias": (True,), "mlp_bias": (False,), "use_mrope": (False,)},
)
