"""Decoders whose every op the GPU has, on the emulated one against the CPU: norms elsewhere, positions, windows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import soak
from emulation import EmulatedDevice
from miaotui.runtime.cuda import driver
from test_cuda_models import compare
from test_decoders import VARIANTS, made, small

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.ci  # 10 s each
#: Norms of what a sublayer returns, and of whole queries; norms of ones; learned positions from a later row; norms of
#: sums, and an embedding of its own width; biases and windows; layers that rotate nothing; one key for all queries.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    **{family: (family, {}) for family in ("olmo2", "olmo", "opt", "starcoder2", "smollm3", "gpt_bigcode", "olmo3")},
    "opt-350m": VARIANTS["opt-350m"],
}


@pytest.mark.parametrize("name", soak.rest("cuda", CASES, ["olmo2", "gpt_bigcode", "smollm3"]))
def test_ids_and_logits_are_those_of_the_cpu(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "CudaDevice", EmulatedDevice)
    family, more = CASES[name]
    made(small(family, num_hidden_layers=2, layer_types=None, attention_types=None, **more), tmp_path)
    compare(tmp_path, prefill_chunk=3)
