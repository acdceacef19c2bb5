"""What a search is told, what it asks, and what it comes to."""

from __future__ import annotations

import math
import statistics
from dataclasses import field
from typing import TYPE_CHECKING, Protocol

from ...dataclass import dataclass

if TYPE_CHECKING:
    from .space import Point

__all__ = ["Limits", "Meter", "Result", "Row"]


class Meter(Protocol):
    """What the search asks. A `MiaotuiError` of any of these says that the point cannot be had."""

    def memory(self, point: Point) -> int:
        """Bytes that it takes, predicted."""

    def floor(self, point: Point) -> float:
        """Seconds that it takes at least; 0 where nothing is known."""

    def loss(self, point: Point) -> float:
        """What it loses against the reference, measured; of its lossy levels alone."""

    def pair(self, point: Point) -> tuple[float, float]:
        """Seconds of the point and of the reference, measured one after the other."""


@dataclass(frozen=True)
class Limits:
    """Most bytes, most loss, and most seconds for the search."""

    memory: float = math.inf
    loss: float = math.inf
    seconds: float = math.inf


@dataclass
class Row:
    """What is known of a point: `pairs` are seconds of it and of the reference. `why`: it is out, and the reason."""

    point: Point
    memory: int | None = None
    loss: float | None = None
    pairs: list[tuple[float, float]] = field(default_factory=list)
    why: str = ""

    @property
    def ratio(self) -> float:
        """Median of its time over the reference's; inf where it was not measured."""
        return statistics.median(a / b for a, b in self.pairs) if self.pairs else math.inf

    @property
    def seconds(self) -> float:
        """Median of its own time; inf where it was not measured."""
        return statistics.median(a for a, _ in self.pairs) if self.pairs else math.inf


@dataclass(frozen=True)
class Result:
    """`chosen` None: nothing within the limits was measured. `ended`: "" or why the search ended early."""

    chosen: Row | None
    rows: list[Row]
    ended: str = ""
