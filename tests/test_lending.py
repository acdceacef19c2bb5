"""A draft that is a part of the model holds no weight twice, whatever loading makes of the file's numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import miaotui
import numpy as np
import pytest
from checkpoints import Drawn, write_checkpoint
from miaotui.errors import CheckpointError
from miaotui.tools import demo
from safetensors.numpy import load_file, save_file
from test_speculation import CONFIGS, LLAMA

if TYPE_CHECKING:
    from pathlib import Path

    from miaotui.model import Model
    from miaotui.runtime.spec import Weight

LAYERS = {"num_hidden_layers": 4}
#: A model, how it is loaded, its draft, and what of that is its own.
MODELS: dict[str, tuple[dict[str, Any], dict[str, Any], str, set[str]]] = {
    "mapped": (LLAMA | LAYERS, {}, "drop-layers=1", set()),
    "int8": (LLAMA | LAYERS, {"quantize": "int8"}, "drop-layers=1", set()),
    "turned": (CONFIGS["gpt2"] | {"n_layer": 4}, {}, "drop-layers=1", set()),
    "sparse": (LLAMA | LAYERS, {"prune": "sparsity=0.5"}, "drop-layers=1; sparsity=0.5", set()),
    "cut": (LLAMA | LAYERS, {"quantize": "int4a,embed=none"}, "drop-layers=1; ffn=0.5", {"gate", "up", "down"}),
}  # fmt: skip
PROMPT = [5, 9, 3, 7, 5, 9, 3]


def in_memory(model: Model) -> dict[str, Weight]:
    """Weights that are no part of a file, by name."""
    return {weight.name: weight for weight in model.session.weights if not weight.mapped}


def is_lent(weight: Weight, model: Model) -> bool:
    assert weight.array is not None
    return any(np.shares_memory(weight.array, own.array) for own in in_memory(model).values() if own.array is not None)


@pytest.mark.parametrize("kind", MODELS)
def test_what_both_hold_alike_is_there_once(tmp_path: Path, kind: str) -> None:
    config, how, draft, own = MODELS[kind]
    write_checkpoint(tmp_path, Drawn(config))
    with miaotui.load(tmp_path, draft=draft, **how) as model:
        part = model._drafts
        assert part is not None
        made = {name for name, weight in in_memory(part).items() if not is_lent(weight, model)}
        assert {name.rpartition(".")[2] for name in made} == own
        assert part.memory["weights_resident"] == sum(-(-in_memory(part)[name].nbytes // 64) * 64 for name in made)
        assert model.memory["draft"] == part.memory["allocated"]
        with miaotui.load(tmp_path, **(how | {"prune": draft})) as other:
            assert np.array_equal(part.logits(PROMPT), other.logits(PROMPT))
            assert part.memory["weights_mapped"] == other.memory["weights_mapped"]
            assert other.memory["weights_resident"] >= part.memory["weights_resident"]
        answer = model.generate(PROMPT, max_new_tokens=9, ignore_eos=True)
        assert answer.ids == model.generate(PROMPT, max_new_tokens=9, ignore_eos=True, draft=False).ids


def test_what_an_adapter_has_changed_is_there_once() -> None:
    with miaotui.load(demo.path(), adapter=demo.adapter("sea"), draft="drop-layers=4") as model:
        part = model._drafts
        assert part is not None
        assert part.memory["weights_resident"] == 0
        assert in_memory(part)
        assert all(is_lent(weight, model) for weight in in_memory(part).values())
        with miaotui.load(demo.path(), adapter=demo.adapter("sea"), prune="drop-layers=4") as other:
            assert np.array_equal(part.logits(PROMPT), other.logits(PROMPT))


def test_what_is_wrong_with_the_model_is_not_said_of_the_draft(tmp_path: Path) -> None:
    def damaged(name: str, array: np.ndarray) -> np.ndarray:
        return np.full_like(array, np.nan) if name.endswith("layers.1.mlp.up_proj.weight") else array

    write_checkpoint(tmp_path, Drawn(LLAMA | LAYERS))
    file = tmp_path / "model.safetensors"
    save_file({name: damaged(name, array) for name, array in load_file(file).items()}, file)
    with pytest.raises(CheckpointError, match=r"^(?!draft).*layers\.1\.mlp\.up_proj\.weight.* is nan"):
        miaotui.load(tmp_path, draft="drop-layers=0", quantize="int8")
