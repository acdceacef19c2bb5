"""LoRA adapters merged while reading: equal to PEFT's own forward pass, and to a checkpoint that was merged before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import miaotui
import numpy as np
import pytest
from adapter_outputs import CASES, DECODER_IDS, IDS, SEQ2SEQ, Case, write_base
from tolerance import bound

pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

DATA = Path(__file__).parent / "data" / "adapters"
OUTPUTS: dict[str, Any] = json.loads((DATA / "outputs.json").read_text())
#: Of ring `fast`: a plain one, one of everything else, a fused one that is stored turned.
FAST = ("plain", "embedding-tied", "gpt2-dora")


def answers(case: Case, model: miaotui.Model) -> np.ndarray:
    """What PEFT's model was asked."""
    if case.auto == SEQ2SEQ:
        return model.logits(IDS, decoder_ids=DECODER_IDS)
    return model.hidden(IDS) if case.auto == "AutoModel" else np.atleast_2d(model.logits(IDS))


@pytest.mark.parametrize("name", [name if name in FAST else pytest.param(name, marks=pytest.mark.ci) for name in CASES])
def test_outputs_are_those_of_peft(name: str, tmp_path: Path) -> None:
    case, wanted = CASES[name], np.array(OUTPUTS[name])
    write_base(case, tmp_path)
    with miaotui.load(tmp_path, adapter=DATA / name) as model:
        ours = answers(case, model)
        assert any(note.startswith(f"adapter: {name}: ") for note in model.receipt.notes)
    with miaotui.load(tmp_path) as model:
        without = answers(case, model)
    near = bound("model", "f32", 2, float(np.abs(wanted).max()))
    assert ours.shape == wanted.shape
    assert np.abs(ours - wanted).max() <= near
    assert np.abs(without - wanted).max() > 100 * near  # the adapter is in it
