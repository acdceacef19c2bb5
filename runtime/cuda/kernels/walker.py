"""A program's lines one after the other in one launch: every block walks the table of lines and does its part of each.

A walker is made for the kernels that a program names. A line's kernel is the op's own, unmodified: kernels stride over
their items, so a line is done by whatever grid there is. Where a line waits for those before it, the blocks meet: each
adds one to the gate and reads it until all have (release and acquire, so what was written before is seen after it).
The gate only grows; where it stood when a launch began is kept next to it and moved on when the launch ends.
While a block waits it asks for the weights that it will read first.

Two blocks run on a processor, so a thread has 128 registers, and the walk shall take none of them from a kernel: what
it must remember while one runs lies in shared memory. Sizes are said to be small, which halves the registers for them.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from ..bind import bind
from ..primitives import (
    PRIMITIVES,
    acquire_i64,
    anew,
    barrier,
    block,
    blocks,
    from_bits,
    ld_i64,
    prefetch,
    release_add,
    sld_i64,
    sst_i64,
    st_i64,
    thread,
)
from ..step import R_LEFT, S_RESULT
from .base import Kernel, small

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["AHEAD", "GATE_WORDS", "G_BEFORE", "HUNG", "LINE", "L_SLOTS", "THREADS", "walker"]

#: Of a block. Sums over a block depend on it: it is that of the norms.
THREADS = 256
#: Words of a line, int64: number of its kernel; rows are T or R (0, 1); lines that begin with this one and wait for
#: none of each other, where it waits for what came before, else 0; the block that begins; of the weights: address,
#: bytes of a block's part and how many of them to ask for, address of the end; then the slots.
L_OP, L_ROWS, L_PHASE, L_TURN, L_WEIGHTS, L_PART, L_ASK, L_END, L_SLOTS = range(9)
LINE = 24
#: Words of shared memory after the line: its number, how many must have come, how often this was looked at.
M_LINE, M_WANTED, M_TRIES, MEMORY = range(LINE, LINE + 4)
#: Words of the gate: how many came, and how many had come before this launch. Each in a line of the cache.
G_COUNT, G_BEFORE, GATE_WORDS = 0, 16, 32
#: Most bytes that a block asks for ahead.
AHEAD = 16 * 1024
#: What a block that waited in vain adds to the result.
HUNG = -1 << 40
#: Looks at the gate before a block gives up: seconds.
PATIENCE = 1 << 22


def walker(kernels: Sequence[Kernel], shared: int, *, together: bool) -> Kernel:
    """The kernel that walks lines of `kernels`, in whose order they are numbered; these need `shared` bytes."""
    top = -(-shared // 1024) * 1024  # where the current line lies in shared memory

    def turned() -> Any:
        """Number of this block, counted from the one that begins this line."""
        at = block() - sld_i64(top + 8 * L_TURN)
        return small(at + blocks() if at < 0 else at)

    def this() -> Any:
        """`thread`; all that kernels compute of it would be kept from line to line, in registers that there are not."""
        return small(anew(thread(), top + 8 * L_OP))

    def many() -> Any:
        """`blocks`, likewise."""
        return small(anew(blocks(), top + 8 * L_OP))

    facade = {**PRIMITIVES, "block": turned, "blocks": many, "thread": this, "threads": _threads}
    done: dict[int, Any] = {}
    run: Any = _nothing
    for i, k in reversed(list(enumerate(kernels))):
        run = _choice(i, bind(k.function, facade, done=done), _slots(k.fields, top + 8 * L_SLOTS), run)

    def ask(code: Any, line: Any) -> None:
        """For the first weights of this block's part of the lines from `line` that wait for none of each other."""
        for i in range(ld_i64(code + 8 * (line * LINE + L_PHASE))):
            at = code + 8 * (line + i) * LINE
            turn, ahead = block() - ld_i64(at + 8 * L_TURN), ld_i64(at + 8 * L_ASK)
            part = ld_i64(at + 8 * L_PART)
            first = ld_i64(at + 8 * L_WEIGHTS) + (turn + blocks() if turn < 0 else turn) * part
            for j in range(128 * thread(), ahead, 128 * THREADS):
                if first + j < ld_i64(at + 8 * L_END):
                    prefetch(first + j)

    def fetch(code: Any, line: Any, wanted: Any) -> None:
        """The line to shared memory, and after it what would be kept in registers while its kernel runs."""
        if thread() < LINE:
            sst_i64(top + 8 * thread(), ld_i64(code + 8 * (line * LINE + thread())))
        if thread() == 0:
            sst_i64(top + 8 * M_LINE, line)
            sst_i64(top + 8 * M_WANTED, wanted)

    def meet(step: Any, gate: Any, wanted: Any, code: Any, line: Any) -> Any:
        """*block* Wait until all blocks are here; whether they came. What was written before is seen after."""
        barrier()
        if thread() == 0:
            release_add(gate + 8 * G_COUNT, 1)
        ask(code, line)
        if thread() == 0:
            tries = 0
            while acquire_i64(gate + 8 * G_COUNT) < wanted and tries < PATIENCE:
                tries += 1
            if tries == PATIENCE:
                release_add(step + 8 * S_RESULT, HUNG)
            sst_i64(top + 8 * M_TRIES, tries)
        barrier()
        return sld_i64(top + 8 * M_TRIES) < PATIENCE

    def walk(arena: Any, step: Any, rows: Any, code: Any, gate: Any, run_block: Any, first: Any, last: Any) -> None:
        """Lines `first` to `last` of the table at `code`; none where there is a run block and no id may come."""
        wanted, line = ld_i64(gate + 8 * G_BEFORE), first
        if run_block != 0 and ld_i64(run_block + 8 * R_LEFT) == 0:
            line = last
        while line < last:
            came = True
            if line > first and ld_i64(code + 8 * (line * LINE + L_PHASE)) != 0:
                wanted += blocks()
                came = meet(step, gate, wanted, code, line)
            else:
                barrier()
            if came:
                fetch(code, line, wanted)
                barrier()
                run(sld_i64(top + 8 * L_OP), arena, step, sld_i64(top + 8 * L_ROWS))
                line, wanted = sld_i64(top + 8 * M_LINE) + 1, sld_i64(top + 8 * M_WANTED)
            else:
                line = last
        if block() == 0 and thread() == 0 and wanted != ld_i64(gate + 8 * G_BEFORE):
            st_i64(gate + 8 * G_BEFORE, wanted)

    names = ",".join(k.name for k in kernels)
    name = f"walk_{hashlib.sha256(f'{names} {top}'.encode()).hexdigest()[:16]}"
    fields = ("n:code", "n:gate", "n:run", "n:first", "n:last")
    size = top + 8 * MEMORY
    wide = any(k.double for k in kernels)
    return Kernel(name, walk, THREADS, lambda *_: 1, lambda _: size, fields, together=together, at_once=2, double=wide)


