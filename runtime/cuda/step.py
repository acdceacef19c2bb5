"""The step block, as the CPU has it (`runtime/cpu/layout.py`): int64 words that Python and kernels share."""

from __future__ import annotations

from ..cpu.layout import S_IDS, S_RESULT, S_ROWS, S_START, S_T

__all__ = ["S_IDS", "S_RESULT", "S_ROWS", "S_START", "S_T", "WORDS"]

#: Words of the block.
WORDS = 16
