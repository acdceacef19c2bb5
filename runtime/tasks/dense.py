"""What may follow pooling: a product of the text's vector, and an activation.

Sums run in sixteen lanes, each in order, folded by one tree; activations are of our own exponential: the same bits on
every machine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..sampling import exp

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..spec import Act, Dense

    Vector = NDArray[np.float32]

__all__ = ["activated", "dense"]

LANES = 16
#: The exponential of what is larger is no float64.
LARGEST = 700.0
#: Of what is smaller, tanh is x - x^3 / 3 to the last bit, and the formula would cancel.
SMALL = 1e-4


def dense(x: Vector, layer: Dense) -> Vector:
    """[k] -> [n]."""
    lanes = np.zeros((len(layer.w), LANES), np.float32)
    for at in range(0, len(x), LANES):
        part = x[at : at + LANES]
        lanes[:, : len(part)] += layer.w[:, at : at + LANES] * part
    while lanes.shape[1] > 1:
        lanes = lanes[:, : lanes.shape[1] // 2] + lanes[:, lanes.shape[1] // 2 :]
    y: Vector = lanes[:, 0] if layer.b is None else lanes[:, 0] + layer.b
    return activated(y, layer.act)


def activated(x: Vector, act: Act) -> Vector:
    """Of each number; NaN stays NaN."""
    if act == "identity":
        return x
    if act == "relu":
        return np.maximum(x, np.float32(0))
    wide = x.astype(np.float64)
    if act == "tanh":
        e = exp(-2 * np.minimum(np.nan_to_num(np.abs(wide)), LARGEST / 2))
        near = np.clip(wide, -1, 1)
        y = np.where(np.abs(wide) < SMALL, near - near**3 / 3, np.sign(wide) * (1 - e) / (1 + e))
    else:
        y = 1 / (1 + exp(-np.clip(np.nan_to_num(wide), -LARGEST, LARGEST)))
        y = wide * y if act == "silu" else y
    result: Vector = np.where(np.isnan(wide), wide, y).astype(np.float32)
    return result
