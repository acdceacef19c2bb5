"""int8 matrices that hold few numbers: the panels of `quantized.py`, a bit for each number, and those that are kept.

A matrix [n, k] is an unbroken array of bytes; panels are 16 rows and groups 32 columns, both filled up:

| bytes | |
|---|---|
| 8 (panels + 1) | where each panel begins in the array, int64, and where the last one ends |
| the panels     | group after group: 32 of scales; 64 of bits, one a byte of the dense group; bytes kept, q + 128 |
| 64, and up to 8 | nothing: kernels load 64 bytes at a time, and the size is a multiple of 8 |

Half of the numbers are 5.5 bits a weight. A byte that is not kept is q = 0: a step of 64 bytes is spread in a register,
and is then the dense one, so that the product has the bits of the dense int8 product.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .quantized import GROUP, GROUP_BYTES, HEAD_BYTES, PANEL, QUANTIZED, quantized_shape, unpack

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "BITS_BYTES",
    "SPARSE_INT8",
    "SPREAD_PANELS",
    "pack_sparse_int8",
    "sparse_int8_bytes",
    "spread_int8_floats",
    "unpack_sparse_int8",
]

SPARSE_INT8 = "int8_sparse"
HEAD, SPARE = HEAD_BYTES["int8"], 64
#: Of a panel's group, one bit a number.
BITS_BYTES = PANEL * GROUP // 8
#: Most panels that a kernel spreads at a time, for many tokens.
SPREAD_PANELS = 2


def sparse_int8_bytes(shape: tuple[int, ...], kept: int) -> int:
    """Bytes of a matrix [n, k] that keeps this many numbers."""
    panels, groups, _ = quantized_shape("int8", shape)
    end = 8 * (panels + 1) + panels * groups * (HEAD + BITS_BYTES) + kept + SPARE
    return end + -end % 8


def spread_int8_floats(k: int) -> int:
    """A thread's scratch: `SPREAD_PANELS` dense panels of k columns."""
    return SPREAD_PANELS * -(-k // GROUP) * GROUP_BYTES["int8"] // 4


def pack_sparse_int8(
    dense: NDArray[np.uint8], keep: NDArray[np.bool_], out: NDArray[np.uint8], n: int, row: int = 0
) -> None:
    """Write rows `row` and on, in whole panels, of a matrix of `n` rows; those before it are there.

    `dense`: uint8 `quantized_shape("int8")` of these rows, quantised with zeros where `keep`, bool [rows, k], says no.
    `out`: uint8 [`sparse_int8_bytes`] of the whole matrix, 8-byte aligned.
    """
    rows, k = keep.shape
    panels, groups, _ = dense.shape
    starts = out[: 8 * (-(-n // PANEL) + 1)].view(np.int64)
    starts[0] = starts.nbytes
    bits = np.zeros((panels * PANEL, groups * GROUP), np.bool_)
    bits[:rows, :k] = keep
    # [P, row, G, step, 4] -> [P, G, step, row, 4]
    bits = bits.reshape(panels, PANEL, groups, GROUP // 4, 4).transpose(0, 2, 3, 1, 4)
    bits = bits.reshape(panels, groups, PANEL * GROUP)
    first = row // PANEL
    for i in range(panels):
        at = int(starts[first + i])
        counts = bits[i].sum(1)
        heads = at + (HEAD + BITS_BYTES) * np.arange(groups) + np.cumsum(counts) - counts
        for part, width in ((dense[i, :, :HEAD], HEAD), (np.packbits(bits[i], axis=1, bitorder="little"), BITS_BYTES)):
            out[heads[:, None] + np.arange(width)] = part
            heads += width
        end = at + groups * (HEAD + BITS_BYTES) + int(counts.sum())
        mine = np.ones(end - at, np.bool_)  # of the panel's bytes, those that are numbers
        mine[(heads[:, None] - at - np.arange(1, HEAD + BITS_BYTES + 1)).ravel()] = False
        out[at:end][mine] = dense[i, :, HEAD:][bits[i]]
        starts[first + i + 1] = end
    if first + panels == len(starts) - 1:
        out[starts[-1] :] = 0


def unpack_sparse_int8(array: NDArray[np.uint8], shape: tuple[int, ...]) -> NDArray[np.float64]:
    """The exact values, float64 [n, k]."""
    panels, groups, size = quantized_shape("int8", shape)
    dense = np.full((panels, groups, size), QUANTIZED["int8"], np.uint8)
    starts = array[: 8 * (panels + 1)].view(np.int64)
    at = int(starts[0])
    for group in dense.reshape(-1, size):
        group[:HEAD] = array[at : at + HEAD]
        bits = np.unpackbits(array[at + HEAD : at + HEAD + BITS_BYTES], bitorder="little").astype(np.bool_)
        at += HEAD + BITS_BYTES
        group[HEAD:][bits] = array[at : at + int(bits.sum())]
        at += int(bits.sum())
    return unpack(dense, "int8", shape)
