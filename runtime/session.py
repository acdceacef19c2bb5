"""One program, one arena, one sequence: the thing that takes steps."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InputError
from .kvcache import pages_of
from .memory import zeroed
from .program import record
from .rope import RopeTable
from .step import Batch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from .arena import Tensor
    from .cpu.bounds import Checked
    from .cpu.prange import Prange
    from .cpu.team import Team
    from .program import Instruction, Program
    from .spec import Config, Weights

    #: Called with an instruction and what gives its input tensors as arrays.
    Watch = Callable[[Instruction, Callable[[Tensor], NDArray[np.float32]]], None]

__all__ = ["Session"]


class Session:
    """Runs chunks of tokens at given positions. Everything is allocated here, before the first step."""

    def __init__(  # noqa: PLR0913 - keywords
        self,
        config: Config,
        weights: Weights,
        *,
        n_context: int,
        chunk: int = 128,
        n_logits: int = 32,
        threads: int = 1,
        kv_cache: str = "f32",
        fast: bool = False,
    ) -> None:
        """`chunk`: most tokens a pass; `n_logits`: most tokens whose logits a pass gives; the rest as of `Recorder`."""
        chunk = max(1, min(chunk, n_context))
        n_logits = max(1, min(n_logits, chunk))
        table = RopeTable(config, n_context)
        self.program: Program = record(
            config,
            weights,
            n_context=n_context,
            chunk=chunk,
            n_logits=n_logits,
            threads=threads,
            kv_cache=kv_cache,
            fast=fast,
            table=table,
        )
        from .cpu import link  # noqa: PLC0415 (the machine's code is loaded only now)
        from .cpu.target import debugging  # noqa: PLC0415 (as above)

        self.n_context, self.n_vocab, self.threads = n_context, config.n_vocab, threads
        self.chunk, self.n_logits = chunk, n_logits
        self.table, self.weights = table, weights  # addresses point into these
        addresses = link.addresses(i.kernel for i in self.program.code)
        self.code = self.program.encode(addresses.__getitem__)
        self.arena = zeroed(self.program.arena_bytes)
        self._batch = Batch(chunk, n_logits)
        pages = np.arange(pages_of(n_context), dtype=np.int32)
        self._tables = np.tile(pages, (max(1, len(self.program.groups)), 1))
        self._tables_at = int(self._tables.ctypes.data)  # asked for at each step it would leave cycles of objects
        self._logits, self._hidden = (self._view(t) for t in (self.program.logits, self.program.hidden))
        self._last = 0
        self._executor: Team | Prange | Checked = link.executor(threads)
        if debugging():
            from .cpu.bounds import Checked  # noqa: PLC0415 (loads LLVM's compiler)

            self._executor = Checked(self._executor, self.program, self.code, self._batch)
        self._executor.bind(self.code.ctypes.data, len(self.code), self.arena.ctypes.data, self._batch.address)

    def _view(self, t: Tensor) -> NDArray[np.float32]:
        return self.arena[t.offset : t.offset + t.nbytes].view(np.float32).reshape(-1, t.width)

    def _first(self, n: int, t: Tensor) -> NDArray[np.float32]:
        return self._view(t)[:n]

    def step(self, ids: Sequence[int] | NDArray[np.int64], start: int, n_logits: int = 1) -> None:
        """Feed `ids` at positions start, start + 1, ...; keep logits and hidden states of the last `n_logits` tokens.

        What lies in the cache at `start` and after is overwritten. Bits do not depend on how a text is cut in steps.
        """
        self._check(ids, start, n_logits)
        n = len(ids)
        last = n - n_logits if n_logits > 1 else n - 1  # the tokens that get logits must lie in one pass
        at = 0
        while at < n:
            size = min(self.chunk, n - at)
            if at < last < at + size and at + size < n:
                size = last - at
            self._pass(ids[at : at + size], start + at, n_logits if at + size == n else 0)
            at += size

    def last_logits(self, sequences: Sequence[Sequence[int] | NDArray[np.int64]]) -> NDArray[np.float32]:
        """float32 [sequences, n_vocab]: logits of the last token of each, as if each were alone, the same bits.

        As many as fit a pass are one: `chunk` tokens, `n_logits` sequences, the pages that there are; one that is
        longer than a pass takes several of its own. The cache is overwritten from its first page on. Errors:
        `InputError`, before any is fed.
        """
        for s in sequences:
            self._check(s, 0, min(1, len(s)))
        out, at = np.empty((len(sequences), self.n_vocab), np.float32), 0
        while at < len(sequences):
            size = self._fitting(sequences[at:])
            if size > 1:
                self._pass_of(sequences[at : at + size])
            else:
                self.step(sequences[at], 0)
            out[at : at + size] = self.logits
            at += size
        return out

    def _fitting(self, sequences: Sequence[Sequence[int] | NDArray[np.int64]]) -> int:
        """How many of the first are one pass, at least 1."""
        tokens = pages = 0
        for i, s in enumerate(sequences[: self.n_logits]):
            tokens, pages = tokens + len(s), pages + pages_of(len(s))
            if tokens > self.chunk or pages > self.program.n_pages:
                return max(1, i)
        return min(len(sequences), self.n_logits)

    def _check(self, ids: Sequence[int] | NDArray[np.int64], start: int, n_logits: int) -> None:
        n = len(ids)
        if n < 1 or start < 0 or start + n > self.n_context:
            msg = f"{n} tokens at position {start} do not fit a context of {self.n_context}"
            raise InputError(msg)
        if not 0 <= n_logits <= min(n, self.n_logits):
            msg = f"logits of {n_logits} tokens asked for; a step gives 0 to {min(n, self.n_logits)}"
            raise InputError(msg)
        if min(ids) < 0 or max(ids) >= self.n_vocab:
            msg = f"token id {min(ids) if min(ids) < 0 else max(ids)} is outside the vocabulary 0 .. {self.n_vocab - 1}"
            raise InputError(msg)

    def _pass(self, ids: Sequence[int] | NDArray[np.int64], start: int, n_logits: int) -> None:
        self._one(ids, start, n_logits)
        self._executor.step()
        self._last = n_logits

    def _one(self, ids: Sequence[int] | NDArray[np.int64], start: int, n_logits: int) -> None:
        """Make the batch that of one sequence, whose pages are the pool's in order."""
        self._batch.clear()
        self._batch.add(ids, start, self._tables_at, n_logits)

    def _pass_of(self, sequences: Sequence[Sequence[int] | NDArray[np.int64]]) -> None:
        """One pass over several sequences from their beginnings, each in the pages that follow the one's before."""
        self._batch.clear()
        page = 0
        for s in sequences:  # tables that begin further on name the pages from there on
            self._batch.add(s, 0, self._tables_at + self._tables.itemsize * page, 1)
            page += pages_of(len(s))
        self._executor.step()
        self._last = len(sequences)

    def timed_step(self, ids: Sequence[int] | NDArray[np.int64], start: int) -> NDArray[np.float64]:
        """One pass of at most `chunk` ids, an instruction at a time: seconds of each, less an empty program's."""
        self.step(ids, start)  # checks them, and leaves the batch as this pass needs it
        table, blocks = self.code.ctypes.data, (self.arena.ctypes.data, self._batch.address)
        seconds = np.empty(len(self.code))
        try:
            empty = [self._timed(table, 0, *blocks) for _ in range(32)]
            for i in range(len(self.code)):
                seconds[i] = self._timed(table + i * self.code.strides[0], 1, *blocks)
        finally:
            self._executor.bind(table, len(self.code), *blocks)
        return np.maximum(seconds - np.median(empty), 0)

    def _timed(self, program: int, count: int, arena: int, words: int) -> float:
        self._executor.bind(program, count, arena, words)
        began = time.perf_counter()
        self._executor.step()
        return time.perf_counter() - began

    def watched_step(self, ids: Sequence[int] | NDArray[np.int64], start: int, watch: Watch) -> None:
        """`step` without logits, an instruction at a time: `watch(instruction, view)` is called before each one.

        An instruction's inputs are all there before it runs, and perhaps not after it: results may lie over them.
        `view(tensor)` gives such an input, float32 [tokens of the pass, width], for as long as the call lasts.
        """
        self._check(ids, start, 0)
        table, blocks = self.code.ctypes.data, (self.arena.ctypes.data, self._batch.address)
        try:
            for at in range(0, len(ids), self.chunk):
                part = ids[at : at + self.chunk]
                n = len(part)
                self._one(part, start + at, 0)
                view = partial(self._first, n)
                for i, instruction in enumerate(self.program.code):
                    watch(instruction, view)
                    self._executor.bind(table + i * self.code.strides[0], 1, *blocks)
                    self._executor.step()
        finally:
            self._executor.bind(table, len(self.code), *blocks)
            self._last = 0

    @property
    def logits(self) -> NDArray[np.float32]:
        """[n_logits, n_vocab] of the last step: a view of the arena, overwritten by the next."""
        return self._logits[: self._last]

    @property
    def hidden(self) -> NDArray[np.float32]:
        """[n_logits, d_model] after the final norm: a view of the arena, overwritten by the next step."""
        return self._hidden[: self._last]

    @property
    def argmax(self) -> int:
        """Greedy id of the last row, the first of equals; -1 if there is none."""
        return int(self._batch.results[self._last - 1]) if self._last else -1

    def close(self) -> None:
        """Stop the threads. The arena goes with the object."""
        self._executor.close()
