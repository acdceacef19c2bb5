"""CTranslate2 on the CPU: an encoder; it leaves padding out of its products by itself."""

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

PACKAGES = ("ctranslate2", "torch", "transformers")
#: int8: weights and activations by row, the latter on the fly
DTYPES = {"f32": "float32", "int8": "int8"}


def convert(model: Path, out: Path, dtype: str) -> None:
    """Run its converter of Hugging Face directories."""
    converters: Any = importlib.import_module("ctranslate2.converters")
    converters.TransformersConverter(str(model)).convert(str(out), quantization=DTYPES[dtype])


class Engine:
    """One encoder."""

    def __init__(self, path: Path, dtype: str, threads: int, _context: int) -> None:
        """Load the model."""
        start = time.perf_counter()
        ct2: Any = importlib.import_module("ctranslate2")
        self._model = ct2.Encoder(
            str(path), device="cpu", compute_type=DTYPES[dtype], inter_threads=1, intra_threads=threads
        )
        self._threads = threads
        self._load = time.perf_counter() - start

    def about(self) -> dict[str, Any]:
        """Name, version, and how it was set."""
        return {
            "name": "ctranslate2",
            "version": importlib.metadata.version("ctranslate2"),
            "threads": self._threads,
            "compute_type": self._model.compute_type,
            "load_s": self._load,
        }

    def encode(self, texts: Sequence[Sequence[int]]) -> None:
        """All of them at once."""
        self._lengths = [len(text) for text in texts]
        self._rows = self._model.forward_batch([list(text) for text in texts]).last_hidden_state

    def hidden(self) -> NDArray[np.float32]:
        """[tokens, d_model]."""
        rows = np.array(self._rows, np.float32)
        return np.concatenate([rows[i, :n] for i, n in enumerate(self._lengths)])
