"""What may be varied: axes of levels, of which the first is the reference's; a point has a level on each axis.

An axis is *lossy* where its levels change what the model answers. All other axes change the time alone: the bits of an
answer depend on no thread count, chunk, batch or draft (docs/architecture.md). So a loss is measured once for all
points that have the same lossy levels.
"""

from __future__ import annotations

import math
from itertools import product
from typing import TYPE_CHECKING, Any

from ...dataclass import dataclass
from ...errors import InputError, shown

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Axis", "Point", "Space"]

#: The index of the level on each axis.
Point = tuple[int, ...]
#: Most points that a space may have: they are all predicted.
MAX_POINTS = 200_000


@dataclass(frozen=True)
class Axis:
    """A setting and its levels, the reference's first; `shown`: what they are called, where not by themselves."""

    name: str
    levels: tuple[Any, ...]
    lossy: bool = False
    shown: tuple[str, ...] = ()

    def label(self, level: int) -> str:
        """A level in words."""
        return self.shown[level] if self.shown else str(self.levels[level])


@dataclass(frozen=True)
class Space:
    """Axes; their order, and that of their levels, is what decides between points that are equally good."""

    axes: tuple[Axis, ...]

    def __post_init__(self) -> None:
        """Refuse what is none: InputError."""
        if len({axis.name for axis in self.axes}) < len(self.axes) or not all(axis.levels for axis in self.axes):
            msg = f"axes {shown([a.name for a in self.axes])}: expected each once, and a level at least on each"
            raise InputError(msg)
        if self.size > MAX_POINTS:
            msg = f"{self.size:,} combinations of settings, expected at most {MAX_POINTS:,}; vary less at a time"
            raise InputError(msg)

    @property
    def size(self) -> int:
        """How many points there are."""
        return math.prod(len(axis.levels) for axis in self.axes)

    @property
    def reference(self) -> Point:
        """The model as it is, with the usual settings."""
        return (0,) * len(self.axes)

    def points(self) -> Iterator[Point]:
        """All of them, in their fixed order."""
        return product(*(range(len(axis.levels)) for axis in self.axes))

    def singles(self, around: Point | None = None) -> Iterator[tuple[int, Point]]:
        """The axis changed, and the point: all that differ from one (default: the reference) on one axis alone."""
        center = self.reference if around is None else around
        for i, axis in enumerate(self.axes):
            for level in range(len(axis.levels)):
                if level != center[i]:
                    yield i, (*center[:i], level, *center[i + 1 :])

    def lossy(self, point: Point) -> Point:
        """The point of the same loss that is the reference in everything else."""
        return tuple(level if axis.lossy else 0 for axis, level in zip(self.axes, point, strict=True))

    def settings(self, point: Point) -> dict[str, Any]:
        """Name -> value."""
        return {axis.name: axis.levels[level] for axis, level in zip(self.axes, point, strict=True)}

    def label(self, point: Point) -> str:
        """What is otherwise than in the reference, in words."""
        told = [f"{a.name}={a.label(i)}" for a, i in zip(self.axes, point, strict=True) if i]
        return ", ".join(told) or "as it is"

    def nearest(self, settings: dict[str, Any]) -> Point | None:
        """The point with these settings; None where a level is not among them."""
        at = []
        for axis in self.axes:
            if settings.get(axis.name, axis.levels[0]) not in axis.levels:
                return None
            at.append(axis.levels.index(settings.get(axis.name, axis.levels[0])))
        return tuple(at)
