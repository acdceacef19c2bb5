"""Classifier-free guidance (Sanchez et al. 2023, arXiv:2306.17806): an answer that keeps nearer to its prompt.

A second text has the prompt's last id and the answer's, and none of the rest of the prompt. What follows the first is
drawn from g (log p - log q) + log q, where p follows it, and q the second.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np

from .exact import NEGLIGIBLE, exp, log_of, unit_bits

if TYPE_CHECKING:
    from collections.abc import Generator

    from numpy.typing import NDArray

    from .session import Session
    from .table import Table

__all__ = ["Guidance", "guided", "log_probs"]


T, V = TypeVar("T"), TypeVar("V")


class Guidance:
    """The second text of one answer, with pages of its own as long as this is there."""

    def __init__(self, session: Session, scale: float, first: int, table: Table) -> None:
        """`first`: the number of the prompt's last id; `table`: the answer's own, whose call has begun."""
        self.scale, self.first = scale, first
        self.table = session.admit(None)
        self.table.adapter, self.table.salt = table.adapter, table.salt
        self.table.begin(table.priority)
        self._leave = session.left.when_dropped(self, self.table)

    def during(self, made: Generator[T, V, None]) -> Generator[T, V, None]:
        """What a generator gives; then the pages are others', even where somebody keeps an exception and its calls."""
        try:
            yield from made
        finally:
            self._leave()


def guided(row: NDArray[np.float32], other: NDArray[np.float32], scale: float) -> NDArray[np.float32]:
    """float32 [n_vocab]: g (log p - log q) + log q; NaN where logits of one are none."""
    p, q = log_probs(row), log_probs(other)
    with np.errstate(invalid="ignore", over="ignore"):
        return (scale * (p - q) + q).astype(np.float32)


def log_probs(row: NDArray[np.float32]) -> NDArray[np.float64]:
    """float64 [n_vocab]: x - log sum exp x. The sum is one of whole numbers, as weights of a draw are (`sampling.py`).

    All are NaN where one is, or is +inf.
    """
    largest = float(row.max())
    if not np.isfinite(largest):
        return np.full(row.size, np.nan)
    x, scale = row.astype(np.float64) - largest, 2.0 ** unit_bits(row.size)
    near = exp(x[x >= NEGLIGIBLE])
    total = int(np.rint(near * scale).astype(np.int64).sum())
    return x - log_of(total / scale)
