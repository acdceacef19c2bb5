"""`Weight`: one tensor as the kernels see it, and the dtypes that they read."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from ..dataclass import dataclass
from .quantized import QUANTIZED, quantized_shape, unpack
from .sparse import SPARSE, sparse_bytes, unpack_sparse
from .sparse_int8 import SPARSE_INT8, sparse_int8_bytes, unpack_sparse_int8

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["DTYPES", "Spaced", "Weight", "weight_bytes"]

#: Float dtypes that the kernels read as stored: name -> (bytes, the NumPy type that holds the bits).
DTYPES: dict[str, tuple[int, type[np.generic]]] = {
    "f32": (4, np.float32),
    "bf16": (2, np.uint16),
    "f16": (2, np.float16),
}


def weight_bytes(dtype: str, shape: tuple[int, ...], kept: int = 0) -> int:
    """Bytes of a weight: a dtype of `DTYPES`, `quantized.QUANTIZED`, or a sparse one with this many numbers kept."""
    if dtype in SPARSE:
        return sparse_bytes(dtype, shape, kept)
    if dtype == SPARSE_INT8:
        return sparse_int8_bytes(shape, kept)
    if dtype in QUANTIZED:
        return math.prod(quantized_shape(dtype, shape))
    return math.prod(shape) * DTYPES[dtype][0]


@dataclass(frozen=True, eq=False)
class Spaced:
    """Where rows lie that take turns with others in one matrix: `each` of every `stride`, from row `base` on."""

    whole: Weight
    each: int
    stride: int
    base: int


@dataclass(frozen=True, eq=False)
class Weight:
    """A tensor as the kernels see it: an address, a shape, a dtype of `DTYPES` or `QUANTIZED`, or a sparse one.

    `array` is a C-contiguous view of the mapped file or of the resident block, shape `shape`; it keeps the memory
    alive. BF16 has no NumPy type: its array is uint16; a quantised matrix is uint8 as in `quantized.py`, a sparse
    one as in `sparse.py` or `sparse_int8.py`, with `kept` numbers. `mapped` tells where the bytes lie.
    One with `lies` is a part of another, and a view with gaps of it: kernels read the whole.
    `array` is None for a weight that is only planned (`miaotui inspect`): its address is 0.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    array: NDArray[np.generic] | None
    mapped: bool
    kept: int = 0  # of a sparse matrix
    lies: Spaced | None = None

    @property
    def address(self) -> int:
        """Address of the first element, in bytes."""
        return 0 if self.array is None else int(self.array.ctypes.data)

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return weight_bytes(self.dtype, self.shape, self.kept)

    @property
    def quantized(self) -> bool:
        """Whether it holds integers and scales, and wants its input quantised."""
        return self.dtype in QUANTIZED or self.dtype == SPARSE_INT8

    def f64(self) -> NDArray[np.float64]:
        """The exact values in float64, a copy: for the reference."""
        if self.array is None:
            msg = f"weight {self.name} is planned, not loaded"
            raise ValueError(msg)
        a = self.array
        if self.dtype == SPARSE_INT8:
            return unpack_sparse_int8(a.view(np.uint8), self.shape)
        if self.quantized:
            return unpack(a.view(np.uint8), self.dtype, self.shape)
        if self.dtype in SPARSE:
            return unpack_sparse(a.view(np.uint8), self.dtype, self.shape)
        if self.dtype == "bf16":
            a = (a.astype(np.uint32) << 16).view(np.float32)
        return a.astype(np.float64).reshape(self.shape)
