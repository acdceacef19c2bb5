"""Nemotron-NAS (Llama-3.3-Nemotron-Super, DeciLM): a Llama whose layers were searched, so that each has its own sizes.

`block_configs` has an object for each layer: `attention` with `n_heads_in_group` (queries for each key/value head) or
`no_op`, and `ffn` with `ffn_mult` or `intermediate_size` or `no_op`. Bercovich et al. 2024, arXiv:2411.19146 (Puzzle);
the width that `ffn_mult` means is from the configuration code that comes with these checkpoints:
int(2 ffn_mult hidden_size / 3), rounded up to a multiple of 256.

What is resolved is a Llama: no module after this one knows of another family.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ...errors import ConfigError
from ..files import quote
from ..sizes import LayerSizes, largest, with_sizes
from .llama import LLAMA
from .values import Key, anything, checked, flag, number, optional, size

if TYPE_CHECKING:
    from .base import Resolved

__all__ = ["BLOCKS", "NEMOTRON"]

#: The key that makes the difference.
BLOCKS = "block_configs"
MULTIPLE = 256

#: What each half may say; everything that is not here must be null or false.
ATTENTION = {"n_heads_in_group": Key(None, optional(size())), "no_op": Key(default=False, check=flag)}
FFN = {
    "ffn_mult": Key(None, optional(number(0, 1000, above=True))),
    "intermediate_size": Key(None, optional(size())),
    "no_op": Key(default=False, check=flag),
    "gated": Key(default=True, check=flag),
    "hidden_act": Key(None, anything),
}


def _resolve(v: dict[str, Any], where: str) -> Resolved:
    blocks, n_layers = v.pop(BLOCKS), v["num_hidden_layers"]
    if not isinstance(blocks, list) or len(blocks) != n_layers:
        msg = f"{where}: {BLOCKS} is {quote(blocks)}; expected a list of {n_layers} objects, one a layer"
        raise ConfigError(msg)
    v["intermediate_size"] = v["intermediate_size"] or 1  # every layer has its own
    whole = LLAMA.resolve(v, where)
    config, outside = whole.config, largest(whole.config)
    sizes = []
    for i, block in enumerate(blocks):
        attention, ffn = (_half(block, half, table, f"{where}: {BLOCKS}[{i}]") for half, table in HALVES.items())
        each = attention["n_heads_in_group"] or outside.n_heads // outside.n_kv_heads
        if outside.n_heads % each:
            msg = f"{where}: {BLOCKS}[{i}].attention: {outside.n_heads} heads do not come in groups of {each}"
            raise ConfigError(msg)
        heads = (0, 0) if attention["no_op"] else (outside.n_heads, outside.n_heads // each)
        sizes.append(LayerSizes(*heads, _width(ffn, config.d_model, f"{where}: {BLOCKS}[{i}].ffn")))
        if not any(vars(sizes[i]).values()):
            msg = f"{where}: layer {i} has neither attention nor feed-forward; leave it out"
            raise ConfigError(msg)
    return replace(whole, config=with_sizes(config, sizes))


def _width(ffn: dict[str, Any], d_model: int, where: str) -> int:
    if ffn["no_op"]:
        return 0
    if ffn["intermediate_size"] is not None:
        return int(ffn["intermediate_size"])
    if ffn["ffn_mult"] is None or not ffn["gated"]:
        msg = f"{where} is {quote(ffn)}; expected a gated one with ffn_mult or intermediate_size, or no_op"
        raise ConfigError(msg)
    return -(-int(2 * ffn["ffn_mult"] * d_model / 3) // MULTIPLE) * MULTIPLE


def _half(block: object, half: str, table: dict[str, Key], where: str) -> dict[str, Any]:
    """One half's object, every key checked."""
    of = block.get(half) if isinstance(block, dict) else None
    if not isinstance(of, dict):
        msg = f"{where}.{half} is {quote(of)}; expected an object"
        raise ConfigError(msg)
    for key, value in of.items():
        if key not in table and value not in (None, False):
            msg = f"{where}.{half}: {quote(key)} is {quote(value)}; it is computed without only, and refused"
            raise ConfigError(msg)
    where = f"{where}.{half}"
    return {k: checked(k, of[k], key.check, where) if k in of else key.default for k, key in table.items()}


HALVES = {"attention": ATTENTION, "ffn": FFN}

NEMOTRON = replace(
    LLAMA,
    name="nemotron-nas",
    keys={**LLAMA.keys, "intermediate_size": Key(None, optional(size())), BLOCKS: Key(None, anything)},
    resolve=_resolve,
    # a pruned one is a Llama, and its layers' sizes are spelled as any other's
    written_as={"model_type": "llama", "architectures": ["LlamaForCausalLM"], BLOCKS: None, "auto_map": None},
)
