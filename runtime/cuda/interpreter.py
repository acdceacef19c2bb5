"""A program on a device: the rows that the CPU's interpreter walks, launched one kernel after the other.

The device is `driver.CudaDevice`, or the emulator. Weights and the arena lie on it; an instruction's slots are those of
the CPU with the weights' addresses there.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ...errors import BackendError
from ..ops import HEADER
from ..rope import RopeTable
from ..spec import Weight
from .kernels import KERNELS, chosen
from .step import S_IDS, S_RESULT, S_TOKENS, T_FIRST, T_LAST, T_POSITION, T_TAKE, TOKEN_WORDS, WORDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from ..arena import Tensor
    from ..program import Instruction, Program
    from .kernels import Kernel

__all__ = ["WAYS", "Device", "Interpreter"]

#: How a step of one token is launched.
WAYS: tuple[str, ...] = ("graph",)


class Device(Protocol):
    """What the interpreter, and who measures, asks of a device."""

    processors: int

    @property
    def facts(self) -> dict[str, Any]:
        """What it is, for the record of a measurement."""

    def check(self, kernels: Iterable[Kernel]) -> None:
        """Refuse kernels that it cannot run: BackendError."""

    def free_bytes(self) -> int:
        """What can be allocated now."""

    def allocate(self, nbytes: int) -> int:
        """Address of so many bytes, a multiple of 256."""

    def write(self, address: int, data: NDArray[Any]) -> None:
        """From the host."""

    def read(self, address: int, nbytes: int) -> NDArray[np.uint8]:
        """To the host, after all that was launched."""

    def launch(self, kernel: Kernel, blocks: int, shared: int, arguments: Sequence[Any]) -> None:
        """Start a kernel behind all others."""

    def seconds(self, work: Callable[[], object]) -> float:
        """How long it has to do with what `work` starts."""

    def capture(self, launches: Callable[[], None]) -> Callable[[], None]:
        """What `launches` starts, to be started again and again; nothing of it runs now."""

    def synchronize(self) -> None:
        """Wait for all that was launched."""

    def close(self) -> None:
        """Let go of everything."""


@dataclass(frozen=True)
class Line:
    """An instruction, ready to launch."""

    kernel: Kernel
    by_rows: bool  # R rows, not T
    values: dict[str, int]  # slots by name, floats as their bits
    arguments: tuple[Any, ...]


class Interpreter:
    """Weights, arena and step block on a device, and the program's lines."""

    def __init__(self, device: Device, program: Program) -> None:
        """Uploads every weight that the program names, once. Errors: `BackendError`."""
        self.device, self.program = device, program
        device.check(KERNELS[i.kernel] for i in program.code if i.kernel in KERNELS)
        self.arena = device.allocate(program.arena_bytes)
        self.step_block = device.allocate(8 * (WORDS + program.chunk))
        self.tokens = device.allocate(8 * TOKEN_WORDS * program.chunk)
        self._packed = False
        self._words = np.zeros(WORDS + program.chunk, np.int64)
        self._words[S_IDS] = self.step_block + 8 * WORDS
        self._weights: dict[int, int] = {}
        self._decode: Callable[[], None] | None = None  # a step of one token, captured
        self.lines = [self._line(i, row) for i, row in zip(program.code, program.encode(_number), strict=True)]

    def _line(self, ins: Instruction, row: NDArray[np.int64]) -> Line:
        kernel = KERNELS[ins.kernel]
        values = {f[2:]: int(v) for f, v in zip(kernel.fields, row[len(HEADER) :], strict=False)}
        for name, held in ins.values.items():
            weight = held.weight if isinstance(held, RopeTable) else held
            if isinstance(weight, Weight):
                values[name] = self._uploaded(weight)
        slots = (_float(values[f[2:]]) if f[0] == "f" else values[f[2:]] for f in kernel.fields)
        return Line(kernel, bool(row[2]), values, (self.arena, self.step_block, int(row[2]), *slots))

    def _uploaded(self, weight: Weight) -> int:
        if weight.array is None:
            msg = f"weight {weight.name} is planned, not loaded"
            raise BackendError(msg)
        if weight.address not in self._weights:
            to = self.device.allocate(max(weight.nbytes, 1))
            self.device.write(to, weight.array)
            self._weights[weight.address] = to
        return self._weights[weight.address]

    @property
    def weight_bytes(self) -> int:
        """What the weights take on the device."""
        found = {w.address: w.nbytes for i in self.program.code for w in _weights(i)}
        return sum(found.values())

    def begin(self, ids: Sequence[int] | NDArray[np.int64], start: int, rows: int) -> None:
        """Write the step block."""
        n = len(ids)
        self._words[:3] = n, start, rows
        self._words[S_RESULT], self._words[S_TOKENS] = -1, self.tokens if self._packed else 0
        self._words[WORDS : WORDS + n] = ids
        self.device.write(self.step_block, self._words[: WORDS + n])

    def run(self, line: Line, n: int, rows: int) -> None:
        """Launch a line for n tokens, of which the last `rows` reach the head; nothing where it has no rows."""
        count = rows if line.by_rows else n
        if count:
            kernel: Kernel | None = self.chosen(line, count)
            while kernel is not None:
                blocks = max(1, kernel.blocks(count, line.values))
                self.device.launch(kernel, blocks, kernel.shared(line.values), line.arguments)
                kernel = kernel.then

    def chosen(self, line: Line, rows: int) -> Kernel:
        """The kernel that takes so many rows of a line; of attention in a packed step, the one that knows of it."""
        if self._packed and line.kernel.name.startswith("attention"):
            return line.kernel
        return chosen(line.kernel.name, rows, line.values)

    def step(self, ids: Sequence[int] | NDArray[np.int64], start: int, rows: int) -> None:
        """One pass: at most `chunk` ids, logits of the last `rows`.

        A step of one token is always the same launches: the first of them runs as any step, and is then captured.
        """
        self.begin(ids, start, rows)
        one = len(ids) == rows == 1
        if one and self._decode is not None:
            self._decode()
            return
        self._lines(len(ids), rows)
        if one:
            self._decode = self.device.capture(partial(self._lines, 1, 1))

    def packed(self, sequences: Sequence[Sequence[int] | NDArray[np.int64]]) -> None:
        """One pass over several sequences, one behind the other in the cache's first rows; logits of the last of each.

        At most `chunk` ids and `rows` sequences, none empty.
        """
        lengths = np.array([len(s) for s in sequences])
        ends, n = np.cumsum(lengths), int(lengths.sum())
        words = np.zeros((n, TOKEN_WORDS), np.int64)
        words[:, T_FIRST] = np.repeat(ends - lengths, lengths)
        words[:, T_LAST] = np.arange(n)
        words[:, T_POSITION] = words[:, T_LAST] - words[:, T_FIRST]
        words[: len(ends), T_TAKE] = ends - 1
        self.device.write(self.tokens, words)
        self._packed = True
        try:
            self.begin(np.concatenate([np.asarray(s, np.int64) for s in sequences]), 0, len(ends))
            self._lines(n, len(ends))
        finally:
            self._packed = False

    def _lines(self, n: int, rows: int) -> None:
        for line in self.lines:
            self.run(line, n, rows)

    @property
    def result(self) -> int:
        """Greedy id of the last row; -1 if there is none."""
        return int(self.device.read(self.step_block + 8 * S_RESULT, 8).view(np.int64)[0])

    def tensor(self, t: Tensor, rows: int) -> NDArray[np.float32]:
        """The first rows of a tensor, a copy."""
        return self.device.read(self.arena + t.offset, 4 * rows * t.width).view(np.float32).reshape(rows, t.width)


def _number(name: str) -> int:
    if name not in KERNELS:
        msg = f"the CUDA backend has no kernel {name!r}; it has {', '.join(sorted(KERNELS))}"
        raise BackendError(msg)
    return 0


def _float(slot: int) -> np.float32:
    return np.float32(struct.unpack("<f", struct.pack("<I", slot & 0xFFFFFFFF))[0])


def _weights(ins: Instruction) -> Iterator[Weight]:
    for held in ins.values.values():
        weight = held.weight if isinstance(held, RopeTable) else held
        if isinstance(weight, Weight):
            yield weight
