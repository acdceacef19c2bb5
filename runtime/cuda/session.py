"""A session whose steps run on a GPU, or in the emulator: the CPU's `Session` with another interpreter."""

from __future__ import annotations

import time
from collections import deque
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ...errors import BackendError
from ..program import record
from ..rope import RopeTable
from ..session import Session
from .interpreter import Interpreter
from .kernels.walker import HUNG
from .step import ENDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from ..sampling import Sampler
    from ..session import Watch
    from ..spec import Config, Weights
    from .device import Device

__all__ = ["CudaSession"]

#: Steps that are queued at once, and how many such batches may be under way: the GPU never waits for the host.
BATCH, BATCHES = 8, 2


class CudaSession(Session):
    """Runs chunks of tokens at given positions; logits and hidden states are copied to the host when asked for."""

    def __init__(
        self,
        device: Device,
        config: Config,
        weights: Weights,
        *,
        n_context: int,
        chunk: int = 128,
        n_logits: int = 32,
        kv_cache: str = "f32",
        fast: bool = False,
    ) -> None:
        """As `Session`, on `device`, which closes with it. Errors: `BackendError`."""
        chunk = max(1, min(chunk, n_context))
        n_logits = max(1, min(n_logits, chunk))
        self.table, self.weights = RopeTable(config, n_context), weights
        self.program = record(config, weights, n_context=n_context, chunk=chunk, n_logits=n_logits,
                              kv_cache=kv_cache, fast=fast, table=self.table)  # fmt: skip
        self.n_context, self.n_vocab, self.threads = n_context, config.n_vocab, 1
        self.chunk, self.n_logits = chunk, n_logits
        self.machine = Interpreter(device, self.program)
        self._last = 0

    def _pass(self, ids: Sequence[int] | NDArray[np.int64], start: int, n_logits: int) -> None:
        self.machine.step(ids, start, n_logits)
        self._last = n_logits

    def ahead(
        self, token: int, start: int, n: int, ends: Sequence[int], sampler: Sampler | None = None
    ) -> Iterator[int] | None:
        """The ids that follow `token` at `start`: n, or up to one of `ends`. None: not by this session.

        Greedy ones, or those that `sampler` would draw; the GPU draws them. Steps are queued ahead of the ids that are
        taken; another use of the session ends it. Errors: `InputError` where nothing can be drawn.
        """
        self._check([token], start, 1)
        if len(ends) > ENDS or start + n > self.n_context:
            return None
        return self._ahead(token, start, n, ends, sampler)

    def _ahead(self, token: int, start: int, n: int, ends: Sequence[int], sampler: Sampler | None) -> Iterator[int]:
        machine, queued, taken, ids = self.machine, 0, 0, [token]
        self._last = 1
        machine.aim(token, start, n, ends, sampler)
        waiting: deque[tuple[int, Callable[[], tuple[int, list[int], bool]]]] = deque()
        while taken < n:
            while queued < n and len(waiting) < BATCHES:
                more = min(BATCH, n - queued)
                for _ in range(more):
                    machine.proceed()
                queued += more
                waiting.append((queued, machine.produced()))
            wanted, read = waiting.popleft()
            count, ids, goes_on = read()
            if goes_on and count < wanted:
                machine.checked(HUNG)
            fresh = ids[len(ids) - (count - taken) :]
            if sampler is not None and fresh and fresh[-1] < 0:
                yield from fresh[:-1]
                self._undrawn(sampler, start + count)
            yield from fresh
            taken = count
            if not goes_on:
                break
        if ids[-1] < 0:
            self._check(ids[-1:], start + taken, 1)  # no logits: as if the host had fed it

    def _undrawn(self, sampler: Sampler, position: int) -> None:
        """Say why no id could be drawn: InputError, as the sampler has it."""
        drawn = sampler.draw(self.logits[-1], position)
        msg = f"the GPU drew no id at position {position}, where {drawn} is to be drawn"
        raise BackendError(msg)

    def last_logits(self, sequences: Sequence[Sequence[int] | NDArray[np.int64]]) -> NDArray[np.float32]:
        """float32 [sequences, n_vocab]: logits of the last token of each, as if each were alone, the same bits.

        As many as fit a pass lie one after the other in it (`chunk` tokens, `n_logits` sequences); one longer than
        a pass takes several of its own. The cache is overwritten from its first row on. Errors: `InputError`.
        """
        for s in sequences:
            self._check(s, 0, min(1, len(s)))
        out, at = np.empty((len(sequences), self.n_vocab), np.float32), 0
        while at < len(sequences):
            size = self._fitting(sequences[at:])
            if size > 1:
                self.machine.packed(sequences[at : at + size])
                self._last = size
            else:
                self.step(sequences[at], 0)
                size = 1
            out[at : at + size] = self.logits
            at += size
        return out

    def _fitting(self, sequences: Sequence[Sequence[int] | NDArray[np.int64]]) -> int:
        """How many of the first are one pass."""
        ends = np.cumsum([len(s) for s in sequences[: self.n_logits]])
        return int(np.searchsorted(ends, self.chunk, side="right"))

    def timed_step(self, ids: Sequence[int] | NDArray[np.int64], start: int) -> NDArray[np.float64]:
        """One pass of at most `chunk` ids, an instruction at a time: seconds of each, with its launch and a wait."""
        self.step(ids, start)
        seconds = []
        for line in self.machine.lines:
            began = time.perf_counter()
            self.machine.run(line, len(ids), 1)
            self.machine.device.synchronize()
            seconds.append(time.perf_counter() - began)
        return np.array(seconds)

    def watched_step(self, ids: Sequence[int] | NDArray[np.int64], start: int, watch: Watch) -> None:
        """As `Session.watched_step`; what `view` gives is a copy."""
        self._check(ids, start, 0)
        self._last = 0
        for at in range(0, len(ids), self.chunk):
            part = ids[at : at + self.chunk]
            self.machine.begin(part, start + at, 0)
            view = partial(self.machine.tensor, rows=len(part))
            for instruction, line in zip(self.program.code, self.machine.lines, strict=True):
                watch(instruction, view)
                self.machine.run(line, len(part), 0)

    @property
    def logits(self) -> NDArray[np.float32]:
        """[n_logits, n_vocab] of the last step, a copy."""
        return self.machine.tensor(self.program.logits, self._last)

    @property
    def hidden(self) -> NDArray[np.float32]:
        """[n_logits, d_model] after the final norm, a copy."""
        return self.machine.tensor(self.program.hidden, self._last)

    @property
    def argmax(self) -> int:
        """Greedy id of the last row, the first of equals; -1 if there is none."""
        return self.machine.result

    def close(self) -> None:
        """Give the device's memory back."""
        self.machine.device.close()
