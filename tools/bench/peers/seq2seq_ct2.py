"""CTranslate2 on the CPU: its translator, greedy, as long an answer as is asked for."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import time
from typing import TYPE_CHECKING, Any

from .encoder_ct2 import DTYPES, PACKAGES, convert

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["DTYPES", "PACKAGES", "Engine", "convert"]


class Engine:
    """One translator."""

    def __init__(self, path: Path, dtype: str, threads: int, _context: int) -> None:
        """Load the model."""
        start = time.perf_counter()
        ct2: Any = importlib.import_module("ctranslate2")
        self._model = ct2.Translator(
            str(path), device="cpu", compute_type=DTYPES[dtype], inter_threads=1, intra_threads=threads
        )
        self._tokens: list[str] = json.loads((path / "shared_vocabulary.json").read_text(encoding="utf-8"))
        self._ids = {token: i for i, token in enumerate(self._tokens)}
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

    def answer(self, ids: Sequence[int], n: int) -> list[int]:
        """Greedily n ids."""
        source = [self._tokens[i] for i in ids]
        (result,) = self._model.translate_batch(
            [source], beam_size=1, max_decoding_length=n, min_decoding_length=n, max_input_length=0
        )
        return [self._ids[token] for token in result.hypotheses[0]]
