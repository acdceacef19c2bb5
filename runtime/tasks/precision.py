"""Vectors in fewer bits, as sentence-transformers' `quantize_embeddings` writes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from ...errors import InputError, shown
from ..sampling import damaged

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Precision = Literal["float32", "int8", "uint8", "binary", "ubinary"]

__all__ = ["PRECISIONS", "rounded"]

PRECISIONS: tuple[Precision, ...] = ("float32", "int8", "uint8", "binary", "ubinary")


def rounded(vectors: NDArray[np.float32], precision: Precision) -> NDArray[np.generic]:
    """[n, d] -> [n, d] of int8 or uint8, [n, d / 8] of bits.

    "uint8": 256 steps of each dimension, from its least to its greatest number in these vectors; "int8": 128 less.
    "ubinary": a bit for each dimension, 1 above 0, the first in the highest place; "binary": 128 less.
    Errors: `InputError` for steps from a single vector, which has no range, and for vectors that are no numbers.
    """
    if precision not in PRECISIONS:
        msg = f"precision={shown(precision)}: expected one of {', '.join(PRECISIONS)}"
        raise InputError(msg)
    if precision == "float32":
        return vectors
    if not np.isfinite(vectors).all():
        what = f"precision={shown(precision)}: the vectors are not numbers (NaN), which no byte and no bit can say"
        raise damaged(what)
    if precision.endswith("binary"):
        bits = np.packbits(vectors > 0, axis=-1)
        return bits if precision == "ubinary" else (bits ^ np.uint8(128)).view(np.int8)
    if len(vectors) == 1:
        msg = f"precision={shown(precision)}: one vector has no range to take steps from; give several texts"
        raise InputError(msg)
    if not len(vectors):
        return np.zeros(vectors.shape, precision)
    low = vectors.min(0)
    steps = (vectors.max(0) - low) / np.float32(255)
    levels = np.clip(np.floor((vectors - low) / np.where(steps == 0, np.float32(1), steps)), 0, 255)
    steps_of: NDArray[np.generic] = levels.astype(np.uint8) if precision == "uint8" else (levels - 128).astype(np.int8)
    return steps_of
