"""A program on a device: the rows that the CPU's interpreter walks, launched one kernel after the other.

The device is `driver.CudaDevice`, or the emulator. Weights and the arena lie on it; an instruction's slots are those of
the CPU with the weights' addresses there.
"""

from __future__ import annotations

import os
import struct
from dataclasses import field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ...dataclass import dataclass
from ...errors import BackendError
from ..ops import HEADER, OPS
from ..rope import RopeTable
from ..spec import Weight
from .build import TURING
from .draw import draw_bytes, draw_words, seen_at
from .fuse import MOST_BLOCKS, PARTS_BYTES, script_of
from .kernels import ADVANCE, DRAWS, KERNELS, SPECIAL, chosen
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
from .tensor_map import MAP_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from ..arena import Tensor
    from ..program import Instruction, Program
    from ..sampling import Sampler
    from .device import Device
    from .kernels import Kernel
    from .script import Script
    from .tensor_map import TensorMap

__all__ = ["WAYS", "Interpreter", "map_bytes", "slots_of", "way_of"]

#: How a step of one token is launched: a kernel for each line, a walker for each phase, or one for the whole step.
WAYS = ("graph", "phases", "persistent")


@dataclass(frozen=True)
class Line:
    """An instruction, ready to launch."""

    kernel: Kernel
    by_rows: bool  # R rows, not T
    values: dict[str, int]  # slots by name, floats as their bits
    arguments: tuple[Any, ...]
    maps: dict[str, tuple[int, ...]] = field(default_factory=dict)  # of kernels that ran it: addresses


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
        self._batched = False
        self.gate = device.allocate(8 * GATE_WORDS)
        self._open_gate()
        self._words = np.zeros(WORDS + program.chunk, np.int64)
        self._words[S_IDS] = self.step_block + 8 * WORDS
        self._weights: dict[int, int] = {}
        self.run_block = device.allocate(8 * RUN_WORDS)
        self._vocab = program.logits.width if program.logits is not None else 0
        self.draw_block = device.allocate(draw_bytes(self._vocab))
        self._drawing = False  # ids are drawn, not the largest logit's
        maps = map_bytes(program)
        self._maps_at = device.allocate(maps) if maps else 0  # where the next map will lie
        self._decode: Callable[[], None] | None = None  # a step of one token, captured
        self._own: dict[bool, Callable[[], None]] = {}  # the same, which begins the next; whether it draws
        self.lines = [self._line(i, row) for i, row in zip(program.code, program.encode(_number), strict=True)]
        self._parts = device.allocate(PARTS_BYTES) if self.way != WAYS[0] else 0
        #: By whether it draws: what a walker walks, where its table will lie, and the blocks that this was made for.
        self._scripts: dict[bool, tuple[Script, int, int]] = {}
        for drawing in (False, True) if self.way != WAYS[0] and program.logits is not None else ():
            script = self.script(drawing=drawing)
            self._scripts[drawing] = script, device.allocate(script.table_bytes), 0

    def _line(self, ins: Instruction, row: NDArray[np.int64]) -> Line:
        kernel = KERNELS[ins.kernel]
        values = slots_of(ins, row)
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
        sizes = {w.address: w.nbytes for i in self.program.code for w in _weights(i)}
        return sum(sizes.values())

    def begin(self, ids: Sequence[int] | NDArray[np.int64], start: int, n_logits: int) -> None:
        """Write the step block."""
        n = len(ids)
        self._words[:3] = n, start, n_logits
        self._words[S_RESULT], self._words[S_TOKENS] = -1, self.tokens if self._batched else 0
        self._words[WORDS : WORDS + n] = ids
        self.device.write(self.step_block, self._words[: WORDS + n])

    def run(self, line: Line, n: int, n_logits: int) -> None:
        """Launch a line for n tokens, of which the last `n_logits` reach the head; nothing where it has no rows."""
        count = n_logits if line.by_rows else n
        if count:
            kernel: Kernel | None = self.chosen(line, count)
            while kernel is not None:
                blocks, shared = max(1, kernel.blocks(count, line.values)), kernel.shared(line.values)
                if kernel.stays:
                    blocks = min(blocks, self.device.room(kernel, shared))
                self.device.launch(kernel, blocks, shared, line.arguments + self._maps(kernel, line))
                kernel = kernel.then

    def _maps(self, kernel: Kernel, line: Line) -> tuple[int, ...]:
        """Addresses of the maps that a kernel wants of a line, made when it runs it first."""
        if kernel.maps and kernel.name not in line.maps:
            rows = self.program.n_logits if line.by_rows else self.program.chunk
            wanted = (f(self.arena, rows, line.values) for f in kernel.maps)
            line.maps[kernel.name] = tuple(map(self._map, wanted))
        return line.maps.get(kernel.name, ())

    def _map(self, wanted: TensorMap) -> int:
        to, self._maps_at = self._maps_at, self._maps_at + MAP_BYTES
        self.device.tensor_map(wanted, to)
        return to

    def chosen(self, line: Line, rows: int) -> Kernel:
        """The kernel that takes this many rows of a line."""
        architecture = self.device.architecture
        fast = self.program.fast and architecture != TURING
        name, batched = line.kernel.name, self._batched
        return chosen(name, rows, line.values, fast=fast, architecture=architecture, batched=batched)

    def step(self, ids: Sequence[int] | NDArray[np.int64], start: int, n_logits: int) -> None:
        """One pass: at most `chunk` ids, logits of the last `n_logits`.

        A step of one token is always the same launches: the first of them runs as any step, and is then captured.
        """
        self.begin(ids, start, n_logits)
        one = len(ids) == n_logits == 1
        if one and self._decode is not None:
            self._decode()
            return
        launches = self.one() if one else partial(self._lines, len(ids), n_logits)
        launches()
        if one:
            self._decode = self.device.capture(launches)

    def one(self, *, own: bool = False) -> Callable[[], None]:
        """What launches a step of one token; `own`: which makes its id the next step's."""
        if self.way == "graph":
            return partial(self._own_lines if own else self._lines, 1, 1)
        script, code, blocks = self._walked(drawing=own and self._drawing)
        shared = script.walker.shared({})
        parts = script.phases if own else script.phases[:-1]
        if self.way == "persistent":
            parts = [(0, parts[-1][1])]
        arguments = (self.arena, self.step_block, 0, code, self.gate, self.run_block if own else 0)

        def launches() -> None:
            for part in parts:
                self.device.launch(script.walker, blocks, shared, (*arguments, *part))

        return launches

    def _walked(self, *, drawing: bool) -> tuple[Script, int, int]:
        """What a walker walks, where its table lies, and the blocks that it is for."""
        script, code, blocks = self._scripts[drawing]
        if not blocks:
            blocks = min(self.device.room(script.walker, script.walker.shared({})), MOST_BLOCKS)
            self.device.write(code, script.table(blocks))
            self._scripts[drawing] = script, code, blocks
        return self._scripts[drawing]

    def _own_lines(self, n: int, n_logits: int) -> None:
        self._lines(n, n_logits)
        if self._drawing:
            values = self._drawn()
            for kernel in DRAWS:
                slots = (values[f[2:]] for f in kernel.fields)
                arguments = (self.arena, self.step_block, 1, *slots)
                self.device.launch(kernel, kernel.blocks(1, values), kernel.shared(values), arguments)
        self.device.launch(ADVANCE, 1, 0, (self.arena, self.step_block, 0, self.run_block))

    def _drawn(self) -> dict[str, int]:
        """Slots of what draws, by name."""
        return {"draw": self.draw_block, "x": self.program.output.offset, "n": self._vocab}

    def aim(self, token: int, start: int, n: int, ends: Sequence[int], sampler: Sampler | None = None) -> None:
        """Let `proceed` begin with a token at a position, for at most n ids, of which one of `ends` is the last.

        `sampler`: ids are those that it would draw; none: greedy ones.
        """
        self._drawing = sampler is not None
        if sampler is not None:
            seen = sampler.seen.view(np.uint8)
            self.device.write(self.draw_block, draw_words(sampler))
            self.device.write(self.draw_block + seen_at(self._vocab), seen)
        words = np.zeros(RUN_WORDS, np.int64)
        words[R_LEFT], words[R_N_ENDS], words[R_ENDS : R_ENDS + len(ends)] = n, len(ends), ends
        self.device.write(self.run_block, words)
        self.begin([token], start, 1)

    def proceed(self) -> None:
        """A step that gives an id and begins the next; nothing where no id may come."""
        if self._drawing in self._own:
            self._own[self._drawing]()
            return
        launches = self.one(own=True)
        launches()
        self._own[self._drawing] = self.device.capture(launches)

    def produced(self) -> Callable[[], tuple[int, list[int], bool]]:
        """What gives, of all that was launched: how many ids came since `aim`, the last `RING`, and if more may."""
        fetched = self.device.fetch(self.run_block, 8 * RUN_WORDS)

        def read() -> tuple[int, list[int], bool]:
            words = fetched().view(np.int64)
            count = int(words[R_COUNT])
            ids = [int(words[R_IDS + i % RING]) for i in range(max(0, count - RING), count)]
            return count, ids, bool(words[R_LEFT] > 0)

        return read

    def script(self, *, drawing: bool = False) -> Script:
        """A step of one token, as a walker has it."""
        values, together = [line.values for line in self.lines], self.way == "persistent"
        drawn = self._drawn() if drawing else None
        return script_of(self.program, values, self._parts, self.run_block, together=together, drawn=drawn)

    def run_batch(self, sequences: Sequence[Sequence[int] | NDArray[np.int64]]) -> None:
        """One pass over several sequences, one after the other in the cache's first rows; logits of the last of each.

        At most `chunk` ids and `n_logits` sequences, none empty.
        """
        lengths = np.array([len(s) for s in sequences])
        ends, n = np.cumsum(lengths), int(lengths.sum())
        words = np.zeros((n, TOKEN_WORDS), np.int64)
        words[:, T_FIRST] = np.repeat(ends - lengths, lengths)
        words[:, T_LAST] = np.arange(n)
        words[:, T_POSITION] = words[:, T_LAST] - words[:, T_FIRST]
        words[: len(ends), T_TAKE] = ends - 1
        self.device.write(self.tokens, words)
        self._batched = True
        try:
            self.begin(np.concatenate([np.asarray(s, np.int64) for s in sequences]), 0, len(ends))
            self._lines(n, len(ends))
        finally:
            self._batched = False

    def _lines(self, n: int, n_logits: int) -> None:
        for line in self.lines:
            self.run(line, n, n_logits)

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


def slots_of(ins: Instruction, row: NDArray[np.int64]) -> dict[str, int]:
    """An encoded instruction's slots by name, floats as their bits; a kernel may take fewer of them."""
    return {name: int(v) for name, v in zip(OPS[ins.op].names, row[len(HEADER) :], strict=False)}


def map_bytes(program: Program) -> int:
    """Of the maps that a program's lines may want: those of every kernel that may stand in for theirs."""
    every = (k for i in program.code for k in SPECIAL.get(i.kernel, ()) if k.fast <= program.fast)
    return MAP_BYTES * sum(len(k.maps) for k in every)


def way_of(way: str | None = None) -> str:
    """One of `WAYS`: this, or the environment's, or the first. Errors: `BackendError`."""
    chosen_way = way or os.environ.get("MIAOTUI_CUDA_STEP") or WAYS[0]
    if chosen_way not in WAYS:
        msg = f"MIAOTUI_CUDA_STEP={chosen_way!r}: expected one of {', '.join(WAYS)}"
        raise BackendError(msg)
    return chosen_way


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