def _threads() -> Any:
    return THREADS


def _nothing(number: Any, arena: Any, step: Any, rows: Any) -> None:
    """No kernel has this number."""


def _choice(mine: int, f: Callable[..., None], slots: Callable[[], Any], others: Callable[..., None]) -> Any:
    def run(number: Any, arena: Any, step: Any, rows: Any) -> None:
        if number == mine:
            f(arena, step, rows, *slots())
        else:
            others(number, arena, step, rows)

    return run


def _slots(fields: Sequence[str], at: int) -> Callable[[], Any]:
    """What gives the current line's slots as a tuple; floats are their bits."""
    slots = _first(LOADS.get(fields[0][0], sld_i64), at)
    for i, field in enumerate(fields[1:], 1):
        slots = _and_one(slots, LOADS.get(field[0], sld_i64), at + 8 * i)
    return slots


def _real(at: Any) -> Any:
    return from_bits(sld_i64(at))


def _number(at: Any) -> Any:
    return small(sld_i64(at))


#: By a slot's kind; others are whole words.
LOADS = {"f": _real, "n": _number}


def _first(load: Callable[[Any], Any], at: int) -> Callable[[], Any]:
    def slots() -> Any:
        return (load(at),)

    return slots


def _and_one(before: Callable[[], Any], load: Callable[[Any], Any], at: int) -> Callable[[], Any]:
    def slots() -> Any:
        return before() + (load(at),)  # noqa: RUF005 - as Numba has it

    return slots
