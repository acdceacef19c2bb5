"""What each level does to the time, told from every pair there is: the fit says who else may be as fast as the fastest.

Ratios multiply over axes, nearly: the logarithm of a point's ratio is the sum of its levels' effects, by least squares
over all rows, each as heavy as it has pairs. Levels that nobody measured are unknown, and so are points that have them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .records import Row
    from .space import Point

__all__ = ["Effects"]


class Effects:
    """Of levels, by axis: the logarithm of the ratio that each makes."""

    def __init__(self, rows: Iterable[Row], near: Point) -> None:
        """Fit rows that have pairs. Those that differ from `near` on fewer axes count for more."""
        timed = [row for row in rows if row.pairs]
        seen = sorted({(i, level) for row in timed for i, level in enumerate(row.point) if level})
        self.at = {each: k for k, each in enumerate(seen)}
        a, b = np.zeros((len(timed), len(seen) + 1)), np.zeros(len(timed))
        for k, row in enumerate(timed):
            apart = sum(x != y for x, y in zip(row.point, near, strict=True))
            weight = math.sqrt(len(row.pairs)) / (1 + apart)
            a[k, [self.at[i, level] for i, level in enumerate(row.point) if level]] = weight
            a[k, -1], b[k] = weight, weight * math.log(row.ratio)
        self.of = np.linalg.lstsq(a, b, rcond=None)[0]

    def of_point(self, point: Point) -> float:
        """The logarithm of its ratio; inf where a level of it is unknown."""
        each = [self.at.get((i, level)) for i, level in enumerate(point) if level]
        return math.inf if None in each else float(self.of[-1] + sum(self.of[k] for k in each if k is not None))
