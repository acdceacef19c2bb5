"""The words that Python and compiled code share: where each lies in its block. Importing this costs nothing."""

from __future__ import annotations

from ..quantized import GROUP, PANEL

#: Control block of a team, in bytes: program, instructions, arena, step block, stop flag; then lines of 64 bytes:
#: epoch, and per thread its barrier count, the last epoch seen and whether it is parked.
C_PROG, C_N, C_BASE, C_STEP, C_STOP, C_EPOCH, C_THREADS, LINE = 0, 8, 16, 24, 32, 64, 128, 64
T_BARRIER, T_SEEN, T_PARKED = 0, 8, 16

#: int64 arguments of the interpreter's root, (ctl, t, nt), and of a kernel, (p, base, step, t, nt).
ROOT = "run"
ROOT_ARGUMENTS, KERNEL_ARGUMENTS = 3, 5

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
