"""The CPU as a backend: an arena in huge pages, the program encoded with kernels' addresses, a team of threads."""

from __future__ import annotations

import time
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from ..drawing import DRAW, PHASES, scratch_slots
from ..memory import zeroed
from ..ops import SLOTS
from ..recorder.record import record
from ..session import Session
from ..step import S_SPLIT, T_LAST
from ..worth import Worth
from . import link
from .draw import draw_lines
from .environment import debugging
from .layout import IF_SPLIT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from ..arena import Tensor
    from ..program import Instruction, Program
    from ..sampling import Sampler
    from ..spec import Config, Weights
    from ..step import Batch
    from .bounds import Checked
    from .prange import Prange
    from .team import Team

__all__ = ["CpuBackend", "cpu_session"]

#: Keys from which on threads share the attention of a lone token evenly, and meet twice more for that.
LONG = 512
#: Kinds of batches whose number of threads is kept.
KEPT = 4096


def cpu_session(config: Config, weights: Weights, *, threads: int = 1, auto: bool = False, **shape: Any) -> Session:
    """Record a program for weights that are there, and bind it; `shape` as of `record`. Errors: `BackendError`."""
    return Session(record(config, weights, threads=threads, **shape), weights, CpuBackend(threads, auto=auto))


class CpuBackend:
    """A `Backend` (`runtime/backend.py`) whose pages lie in the arena."""

    name = "cpu"
    paged = True
    works_ahead = False
    survives_fork = True

    def __init__(self, threads: int, *, auto: bool = False) -> None:
        """`threads`: of a step, the caller's own among them; `auto`: each step has as many of them as it is worth."""
        self.threads, self.auto = threads, auto and threads > 1
        #: Instructions that the executor was told to run, its parts, and whether attention is split.
        self._bound: tuple[int, int, int | None, bool] | None = None
        self._costs = dict[tuple[int, int], Worth]()  # of instructions that were run
        self._counts = dict[tuple[int, ...], int]()  # threads of steps that were run, by what their cost depends on

    def bind(self, program: Program, weights: Weights) -> None:
        """Compile what the program names, or load it; allocate the arena. Errors: `BackendError`."""
        self._program, self._weights = program, weights  # addresses point into the weights
        self._draws = program.draw_at is not None
        named = [name for i in program.code for name in (i.kernel, *self._followed(i))]
        addresses = link.addresses([*named, *((DRAW,) if self._draws else ())])
        parts = [program.code] if program.early is None else [program.code, program.early.code]
        lines = np.zeros((0, SLOTS), np.int64)
        if program.draw_at is not None:
            x, slots = program.output, scratch_slots(program.threads, program.n_logits)
            lines = draw_lines(addresses[DRAW], x.offset, x.width, program.draw_at, slots)
        rows: list[NDArray[np.int64]] = []
        self._lines: list[Instruction | None] = []
        self._at: list[int] = []  # where each instruction's lines begin, and where those of a part end
        for part in parts:
            for ins, row in zip(part, program.encode(addresses.__getitem__, part), strict=True):
                self._at.append(len(self._lines))
                following = self._followed(ins)
                rows.append(np.repeat(row[None], 1 + len(following), axis=0))
                rows[-1][1:, 0], rows[-1][1:, 1] = [addresses[name] for name in following], IF_SPLIT
                self._lines += [ins] * len(rows[-1])
            self._at.append(len(self._lines))
            rows.append(lines)  # each part ends with the draws
            self._lines += [None] * len(lines)
        self.code = np.concatenate(rows)
        self._executor: Team | Prange | Checked = link.executor(self.threads, self.code)
        self.arena = zeroed(program.arena_bytes, "KV cache and intermediates")
        self._batch: Batch | None = None
        self._groups = [self._pools(g) for g in range(len(program.groups))]

    def _followed(self, ins: Instruction) -> tuple[str, ...]:
        """Kernels that come after an instruction's own."""
        return link.FOLLOWED.get(ins.kernel, ()) if self.threads > 1 else ()

    def _lines_of(self, part: range) -> tuple[int, int]:
        """The first line of instructions, and how many there are of them."""
        return self._at[part.start], self._at[part.stop] - self._at[part.start]

    def run(self, batch: Batch, part: int | range | None = None) -> None:
        """Run the program, and the draws of the batch; or one instruction of it, or those of a range."""
        whole = part is None
        if part is None:
            part = self._program.own
        self._step(batch, self._lines_of(part if isinstance(part, range) else range(part, part + 1)), draws=whole)

    def run_early(self, batch: Batch) -> None:
        """As `Backend.run_early`."""
        early = self._program.early
        assert early is not None  # noqa: S101 - who asks has recorded one
        first = len(self._program.code) + 1
        self._step(batch, self._lines_of(range(first, first + len(early.code))), draws=True)

    def _step(self, batch: Batch, span: tuple[int, int], *, draws: bool) -> None:
        if batch is not self._batch:
            self._take(batch)
        if draws and batch.n_draws and self._draws:
            span = span[0], span[1] + len(PHASES)
        self._aim(span)
        self._executor.step()

    def _take(self, batch: Batch) -> None:
        self._batch, self._bound = batch, None
        if debugging():
            from .bounds import Checked  # noqa: PLC0415 (loads LLVM's compiler)

            inner = self._executor.inner if isinstance(self._executor, Checked) else self._executor
            self._executor = Checked(inner, self._lines, self.code, batch)

    def _aim(self, span: tuple[int, int]) -> None:
        batch = self._batch
        if batch is None:
            return
        parts = self._parts(batch, span) if self.auto else None
        split = self.threads > 1 and parts != 1 and batch.n_tokens == 1 and int(batch.tokens[0, T_LAST]) >= LONG
        if (wanted := (*span, parts, split)) != self._bound:
            self._bound = None  # until it is told: an exception, or a fork, may come before
            first, count = span
            at = self.code.ctypes.data + first * self.code.strides[0]
            batch.words[S_SPLIT] = split
            self._executor.bind(at, count, self.arena.ctypes.data, batch.address, parts, split=split)
            self._bound = wanted

    def _parts(self, batch: Batch, span: tuple[int, int]) -> int:
        """Threads that the batch is worth. Keys are counted by powers of two, so that few costs are computed."""
        keys = int(batch.tokens[batch.n_tokens - 1, T_LAST]).bit_length() if batch.n_tokens else 0
        of = (*span, batch.n_tokens, batch.n_logits, keys)
        if (parts := self._counts.get(of)) is None:
            if len(self._counts) >= KEPT:
                self._counts.clear()
            parts = self._counts[of] = self._worth_of(span, batch.n_tokens, batch.n_logits, 1 << keys)
        return parts

    def threads_for(self, tokens: int, logits: int, keys: int) -> int:
        """As `Backend.threads_for`."""
        own = self._lines_of(self._program.own)
        return self._worth_of(own, tokens, logits, keys) if self.auto else self.threads

    def _worth_of(self, span: tuple[int, int], tokens: int, logits: int, keys: int) -> int:
        first, count = span
        if (cost := self._costs.get(span)) is None:
            lines = (ins for ins, _ in groupby(self._lines[first : first + count]))  # each instruction once
            cost = self._costs[span] = Worth([ins for ins in lines if ins is not None])
        return cost.threads(tokens, logits, keys, self.threads)

    def seconds(self, batch: Batch) -> NDArray[np.float64]:
        """Seconds of each instruction of a step, less an empty program's."""
        own = self._program.own
        self.run(batch, own.start)
        empty = np.median([self._timed((0, 0)) for _ in range(32)])
        return np.maximum([self._timed(self._lines_of(range(i, i + 1))) - empty for i in own], 0)

    def _timed(self, span: tuple[int, int]) -> float:
        self._aim(span)
        began = time.perf_counter()
        self._executor.step()
        return time.perf_counter() - began

    def read(self, tensor: Tensor, rows: int) -> NDArray[np.float32]:
        """[rows, width]: a view of the arena."""
        at = tensor.offset
        return self.arena[at : at + 4 * rows * tensor.width].view(np.float32).reshape(rows, tensor.width)

    def argmax(self, batch: Batch) -> int:
        """Greedy id of the batch's last row of logits; -1 where there is none."""
        return int(batch.results[batch.n_logits - 1]) if batch.n_logits else -1

    def _pools(self, group: int) -> list[NDArray[np.uint8]]:
        """A group's caches, keys and values of each layer, [n_kv_heads, n_pages, bytes of a page]."""
        pools = []
        for ins in self._program.code:
            heads = ins.values.get("heads")
            if ins.op == "kv_write" and ins.values["group"] == group and isinstance(heads, int):
                for cache in (t for t in ins.tensors("o") if t.keep):  # an encoder's are done with in its pass
                    part = self.arena[cache.offset : cache.offset + cache.nbytes]
                    pools.append(part.reshape(heads, self._program.n_pages, -1))
        return pools

    def pools(self, group: int) -> list[NDArray[np.uint8]]:
        """Views of the arena."""
        return self._groups[group]

    def copy_page(self, group: int, source: int, target: int) -> None:
        """Copy a page in every layer of a group."""
        for pool in self._groups[group]:
            pool[:, target] = pool[:, source]

    def ahead(
        self, token: int, start: int, n: int, ends: Sequence[int], sampler: Sampler | None
    ) -> Iterator[int] | None:
        """None: the host draws every id."""

    def rest(self) -> None:
        """Stop the threads until the next run."""
        self._executor.rest()

    def close(self) -> None:
        """Stop the threads; the arena goes with the object."""
        if hasattr(self, "_executor"):  # it was bound
            self._executor.close()
