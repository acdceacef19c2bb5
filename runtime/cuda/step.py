"""The step block of a GPU: int64 words that Python and kernels share. It has one sequence, or a batch of several."""

from __future__ import annotations

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
    "S_TOKENS",
    "TOKEN_WORDS",
    "T_FIRST",
    "T_LAST",
    "T_POSITION",
    "T_TAKE",
    "WORDS",
]

#: Words of the block, and the first of them: tokens, position of the first, rows of logits (of the last tokens),
#: address of the ids, greedy id of the last row.
WORDS = 16
S_T, S_START, S_ROWS, S_IDS, S_RESULT = range(5)
#: Run block, for steps that the host does not drive: ids that may still come, how many came, ids that end it (their
#: count, at most ENDS), and the last RING ids.
ENDS, RING = 64, 64
R_LEFT, R_COUNT, R_N_ENDS, R_ENDS, R_IDS = 0, 1, 2, 8, 8 + ENDS
RUN_WORDS = R_IDS + RING
#: Address of what each token of a batch is, 0 for a plain one.
S_TOKENS = 8
#: Of each token, int64: its position in its sequence; the first and the last row of the cache that it sees (its own,
#: for a decoder; an encoder's would be its sequence's last); and, of the first R, the token whose logits come there.
T_POSITION, T_FIRST, T_LAST, T_TAKE, TOKEN_WORDS = range(5)
