"""A program on a device: the rows that the CPU's interpreter walks, launched one kernel after the other.

The device is `driver.CudaDevice`, or the emulator. Weights and the arena lie on it; an instruction's slots are those of
the CPU with the weights' addresses there.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ...errors import BackendError
from ..ops import HEADER
from ..rope import RopeTable
from ..spec import Weight
from .build import TURING
from .fuse import MOST_BLOCKS, PARTS_BYTES, script_of
from .kernels import ADVANCE, KERNELS, chosen
from .kernels.walker import GATE_WORDS, HUNG
from .step import (
    R_COUNT,
    R_ENDS,
    R_IDS,
    R_LEFT,
    R_N_ENDS,
    RING,
    RUN_WORDS,
    S_IDS,
    S_RESULT,
    S_TOKENS,
    T_FIRST,
    T_LAST,
    T_POSITION,
    T_TAKE,
    TOKEN_WORDS,
    WORDS,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from ..arena import Tensor
    from ..program import Instruction, Program
    from .kernels import Kernel
    from .script import Script

__all__ = ["WAYS", "Device", "Interpreter", "slots_of", "way_of"]

#: How a step of one token is launched: a kernel for each line, a walker for each phase, or one for the whole step.
WAYS = ("graph", "phases", "persistent")


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

    architecture: str  # as sm_80: what its code is made for

    def allocate(self, nbytes: int) -> int:
        """Address of so many bytes, a multiple of 256."""

    def write(self, address: int, data: NDArray[Any]) -> None:
        """From the host."""

    def read(self, address: int, nbytes: int) -> NDArray[np.uint8]:
        """To the host, after all that was launched."""

    def fetch(self, address: int, nbytes: int) -> Callable[[], NDArray[np.uint8]]:
        """Begin to read, behind all that was launched; the function waits for the bytes."""

    def launch(self, kernel: Kernel, blocks: int, shared: int, arguments: Sequence[Any]) -> None:
        """Start a kernel behind all others."""

    def room(self, kernel: Kernel, shared: int) -> int:
        """Blocks of a kernel that run at once."""

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

    def __init__(self, device: Device, program: Program, way: str | None = None) -> None:
        """Uploads every weight that the program names, once. Errors: `BackendError`.

        `way`: one of `WAYS`; None is the environment's MIAOTUI_CUDA_STEP, or the first.
        """
        self.device, self.program, self.way = device, program, way_of(way)
        device.check(KERNELS[i.kernel] for i in program.code if i.kernel in KERNELS)
        self.arena = device.allocate(program.arena_bytes)
        self.step_block = device.allocate(8 * (WORDS + program.chunk))
        self.tokens = device.allocate(8 * TOKEN_WORDS * program.chunk)
        self._packed = False
        self.gate = device.allocate(8 * GATE_WORDS)
        self._open_gate()
        self._words = np.zeros(WORDS + program.chunk, np.int64)
        self._words[S_IDS] = self.step_block + 8 * WORDS
        self._weights: dict[int, int] = {}
        self.run_block = device.allocate(8 * RUN_WORDS)
        self._code = 0  # the walker's table
        self._decode: Callable[[], None] | None = None  # a step of one token, captured
        self._own: Callable[[], None] | None = None  # the same, which begins the next
        self.lines = [self._line(i, row) for i, row in zip(program.code, program.encode(_number), strict=True)]

    def _line(self, ins: Instruction, row: NDArray[np.int64]) -> Line:
        kernel = KERNELS[ins.kernel]
        values = slots_of(kernel, row)
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
        architecture = self.device.architecture
        fast = self.program.fast and architecture != TURING
        return chosen(line.kernel.name, rows, line.values, fast=fast, architecture=architecture)

    def step(self, ids: Sequence[int] | NDArray[np.int64], start: int, rows: int) -> None:
        """One pass: at most `chunk` ids, logits of the last `rows`.

        A step of one token is always the same launches: the first of them runs as any step, and is then captured.
        """
        self.begin(ids, start, rows)
        one = len(ids) == rows == 1
        if one and self._decode is not None:
            self._decode()
            return
        launches = self.one() if one else partial(self._lines, len(ids), rows)
        launches()
        if one:
            self._decode = self.device.capture(launches)

    def one(self, *, own: bool = False) -> Callable[[], None]:
        """What launches a step of one token; `own`: which makes its id the next step's."""
        if self.way == "graph":
            return partial(self._own_lines if own else self._lines, 1, 1)
        script = self.script
        shared = script.walker.shared({})
        blocks = min(self.device.room(script.walker, shared), MOST_BLOCKS)
        if not self._code:
            table = script.table(blocks)
            self._code = self.device.allocate(table.nbytes)
            self.device.write(self._code, table)
        parts = script.phases if own else script.phases[:-1]
        if self.way == "persistent":
            parts = [(0, parts[-1][1])]
        arguments = (self.arena, self.step_block, 0, self._code, self.gate, self.run_block if own else 0)

        def launches() -> None:
            for part in parts:
                self.device.launch(script.walker, blocks, shared, (*arguments, *part))

        return launches

    def _own_lines(self, n: int, rows: int) -> None:
        self._lines(n, rows)
        self.device.launch(ADVANCE, 1, 0, (self.arena, self.step_block, 0, self.run_block))

    def aim(self, token: int, start: int, n: int, ends: Sequence[int]) -> None:
        """Let `proceed` begin with a token at a position, for at most n ids, of which one of `ends` is the last."""
        words = np.zeros(RUN_WORDS, np.int64)
        words[R_LEFT], words[R_N_ENDS], words[R_ENDS : R_ENDS + len(ends)] = n, len(ends), ends
        self.device.write(self.run_block, words)
        self.begin([token], start, 1)

    def proceed(self) -> None:
        """A step that gives an id and begins the next; nothing where no id may come."""
        if self._own is not None:
            self._own()
            return
        launches = self.one(own=True)
        launches()
        self._own = self.device.capture(launches)

    def produced(self) -> Callable[[], tuple[int, list[int], bool]]:
        """What gives, of all that was launched: how many ids came since `aim`, the last `RING`, and if more may."""
        found = self.device.fetch(self.run_block, 8 * RUN_WORDS)

        def read() -> tuple[int, list[int], bool]:
            words = found().view(np.int64)
            count = int(words[R_COUNT])
            ids = [int(words[R_IDS + i % RING]) for i in range(max(0, count - RING), count)]
            return count, ids, bool(words[R_LEFT] > 0)

        return read

    @cached_property
    def script(self) -> Script:
        """A step of one token, as a walker has it."""
        parts = self.device.allocate(PARTS_BYTES)
        values = [line.values for line in self.lines]
        return script_of(self.program, values, parts, self.run_block, together=self.way == "persistent")

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

    def _open_gate(self) -> None:
        """Nobody has come."""
        self.device.write(self.gate, np.zeros(GATE_WORDS, np.int64))

    @property
    def result(self) -> int:
        """Greedy id of the last row; -1 if there is none. Errors: `BackendError` where the step was not finished."""
        return self.checked(int(self.device.read(self.step_block + 8 * S_RESULT, 8).view(np.int64)[0]))

    def checked(self, result: int) -> int:
        """A step's result. Errors: `BackendError` where it was not finished."""
        if result <= HUNG // 2:
            self._open_gate()
            msg = (
                "a block of the GPU waited in vain for the others in a step that is one launch; "
                f"MIAOTUI_CUDA_STEP={WAYS[0]} launches each line by itself"
            )
            raise BackendError(msg)
        return result

    def tensor(self, t: Tensor, rows: int) -> NDArray[np.float32]:
        """The first rows of a tensor, a copy."""
        return self.device.read(self.arena + t.offset, 4 * rows * t.width).view(np.float32).reshape(rows, t.width)


def slots_of(kernel: Kernel, row: NDArray[np.int64]) -> dict[str, int]:
    """An encoded instruction's slots by name, floats as their bits."""
    return {f[2:]: int(v) for f, v in zip(kernel.fields, row[len(HEADER) :], strict=False)}


def way_of(way: str | None = None) -> str:
    """One of `WAYS`: this, or the environment's, or the first. Errors: `BackendError`."""
    found = way or os.environ.get("MIAOTUI_CUDA_STEP") or WAYS[0]
    if found not in WAYS:
        msg = f"MIAOTUI_CUDA_STEP={found!r}: expected one of {', '.join(WAYS)}"
        raise BackendError(msg)
    return found


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
