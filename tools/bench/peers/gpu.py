"""PyTorch and `transformers` on a GPU: the eager forward with a dynamic KV cache. A step ends when the GPU is done."""

from __future__ import annotations

import importlib
import importlib.metadata
import time
from inspect import signature
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

PACKAGES = ("torch", "transformers")
DTYPES = {"f32": "float32", "bf16": "bfloat16"}
DEVICE = "cuda"


def torch_there() -> Any:  # noqa: ANN401 - a module
    """Import torch, for a device that it sees. RuntimeError: it sees none."""
    torch: Any = importlib.import_module("torch")
    if DEVICE == "cuda" and not torch.cuda.is_available():
        msg = f"torch {torch.__version__} sees no GPU: expected a build for CUDA, and a driver that it takes"
        raise RuntimeError(msg)
    torch.set_grad_enabled(False)
    return torch


class Engine:
    """One sequence; it reads the Hugging Face directory itself."""

    def __init__(self, path: Path, dtype: str, _threads: int, _context: int) -> None:
        """Load the model."""
        start = time.perf_counter()
        self._torch = torch_there()
        self._transformers: Any = importlib.import_module("transformers")
        auto, kind = self._transformers.AutoModelForCausalLM, getattr(self._torch, DTYPES[dtype])
        self._model = auto.from_pretrained(path, dtype=kind, attn_implementation="sdpa").to(DEVICE).eval()
        #: Newer versions have another word for the cache.
        self._word = "cache" if "cache" in signature(self._model.forward).parameters else "past_key_values"
        self._load = time.perf_counter() - start

    def about(self) -> dict[str, Any]:
        """Name, versions, and how it was set."""
        return {
            "name": "transformers",
            "version": self._transformers.__version__,
            "torch": str(self._torch.__version__),
            "cuda": self._torch.version.cuda,
            "attention": self._model.config._attn_implementation,  # noqa: SLF001 - what was taken
            "load_s": self._load,
        }

    def prefill(self, ids: Sequence[int]) -> None:
        """Feed the ids to a new cache."""
        self._begin()
        self._feed(ids)

    def step(self, token: int) -> None:
        """Feed one token."""
        self._feed([token])

    def logits(self) -> NDArray[np.float32]:
        """[n_vocab] of the last token."""
        return np.asarray(self._logits.float().cpu().numpy())

    def _begin(self) -> None:
        self._cache = self._transformers.DynamicCache()

    def _feed(self, ids: Sequence[int]) -> None:
        tokens = self._torch.tensor([ids], device=DEVICE)
        self._logits = self._forward(input_ids=tokens)
        self._wait()

    def _forward(self, **inputs: Any) -> Any:  # noqa: ANN401 - tensors
        out = self._model(**inputs, **{self._word: self._cache}, use_cache=True, logits_to_keep=1)
        return out.logits[0, -1]

    def _wait(self) -> None:
        if DEVICE == "cuda":
            self._torch.cuda.synchronize()
