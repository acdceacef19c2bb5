"""Metrics of numbers: correlation of scores, and what losses of texts come to."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from ...errors import InputError
from .measured import Measured

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["correlations", "perplexity", "ranks"]


def correlations(gold: Sequence[float], said: Sequence[float]) -> Measured:
    """Spearman's and Pearson's correlation. Errors: `InputError` where one side is the same number throughout."""
    x, y = np.array(gold, np.float64), np.array(said, np.float64)
    for name, values in (("scores of the file", x), ("model's scores", y)):
        if len(np.unique(values)) < 2:  # noqa: PLR2004 - a correlation divides by how far they differ
            msg = f"the {name} are all {values[0]:g}; a correlation needs at least two that differ"
            raise InputError(msg)
    return Measured({"spearman": _pearson(ranks(x), ranks(y)), "pearson": _pearson(x, y)})


def ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """[n] -> [n]: the place of each from the smallest, counted from 1; equal ones share the mean of their places."""
    _, at, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[at], np.float64)


def _pearson(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    a, b = x - x.mean(), y - y.mean()
    return float(a @ b / math.sqrt(float(a @ a) * float(b @ b)))


def perplexity(losses: Sequence[tuple[float, int, int]]) -> Measured:
    """Nats, tokens and bytes of each text -> perplexity, bits a byte, nats a token, over all texts together."""
    nats = math.fsum(n for n, _, _ in losses)
    tokens, size = sum(t for _, t, _ in losses), sum(b for _, _, b in losses)
    mean = nats / tokens
    most = 700.0  # where float64's exp ends
    return Measured({
        "perplexity": math.exp(mean) if mean < most else math.inf,
        "bits_per_byte": nats / math.log(2) / size,
        "nats_per_token": mean,
        "tokens": float(tokens),
    })  # fmt: skip
