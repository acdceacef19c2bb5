"""OpenVINO on the CPU: an encoder as it converts PyTorch's; a batch padded to its longest."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from .encoder_ort import exported, padded

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

PACKAGES = ("openvino", "nncf", "torch", "transformers")
#: int8: what its own tool (nncf, for transformers) makes of it: weights by row and activations, both rounded ahead
DTYPES = {"f32": "f32", "int8": "int8"}
SETTINGS: dict[str, dict[str, Any]] = {"f32": {"INFERENCE_PRECISION_HINT": "f32"}, "int8": {}}


def convert(model: Path, out: Path, dtype: str) -> None:
    """Convert; for int8 calibrate with random ids."""
    ov: Any = importlib.import_module("openvino")
    module, example = exported(model)
    graph = ov.convert_model(module, example_input=example)
    if dtype == "int8":
        nncf: Any = importlib.import_module("nncf")
        n_vocab = json.loads((model / "config.json").read_text(encoding="utf-8"))["vocab_size"]
        rng = np.random.default_rng(0)
        drawn = [rng.integers(0, n_vocab, (1, n)) for n in (16, 64, 128) * 4]
        names = [i.get_any_name() for i in graph.inputs]
        data = nncf.Dataset([dict(zip(names, (ids, np.ones_like(ids)), strict=True)) for ids in drawn])
        graph = nncf.quantize(graph, data, model_type=nncf.ModelType.TRANSFORMER, subset_size=len(drawn))
    out.mkdir()
    ov.save_model(graph, out / "model.xml", compress_to_fp16=False)


class Engine:
    """One infer request."""

    def __init__(self, path: Path, dtype: str, threads: int, _context: int) -> None:
        """Compile the model."""
        start = time.perf_counter()
        ov: Any = importlib.import_module("openvino")
        self._settings = SETTINGS[dtype] | {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
        self._request = ov.Core().compile_model(path / "model.xml", "CPU", self._settings).create_infer_request()
        self._load = time.perf_counter() - start

    def about(self) -> dict[str, Any]:
        """Name, version, and how it was set."""
        return {
            "name": "openvino",
            "version": importlib.metadata.version("openvino"),
            "settings": self._settings,
            "load_s": self._load,
        }

    def encode(self, texts: Sequence[Sequence[int]]) -> None:
        """All of them in one padded batch."""
        ids, self._mask = padded(texts)
        self._request.infer([ids, self._mask], share_inputs=True)

    def hidden(self) -> NDArray[np.float32]:
        """[tokens, d_model]."""
        rows: NDArray[np.float32] = np.array(self._request.get_output_tensor(0).data, np.float32)
        return np.asarray(rows[self._mask == 1])
