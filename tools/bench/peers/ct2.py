"""CTranslate2 on the CPU: its generator runs in a thread and is halted in its callback between two tokens.

It has no call that feeds one token to a cache, so it decodes its own greedy choices; the cost of a token is the same.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

PACKAGES = ("ctranslate2", "torch", "transformers")
DTYPES = {"f32": "float32", "int8": "int8"}


def convert(model: Path, out: Path, dtype: str) -> None:
    """Run its converter of Hugging Face directories; int8: a scale for each row."""
    converters: Any = importlib.import_module("ctranslate2.converters")
    converters.TransformersConverter(str(model)).convert(str(out), quantization=DTYPES[dtype])


class Engine:
    """One generation at a time."""

    def __init__(self, path: Path, dtype: str, threads: int, context: int) -> None:
        """Load the model."""
        start = time.perf_counter()
        ct2: Any = importlib.import_module("ctranslate2")
        self._model = ct2.Generator(
            str(path), device="cpu", compute_type=DTYPES[dtype], inter_threads=1, intra_threads=threads
        )
        self._view = ct2.StorageView
        self._tokens: list[str] = json.loads((path / "vocabulary.json").read_text(encoding="utf-8"))
        self._context, self._threads = context, threads
        self._go, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self._running: threading.Thread | None = None
        self._stop = False
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

    def prefill(self, ids: Sequence[int]) -> None:
        """End the last generation, begin one, and wait for its first token."""
        self._end()
        self._prompt = list(ids)
        self._running = threading.Thread(target=self._generate, daemon=True)
        self._running.start()
        self._done.acquire()

    def step(self, _token: int) -> None:
        """Let it make one token."""
        self._go.release()
        self._done.acquire()

    def logits(self) -> NDArray[np.float32]:
        """[n_vocab] of the prompt's last token; the prompt is fed again, since a halted generation shows none."""
        self._end()
        ids = self._view.from_array(np.array([self._prompt], np.int32))
        lengths = self._view.from_array(np.array([len(self._prompt)], np.int32))
        logits: NDArray[np.float32] = np.array(self._model.forward_batch(ids, lengths))[0, -1]
        self.prefill(self._prompt)
        return logits

    def _generate(self) -> None:
        prompt = [self._tokens[i] for i in self._prompt]
        room = self._context - len(prompt)
        self._model.generate_batch(
            [prompt],
            max_length=room,
            min_length=room,
            sampling_topk=1,
            include_prompt_in_result=False,
            callback=self._halt,
        )

    def _halt(self, _result: object) -> bool:
        """After each token: say so, sleep until asked for the next; true ends the generation."""
        self._done.release()
        self._go.acquire()
        return self._stop

    def _end(self) -> None:
        if self._running is None:
            return
        self._stop = True
        self._go.release()
        self._running.join()
        self._running = None
        self._stop = False
        self._go, self._done = threading.Semaphore(0), threading.Semaphore(0)
