"""PEFT adapters as tests need them, written without PEFT; and the checkpoints that they stand for, made in float64."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
from miaotui.loader.header import read_header
from safetensors.numpy import load_file, save_file

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["merged", "write_adapter"]


def write_adapter(directory: Path, base: Path, *targets: str, r: int = 4, seed: int = 0, **said: Any) -> Path:
    """A and B for every module of a checkpoint whose name ends like a target's, as PEFT writes them."""
    rng = np.random.default_rng(seed)
    tensors: dict[str, np.ndarray] = {}
    turned = json.loads((base / "config.json").read_text())["model_type"] == "gpt2"
    for name, info in read_header(base / "model.safetensors").tensors.items():
        module = name.removesuffix(".weight")
        if not name.endswith(".weight") or module.rpartition(".")[2] not in targets:
            continue
        n, k = info.shape[::-1] if turned else info.shape
        module = module if not turned or module.startswith("transformer.") else f"transformer.{module}"
        before = f"base_model.model.{module}"
        tensors[f"{before}.lora_A.weight"] = (rng.standard_normal((r, k)) * k**-0.5).astype(np.float32)
        tensors[f"{before}.lora_B.weight"] = (rng.standard_normal((n, r)) * 0.3).astype(np.float32)
        if said.get("use_dora"):
            tensors[f"{before}.lora_magnitude_vector"] = rng.uniform(0.5, 1.5, (n,)).astype(np.float32)
    assert tensors
    directory.mkdir(parents=True)
    known = {"peft_type": "LORA", "r": r, "lora_alpha": 6, "target_modules": list(targets), **said}
    (directory / "adapter_config.json").write_text(json.dumps(known))
    save_file(tensors, directory / "adapter_model.safetensors")
    return directory


def merged(target: Path, base: Path, adapter: Path) -> Path:
    """The checkpoint of W + s B A, or m (W + s B A) / |W + s B A|, made in float64."""
    target.mkdir(parents=True)
    said = json.loads((adapter / "adapter_config.json").read_text())
    (target / "config.json").write_bytes((base / "config.json").read_bytes())
    turned = json.loads((base / "config.json").read_text())["model_type"] == "gpt2"
    tensors, added = load_file(base / "model.safetensors"), load_file(adapter / "adapter_model.safetensors")
    scale = said["lora_alpha"] / (said["r"] ** 0.5 if said.get("use_rslora") else said["r"])
    for key in [key for key in added if key.endswith(".lora_A.weight")]:
        a, b = (added[key.replace("lora_A", f"lora_{i}")].astype(float) for i in "AB")
        name = key.removeprefix("base_model.model.").replace(".lora_A.weight", ".weight")
        name = name if name in tensors else name.removeprefix("transformer.")
        w: np.ndarray = tensors[name].astype(float)
        w = (w.T if turned else w) + scale * b @ a
        m = added.get(key.replace("lora_A.weight", "lora_magnitude_vector"))
        w = w if m is None else m[:, None] * w / np.linalg.norm(w, axis=1, keepdims=True)
        tensors[name] = np.ascontiguousarray((w.T if turned else w).astype(np.float32))
    save_file(tensors, target / "model.safetensors")
    return target
