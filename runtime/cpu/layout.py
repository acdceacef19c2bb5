"""The words that Python and compiled code share: where each lies in its block. Importing this costs nothing."""

from __future__ import annotations

from ..quantized import GROUP, PANEL

#: Control block of a team, in bytes. First what stays through a fork: how many threads it has, the caller's own among
#: them; the address of a worker's code; whether it was closed.
C_THREADS, C_WORK, C_CLOSED = 0, 8, 16
#: Whether somebody is inside `STEP` or `STOP`, whether there are workers, whether they are to end, what came of a step.
C_BUSY, C_RUNNING, C_STOP, C_OUTCOME = 24, 32, 40, 48
#: On lines of 64 bytes: the step's program, instructions, arena, step block; the epoch, which counts steps.
C_PROG, C_N, C_BASE, C_STEP, C_EPOCH = 64, 72, 80, 88, 128
#: Then a line a thread: its barrier count, whether it is parked, its pthread_t, the control block, and a sem_t of at
#: most 32 bytes, on which it is.
C_LINES, LINE = 192, 64
T_BARRIER, T_PARKED, T_HANDLE, T_CONTROL, T_SEMAPHORE = 0, 8, 16, 24, 32
#: What comes of a step: it was done; the team was closed; otherwise how many threads could be had.
DONE, CLOSED = 0, -1

#: Entry points of the team (`interpreter.py`). All compiled code takes five int64, a kernel (p, base, step, t, nt).
STEP, WORK, STOP, CALL = ROOTS = "team_step", "team_work", "team_stop", "call_alone"
ARGUMENTS = 5

#: What every access of a kernel calls under MIAOTUI_DEBUG: int64 (address, bytes) -> an address (`bounds.py`).
INSIDE = "miaotui_inside"

#: Bytes of a request to a worker that compiles: one name, filled up with spaces.
REQUEST = 64

#: What a packing kernel takes: source, bytes between its rows and between its columns, rows, columns, bytes of an
#: element, whether BF16, result, scratch; last comes back: 0.0, or NaN where something is not finite or too large.
PACK_WORDS = (
    *("source", "by_row", "by_column", "rows", "columns", "size", "bf16", "out", "scratch"),
    "fine",
)
#: Bytes of its scratch: a group of a panel, twice, in float32.
PACK_SCRATCH = 2 * 4 * PANEL * GROUP
