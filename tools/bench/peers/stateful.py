"""OpenVINO on the CPU: a stateful model, as its own export writes it, whose KV cache lies inside the plugin."""

from __future__ import annotations

import importlib
import importlib.metadata
import time
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

PACKAGES = ("openvino", "optimum.intel", "nncf", "torch", "transformers")
#: our dtype -> what the weights are compressed to: None, or bits and what the export is told besides them
DTYPES: dict[str, dict[str, Any] | None] = {
    "f32": None,
    "bf16": None,
    "int8": {"bits": 8, "sym": False},
    "int4": {"bits": 4, "sym": True, "group_size": 32, "all_layers": True},
}
#: what the plugin computes in; rounded weights: whatever it holds best, activations rounded on the fly
SETTINGS: dict[str, dict[str, Any]] = {
    "f32": {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"},
    "bf16": {"INFERENCE_PRECISION_HINT": "bf16", "KV_CACHE_PRECISION": "bf16"},
    "int8": {"INFERENCE_PRECISION_HINT": "bf16"},  # its fastest: a tenth above f32 where the CPU has BF16 dots
    "int4": {"INFERENCE_PRECISION_HINT": "bf16"},
}


def convert(model: Path, out: Path, dtype: str) -> None:
    """Export with optimum-intel, and let the head see the last token only."""
    ov: Any = importlib.import_module("openvino")
    intel: Any = importlib.import_module("optimum.intel")
    how = DTYPES[dtype]
    options = {"quantization_config": intel.OVWeightQuantizationConfig(**how)} if how else {"load_in_8bit": False}
    exported = intel.OVModelForCausalLM.from_pretrained(model, export=True, compile=False, dtype="float32", **options)
    graph = exported.model
    (head,) = [r for r in graph.get_results() if "logits" in r.input(0).get_tensor().get_names()]
    matmul = head.input(0).get_source_output().get_node()
    while matmul.get_type_name() != "MatMul":
        matmul = matmul.input(0).get_source_output().get_node()
    ops = importlib.import_module("openvino.opset13")
    one, axis, end = (np.array([n], np.int64) for n in (1, 1, np.iinfo(np.int64).max))
    last = ops.slice(matmul.input(0).get_source_output(), np.array([-1], np.int64), end, one, axis)
    matmul.input(0).replace_source_output(last.output(0))
    graph.validate_nodes_and_infer_types()
    out.mkdir()
    ov.save_model(graph, out / "model.xml", compress_to_fp16=False)


class Engine:
    """One sequence in one infer request."""

    def __init__(self, path: Path, dtype: str, threads: int, _context: int) -> None:
        """Compile the model."""
        start = time.perf_counter()
        ov: Any = importlib.import_module("openvino")
        self._settings = SETTINGS[dtype] | {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
        compiled = ov.Core().compile_model(path / "model.xml", "CPU", self._settings)
        self._names = {name for i in compiled.inputs for name in i.get_names()}
        self._request = compiled.create_infer_request()
        self._at = 0
        self._load = time.perf_counter() - start

    def about(self) -> dict[str, Any]:
        """Name, version, and how it was set."""
        return {
            "name": "openvino",
            "version": importlib.metadata.version("openvino"),
            "settings": self._settings,
            "load_s": self._load,
        }

    def prefill(self, ids: Sequence[int]) -> None:
        """Forget, and feed the ids."""
        self._request.reset_state()
        self._at = 0
        self._feed(ids)

    def step(self, token: int) -> None:
        """Feed one token."""
        self._feed([token])

    def logits(self) -> NDArray[np.float32]:
        """[n_vocab] of the last token."""
        logits: NDArray[np.float32] = np.array(self._request.get_tensor("logits").data, np.float32)[0, -1]
        return logits

    def _feed(self, ids: Sequence[int]) -> None:
        stop = self._at + len(ids)
        given = {
            "input_ids": np.array([ids], np.int64),
            "attention_mask": np.ones((1, stop), np.int64),
            "position_ids": np.arange(self._at, stop, dtype=np.int64)[None],
            "beam_idx": np.zeros(1, np.int32),
        }
        self._request.infer({name: given[name] for name in given if name in self._names}, share_inputs=True)
        self._at = stop
