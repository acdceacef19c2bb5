"""An adapter in a load makes the bits of a checkpoint into which it was merged: whole, cut, thinned and quantised."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from adapters import Written, adapters, merged, write_adapter
from checkpoints import FAMILIES, Drawn, models, write_checkpoint, write_safetensors
from helpers import by_name
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from miaotui.loader.load_plan import make_load_plan
from miaotui.loader.open import open_model
from miaotui.loader.pack import pack
from miaotui.loader.prune.compiled import compile_plan
from pruning import plans, with_zeros

if TYPE_CHECKING:
    from pathlib import Path

    from miaotui.loader.prune.plan import PrunePlan

SETTINGS = settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck), print_blob=False)


def weights_of(path: Path, adapter: Path | None, quantize: str | None, prune: PrunePlan | None) -> dict[str, Any]:
    """Every weight's dtype and bytes, by name."""
    with open_model(path, adapter=adapter) as opened:
        plan = make_load_plan(opened, quantize, compile_plan(prune, opened.config, opened.checkpoint))
        made = by_name(pack(plan, opened.checkpoint))
        return {name: (w.dtype, w.shape, np.ascontiguousarray(w.array).tobytes()) for name, w in made.items()}


def write_merged(folder: Path, base: Drawn, tensors: dict[str, np.ndarray], adapter: Written) -> Path:
    """The base with the adapter in it, by NumPy."""
    folder.mkdir(parents=True, exist_ok=True)
    left, config = merged(tensors, base.config, adapter, base.dtype)
    (folder / "config.json").write_text(json.dumps(config))
    write_safetensors(folder / "model.safetensors", left, dtype=base.dtype)
    return folder


@pytest.mark.parametrize("family", FAMILIES)
@SETTINGS
@given(data=st.data())
def test_a_load_with_an_adapter_has_the_bits_of_the_merged_model(
    family: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    drawn, at = data.draw(models(family)), tmp_path_factory.mktemp("adapter")
    tensors = write_checkpoint(at / "base", drawn)
    adapter = data.draw(adapters(tensors, drawn.config))
    path = write_adapter(at / "adapter", adapter)
    whole = write_merged(at / "merged", drawn, tensors, adapter)
    with open_model(at / "base") as opened:
        config = opened.config
    prune = data.draw(st.none() | plans(config))
    if prune is not None and data.draw(st.booleans()):
        prune = with_zeros(data.draw, config, prune)
    quantize = data.draw(st.sampled_from([None, None, "int8", "int4,embed=int8", "q=int4a"]))
    ours = weights_of(at / "base", path, quantize, prune)
    wanted = weights_of(whole, None, quantize, prune)
    assert ours.keys() == wanted.keys()
    for name, of in wanted.items():
        assert ours[name] == of, name
