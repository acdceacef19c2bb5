"""A worker that waits for one-line commands and times what it is told to do; and llama.cpp behind that protocol.

Runs alone in the peer's interpreter (`python -P peer_worker.py FILE.gguf THREADS CONTEXT`; it needs `llama_cpp` and
nothing of miaotui). Each side of a comparison is such a process: it does its round, answers with a line of JSON, and
sleeps in a read until the next line, so that nobody computes while the other is timed.

    prefill ID ID …   clear the cache, feed the ids from position 0        -> {"seconds": […]}
    decode ID ID …    feed the ids one step at a time, after what was fed  -> {"seconds": [… a token]}
    logits            of the last token fed, float32 in base64             -> {"logits": "…"}
    quit              or the end of input
"""

from __future__ import annotations

import base64
import ctypes
import importlib
import importlib.metadata
import json
import sys
import time
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


class Engine(Protocol):
    """What is measured: one sequence in a cache."""

    def about(self) -> dict[str, Any]:
        """Facts for the record: name, version, seconds of loading …."""
        ...

    def prefill(self, ids: Sequence[int]) -> None:
        """Forget what was fed; feed `ids`; compute the logits of the last."""
        ...

    def step(self, token: int) -> None:
        """Feed one token after what was fed; compute its logits."""
        ...

    def logits(self) -> NDArray[np.float32]:
        """[n_vocab] of the last token fed."""
        ...


def answer(engine: Engine, line: str) -> dict[str, Any]:
    """Do what one line says. ValueError: no such command."""
    command, *rest = line.split()
    ids = [int(word) for word in rest]
    seconds = []
    if command == "logits":
        return {"logits": base64.b64encode(np.asarray(engine.logits(), np.float32).tobytes()).decode()}
    if command == "prefill":
        start = time.perf_counter()
        engine.prefill(ids)
        seconds.append(time.perf_counter() - start)
    elif command == "decode":
        for token in ids:
            start = time.perf_counter()
            engine.step(token)
            seconds.append(time.perf_counter() - start)
    else:
        msg = f"command {command!r}: expected prefill, decode, logits or quit"
        raise ValueError(msg)
    return {"seconds": seconds}


def serve(engine: Engine) -> None:
    """Say what the engine is, then obey standard input until `quit`."""
    _say(engine.about())
    for line in sys.stdin:
        if line.strip() == "quit":
            return
        _say(answer(engine, line))


def _say(what: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


class LlamaCpp:
    """llama.cpp through its C functions: no sampler, no Python between its operations."""

    def __init__(self, path: str, threads: int, context: int) -> None:
        """Load the file and make a context."""
        start = time.perf_counter()
        lib: Any = importlib.import_module("llama_cpp")
        self._quiet = lib.llama_log_callback(lambda _level, _text, _data: None)  # kept: C holds its address
        lib.llama_log_set(self._quiet, ctypes.c_void_p(0))
        lib.llama_backend_init()
        self._lib = lib
        self._model = lib.llama_model_load_from_file(path.encode(), lib.llama_model_default_params())
        if not self._model:
            msg = "llama.cpp could not load the file"
            raise RuntimeError(msg)
        params = lib.llama_context_default_params()
        params.n_ctx, params.n_threads, params.n_threads_batch = context, threads, threads
        params.n_batch, params.n_ubatch = context, min(context, 512)
        self._context = lib.llama_init_from_model(self._model, params)
        if not self._context:
            msg = "llama.cpp could not make a context"
            raise RuntimeError(msg)
        self._load = time.perf_counter() - start

    def about(self) -> dict[str, Any]:
        """Name, version, what it was built for, and how it was set."""
        lib = self._lib
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
        self._lib.llama_memory_clear(self._lib.llama_get_memory(self._context), with_data)
        self._feed(ids)

    def step(self, token: int) -> None:
        """Decode a batch of one."""
        self._feed([token])

    def logits(self) -> NDArray[np.float32]:
        """Copy the logits of the last token."""
        n = self._lib.llama_vocab_n_tokens(self._lib.llama_model_get_vocab(self._model))
        return np.ctypeslib.as_array(self._lib.llama_get_logits_ith(self._context, -1), (n,)).copy()

    def _feed(self, ids: Sequence[int]) -> None:
        tokens = (self._lib.llama_token * len(ids))(*ids)
        code = self._lib.llama_decode(self._context, self._lib.llama_batch_get_one(tokens, len(ids)))
        self._lib.llama_synchronize(self._context)
        if code:
            msg = f"llama_decode gave {code} for {len(ids)} tokens, expected 0"
            raise RuntimeError(msg)


if __name__ == "__main__":
    serve(LlamaCpp(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
