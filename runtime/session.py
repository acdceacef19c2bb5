"""One program, one arena, one sequence: the thing that takes steps."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError
from .memory import zeroed
from .program import record

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
        program: Program | None = None,
        n_context: int = 1,
        chunk: int = 128,
        rows: int = 32,
        threads: int = 1,
        kv_cache: str = "f32",
        fast: bool = False,
    ) -> None:
        """`program`: recorded for such weights, and bound to these; else it is recorded by what follows.

        `chunk`: most tokens a pass; `rows`: most tokens whose logits a step gives; the rest as of `Recorder`.
        """
        if program is None:
            chunk = max(1, min(chunk, n_context))
            rows = max(1, min(rows, chunk))
            how: dict[str, Any] = {"threads": threads, "kv_cache": kv_cache, "fast": fast}
            program = record(config, weights, n_context=n_context, chunk=chunk, rows=rows, **how)
        else:
            program = program.bound(weights)
        self.program: Program = program
        from .cpu import link  # noqa: PLC0415 (the machine's code is loaded only now)
        from .cpu.layout import S_IDS  # noqa: PLC0415 (as above)
        from .cpu.target import debugging  # noqa: PLC0415 (as above)

        self.n_context, self.n_vocab, self.threads = program.n_context, config.n_vocab, program.threads
        self.chunk, self.rows = program.chunk, program.rows
        self.ropes, self.weights = program.ropes, weights  # addresses point into these
        addresses = link.addresses(i.kernel for i in self.program.code)
        self.code = self.program.encode(addresses.__getitem__)
        self.arena = zeroed(self.program.arena_bytes)
        self._ids = np.zeros(chunk, np.int64)
        self._words = np.zeros(16, np.int64)
        self._words[S_IDS] = self._ids.ctypes.data
        self._logits, self._hidden = (self._view(t) for t in (self.program.logits, self.program.hidden))
        self._last = 0
        self._executor: Team | Prange | Checked = link.executor(program.threads)
        if debugging():
            from .cpu.bounds import Checked  # noqa: PLC0415 (loads LLVM's compiler)

            self._executor = Checked(self._executor, self.program, self.code, self._words)
        self._executor.bind(self.code.ctypes.data, len(self.code), self.arena.ctypes.data, self._words.ctypes.data)

    def _view(self, t: Tensor) -> NDArray[np.float32]:
        return self.arena[t.offset : t.offset + t.nbytes].view(np.float32).reshape(-1, t.width)

    def _first(self, n: int, t: Tensor) -> NDArray[np.float32]:
        return self._view(t)[:n]

    def step(self, ids: Sequence[int] | NDArray[np.int64], start: int, rows: int = 1) -> None:
        """Feed `ids` at positions start, start + 1, ...; keep logits and hidden states of the last `rows` tokens.

        What lies in the cache at `start` and behind is overwritten. Bits do not depend on how a text is cut in steps.
        """
        self._check(ids, start, rows)
        n = len(ids)
        last = n - rows if rows > 1 else n - 1  # the wanted rows must lie in one pass
        at = 0
        while at < n:
            size = min(self.chunk, n - at)
            if at < last < at + size and at + size < n:
                size = last - at
            self._pass(ids[at : at + size], start + at, rows if at + size == n else 0)
            at += size

    def packed(self, sequences: Sequence[Sequence[int] | NDArray[np.int64]]) -> NDArray[np.float32]:
        """float32 [sequences, n_vocab]: logits of the last token of each, one sequence after the other.

        The cache is overwritten from its first row on. Errors: `InputError`, before any is fed.
        """
        for s in sequences:
            self._check(s, 0, min(1, len(s)))
        out = np.empty((len(sequences), self.n_vocab), np.float32)
        for i, s in enumerate(sequences):
            self.step(s, 0)
            out[i] = self.logits
        return out

    def _check(self, ids: Sequence[int] | NDArray[np.int64], start: int, rows: int) -> None:
        n = len(ids)
        if n < 1 or start < 0 or start + n > self.n_context:
            msg = f"{n} tokens at position {start} do not fit a context of {self.n_context}"
            raise InputError(msg)
        if not 0 <= rows <= min(n, self.rows):
            msg = f"logits of {rows} tokens asked for; a step gives 0 to {min(n, self.rows)}"
            raise InputError(msg)
        if min(ids) < 0 or max(ids) >= self.n_vocab:
            msg = f"token id {min(ids) if min(ids) < 0 else max(ids)} is outside the vocabulary 0 .. {self.n_vocab - 1}"
            raise InputError(msg)

    def _pass(self, ids: Sequence[int] | NDArray[np.int64], start: int, rows: int) -> None:
        n = len(ids)
        self._ids[:n] = ids
        self._words[:3] = n, start, rows
        self._executor.step()
        self._last = rows

    def timed_step(self, ids: Sequence[int] | NDArray[np.int64], start: int) -> NDArray[np.float64]:
        """One pass of at most `chunk` ids, an instruction at a time: seconds of each, less an empty program's."""
        self.step(ids, start)  # checks them, and leaves ids and step block as this pass wants them
        table, blocks = self.code.ctypes.data, (self.arena.ctypes.data, self._words.ctypes.data)
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

        An instruction's inputs are all there before it runs, and perhaps not behind it: results may lie over them.
        `view(tensor)` gives such an input, float32 [tokens of the pass, width], for as long as the call lasts.
        """
        self._check(ids, start, 0)
        table, blocks = self.code.ctypes.data, (self.arena.ctypes.data, self._words.ctypes.data)
        try:
            for at in range(0, len(ids), self.chunk):
                part = ids[at : at + self.chunk]
                n = len(part)
                self._ids[:n] = part
                self._words[:3] = n, start + at, 0
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
        """[rows, n_vocab] of the last step: a view of the arena, overwritten by the next."""
        return self._logits[: self._last]

    @property
    def hidden(self) -> NDArray[np.float32]:
        """[rows, d_model] behind the final norm: a view of the arena, overwritten by the next step."""
        return self._hidden[: self._last]

    @property
    def argmax(self) -> int:
        """Greedy id of the last row, the first of equals; -1 if there is none."""
        return int(self._words[4])

    def close(self) -> None:
        """Stop the threads. The arena goes with the object."""
        self._executor.close()
