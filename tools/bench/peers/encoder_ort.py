"""onnxruntime on the CPU: an encoder as PyTorch exports it, fused by its optimiser; batches padded to the longest."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import time
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

PACKAGES = ("onnxruntime", "onnx", "torch", "transformers")
#: int8: weights by row, activations rounded on the fly, all of a tensor with one scale
DTYPES = {"f32": "float32", "int8": "int8"}


def exported(model: Path) -> tuple[Any, Any]:
    """A module (ids, mask) -> the last layer's rows, and what to trace it with."""
    torch: Any = importlib.import_module("torch")
    transformers: Any = importlib.import_module("transformers")
    encoder = transformers.AutoModel.from_pretrained(model, attn_implementation="eager").eval()

    class Rows(torch.nn.Module):  # type: ignore[misc]  # torch is not imported here
        def __init__(self) -> None:
            super().__init__()
            self.encoder = encoder

        def forward(self, ids: Any, mask: Any) -> Any:  # noqa: ANN401 - tensors
            return self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state

    ids = torch.ones((2, 8), dtype=torch.int64)
    return Rows().eval(), (ids, torch.ones_like(ids))


def padded(texts: Sequence[Sequence[int]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ids and mask [texts, the longest's tokens]."""
    ids = np.zeros((len(texts), max(map(len, texts))), np.int64)
    mask = np.zeros_like(ids)
    for i, text in enumerate(texts):
        ids[i, : len(text)], mask[i, : len(text)] = text, 1
    return ids, mask


def convert(model: Path, out: Path, dtype: str) -> None:
    """Export, fuse, and for int8 round the weights of products."""
    torch: Any = importlib.import_module("torch")
    optimizer: Any = importlib.import_module("onnxruntime.transformers.optimizer")
    module, example = exported(model)
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    out.mkdir()
    plain, axes = out / "plain.onnx", {0: "batch", 1: "tokens"}
    torch.onnx.export(
        module, example, str(plain), input_names=["ids", "mask"], output_names=["rows"],
        dynamic_axes={"ids": axes, "mask": axes, "rows": axes}, opset_version=17, dynamo=False,
    )  # fmt: skip
    fused = optimizer.optimize_model(
        str(plain), "bert", num_heads=config["num_attention_heads"], hidden_size=config["hidden_size"]
    )
    (out / "fused.json").write_text(json.dumps(fused.get_fused_operator_statistics()), encoding="utf-8")
    fused.save_model_to_file(str(out / "model.onnx"))
    plain.unlink()
    if dtype == "int8":
        quantization: Any = importlib.import_module("onnxruntime.quantization")
        onnx: Any = importlib.import_module("onnx")
        quantization.quantize_dynamic(  # shapes of its own fused operators are not inferred: all are float
            str(out / "model.onnx"), str(out / "int8.onnx"), per_channel=True,
            weight_type=quantization.QuantType.QInt8, extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
        )  # fmt: skip
        (out / "int8.onnx").replace(out / "model.onnx")


class Engine:
    """One session."""

    def __init__(self, path: Path, _dtype: str, threads: int, _context: int) -> None:
        """Load the graph."""
        start = time.perf_counter()
        ort: Any = importlib.import_module("onnxruntime")
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "1")
        options.add_session_config_entry("session.force_spinning_stop", "1")  # or it looks for work for 0.7 s more
        self._session = ort.InferenceSession(str(path / "model.onnx"), options, providers=["CPUExecutionProvider"])
        self._threads = threads
        self._fused = json.loads((path / "fused.json").read_text(encoding="utf-8"))
        self._load = time.perf_counter() - start

    def about(self) -> dict[str, Any]:
        """Name, version, and how it was set."""
        return {
            "name": "onnxruntime",
            "version": importlib.metadata.version("onnxruntime"),
            "threads": self._threads,
            "fused": {name: n for name, n in self._fused.items() if n},
            "load_s": self._load,
        }

    def encode(self, texts: Sequence[Sequence[int]]) -> None:
        """All of them in one padded batch."""
        ids, self._mask = padded(texts)
        (self._rows,) = self._session.run(None, {"ids": ids, "mask": self._mask})

    def hidden(self) -> NDArray[np.float32]:
        """[tokens, d_model]."""
        return np.asarray(self._rows[self._mask == 1], np.float32)
