"""What a program will take of a device's memory, before anything is uploaded. Planned weights will do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..rope import RopeTable
from ..spec import Weight
from .draw import draw_bytes
from .kernels.walker import GATE_WORDS
from .step import RUN_WORDS, TOKEN_WORDS, WORDS

if TYPE_CHECKING:
    from ..program import Program

__all__ = ["device_memory"]


def device_memory(program: Program) -> dict[str, int]:
    """Bytes by part: every weight that the program names, once; tables; the arena's parts; words of a step and a draw.

    Steps by a walker (`MIAOTUI_CUDA_STEP`) take their table beside it: some 200 bytes a line, and 64 KiB. A product by
    bulk copies takes two maps of 128 bytes for each of its lines.
    """
    held = [v for i in program.code for v in i.values.values()]
    weights = {id(w): w.nbytes for w in held if isinstance(w, Weight)}
    tables = {id(t.weight): t.weight.nbytes for t in held if isinstance(t, RopeTable)}
    found = {"weights": sum(weights.values()), "constants": sum(tables.values()), **program.memory}
    words = WORDS + (1 + TOKEN_WORDS) * program.chunk + GATE_WORDS + RUN_WORDS
    vocabulary = program.logits.width if program.logits is not None else 0
    return found | {"step": 8 * words, "draw": draw_bytes(vocabulary)}
