"""From the vectors of a text's tokens to one for the text.

Sums run over the tokens in their order, one after the other in every dimension: the same bits on every machine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Rows = NDArray[np.float32]

__all__ = ["normalized", "pool"]

#: As torch's `normalize`: a shorter vector is divided by this.
SHORTEST = np.float32(1e-12)


def pool(rows: Rows, modes: Sequence[str], first: int = 0) -> Rows:
    """[T, d] -> [len(modes) * d]: kinds of pooling side by side, of the tokens from `first` on ("cls": of all).

    "cls": the first token; "max"; "mean"; "mean_sqrt_len": the sum over the root of their number; "weightedmean": token
    n counts n times; "lasttoken" (Reimers and Gurevych 2019, arXiv:1908.10084; Muennighoff 2022, arXiv:2202.08904).
    """
    return np.concatenate([_pooled(rows, rows[first:], mode, first) for mode in modes])


def _pooled(rows: Rows, part: Rows, mode: str, first: int) -> Rows:
    n = np.float32(len(part))
    if mode == "cls":
        return np.array(rows[0])
    if mode == "lasttoken":
        return np.array(part[-1])
    if mode == "max":
        top: Rows = part.max(0)
        return top
    if mode == "weightedmean":
        weights = np.arange(first + 1, len(rows) + 1, dtype=np.float32)
        total: Rows = _sum(part * weights[:, None])
        mean: Rows = total / weights.sum(dtype=np.float32)
        return mean
    return np.divide(_sum(part), np.sqrt(n) if mode == "mean_sqrt_len" else n)


def _sum(rows: Rows) -> Rows:
    total: Rows = rows[0].copy()
    for row in rows[1:]:
        total += row
    return total


def normalized(vector: Rows) -> Rows:
    """The vector at length 1."""
    lanes = np.zeros(16, np.float32)
    padded = np.zeros(-(-len(vector) // 16) * 16, np.float32)
    padded[: len(vector)] = vector * vector
    for part in padded.reshape(-1, 16):
        lanes += part
    length = np.sqrt(np.float32(sum(lanes.tolist())))
    return np.divide(vector, max(length, SHORTEST))
