"""The words that Python and compiled code share: where each lies in its block. Importing this costs nothing."""

from __future__ import annotations

from ..quantized import GROUP, PANEL

#: Control block of a team, in bytes. First what stays through a fork: how many threads it has, the caller's own among
#: them; the address of a worker's code; how many threads there are cores for; whether it was closed.
C_THREADS, C_WORK, C_CORES, C_CLOSED = 0, 8, 16, 24
#: Whether somebody is inside `STEP` or `STOP`, whether there are workers, whether they are to end, what came of a step.
C_BUSY, C_RUNNING, C_STOP, C_OUTCOME = 32, 40, 48, 56
#: On lines of 64 bytes, each written by one thread at a time. A step's program, instructions, arena and step block, how
#: many parts it has, how many threads take part, and how long they wait for each other before they nap.
C_PROG, C_N, C_BASE, C_STEP, C_PARTS, C_CREW, C_LIMIT = 64, 72, 80, 88, 96, 104, 112
#: The epoch: odd while a step runs.
C_EPOCH = 128
#: What the caller's thread keeps of the steps before: how many threads may take part; nanoseconds of steps, and of
#: `C_HELD` when these began to be counted; when one thread more may be tried, how long that is put off; a clock.
C_MOST, C_SPENT, C_BEFORE, C_AGAIN, C_PATIENCE, C_CLOCK = 192, 200, 208, 216, 224, 232
#: Nanoseconds that all threads together lost, ever, in waits, because one of them had no core.
C_HELD = 256
#: Then two lines a thread: the last segment in which its part was done, its pthread_t, the control block, a sem_t of at
#: most 32 bytes, whether it is parked on that.
C_LINES, LINE = 320, 128
T_DONE, T_HANDLE, T_CONTROL, T_SEMAPHORE, T_PARKED = 0, 8, 16, 24, 56
#: On the second, the last segment in which its part was taken, and by whom: the clock of that thread's processor time.
#: Then what is the thread's own while it waits: a clock, when it began, and when it last saw whose processor time.
T_TAKEN, T_WHO, T_CLOCK, T_BEGAN, T_SAW, T_WHOSE, T_TIME = 64, 72, 80, 96, 104, 112, 120
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

#: What an instruction says of its wait, besides 0 (none) and 1: threads meet before it where the step is split.
IF_SPLIT = 2
