"""Which of nearly equal points is chosen, and which to measure again before that is said.

A point within `NOISE` of the fastest counts as equal to it, and of equal ones the first by what does not vary is
chosen: by loss, then memory, then the order of the space. So another run chooses the same, unless a point is so near
to the border that measurements put it on either side. Such a point is doubtful while its distance from the border is
less than the noise of what was measured: the median's distance from the median of ratios (MAD), divided by the square
root of their number.
"""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .records import Row

__all__ = ["LEAST", "MOST", "NOISE", "doubtful", "equal"]

NOISE = 0.03
#: Beyond this much of the fastest nobody is measured again.
NEARLY = 0.05
#: Pairs of everybody nearer than that at least; at most for who is doubtful.
LEAST, MOST = 4, 24
#: MADs that a median may be wrong by, times the root of the number of pairs; 1.86 are a standard error.
SURE = 3.0


def equal(rows: Sequence[Row]) -> list[Row]:
    """Of rows, the fastest first, those as fast as the first; the one to choose comes first."""
    return _preferred([row for row in rows if row.ratio <= rows[0].ratio * (1 + NOISE)])


def doubtful(rows: Sequence[Row]) -> Row | None:
    """Of rows, the fastest first, the one to measure next; None: which is chosen is clear, or measured enough."""
    close = [row for row in rows if row.ratio <= rows[0].ratio * (1 + NEARLY)]
    if few := [row for row in close if len(row.pairs) < LEAST]:
        return few[0]
    usual = statistics.median(_distances(close)) if close else 0.0
    doubts: list[Row] = []
    for row in _preferred(close):
        away = math.log(row.ratio / rows[0].ratio / (1 + NOISE))
        unsure = abs(away) < (math.hypot(_error(row, usual), _error(rows[0], usual)) if row is not rows[0] else 0.0)
        if unsure:
            doubts.append(row)
        elif away <= 0:  # it is equal, and who comes after it does not matter
            break
    doubts = [row for row in (*doubts, rows[0]) if len(row.pairs) < MOST] if doubts else []
    return min(doubts, key=lambda row: len(row.pairs), default=None)


def _preferred(rows: Sequence[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: (row.loss, row.memory, row.point))


def _distances(rows: Sequence[Row]) -> list[float]:
    return [abs(math.log(a / b / row.ratio)) for row in rows for a, b in row.pairs]


def _error(row: Row, usual: float) -> float:
    """Of the logarithm of its ratio; `usual`: the MAD of all, as a few pairs may agree by chance."""
    return SURE * max(statistics.median(_distances([row])), usual) / math.sqrt(len(row.pairs))
