"""PyTorch and `transformers`: the eager forward with a dynamic KV cache, and logits of the last token only."""

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

PACKAGES = ("torch", "transformers")
DTYPES = {"f32": "float32", "bf16": "bfloat16"}


class Engine:
    """One sequence; it reads the Hugging Face directory itself."""

    def __init__(self, path: Path, dtype: str, threads: int, _context: int) -> None:
        """Load the model."""
        start = time.perf_counter()
        self._torch: Any = importlib.import_module("torch")
        self._transformers: Any = importlib.import_module("transformers")
        self._torch.set_num_threads(threads)
        self._torch.set_grad_enabled(False)
        auto = self._transformers.AutoModelForCausalLM
        kind = getattr(self._torch, DTYPES[dtype])
        self._model = auto.from_pretrained(path, dtype=kind, attn_implementation="sdpa").eval()
        self._load = time.perf_counter() - start

    def about(self) -> dict[str, Any]:
        """Name, versions, and how it was set."""
        return {
            "name": "torch",
            "version": str(self._torch.__version__),
            "transformers": self._transformers.__version__,
            "threads": self._torch.get_num_threads(),
            "attention": self._model.config._attn_implementation,  # noqa: SLF001 - what was taken
            "load_s": self._load,
        }

    def prefill(self, ids: Sequence[int]) -> None:
        """Feed the ids to a new cache."""
        self._cache = self._transformers.DynamicCache()
        self._feed(ids)

    def step(self, token: int) -> None:
        """Feed one token."""
        self._feed([token])

    def logits(self) -> NDArray[np.float32]:
        """[n_vocab] of the last token."""
        return np.asarray(self._logits.float().numpy())

    def _feed(self, ids: Sequence[int]) -> None:
        tokens = self._torch.tensor([ids])
        out = self._model(input_ids=tokens, past_key_values=self._cache, use_cache=True, logits_to_keep=1)
        self._logits = out.logits[0, -1]
