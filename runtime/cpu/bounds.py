"""MIAOTUI_DEBUG=1: every load and store of a kernel is checked against the operands of its instruction.

Kernels take addresses, and Numba does not check them. Under MIAOTUI_DEBUG they are compiled anew, with a call to
`INSIDE` before every access (`emitters.ptr`); a step then runs an instruction at a time, and before each one the
table below is filled with where its operands begin and end, for as many rows as the step has. What lies in none of
them goes to a sink instead, and the step ends in a `BackendError` that names instruction, kernel and address. Three to
four times slower, and the same bits.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import llvmlite.binding as llvm
import numpy as np

from ...errors import BackendError
from ..arena import Tensor
from ..ops import SLOTS
from ..rope import RopeTable
from ..spec import Weight
from .layout import INSIDE, S_IDS, S_ROWS, S_T

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from ..program import Instruction, Program
    from .prange import Prange
    from .team import Team

__all__ = ["Checked", "install", "watched"]

#: The table: how many regions (0: nobody watches, all is allowed), the first address that lay in none and how many
#: bytes it was of; then first byte and the byte behind the last of each region; then the sink.
COUNT, ADDRESS, NBYTES, REGIONS = range(4)
MOST, SINK = 32, 64
_TABLE = np.zeros(REGIONS + 2 * MOST + SINK, np.int64)
_LOCK = threading.RLock()
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


#: Name, first byte, byte behind the last.
Region = tuple[str, int, int]


@contextmanager
def watched(what: str, regions: Sequence[Region]) -> Iterator[None]:
    """What runs inside may touch these regions alone. Errors: `BackendError`, at the end."""
    with _LOCK:
        flat = [edge for _, *edges in regions for edge in edges]
        _TABLE[:] = 0
        _TABLE[REGIONS : REGIONS + len(flat)] = flat
        _TABLE[COUNT] = len(regions)
        yield
        _TABLE[COUNT] = 0
        address, nbytes = int(_TABLE[ADDRESS]), int(_TABLE[NBYTES])
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
        self, inner: Team | Prange, program: Program, code: NDArray[np.int64], words: NDArray[np.int64]
    ) -> None:
        """`code`, `words`: the encoded program and the step block."""
        self._inner, self._program, self._code, self._words = inner, program, code, words
        self._bound = (0, 0, 0, 0)

    def bind(self, prog: int, count: int, base: int, step: int) -> None:
        """Addresses of program, arena and step block."""
        self._bound = (prog, count, base, step)

    def step(self) -> None:
        """Run the program once. Errors: `BackendError`."""
        prog, count, base, step = self._bound
        first = (prog - int(self._code.ctypes.data)) // self._code.strides[0]
        for i in range(first, first + count):
            ins = self._program.code[i]
            line = int(self._code[i].ctypes.data)
            regions = [("instruction", line, line + 8 * SLOTS), *self._regions(ins)]
            with watched(f"instruction {i}, {ins.kernel}", regions):
                self._inner.bind(line, 1, base, step)
                self._inner.step()

    def _regions(self, ins: Instruction) -> Iterator[Region]:
        _, _, base, step = self._bound
        words = self._words
        ids = int(words[S_IDS])
        yield "step block", step, step + words.nbytes
        yield "ids", ids, ids + 8 * int(words[S_T])
        count = {"T": int(words[S_T]), "R": int(words[S_ROWS])}
        for name, held in ins.values.items():
            if isinstance(held, Tensor):
                at = base + held.offset
                yield name, at, at + (4 * held.width * count[held.rows] if held.rows else held.nbytes)
            weight = held.weight if isinstance(held, RopeTable) else held
            if isinstance(weight, Weight):
                yield weight.name, weight.address, weight.address + weight.nbytes

    def close(self) -> None:
        """As the executor's."""
        self._inner.close()
