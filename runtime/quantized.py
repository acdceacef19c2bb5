"""int8 and int4 matrices as the kernels read them: one unbroken stream of bytes for sixteen rows.

A matrix [n, k] is cut into panels of 16 rows and groups of 32 columns, both filled up. Its array is uint8
[panels, groups, bytes]; a row's 32 numbers in a group share one scale, and w = q * scale. int4a (asymmetric) has a
smallest number next to it, and w = q * scale + low.

| bytes of a panel's group | |
|---|---|
| 32         | 16 scales, float16, one for each row |
| int4a: 32  | 16 smallest numbers, float16, one for each row |
| int8: 512  | [8 steps][16 rows][4 columns], q + 128; q in -128 .. 127 |
| int4: 256  | [4 steps][16 rows][4 columns], q + 8; q in -8 .. 7; low half columns 4s + j, high half 16 + 4s + j |
| int4a: 256 | as int4, q itself; q in 0 .. 15 |

So an instruction that multiplies bytes by fours (VNNI's vpdpbusd) takes one step of 64 bytes, a lane for each row.
That is 8.5, 4.5 and 5 bits a weight. Rows that fill up are zero; columns that fill up hold anything, since their input
is zero.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "GROUP",
    "GROUP_BYTES",
    "HEAD_BYTES",
    "INT4A_TRIALS",
    "LEVELS",
    "PANEL",
    "QUANTIZED",
    "SCALE_BYTES",
    "TRIALS",
    "quantized_shape",
    "unpack",
    "unpack_parts",
]

PANEL, GROUP = 16, 32
SCALE_BYTES = 2 * PANEL
#: Name -> what is added to a number to store it.
QUANTIZED = {"int8": 128, "int4": 8, "int4a": 0}
#: Name -> the smallest and the largest number.
LEVELS = {"int8": (-128, 127), "int4": (-8, 7), "int4a": (0, 15)}
#: Of a panel's group: what stands before the numbers, and all of it.
HEAD_BYTES = {"int8": SCALE_BYTES, "int4": SCALE_BYTES, "int4a": 2 * SCALE_BYTES}
GROUP_BYTES = {d: head + PANEL * GROUP // (1 if d == "int8" else 2) for d, head in HEAD_BYTES.items()}

#: What the search for a scale tries: the number to which the largest of a group is taken.
TRIALS = {
    "int8": (127.0, -128.0, -127.5, -127.0, -126.5, -126.0),
    "int4": (-8.0, -7.6, -7.2, -6.8, -8.5, 7.0, 7.5),
}
#: int4a: the numbers to which the smallest of a group and the range are taken; what leaves 0 .. 15 is cut off.
INT4A_TRIALS = (
    (0.0, 15.0),
    *((-d * side / 3, 15 + d) for d in (-0.3, 0.5, 1.0, 1.5, 2.0) for side in range(4)),
)


def quantized_shape(dtype: str, shape: tuple[int, ...]) -> tuple[int, int, int]:
    """[panels, groups, bytes] of a matrix [n, k]."""
    n, k = shape
    return -(-n // PANEL), -(-k // GROUP), GROUP_BYTES[dtype]


def unpack(array: NDArray[np.uint8], dtype: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """The exact values, float64 [n, k]."""
    q, scale, low = unpack_parts(array, dtype, shape)
    w: NDArray[np.float64] = q * np.repeat(scale, GROUP, axis=1)[:, : shape[1]]
    if dtype == "int4a":
        w += np.repeat(low, GROUP, axis=1)[:, : shape[1]]
    return w


def unpack_parts(
    array: NDArray[np.uint8], dtype: str, shape: tuple[int, ...]
) -> tuple[NDArray[np.int8], NDArray[np.float64], NDArray[np.float64]]:
    """Whole numbers [n, k], and of each group its scale and its smallest number, 0 but for int4a: [n, groups]."""
    (n, k), (panels, groups, _) = shape, quantized_shape(dtype, shape)
    head = np.ascontiguousarray(array[..., : HEAD_BYTES[dtype]]).view(np.float16).astype(np.float64)  # [P, G, 16 or 32]
    steps = array[..., HEAD_BYTES[dtype] :].reshape(panels, groups, -1, PANEL, 4)  # [P, G, step, row, 4]
    if dtype != "int8":
        steps = np.concatenate([steps & 15, steps >> 4], axis=2)
    q = (steps.astype(np.int16) - QUANTIZED[dtype]).astype(np.int8)
    scale, low = (
        x.transpose(0, 2, 1).reshape(panels * PANEL, groups)[:n]
        for x in (head[..., :PANEL], head[..., PANEL:] if dtype == "int4a" else np.zeros((panels, groups, PANEL)))
    )
    # [P, G, step, row, 4] -> [P, row, G, step, 4] -> [n, k]
    return q.transpose(0, 3, 1, 2, 4).reshape(panels * PANEL, groups * GROUP)[:n, :k], scale, low
