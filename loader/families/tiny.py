"""Keys that a tiny model's config.json needs beside its sizes: what tests make of each family."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import FAMILIES

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["tiny_config"]

#: Positions, by the keys that say how many.
POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len")
_EXPERTS = {"num_experts_per_tok": 2}
#: None leaves a key out. Ids of padding that lie in a small vocabulary; sizes that transformers does not know; what
#: makes the first of a tensor's several names the right one.
_OWN: dict[str, dict[str, Any]] = {
    **{name: {"pad_token_id": 0} for name in ("smollm3", "glm", "glm4", "phi3", "modernbert", "eurobert")},
    "bloom": {"n_inner": None},
    "mpt": {"intermediate_size": None},
    "falcon": {"parallel_attn": False},
    "t5": {"feed_forward_proj": "gated-gelu"},
    "gptj": {"rotary_dim": 4},
    "marian": {"decoder_start_token_id": 3, "pad_token_id": 3},
    "mixtral": {**_EXPERTS, "num_local_experts": 3},
    "qwen2_moe": {**_EXPERTS, "num_experts": 3, "moe_intermediate_size": 8, "shared_expert_intermediate_size": 8},
    "qwen3_moe": {**_EXPERTS, "num_experts": 3, "moe_intermediate_size": 8},
    "olmoe": {**_EXPERTS, "num_experts": 3},
}


def tiny_config(name: str, sizes: Mapping[str, int], n_positions: int = 64) -> dict[str, Any]:
    """config.json of a family's model of these sizes, by the names of `Family.spelling`; sizes that it lacks go by."""
    family = FAMILIES[name]
    spelled = [*family.spelling.items(), *family.encoder_spelling.items()]
    config: dict[str, Any] = {"model_type": name} | {key: sizes[size] for size, key in spelled if size in sizes}
    config |= {key: n_positions for key in POSITIONS if key in family.keys}
    n = sizes["n_layers"]
    if name == "gpt_neo":
        config["attention_types"] = [[["global"], (n + 1) // 2], *([[["local"], n // 2]] if n > 1 else [])]
    if name == "nemotron-nas":
        each = sizes["n_heads"] // sizes["n_kv_heads"]
        block = {"attention": {"n_heads_in_group": each}, "ffn": {"intermediate_size": sizes["d_ff"]}}
        config["block_configs"] = [block] * n
    return {key: value for key, value in (config | _OWN.get(name, {})).items() if value is not None}
