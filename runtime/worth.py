"""How many threads a step is worth: what its instructions cost one thread, next to what meeting costs several.

Threads meet where an instruction waits for what came before. Shares that are smaller than a meeting is long make a step
slower, and a token of a small model is nothing but such shares. So `threads="auto"` decides for each step, by what it
reads and computes: a token of a small model has one thread, a long prompt of the same model has several.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .experts import ExpertTable
from .ops import OPS
from .spec import Weight

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .program import Instruction

__all__ = ["Worth"]

#: What a core reads and computes in a nanosecond, weights in its cache: larger models have enough to do in any case.
BYTES, FLOP = 24.0, 60.0
#: Nanoseconds of work that each thread must have between two meetings.
SHARE = 400.0
#: Fields of the number of keys that a row sees.
KEYS = "context"


class Worth:
    """The cost of a part of a program."""

    def __init__(self, code: Sequence[Instruction]) -> None:
        """Each instruction's cost is what it reads once, or what each of its rows computes, whichever takes longer."""
        self._read = np.array([_bytes(ins) for ins in code]) / BYTES
        self._row = np.array([_flop(ins, 0) for ins in code]) / FLOP
        self._key = np.array([_flop(ins, 1) for ins in code]) / FLOP - self._row
        self._of_logits = np.array([ins.rows == "R" for ins in code], bool)
        self._meetings = 1 + sum(ins.wait for ins in code)

    def seconds(self, tokens: int, logits: int, keys: int) -> float:
        """What one thread takes, about; `keys`: that the last token sees."""
        rows = np.where(self._of_logits, logits, tokens)
        return 1e-9 * float(np.maximum(self._read, rows * (self._row + keys * self._key)).sum())

    def threads(self, tokens: int, logits: int, keys: int, most: int) -> int:
        """How many have enough to do between two meetings."""
        return max(1, min(most, int(1e9 * self.seconds(tokens, logits, keys) / (self._meetings * SHARE))))


def _bytes(ins: Instruction) -> float:
    """Of the weights that an instruction reads whole: of experts, as many as a token goes to."""
    if not OPS[ins.op].sums_over:
        return 0.0
    read = 0.0
    for value in ins.values.values():
        if isinstance(value, Weight):
            read += value.nbytes
        elif isinstance(value, ExpertTable):
            chosen = ins.values.get("chosen")
            read += sum(w.nbytes for w in value.weights) * (chosen if isinstance(chosen, int) else 1)
            read /= max(1, len(value.weights))
    return read


def _flop(ins: Instruction, keys: int) -> float:
    """Of one row that sees so many keys."""
    dims = {name: int(v) for name, v in ins.values.items() if isinstance(v, int | float)}
    return float(OPS[ins.op].flop(dims | {KEYS: keys} if KEYS in dims else dims))
