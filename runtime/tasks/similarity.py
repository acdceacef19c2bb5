"""How alike vectors are: cosine, dot product, or a distance with its sign turned; more is more alike.

Computed in float64 and rounded once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...errors import InputError, shown

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from ..spec import Similarity

    Wide = NDArray[np.float64]

__all__ = ["pairwise", "similarity"]

#: As torch's `normalize`: a shorter vector is divided by this.
SHORTEST = 1e-12
#: Numbers of differences that are held at a time.
MOST = 2**22


def similarity(a: ArrayLike, b: ArrayLike, kind: Similarity) -> NDArray[np.float32]:
    """[n, d], [m, d] -> [n, m]; a vector alone is one row. Errors: `InputError` for shapes that do not go together."""
    x, y = _rows(a, "embeddings1"), _rows(b, "embeddings2")
    _check(x, y, x.shape[1:] == y.shape[1:])
    if kind == "cosine":
        x, y = _unit(x), _unit(y)
    if kind in ("cosine", "dot"):
        return (x @ y.T).astype(np.float32)
    out = np.zeros((len(x), len(y)), np.float32)
    size = max(1, MOST // max(1, y.size))
    for at in range(0, len(x), size):
        out[at : at + size] = -_length(x[at : at + size, None] - y[None], kind)
    return out


def pairwise(a: ArrayLike, b: ArrayLike, kind: Similarity) -> NDArray[np.float32]:
    """[n, d], [n, d] -> [n]: of the first with the first, and so on. Errors: `InputError`."""
    x, y = _rows(a, "embeddings1"), _rows(b, "embeddings2")
    _check(x, y, x.shape == y.shape)
    if kind == "cosine":
        x, y = _unit(x), _unit(y)
    result = (x * y).sum(-1) if kind in ("cosine", "dot") else -_length(x - y, kind)
    return np.asarray(result, np.float32)


def _length(difference: Wide, kind: Similarity) -> Wide:
    if kind == "manhattan":
        return np.asarray(np.abs(difference).sum(-1))
    return np.asarray(np.sqrt((difference * difference).sum(-1)))


def _unit(rows: Wide) -> Wide:
    return np.asarray(rows / np.maximum(np.sqrt((rows * rows).sum(-1, keepdims=True)), SHORTEST))


def _rows(value: ArrayLike, what: str) -> Wide:
    try:
        rows = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        rows = np.zeros(())
    if rows.ndim not in (1, 2):
        msg = f"{what}: {shown(value)} found, expected a vector, or rows of them"
        raise InputError(msg)
    return rows[None] if rows.ndim == 1 else rows


def _check(x: Wide, y: Wide, fits: bool) -> None:  # noqa: FBT001 - the comparison itself
    if not fits:
        msg = f"embeddings1, embeddings2: shapes {list(x.shape)} and {list(y.shape)} do not go together"
        raise InputError(msg)
