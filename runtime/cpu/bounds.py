"""MIAOTUI_DEBUG=1: every load and store of a kernel is checked against the operands of its instruction.

Kernels take addresses, and Numba does not check them. Under MIAOTUI_DEBUG they are compiled again, with a call to
`INSIDE` before every access (`emitters.ptr`); a step then runs an instruction at a time, and before each one the
table below is filled with where its operands begin and end, for as many rows as the step has. What lies in none of
them goes to a sink instead, and the step ends in a `BackendError` that names instruction, kernel and address. Three to
four times slower, and the same bits.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import BackendError
from ..arena import Tensor
from ..bias import BiasTable
from ..drawing import DRAW
from ..experts import ExpertTable
from ..kvcache import PAGE, cache_bytes
from ..locks import Lock
from ..lora import LoraTable
from ..ops import SLOTS
from ..relative import DistanceTable
from ..rope import RopeTable
from ..spec import Weight
from ..step import Q_COUNT, Q_ENCODED, Q_ENCODER, Q_FIRST, Q_TABLES, T_FIRST, T_LAST, T_SLOT
from .draw import draw_regions
from .layout import INSIDE
from .target import llvm_binding

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from ..program import Instruction
    from ..step import Batch
    from .prange import Prange
    from .team import Team

__all__ = ["Checked", "install", "watched"]

#: The table: how many regions (0: nobody watches, all is allowed), the first address that lay in none and how many
#: bytes it was of; then first byte and the byte after the last of each region; then the sink.
COUNT, ADDRESS, NBYTES, REGIONS = range(4)
MOST, SINK = 4096, 64
_TABLE = np.zeros(REGIONS + 2 * MOST + SINK, np.int64)
_LOCK = Lock()
_KEPT: list[Any] = []
_INSIDE = """
define i64 @{name}(i64 %a, i64 %n) {{
entry:
  %none = icmp eq i64 %n, 0
  br i1 %none, label %fine, label %first
first:
  %table = inttoptr i64 {table} to ptr
  %end = add i64 %a, %n
  %count = load i64, ptr %table
  %nobody = icmp eq i64 %count, 0
  br i1 %nobody, label %fine, label %head
head:
  %i = phi i64 [ 0, %first ], [ %next, %other ]
  %more = icmp slt i64 %i, %count
  br i1 %more, label %look, label %fault
look:
  %at = shl i64 %i, 1
  %lo_at = add i64 %at, {regions}
  %hi_at = add i64 %lo_at, 1
  %lo_p = getelementptr i64, ptr %table, i64 %lo_at
  %hi_p = getelementptr i64, ptr %table, i64 %hi_at
  %lo = load i64, ptr %lo_p
  %hi = load i64, ptr %hi_p
  %above = icmp uge i64 %a, %lo
  %below = icmp ule i64 %end, %hi
  %inside = and i1 %above, %below
  %next = add i64 %i, 1
  br i1 %inside, label %fine, label %other
other:
  br label %head
fault:
  %address_p = getelementptr i64, ptr %table, i64 {address}
  %old = load i64, ptr %address_p
  %seen = icmp ne i64 %old, 0
  br i1 %seen, label %sunk, label %keep
keep:
  store i64 %a, ptr %address_p
  %nbytes_p = getelementptr i64, ptr %table, i64 {nbytes}
  store i64 %n, ptr %nbytes_p
  br label %sunk
sunk:
  ret i64 {sink}
fine:
  ret i64 %a
}}
"""


@cache
def install() -> None:
    """Compile `INSIDE` and make it known to whatever is loaded from now on."""
    llvm = llvm_binding()
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    table = int(_TABLE.ctypes.data)
    module = llvm.parse_assembly(_INSIDE.format(
        name=INSIDE, table=table, regions=REGIONS, address=ADDRESS, nbytes=NBYTES,
        sink=table + 8 * (REGIONS + 2 * MOST),
    ))  # fmt: skip
    engine = llvm.create_mcjit_compiler(module, llvm.Target.from_default_triple().create_target_machine(jit=True))
    engine.finalize_object()
    _KEPT.append(engine)
    llvm.add_symbol(INSIDE, engine.get_function_address(INSIDE))


#: Name, first byte, byte after the last.
Region = tuple[str, int, int]


def watched(what: str, regions: Sequence[Region], work: Callable[[], None]) -> None:
    """Do work that may touch these regions alone. Errors: `BackendError`, at the end."""
    if len(regions) > MOST:
        msg = f"{what}: {len(regions)} regions to watch, at most {MOST}"
        raise BackendError(msg)
    flat = [edge for _, *edges in regions for edge in edges]

    def done() -> tuple[int, int]:
        before = _TABLE.copy() if _TABLE[COUNT] else None  # of what a handler or a finaliser interrupted
        _TABLE[:] = 0
        _TABLE[REGIONS : REGIONS + len(flat)] = flat
        _TABLE[COUNT] = len(regions)
        try:
            work()
            return int(_TABLE[ADDRESS]), int(_TABLE[NBYTES])
        finally:
            _TABLE[COUNT] = 0
            if before is not None:
                _TABLE[:] = before

    address, nbytes = _LOCK.held(done)
    if address:
        msg = f"{what}: {nbytes} bytes at {_place(address, regions)} lie in none of its operands"
        raise BackendError(msg)


def _place(address: int, regions: Sequence[Region]) -> str:
    """The address from the nearest region's beginning."""
    name, first, end = min(regions, key=lambda r: max(r[1] - address, address - r[2]))
    return f"{name}{address - first:+d} (of {end - first})"


