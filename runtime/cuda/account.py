"""What a program will take of a device's memory, before anything is uploaded. Planned weights will do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..rope import RopeTable
from ..spec import Weight
from .draw import draw_bytes
from .fuse import PARTS_BYTES, script_of
from .interpreter import WAYS, map_bytes, slots_of, way_of
from .kernels.walker import GATE_WORDS
from .step import RUN_WORDS, TOKEN_WORDS, WORDS

if TYPE_CHECKING:
    from ..program import Program

__all__ = ["device_memory"]


def device_memory(program: Program, way: str | None = None) -> dict[str, int]:
    """Bytes by part: every weight that the program names, once; tables; the arena's parts; what a step is told.

    `way`: one of `interpreter.WAYS`, or the environment's; a walker's table and parts count with the step.
    Errors: `BackendError`, no such way.
    """
    held = [v for i in program.code for v in i.values.values()]
    weights = {id(w): w.nbytes for w in held if isinstance(w, Weight)}
    tables = {id(t): t.nbytes for t in held if isinstance(t, RopeTable)}
    parts = {"weights": sum(weights.values()), "constants": sum(tables.values()), **program.memory}
    words = WORDS + (1 + TOKEN_WORDS) * program.chunk + GATE_WORDS + RUN_WORDS
    walked = _walked(program) if way_of(way) != WAYS[0] else 0
    vocabulary = program.logits.width if program.logits is not None else 0
    return parts | {"step": 8 * words + walked + map_bytes(program), "draw": draw_bytes(vocabulary)}


def _walked(program: Program) -> int:
    """Bytes that a step by a walker takes besides its words."""
    rows = program.encode(lambda _: 0)
    values = [slots_of(i, row) for i, row in zip(program.code, rows, strict=True)]
    drawn = {"draw": 0, "x": 0, "n": 0}
    scripts = (script_of(program, values, 0, 0, together=True, drawn=d) for d in (None, drawn))
    return PARTS_BYTES + sum(s.table_bytes for s in scripts)
