"""A step of one token as a table that a walker walks: calls of kernels, in phases.

A phase is calls that wait for none of each other: none touches a byte that another of them writes. Calls of a phase
begin at blocks of their own, so that small ones share the grid.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ...dataclass import dataclass
from ...errors import BackendError
from ..arena import waits
from ..spec import Weight
from .kernels import chosen
from .kernels.base import SIZES
from .kernels.walker import AHEAD, L_SLOTS, LINE, THREADS, walker

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from ..arena import Spans
    from ..program import Instruction
    from .kernels import Kernel

__all__ = ["DRAW_BLOCK", "STEP_BLOCK", "Call", "Script", "calls_of"]

#: Where the step block lies, as a piece of the arena: after nothing.
STEP_BLOCK = (-2, -1)
#: Where the draw block lies, likewise.
DRAW_BLOCK = (-6, -5)
WORD = 8


@dataclass(frozen=True)
class Call:
    """A kernel with its slots by name (floats as their bits), and what it touches."""

    kernel: Kernel
    by_rows: bool
    values: Mapping[str, int]
    reads: Spans
    writes: Spans
    weights: tuple[int, int] = (0, 0)  # address and bytes of the matrix that it walks through, if it does
    stays: int = 0  # bytes of shared memory, up to the last that it leaves there for the next of its phase

    @property
    def size(self) -> int:
        """Blocks of the walker that it keeps busy."""
        return max(1, self.kernel.blocks(1, self.values) * self.kernel.threads // THREADS)


def calls_of(ins: Instruction, kernel: Kernel, values: Mapping[str, int]) -> list[Call]:
    """What an instruction is for one token: the kernel chosen for it, and what ends its work."""
    reads, writes = ([t.span for t in ins.tensors(kind)] for kind in "io")
    if ins.op == "linear":
        writes = writes[:1]  # no product of one token wants scratch
    if ins.op == "embed":
        reads.append(STEP_BLOCK)
    if ins.op == "argmax":
        writes.append(STEP_BLOCK)
    matrix = ins.values["w"] if ins.op == "linear" else None
    weights = (values["w"], matrix.nbytes) if isinstance(matrix, Weight) else (0, 0)
    calls = [Call(chosen(kernel.name, 1, values), ins.rows == "R", values, reads, writes, weights)]
    while (then := calls[-1].kernel.then) is not None:
        calls.append(replace(calls[-1], kernel=then, reads=[*reads, *writes], weights=(0, 0)))
    return calls


class Script:
    """Calls, their phases, the walker for them and the table that it walks."""

    def __init__(self, calls: Sequence[Call], *, together: bool) -> None:
        """`together`: one launch walks several phases."""
        self.calls = list(calls)
        wait = waits([(c.reads, c.writes) for c in calls])
        starts = [i for i in range(len(calls)) if wait[i] or i == 0]
        #: [first, after the last) of each.
        self.phases = list(zip(starts, [*starts[1:], len(calls)], strict=True))
        self.kernels = sorted({c.kernel.name: c.kernel for c in calls}.values(), key=lambda k: k.name)
        times = {c.kernel.name: -(-THREADS // c.kernel.threads) for c in calls}
        scratch = max(c.kernel.shared(c.values) * times[c.kernel.name] for c in calls)
        self._here = -(-scratch // 16) * 16  # where what stays from line to line begins in shared memory
        self.walker = walker(self.kernels, self._here + max(c.stays for c in calls), together=together)

    @property
    def table_bytes(self) -> int:
        """What `table` takes."""
        return WORD * LINE * len(self.calls)

    def table(self, blocks: int) -> NDArray[np.int64]:
        """int64 [calls, LINE] for a grid of this many blocks. Errors: `BackendError`, a size is too large."""
        numbers = {k.name: i for i, k in enumerate(self.kernels)}
        out = np.zeros((len(self.calls), LINE), np.int64)
        for first, last in self.phases:
            begun = 0
            for i, call in enumerate(self.calls[first:last], first):
                address, nbytes = call.weights
                part = -(-nbytes // call.size)
                out[i, :L_SLOTS] = (numbers[call.kernel.name], call.by_rows, last - first if i == first else 0,
                                    begun % blocks, address, part, min(part, AHEAD), address + nbytes)  # fmt: skip
                slots = [self._slot(call, f[0], f[2:]) for f in call.kernel.fields]
                out[i, L_SLOTS : L_SLOTS + len(slots)] = slots
                begun += call.size
        return out

    def _slot(self, call: Call, kind: str, name: str) -> int:
        value = call.values[name]
        if kind == "n" and not 0 <= value < SIZES:
            msg = f"{call.kernel.name}: {name}={value:,}, in a walker below {SIZES:,}; see MIAOTUI_CUDA_STEP"
            raise BackendError(msg)
        return value + (self._here if kind == "s" else 0)

    def listing(self) -> list[str]:
        """A line for each phase: what it runs."""
        return [", ".join(c.kernel.name for c in self.calls[a:b]) for a, b in self.phases]
