"""A GPU, or the emulator of one, as a backend: the program's lines on a device."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

import numpy as np

from ...errors import BackendError
from ..step import Q_COUNT, T_ID
from .interpreter import Interpreter
from .kernels.walker import HUNG
from .step import ENDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from ..arena import Tensor
    from ..program import Program
    from ..sampling import Sampler
    from ..spec import Weights
    from ..step import Batch
    from .device import Device

__all__ = ["CudaBackend"]

#: Steps that are queued at once, and how many such batches may be under way: the GPU never waits for the host.
QUEUED, UNDER_WAY = 8, 2


class CudaBackend:
    """A `Backend` (`runtime/backend.py`) whose cache lies as its kernels have it: that of one sequence at a time."""

    name = "cuda"
    paged = False
    works_ahead = True
    survives_fork = False
    threads = 1

    def __init__(self, device: Device) -> None:
        """`device` closes with it."""
        self._device = device

    def bind(self, program: Program, weights: Weights) -> None:
        """Upload what the program names. Errors: `BackendError`."""
        self.program, self._weights = program, weights
        self.machine = Interpreter(self._device, program)

    def run(self, batch: Batch, part: int | range | None = None) -> None:
        """Run the program, or one instruction of it, or those of a range."""
        if isinstance(part, range):
            for instruction in part:
                self.run(batch, instruction)
            return
        n, n_logits = batch.n_tokens, batch.n_logits
        if batch.n_sequences > 1:
            parts = batch.sequences[: batch.n_sequences, : Q_COUNT + 1]
            self.machine.run_batch([batch.tokens[at : at + count, T_ID] for at, count in parts])
            return
        ids, start = batch.tokens[:n, T_ID], batch.start
        if part is None:
            self.machine.step(ids, start, n_logits)
            return
        if part == 0:
            self.machine.begin(ids, start, n_logits)
        self.machine.run(self.machine.lines[part], n, n_logits)

    def threads_for(self, tokens: int, logits: int, keys: int) -> int:  # noqa: ARG002 - as of every backend
        """The host's one."""
        return self.threads

    def seconds(self, batch: Batch) -> NDArray[np.float64]:
        """Seconds of each instruction, with its launch and a wait."""
        seconds = []
        for line in self.machine.lines:
            began = time.perf_counter()
            self.machine.run(line, batch.n_tokens, batch.n_logits)
            self._device.synchronize()
            seconds.append(time.perf_counter() - began)
        return np.array(seconds)

    def read(self, tensor: Tensor, rows: int) -> NDArray[np.float32]:
        """[rows, width], a copy."""
        return self.machine.tensor(tensor, rows)

    def argmax(self, batch: Batch) -> int:  # noqa: ARG002 - the device holds it
        """Greedy id of the last row of logits; -1 where there is none."""
        return self.machine.result

    def run_early(self, batch: Batch) -> None:  # noqa: ARG002 - of any
        """Refuse: nothing is drafted here. BackendError."""
        msg = "device='cuda': no first layers guess ids; every id is drawn by itself"
        raise BackendError(msg)

    def pools(self, group: int) -> list[NDArray[np.uint8]]:  # noqa: ARG002 - of any
        """Refuse: the cache lies in the GPU's memory. BackendError."""
        msg = "device='cuda': a text's part of the cache can be neither saved nor loaded; use device='cpu'"
        raise BackendError(msg)

    def copy_page(self, group: int, source: int, target: int) -> None:
        """Refuse: there is one page, the whole cache. BackendError."""
        msg = f"page {source} of group {group} cannot be copied to {target}: this backend's cache has no pages"
        raise BackendError(msg)

    def ahead(
        self, token: int, start: int, n: int, ends: Sequence[int], sampler: Sampler | None
    ) -> Iterator[int] | None:
        """The ids that follow `token` at `start`: n, or up to one of `ends`. None: too many ends.

        Greedy ones, or those that `sampler` would draw; the GPU draws them. Steps are queued ahead of the ids that are
        taken; another run ends it. Errors: `InputError` where nothing can be drawn.
        """
        return None if len(ends) > ENDS else self._ahead(token, start, n, ends, sampler)

    def _ahead(self, token: int, start: int, n: int, ends: Sequence[int], sampler: Sampler | None) -> Iterator[int]:
        machine, queued, taken = self.machine, 0, 0
        machine.aim(token, start, n, ends, sampler)
        waiting: deque[tuple[int, Callable[[], tuple[int, list[int], bool]]]] = deque()
        while taken < n:
            while queued < n and len(waiting) < UNDER_WAY:
                more = min(QUEUED, n - queued)
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

    def _undrawn(self, sampler: Sampler, position: int) -> None:
        """Say why no id could be drawn: InputError, as the sampler has it."""
        drawn = sampler.draw(self.read(self.program.output, 1)[-1], position)
        msg = f"the GPU drew no id at position {position}, where {drawn} is to be drawn"
        raise BackendError(msg)

    def rest(self) -> None:
        """No thread of ours waits for work."""

    def close(self) -> None:
        """Give the device's memory back."""
        self._device.close()