class Checked:
    """An executor that runs a program's instructions one by one, each with its own operands."""

    def __init__(
        self, inner: Team | Prange, lines: Sequence[Instruction | None], code: NDArray[np.int64], batch: Batch
    ) -> None:
        """`code`: the encoded lines; where there is no instruction, ids are drawn."""
        self.inner, self._lines, self._code, self._batch = inner, lines, code, batch
        self._bound = (0, 0, 0, 0)

    def bind(
        self,
        prog: int,
        count: int,
        base: int,
        step: int,
        parts: int | None = None,  # noqa: ARG002 - all: lines that leave something for each other have as many
        *,
        split: bool = False,  # noqa: ARG002 - instructions run one by one
    ) -> None:
        """Addresses of program, arena and step block; the others: as of `Team.bind`."""
        self._bound = (prog, count, base, step)

    def step(self) -> None:
        """Run the program once. Errors: `BackendError`."""
        prog, count, base, step = self._bound
        first = (prog - int(self._code.ctypes.data)) // self._code.strides[0]
        for i in range(first, first + count):
            line = int(self._code[i].ctypes.data)
            regions = [("instruction", line, line + 8 * SLOTS), *self._words()]
            if (ins := self._lines[i]) is not None:
                kernel = ins.kernel
                regions += self._regions(ins)
            else:
                kernel = DRAW
                regions += draw_regions(self._batch, self._code[i], base)
            self.inner.bind(line, 1, base, step)
            watched(f"instruction {i}, {kernel}", regions, self.inner.step)

    def _words(self) -> Iterator[Region]:
        batch = self._batch
        parts = {"step block": batch.words, "tokens": batch.tokens[: batch.n_tokens],
                 "sequences": batch.sequences[: batch.n_sequences],
                 "results": batch.results[: batch.n_logits]}  # fmt: skip
        for name, words in parts.items():
            at = int(words.ctypes.data)
            yield name, at, at + words.nbytes

    def _regions(self, ins: Instruction) -> Iterator[Region]:
        base = self._bound[2]
        batch = self._batch
        count = {"T": batch.n_tokens, "R": batch.n_logits}
        tables = list(self._tables(ins)) if "pages" in ins.values else []
        for q, table in enumerate(tables):
            yield f"page table of sequence {q}", int(table.ctypes.data), int(table.ctypes.data) + table.nbytes
        for name, held in ins.values.items():
            if isinstance(held, Tensor):
                at = base + held.offset
                if held.part == "kv_cache":
                    yield from _pages(ins, name, at, sorted({int(n) for table in tables for n in table}))
                else:
                    yield name, at, at + (4 * held.width * count[held.rows] if held.rows else held.nbytes)
            made = isinstance(held, RopeTable | BiasTable | DistanceTable | ExpertTable | LoraTable)
            weight = held.weight if made else held  # type: ignore[union-attr]  # as asked
            for each in held.weights if isinstance(held, ExpertTable | LoraTable) else ():
                yield each.name, each.address, each.address + each.nbytes
            if isinstance(weight, Weight):
                yield weight.name, weight.address, weight.address + weight.nbytes

    def _tables(self, ins: Instruction) -> Iterator[NDArray[np.int32]]:
        """Of each sequence the part of its page table that the instruction may use. Errors: `BackendError`."""
        given = (ins.values.get(name) for name in ("context", "group", "pages", "window"))
        columns, group, pages, window = (value if isinstance(value, int) else 0 for value in given)
        for q, words in enumerate(self._batch.sequences[: self._batch.n_sequences]):
            tokens = self._batch.tokens[words[Q_FIRST] : words[Q_FIRST] + words[Q_COUNT]]
            low, high = (tokens[:, T_SLOT].min(), tokens[:, T_SLOT].max())
            if ins.op == "attention":
                low = np.maximum(tokens[:, T_FIRST], tokens[:, T_LAST] + 1 - window).min()
                high = tokens[:, T_LAST].max()
            elif ins.op in {"attention_biased", "attention_relative"}:
                low = np.maximum(tokens[:, T_FIRST], tokens[:, T_SLOT] + 1 - window).min()
                high = np.minimum(tokens[:, T_LAST], tokens[:, T_SLOT] - 1 + window).max()
            word = Q_TABLES
            if ins.op.startswith("cross"):
                word, low, high = Q_ENCODER, np.int64(0), words[Q_ENCODED] - 1
            first, end = int(low) // PAGE, int(high) // PAGE + 1
            if not 0 <= first < end <= columns // PAGE:
                msg = f"{ins.kernel}: sequence {q} uses slots {low} to {high} of {columns}"
                raise BackendError(msg)
            at = int(words[word]) + 4 * (group * columns // PAGE + first)
            table = np.ctypeslib.as_array((ctypes.c_int32 * (end - first)).from_address(at))
            if not np.all((table >= 0) & (table < pages)):
                msg = f"{ins.kernel}: the page table of sequence {q} has {table.tolist()}; there are {pages} pages"
                raise BackendError(msg)
            yield table

    def rest(self) -> None:
        """As the executor's."""
        self.inner.rest()

    def close(self) -> None:
        """As the executor's."""
        self.inner.close()


def _pages(ins: Instruction, name: str, at: int, numbers: Sequence[int]) -> Iterator[Region]:
    """Where pages of a layer's pool lie, for all heads: as few regions as can be."""
    dims = {k: v for k, v in ins.values.items() if isinstance(v, int)}
    size = cache_bytes(ins.variant, 1, PAGE, dims["d_head"])
    first = end = at
    for head in range(dims.get("kv_heads", dims["heads"])):
        for number in numbers:
            page = at + (head * dims["pages"] + number) * size
            if page != end:
                if end > first:
                    yield name, first, end
                first = page
            end = page + size
    if end > first:
        yield name, first, end
