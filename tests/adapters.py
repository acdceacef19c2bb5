"""Random adapters for tests, written as PEFT writes them, and what merging them by NumPy makes of the base's tensors.

A and B are small multiples of 1/8 and the scales powers of two, so that B A is exact in float32 whatever the order of
its sum: the merged numbers are W + scale B A, rounded once by NumPy, and share nothing with the loader.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from checkpoints import decode, encode, write_safetensors
from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["Written", "adapters", "merged", "write_adapter"]

#: Of llama-like files and of GPT-2's: names of modules that take A and B.
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "c_attn", "c_proj", "c_fc")
EMBEDDINGS = ("embed_tokens", "wte", "wpe")
HEAD = "lm_head.weight"


@dataclass
class Written:
    """adapter_config.json and the tensors of the file, by key; dtypes where not F32."""

    config: dict[str, Any]
    tensors: dict[str, np.ndarray] = field(default_factory=dict, repr=False)
    dtypes: dict[str, str] = field(default_factory=dict)


def write_adapter(folder: Path, adapter: Written) -> Path:
    """A directory as PEFT's `save_pretrained` writes it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", **adapter.config}))
    keys = {f"base_model.model.{name}": array for name, array in adapter.tensors.items()}
    dtypes = {f"base_model.model.{name}": dtype for name, dtype in adapter.dtypes.items()}
    write_safetensors(folder / "adapter_model.safetensors", keys, dtypes)
    return folder


@st.composite
def adapters(draw: st.DrawFn, tensors: Mapping[str, np.ndarray], config: Mapping[str, Any]) -> Written:
    """An adapter of some of a base's modules, of ranks 1 to 5, with or without DoRA, embeddings and whole tensors."""
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    modules = [name.removesuffix(".weight") for name in tensors if name.endswith(".weight")]
    kinds = sorted({m.rpartition(".")[2] for m in modules} & {*LINEAR, *EMBEDDINGS})
    dora, gpt2 = draw(st.booleans()), config["model_type"] == "gpt2"
    chosen = draw(st.sets(st.sampled_from([k for k in kinds if not dora or k in LINEAR]), min_size=1))
    ranks = draw(st.dictionaries(st.sampled_from(sorted(chosen)), st.sampled_from([1, 2, 4]), max_size=2))
    rank = draw(st.sampled_from([1, 2, 4]))
    said = {
        "r": rank,
        "lora_alpha": draw(st.sampled_from([1, 2, 8])),
        "use_dora": dora,
        "target_modules": sorted(chosen),
        "rank_pattern": ranks,
    }
    out, stored = Written(said), st.sampled_from(["F32", "F16", "BF16"])
    for module in modules:
        kind, shape = module.rpartition(".")[2], tensors[f"{module}.weight"].shape
        if kind not in chosen:
            continue
        r = ranks.get(kind, rank)
        n_out, n_in = shape if kind in EMBEDDINGS or not gpt2 else shape[::-1]
        a, b = (np.array(rng.integers(-8, 9, s) / 8, np.float32) for s in ((r, n_in), (n_out, r)))
        new: dict[str, np.ndarray]
        if kind in EMBEDDINGS:
            new = {".lora_embedding_A": b.T, ".lora_embedding_B": a.T}
        else:
            new = {".lora_A.weight": a, ".lora_B.weight": b}
        if dora:
            new[".lora_magnitude_vector"] = np.array(rng.integers(1, 9, n_out), np.float32)
        for end, array in new.items():
            out.tensors[module + end] = np.ascontiguousarray(array, np.float32)
            out.dtypes[module + end] = draw(stored)
    whole = [HEAD, *(name for name in tensors if tensors[name].ndim == 1)]
    for name in draw(st.sets(st.sampled_from(whole), max_size=3)):
        like = tensors.get(name, next(iter(tensors.values())))  # a tied head is the embedding, which is first
        out.tensors[name] = np.array(rng.integers(-8, 9, like.shape) / 8, np.float32)
        out.dtypes[name] = draw(stored)
    return out


def merged(
    tensors: Mapping[str, np.ndarray], config: Mapping[str, Any], adapter: Written, dtype: str
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The base's tensors with the adapter in them, float32 of the file's dtype, and config.json."""
    out: dict[str, np.ndarray] = {name: np.asarray(array, np.float32) for name, array in tensors.items()}
    embed = next(iter(out))
    untied = HEAD in adapter.tensors or any(key.startswith(embed.removesuffix("weight")) for key in adapter.tensors)
    if HEAD not in out and untied:
        out[HEAD] = out[embed]
        config = {**config, "tie_word_embeddings": False}
    out |= {name: array for name, array in adapter.tensors.items() if ".lora_" not in name}
    for module in {name.partition(".lora_")[0] for name in adapter.tensors if ".lora_" in name}:
        name, kind = f"{module}.weight", module.rpartition(".")[2]
        if kind in EMBEDDINGS:
            b, a = adapter.tensors[f"{module}.lora_embedding_A"].T, adapter.tensors[f"{module}.lora_embedding_B"].T
        else:
            a, b = (adapter.tensors[f"{module}.lora_{x}.weight"] for x in "AB")
        turned = config["model_type"] == "gpt2" and kind not in EMBEDDINGS
        w = out[name].T if turned else out[name]
        w = w + np.float32(adapter.config["lora_alpha"] / len(a)) * (b @ a)
        if adapter.config["use_dora"]:
            norm = np.sqrt(np.sum(w.astype(np.float64) ** 2, 1)).astype(np.float32)
            w = (adapter.tensors[f"{module}.lora_magnitude_vector"] / norm)[:, None] * w
        out[name] = np.ascontiguousarray(w.T if turned else w)
    return {name: decode(encode(x, dtype), dtype, x.shape).astype(np.float32) for name, x in out.items()}, {**config}
