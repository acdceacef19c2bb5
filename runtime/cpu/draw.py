"""The instructions that end a pass in which ids are drawn (`kernels/draw.py`). They are no ops of the model's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..drawing import (
    D_BIAS,
    D_BIASES,
    D_COUNTED,
    D_COUNTS_OFF,
    D_EDITS,
    D_ENDS,
    D_HISTORY,
    D_MASK,
    D_N_BIAS,
    D_N_COUNTED,
    D_N_EDITS,
    D_N_ENDS,
    D_N_HISTORY,
    D_N_REPEATED,
    D_N_SOURCE,
    D_REPEATED,
    D_REPEATED_OFF,
    D_SOURCE,
    D_SURPRISES,
    I_N,
    I_PHASE,
    I_SCRATCH,
    I_SIZE,
    I_SLOTS,
    I_X,
    PHASES,
    slot_bytes,
)
from ..ops import SLOTS
from ..sampling import mask_words

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from ..step import Batch

__all__ = ["draw_lines", "draw_regions"]


#: Arrays of a row, of int64 or float64: name, where their address stands, and their number.
_LISTS = (
    ("history", D_HISTORY, D_N_HISTORY), ("edits", D_EDITS, D_N_EDITS), ("bias", D_BIAS, D_N_BIAS),
    ("biases", D_BIASES, D_N_BIAS), ("counted", D_COUNTED, D_N_COUNTED), ("counts", D_COUNTS_OFF, D_N_COUNTED),
    ("repeated", D_REPEATED, D_N_REPEATED), ("repeats", D_REPEATED_OFF, D_N_REPEATED), ("source", D_SOURCE, D_N_SOURCE),
    ("ends", D_ENDS, D_N_ENDS),
)  # fmt: skip


def draw_lines(address: int, x: int, n: int, scratch: int, slots: int) -> NDArray[np.int64]:
    """int64 [3, SLOTS], to stand after a program's own; `address`: the kernel's; `x`, `scratch`: in the arena."""
    lines = np.zeros((len(PHASES), SLOTS), np.int64)
    lines[:, :3] = address, 1, 1  # every thread waits for the logits, and for what others leave of a row
    lines[:, [I_X, I_N, I_SCRATCH, I_SIZE, I_SLOTS]] = x, n, scratch, slot_bytes(n), slots
    lines[:, I_PHASE] = PHASES
    return lines


def draw_regions(batch: Batch, line: NDArray[np.int64], base: int) -> Iterator[tuple[str, int, int]]:
    """What an instruction may touch (`bounds.py`), besides itself and the step's own words: name, first byte, end."""
    x, n, scratch, size, slots = (int(line[slot]) for slot in (I_X, I_N, I_SCRATCH, I_SIZE, I_SLOTS))
    yield "logits", base + x, base + x + 4 * n * batch.n_logits
    yield "scratch", base + scratch, base + scratch + size * slots
    for name, words in (("draws", batch.draws[: batch.n_draws]), ("drawn", batch.drawn)):
        yield name, int(words.ctypes.data), int(words.ctypes.data) + words.nbytes
    for i, words in enumerate(batch.draws[: batch.n_draws]):
        for name, at, count in _LISTS:
            yield f"{name} of draw {i}", int(words[at]), int(words[at] + 8 * words[count])
        if words[D_SURPRISES]:
            yield f"surprises of draw {i}", int(words[D_SURPRISES]), int(words[D_SURPRISES]) + 16
        if words[D_MASK]:
            yield f"mask of draw {i}", int(words[D_MASK]), int(words[D_MASK]) + 4 * mask_words(n)
