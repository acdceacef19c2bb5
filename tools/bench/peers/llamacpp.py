"""llama.cpp through its C functions: no sampler, no Python between its operations."""

from __future__ import annotations

import ctypes
import importlib
import importlib.metadata
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from .gguf import matrices, write_as, write_gguf  # noqa: F401 - what the worker's words ask for

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

PACKAGES = ("llama_cpp", "gguf")
#: our dtype -> as many bits a weight there; None: as stored
DTYPES = {"f32": None, "bf16": None, "f16": None, "int8": "q8_0", "int4": "q4_0", "int4a": "q4_1"}


def convert(model: Path, out: Path, dtype: str) -> None:
    """Write one GGUF file."""
    write_gguf(model, out, DTYPES[dtype])


class Engine:
    """One sequence in one context."""

    def __init__(self, path: Path, _dtype: str, threads: int, context: int) -> None:
        """Load the file and make a context."""
        start = time.perf_counter()
        lib: Any = importlib.import_module("llama_cpp")
        self._quiet = lib.llama_log_callback(lambda _level, _text, _data: None)  # kept: C holds its address
        lib.llama_log_set(self._quiet, ctypes.c_void_p(0))
        lib.llama_backend_init()
        self.lib = lib
        self.model = lib.llama_model_load_from_file(str(path).encode(), lib.llama_model_default_params())
        if not self.model:
            msg = "llama.cpp could not load the file"
            raise RuntimeError(msg)
        params = lib.llama_context_default_params()
        params.n_ctx, params.n_threads, params.n_threads_batch = context, threads, threads
        params.n_batch, params.n_ubatch = context, min(context, 512)
        self._context = lib.llama_init_from_model(self.model, params)
        if not self._context:
            msg = "llama.cpp could not make a context"
            raise RuntimeError(msg)
        self._load = time.perf_counter() - start

    def about(self) -> dict[str, Any]:
        """Name, version, what it was built for, and how it was set."""
        lib = self.lib
        return {
            "name": "llama.cpp",
            "version": "llama-cpp-python " + importlib.metadata.version("llama-cpp-python"),
            "build": lib.llama_print_system_info().decode().strip(" |\n"),
            "threads": lib.llama_n_threads(self._context),
            "threads_batch": lib.llama_n_threads_batch(self._context),
            "context": lib.llama_n_ctx(self._context),
            "load_s": self._load,
        }

    def prefill(self, ids: Sequence[int]) -> None:
        """Clear the cache and decode one batch; logits of its last token."""
        with_data = True
        self.lib.llama_memory_clear(self.lib.llama_get_memory(self._context), with_data)
        self._feed(ids)

    def step(self, token: int) -> None:
        """Decode a batch of one."""
        self._feed([token])

    def logits(self) -> NDArray[np.float32]:
        """Copy the logits of the last token."""
        n = self.lib.llama_vocab_n_tokens(self.lib.llama_model_get_vocab(self.model))
        return np.ctypeslib.as_array(self.lib.llama_get_logits_ith(self._context, -1), (n,)).copy()

    def _feed(self, ids: Sequence[int]) -> None:
        tokens = (self.lib.llama_token * len(ids))(*ids)
        code = self.lib.llama_decode(self._context, self.lib.llama_batch_get_one(tokens, len(ids)))
        self.lib.llama_synchronize(self._context)
        if code:
            msg = f"llama_decode gave {code} for {len(ids)} tokens, expected 0"
            raise RuntimeError(msg)
