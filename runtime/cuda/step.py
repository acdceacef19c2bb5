"""The step block, as the CPU has it (`runtime/cpu/layout.py`): int64 words that Python and kernels share."""

from __future__ import annotations

from ..cpu.layout import S_IDS, S_RESULT, S_ROWS, S_START, S_T

__all__ = [
    "ENDS",
    "RING",
    "RUN_WORDS",
    "R_COUNT",
    "R_ENDS",
    "R_IDS",
    "R_LEFT",
    "R_N_ENDS",
    "S_IDS",
    "S_RESULT",
    "S_ROWS",
    "S_START",
    "S_T",
    "WORDS",
]

#: Words of the block.
WORDS = 16
#: Run block, for steps that the host does not drive: ids that may still come, how many came, ids that end it (so many,
#: at most ENDS), and the last RING ids.
ENDS, RING = 64, 64
R_LEFT, R_COUNT, R_N_ENDS, R_ENDS, R_IDS = 0, 1, 2, 8, 8 + ENDS
RUN_WORDS = R_IDS + RING
