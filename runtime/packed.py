"""int8 and int4 matrices as the kernels read them: one unbroken stream of bytes for sixteen rows.

A matrix [n, k] is cut into panels of 16 rows and groups of 32 columns, both filled up with zeros. Its array is uint8
[panels, groups, bytes]; a row's 32 numbers in a group share one scale, and w = q * scale.

| bytes of a panel's group | |
|---|---|
| 32        | 16 scales, float16, one for each row |
| int8: 512 | [8 steps][16 rows][4 columns], q + 128; q in -127 .. 127 |
| int4: 256 | [4 steps][16 rows][4 columns], q + 8; q in -8 .. 7; low half columns 4s + j, high half 16 + 4s + j |

So an instruction that multiplies bytes by fours (VNNI's vpdpbusd) takes one step of 64 bytes, a lane for each row.
That is 8.5 and 4.5 bits a weight.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["GROUP", "GROUP_BYTES", "PANEL", "QUANTIZED", "SCALE_BYTES", "packed_shape", "unpack"]

PANEL, GROUP = 16, 32
SCALE_BYTES = 2 * PANEL
#: Name -> what is added to a number to store it.
QUANTIZED = {"int8": 128, "int4": 8}
GROUP_BYTES = {"int8": SCALE_BYTES + PANEL * GROUP, "int4": SCALE_BYTES + PANEL * GROUP // 2}


def packed_shape(dtype: str, shape: tuple[int, ...]) -> tuple[int, int, int]:
    """[panels, groups, bytes] of a matrix [n, k]."""
    n, k = shape
    return -(-n // PANEL), -(-k // GROUP), GROUP_BYTES[dtype]


def unpack(array: NDArray[np.uint8], dtype: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """The exact values, float64 [n, k]."""
    panels, groups, _ = packed_shape(dtype, shape)
    scale = np.ascontiguousarray(array[..., :SCALE_BYTES]).view(np.float16).astype(np.float64)  # [P, G, 16]
    steps = array[..., SCALE_BYTES:].reshape(panels, groups, -1, PANEL, 4)  # [P, G, step, row, 4]
    if dtype == "int4":
        steps = np.concatenate([steps & 15, steps >> 4], axis=2)
    q = steps.astype(np.float64) - QUANTIZED[dtype]
    w = q * scale[:, :, None, :, None]
    n, k = shape
    # [P, G, step, row, 4] -> [P, row, G, step, 4] -> [n, k]
    return w.transpose(0, 3, 1, 2, 4).reshape(panels * PANEL, groups * GROUP)[:n, :k]
