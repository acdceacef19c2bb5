"""The step block, as the CPU has it (`runtime/cpu/layout.py`): int64 words that Python and kernels share."""

from __future__ import annotations

from ..cpu.layout import S_IDS, S_RESULT, S_ROWS, S_START, S_T

__all__ = [
    "S_IDS",
    "S_RESULT",
    "S_ROWS",
    "S_START",
    "S_T",
    "S_TOKENS",
    "TOKEN_WORDS",
    "T_FIRST",
    "T_LAST",
    "T_POSITION",
    "T_TAKE",
    "WORDS",
]

#: Words of the block.
WORDS = 16
#: Address of what each token of a packed step is, 0 for a plain one; behind the words that the CPU has.
S_TOKENS = 8
#: Of each token, int64: its position in its sequence; the first and the last row of the cache that it sees (its own,
#: for a decoder; an encoder's would be its sequence's last); and, of the first R, the token whose logits come there.
T_POSITION, T_FIRST, T_LAST, T_TAKE, TOKEN_WORDS = range(5)
