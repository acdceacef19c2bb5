"""llama.cpp's decode of several sequences in one batch, through its C functions.

A step is one `llama_decode` of a token of each sequence, with logits of each, and the greedy id of every row (NumPy's
argmax, which is faster than llama.cpp's greedy sampler). Between steps Python writes two arrays of as many numbers as
there are sequences.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from . import llamacpp
from .worker import texts_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

PACKAGES, DTYPES, convert = llamacpp.PACKAGES, llamacpp.DTYPES, llamacpp.convert
TRIED = 3  # steps with each layout of the cache, after one to warm up


class Batch:
    """`llama_batch` of at most `n` tokens, its arrays as NumPy's."""

    def __init__(self, lib: Any, n: int) -> None:  # noqa: ANN401 - a module without types
        """Allocate it."""
        self._lib, self.raw = lib, lib.llama_batch_init(n, 0, 1)
        raw = self.raw
        self.token, self.position = (np.ctypeslib.as_array(array, (n,)) for array in (raw.token, raw.pos))
        self.wants = np.ctypeslib.as_array(raw.logits, (n,))
        np.ctypeslib.as_array(raw.n_seq_id, (n,))[:] = 1

    def set(self, tokens: Sequence[int], positions: Sequence[int], sequences: Sequence[int], *, logits: bool) -> None:
        """Fill it from the start."""
        n = self.raw.n_tokens = len(tokens)
        self.token[:n], self.position[:n], self.wants[:n] = tokens, positions, logits
        for i, sequence in enumerate(sequences):
            self.raw.seq_id[i][0] = sequence

    def close(self) -> None:
        """Free it."""
        self._lib.llama_batch_free(self.raw)


class Engine:
    """As many sequences as `fill` was given texts; `context` is the slots of each."""

    def __init__(self, path: Path, dtype: str, threads: int, context: int) -> None:
        """Load the file."""
        self._loaded = llamacpp.Engine(path, dtype, threads, 32)
        self._lib, self._model = self._loaded.lib, self._loaded.model
        self._threads, self._slots, self._context, self._layout = threads, context, None, ""
        self._n_vocab: int = self._lib.llama_vocab_n_tokens(self._lib.llama_model_get_vocab(self._model))
        self._last: list[int] = []
        self._length: list[int] = []
        self.own: Mapping[str, Callable[[Sequence[int]], dict[str, Any]]] = {
            "fill": self.fill,
            "together": self.together,
            "layout": lambda _: {"layout": self._layout},
        }

    def about(self) -> dict[str, Any]:
        """As `llamacpp.Engine`'s."""
        return self._loaded.about() | {"context": self._slots}

    def fill(self, words: Sequence[int]) -> dict[str, Any]:
        """Each text in a context that was made for this many; of its two layouts of the cache the faster one.

        Either every sequence has its own part of the cache, or they share one ("unified", attention then reads all of
        it for each).
        """
        texts, start, tried = texts_of(words), time.perf_counter(), dict[bool, float]()
        for unified in (True, False):
            self._open(texts, unified=unified)
            self._steps(1, 0, len(texts))
            begun = time.perf_counter()
            self._steps(TRIED, 0, len(texts))
            tried[unified] = time.perf_counter() - begun
        best = min(tried, key=lambda unified: tried[unified])
        self._layout = "unified" if best else "a part for each"
        if best:
            self._open(texts, unified=True)
        else:
            self._forget_steps(texts)
        return {"seconds": [time.perf_counter() - start]}

    def _forget_steps(self, texts: Sequence[Sequence[int]]) -> None:
        """Back to all but the last id of each text."""
        memory = self._lib.llama_get_memory(self._context)
        self._last, self._length = [text[-1] for text in texts], [len(text) - 1 for text in texts]
        for sequence, length in enumerate(self._length):
            if not self._lib.llama_memory_seq_rm(memory, sequence, length, -1):
                msg = f"llama.cpp kept what follows position {length} of sequence {sequence}"
                raise RuntimeError(msg)

    def together(self, words: Sequence[int]) -> dict[str, Any]:
        """N steps of the sequences FIRST to FIRST + HOW_MANY - 1."""
        start = time.perf_counter()
        ids = self._steps(*words)
        return {"seconds": [time.perf_counter() - start], "ids": ids}

    def _steps(self, n: int, first: int, count: int) -> list[list[int]]:
        chosen = range(first, first + count)
        batch, ids = Batch(self._lib, count), [list[int]() for _ in chosen]
        batch.set(self._last[first : first + count], self._length[first : first + count], chosen, logits=True)
        rows: NDArray[np.int64] = np.array(batch.token[:count], np.int64)
        for _ in range(n):
            self._decode(batch)
            logits = np.ctypeslib.as_array(self._lib.llama_get_logits(self._context), (count, self._n_vocab))
            rows = logits.argmax(1)
            batch.token[:count] = rows
            batch.position[:count] += 1
            for each, token in zip(ids, rows.tolist(), strict=True):
                each.append(token)
        batch.close()
        for i, token in zip(chosen, rows.tolist(), strict=True):
            self._last[i], self._length[i] = token, self._length[i] + n
        return ids

    def _open(self, texts: Sequence[Sequence[int]], *, unified: bool) -> None:
        """Make a context, and read all but the last id of each text."""
        lib, n = self._lib, len(texts)
        if self._context is not None:
            lib.llama_free(self._context)
        params = lib.llama_context_default_params()
        params.n_ctx, params.n_seq_max, params.kv_unified = n * self._slots, n, unified
        params.n_threads = params.n_threads_batch = self._threads
        params.n_batch = params.n_ubatch = 512
        self._context = lib.llama_init_from_model(self._model, params)
        if not self._context:
            msg = f"llama.cpp could not make a context of {n} sequences"
            raise RuntimeError(msg)
        self._last, self._length = [text[-1] for text in texts], [len(text) - 1 for text in texts]
        batch = Batch(lib, params.n_batch)
        for sequence, text in enumerate(texts):
            for at in range(0, len(text) - 1, params.n_batch):
                part = text[at : min(at + params.n_batch, len(text) - 1)]
                batch.set(part, range(at, at + len(part)), [sequence] * len(part), logits=False)
                self._decode(batch)
        batch.close()

    def _decode(self, batch: Batch) -> None:
        code = self._lib.llama_decode(self._context, batch.raw)
        self._lib.llama_synchronize(self._context)
        if code:
            msg = f"llama_decode gave {code} for {batch.raw.n_tokens} tokens, expected 0"
            raise RuntimeError(msg)
