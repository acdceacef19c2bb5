"""Matrices that hold few numbers: a bit for each of them all, and those that are kept, side by side.

One layout for every pattern of zeros (unstructured, N:M, blocks). A matrix [n, k] is an unbroken array of bytes:

| bytes | |
|---|---|
| 8 (n + 1)           | where each row's numbers begin in the array, int64, and where the last row's end |
| 2 n ceil(k / 16)    | [row][group of 16 columns], uint16: bit l is set where column 16 g + l is kept |
| kept x 4 or 2       | the kept numbers, row by row, columns ascending, in the dtype before "_sparse" |
| 64, and up to 8     | nothing: kernels load sixteen numbers at a time, and the size is a multiple of 8 |

Half of the numbers in BF16 are 9 bits a weight, and one start a row. A group is the sixteen lanes of the one reduction
order, so a kernel spreads it in a register and multiplies as it does a dense one, zeros too: the same bits, also where
x is not finite.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .blocking import COLUMNS

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["LANES", "SPARSE", "pack_sparse", "pack_sparse_rows", "sparse_bytes", "spread_floats", "unpack_sparse"]

#: Columns of a group.
LANES = 16
#: Bytes after the last number.
SPARE = 64
#: Name -> the unsigned integer that holds a number's bits.
SPARSE: dict[str, type[np.unsignedinteger[Any]]] = {
    "f32_sparse": np.uint32,
    "bf16_sparse": np.uint16,
    "f16_sparse": np.uint16,
}


def _parts(dtype: str, shape: tuple[int, ...], kept: int) -> tuple[int, int, int]:
    """Where the masks begin, where the numbers begin, and where all ends."""
    n, k = shape
    masks = 8 * (n + 1)
    numbers = masks + 2 * n * -(-k // LANES)
    numbers += -numbers % 4
    end = numbers + kept * np.dtype(SPARSE[dtype]).itemsize + SPARE
    return masks, numbers, end + -end % 8


def sparse_bytes(dtype: str, shape: tuple[int, ...], kept: int) -> int:
    """Bytes of a matrix [n, k] that keeps this many numbers."""
    return _parts(dtype, shape, kept)[2]


def spread_floats(dtype: str, k: int) -> int:
    """A thread's scratch: as many dense rows as a product takes at a time, filled up to whole groups of columns."""
    return COLUMNS * -(-k // LANES) * LANES * np.dtype(SPARSE[dtype]).itemsize // 4


def pack_sparse(numbers: NDArray[Any], keep: NDArray[np.bool_], dtype: str, out: NDArray[np.uint8]) -> None:
    """Write the numbers [n, k] where `keep` says so, in their own dtype (BF16 as uint16), into `out`.

    `out`: uint8 [`sparse_bytes`], 8-byte aligned.
    """
    n, _ = numbers.shape
    pack_sparse_rows(numbers, keep, dtype, out, n)
    end = int(out[8 * n : 8 * (n + 1)].view(np.int64)[0])
    out[end:] = 0


def pack_sparse_rows(  # noqa: PLR0913, PLR0917 - what, and where to
    numbers: NDArray[Any], keep: NDArray[np.bool_], dtype: str, out: NDArray[np.uint8], n: int, row: int = 0
) -> None:
    """As `pack_sparse`, of rows `row` and on of a matrix of `n`: those before it are there. What fills up is left."""
    count, k = numbers.shape
    masks, first, _ = _parts(dtype, (n, k), 0)
    size, width = np.dtype(SPARSE[dtype]).itemsize, -(-k // LANES) * LANES
    starts = out[:masks].view(np.int64)
    starts[0] = first
    starts[row + 1 : row + count + 1] = starts[row] + size * np.cumsum(keep.sum(1))
    bits = np.zeros((count, width), np.bool_)
    bits[:, :k] = keep
    masks += row * width // 8
    out[masks : masks + bits.size // 8] = np.packbits(bits, bitorder="little")
    here = out[starts[row] : starts[row + count]].view(SPARSE[dtype])
    here[:] = np.ascontiguousarray(numbers).view(SPARSE[dtype])[keep]


def unpack_sparse(array: NDArray[np.uint8], dtype: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """The exact values, float64 [n, k]."""
    n, k = shape
    masks, width = 8 * (n + 1), -(-k // LANES) * LANES
    starts = array[:masks].view(np.int64)
    bits = np.unpackbits(array[masks : masks + n * width // 8], bitorder="little").astype(np.bool_)
    values = array[starts[0] : starts[-1]].view(SPARSE[dtype])
    if dtype == "bf16_sparse":
        wide = (values.astype(np.uint32) << 16).view(np.float32)
    else:
        wide = values.view(np.float32 if dtype == "f32_sparse" else np.float16)
    out = np.zeros((n, width))
    out[bits.reshape(n, width)] = wide
    return out[:, :k]
