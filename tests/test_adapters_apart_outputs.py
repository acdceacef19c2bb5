"""Adapters that PEFT wrote, kept apart: a text that chooses one gets PEFT's own output, next to texts that do not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import miaotui
import numpy as np
import pytest
from adapter_outputs import CASES, DECODER_IDS, IDS, SEQ2SEQ, Case
from miaotui.errors import InputError
from test_adapters import DATA, OUTPUTS, write_base
from tolerance import bound

if TYPE_CHECKING:
    from pathlib import Path

#: Of ring `fast`: a plain one, DoRA of a fused matrix that is stored turned, an encoder-decoder; an embedding's rows by
#: A and B, some of its rows and the tied head's, both whole, biases.
FAST = ("plain", "gpt2-dora", "bart", "embedding-tied", "tokens-tied", "saved-both", "biases")
#: Norms of their own, and biases of norms.
REFUSED = dict.fromkeys(("saved-norms", "gpt2", "gemma", "roberta"), "weights in place of the model's own")


def answers(case: Case, model: miaotui.Model, adapter: str | None) -> np.ndarray:
    """What PEFT's model was asked."""
    if case.auto == SEQ2SEQ:
        return model.logits(IDS, decoder_ids=DECODER_IDS, adapter=adapter)
    return model.hidden(IDS, adapter=adapter) if case.auto == "AutoModel" else model.logits(IDS, adapter=adapter)


@pytest.mark.parametrize("name", [name if name in FAST else pytest.param(name, marks=pytest.mark.ci) for name in CASES])
def test_outputs_are_those_of_peft(name: str, tmp_path: Path) -> None:
    case, wanted = CASES[name], np.array(OUTPUTS[name])
    write_base(case, tmp_path)
    if name in REFUSED:
        with pytest.raises(InputError, match=rf"adapters: 'a', .*{name}: has {REFUSED[name]}.*load\(adapter="):
            miaotui.load(tmp_path, adapters={"a": DATA / name})
        return
    with miaotui.load(tmp_path) as model:
        plain = answers(case, model, None)
    near = bound("model", "f32", 2, float(np.abs(wanted).max()))
    with miaotui.load(tmp_path, adapters={"a": DATA / name, "b": DATA / name}, threads=2) as model:
        for adapter in ("a", None, "b"):
            ours = answers(case, model, adapter)
            if adapter is None:
                assert ours.tobytes() == plain.tobytes()
            else:
                assert np.abs(ours - wanted).max() <= near
                assert np.abs(ours - plain).max() > 100 * near  # the adapter is in it
