"""StableLM 2 12B: norms of queries and keys whose file has a tensor for each head."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import miaotui
import numpy as np
import pytest
from miaotui.errors import CheckpointError, PlanError
from miaotui.tools.commands.quantize import quantize
from miaotui.tools.prune import prune
from safetensors.numpy import load_file, save_file

if TYPE_CHECKING:
    from pathlib import Path

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

IDS = list(range(3, 30))
SIZES: dict[str, Any] = {
    "vocab_size": 53, "hidden_size": 96, "num_hidden_layers": 3, "num_attention_heads": 12, "num_key_value_heads": 6,
    "intermediate_size": 37, "max_position_embeddings": 64, "use_parallel_residual": True, "qk_layernorm": True,
    "bos_token_id": 0, "eos_token_id": None,
}  # fmt: skip


@pytest.fixture(scope="module")
def normed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve heads, so that the order of their names is not that of their numbers."""
    torch.manual_seed(0)
    directory = tmp_path_factory.mktemp("normed")
    model = transformers.AutoModelForCausalLM.from_config(transformers.StableLmConfig(**SIZES))
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn_like(p) * 0.3 + (p if p.dim() == 1 else 0))
    model.save_pretrained(directory)
    return directory


def theirs(directory: Path) -> np.ndarray:
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float64, output_loading_info=True
    )
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    with torch.no_grad():
        return model.eval()(torch.tensor([IDS])).logits[0].numpy()


def gains(directory: Path, layer: int, which: str, heads: list[int]) -> np.ndarray:
    there = load_file(directory / "model.safetensors")
    return np.concatenate([there[f"model.layers.{layer}.self_attn.{which}_layernorm.norms.{h}.weight"] for h in heads])


def test_logits_are_those_of_transformers(normed: Path) -> None:
    with miaotui.load(normed, threads=2) as model:
        weights = model.session.weights.stack.layers[1][0]
        assert weights.norm_q is not None
        assert np.array_equal(weights.norm_q.w.f64(), gains(normed, 1, "q", list(range(12))))
        assert np.abs(model.logits(IDS) - theirs(normed)).max() < 1e-4
        assert not [name for name in model.receipt.untouched if "norm" in name]


def test_kept_heads_take_their_gains_along(normed: Path, tmp_path: Path) -> None:
    """Of layer 1, key/value heads 1, 4 and 5, each with two queries."""
    kept = [2, 3, 8, 9, 10, 11]
    with miaotui.load(normed, prune="drop-heads=1:0,1,4-7") as model:
        weights = model.session.weights.stack.layers[1][0]
        assert weights.norm_q is not None
        assert weights.norm_k is not None
        assert np.array_equal(weights.norm_q.w.f64(), gains(normed, 1, "q", kept))
        assert np.array_equal(weights.norm_k.w.f64(), gains(normed, 1, "k", [1, 4, 5]))
        cut = model.logits(IDS)
        unread = model.receipt.untouched
        assert "model.layers.1.self_attn.q_layernorm.norms.0.weight" in unread
        assert "model.layers.1.self_attn.q_layernorm.norms.10.weight" not in unread
    with pytest.raises(PlanError, match="heads cannot go"):
        prune(normed, tmp_path / "cut", "drop-heads=1:0,1,4-7")
    zeroed = tmp_path / "zeroed"  # a model without a head is the whole one whose head gives zeros
    shutil.copytree(normed, zeroed)
    tensors = load_file(zeroed / "model.safetensors")
    for h in set(range(12)) - set(kept):
        tensors["model.layers.1.self_attn.o_proj.weight"][:, 8 * h : 8 * h + 8] = 0
    save_file(tensors, zeroed / "model.safetensors")
    with miaotui.load(zeroed) as model:
        assert np.abs(model.logits(IDS) - cut).max() <= 1e-4


def test_an_export_writes_them_apart_again(normed: Path, tmp_path: Path) -> None:
    plan = "keep-layers=0,2; ffn=0.5"
    with miaotui.load(normed, prune=plan) as model:
        wanted = model.logits(IDS)
    prune(normed, tmp_path / "cut", plan)
    with miaotui.load(tmp_path / "cut") as model:
        assert model.logits(IDS).tobytes() == wanted.tobytes()
    assert np.array_equal(gains(tmp_path / "cut", 1, "k", [5]), gains(normed, 2, "k", [5]))
    assert np.abs(theirs(tmp_path / "cut") - wanted).max() < 1e-4


def test_a_quantised_file_keeps_them(normed: Path, tmp_path: Path) -> None:
    with miaotui.load(normed, quantize="int8") as model:
        wanted = model.logits(IDS)
    quantize(normed, tmp_path / "small", "int8")
    with miaotui.load(tmp_path / "small") as model:
        assert model.logits(IDS).tobytes() == wanted.tobytes()


def test_a_head_whose_gains_are_missing_or_wrong_is_named(normed: Path, tmp_path: Path) -> None:
    name = "model.layers.2.self_attn.k_layernorm.norms.3.weight"
    there = load_file(normed / "model.safetensors")
    wrong = {
        "missing": {key: value for key, value in there.items() if key != name},
        r"has shape \[5\]; config.json makes it \[8\]": there | {name: np.ones(5, np.float32)},
        "is F16, .*are F32": there | {name: np.ones(8, np.float16)},
        "is no part of": there | {name.replace(".3.", ".6."): there[name]},
    }
    for says, tensors in wrong.items():
        shutil.copytree(normed, tmp_path, dirs_exist_ok=True)
        save_file(tensors, tmp_path / "model.safetensors")
        with pytest.raises(CheckpointError, match=rf"norms\.[36]\.weight.*{says}"):
            miaotui.load(tmp_path)


def test_heads_that_no_file_could_hold_cost_nothing(normed: Path, tmp_path: Path) -> None:
    shutil.copytree(normed, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    many = {"hidden_size": 2**19, "num_attention_heads": 2**16, "num_key_value_heads": 2**16}
    (tmp_path / "config.json").write_text(json.dumps(config | many))
    with pytest.raises(CheckpointError, match="missing"):
        miaotui.load(tmp_path)
