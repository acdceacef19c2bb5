"""onnxruntime-genai on the CPU: a model of its own builder, driven by its generator, which samples nothing here."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

PACKAGES = ("onnxruntime_genai", "onnx", "onnx_ir", "torch", "transformers")
#: the builder's precision; int8 and int4: MatMulNBits, groups of 32, activations in int8 (the builder's defaults)
DTYPES = {"f32": "fp32", "int8": "int8", "int4": "int4"}


def convert(model: Path, out: Path, dtype: str) -> None:
    """Run the builder; the head is asked for the last token's logits only."""
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", str(model), "-o", str(out)]
        command += ["-p", DTYPES[dtype], "-e", "cpu", "-c", scratch, "--extra_options", "prune_lm_head=true"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=scratch)  # noqa: S603 - our own words


class Engine:
    """One sequence; a prefill rewinds it to nothing."""

    def __init__(self, path: Path, _dtype: str, threads: int, context: int) -> None:
        """Load the model and make a generator."""
        start = time.perf_counter()
        og: Any = importlib.import_module("onnxruntime_genai")
        config = og.Config(str(path))
        config.overlay(json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": threads}}}}))
        self._model = og.Model(config)
        params = og.GeneratorParams(self._model)
        params.set_search_options(max_length=context, min_length=0, do_sample=False)
        self._generator = og.Generator(self._model, params)
        self._threads = threads
        self._load = time.perf_counter() - start

    def about(self) -> dict[str, Any]:
        """Name, version, and how it was set."""
        return {
            "name": "onnxruntime-genai",
            "version": importlib.metadata.version("onnxruntime-genai"),
            "threads": self._threads,
            "load_s": self._load,
        }

    def prefill(self, ids: Sequence[int]) -> None:
        """Rewind and append."""
        self._generator.rewind_to(0)
        self._generator.append_tokens(np.array([ids], np.int32))

    def step(self, token: int) -> None:
        """Append one token."""
        self._generator.append_tokens(np.array([[token]], np.int32))

    def logits(self) -> NDArray[np.float32]:
        """[n_vocab] of the last token."""
        rows = np.asarray(self._generator.get_logits(), np.float32)
        logits: NDArray[np.float32] = rows.reshape(-1, rows.shape[-1])[-1]
        return logits
