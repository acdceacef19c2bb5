"""A file's numbers as float64, and float64 as the file's numbers, rounded once to nearest even."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    F64 = NDArray[np.float64]

__all__ = ["narrowed", "widened"]

_TYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16}


def widened(x: NDArray[np.generic], dtype: str) -> F64:
    """Exactly; `dtype` as safetensors names it, BF16 as uint16."""
    if dtype == "BF16":
        return (x.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return x.astype(np.float64)


def narrowed(x: F64, dtype: str) -> NDArray[Any]:
    """To the file's dtype. BF16 goes by way of F32, rounded to odd, so that the second rounding is the only one."""
    if dtype != "BF16":
        return x.astype(_TYPES[dtype])
    single = x.astype(np.float32)
    off = single.astype(np.float64) - x
    bits = single.view(np.uint32)
    # one step towards zero where F32 went beyond, then the last bit says that something was cut off
    bits = np.where((off != 0) & (np.abs(single) > np.abs(x)), bits - 1, bits) | (off != 0).astype(np.uint32)
    rounded: NDArray[Any] = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
    return rounded
