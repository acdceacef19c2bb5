"""Weights that two loads of one checkpoint share: what one of them makes and holds in memory, the other takes.

The other is a draft that is a part of the model (`drafting.py`). What is mapped is the file's pages in both anyway.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from .checkpoint import Checkpoint
from .merge import Numbers

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ..runtime.spec import Weight, Weights
    from .load_plan import LoadPlan
    from .merge import Change
    from .source import Source

__all__ = ["Lender"]


class Lender:
    """A load's weights: made when they are first asked for, by itself or by who borrows some of them."""

    def __init__(self, plan: LoadPlan, make: Callable[[dict[int, Weight]], Weights]) -> None:
        """`make`: as `pack`, with its `made`."""
        self._made: dict[int, Weight] = {}
        self._make = make
        self._weights: Weights | None = None
        self._held: dict[tuple[Path, str], list[Source]] = {}
        for source in plan:
            if source.offset is not None:
                self._held.setdefault(_tensor(source), []).append(source)
        #: Why they could not be made, which is no fault of who borrows.
        self.error: BaseException | None = None

    def weights(self) -> Weights:
        """All of them. Errors: as of `make`."""
        if self._weights is None:
            try:
                self._weights = self._make(self._made)
            except BaseException as e:
                self.error = e
                raise
        return self._weights

    def borrowed(self, plan: LoadPlan) -> LoadPlan:
        """The plan of another load with the same adapter; what this one makes alike takes no memory of its own."""
        return plan.with_sources(
            lambda source: source if self._own(source) is None else replace(source, offset=None, lent=True)
        )

    def lent(self, plan: LoadPlan) -> dict[int, Weight]:
        """The weights of a plan that are borrowed, by the `id` of their source."""
        self.weights()
        pairs = ((source, self._own(source)) for source in plan if source.lent)
        return {id(source): replace(self._made[id(own)], name=source.name) for source, own in pairs if own is not None}

    def _own(self, source: Source) -> Source | None:
        """What this load holds in memory that has the same numbers in the same form."""
        if source.offset is None and not source.lent:
            return None
        of_tensor = self._held.get(_tensor(source), ())
        return next((own for own in of_tensor if _numbers(own) == _numbers(source)), None)


def _tensor(source: Source) -> tuple[Path, str]:
    return source.tensor.file, source.tensor.name


def _numbers(source: Source) -> tuple[Source, list[dict[str, Any]]]:
    """What decides a weight's bytes: not what it is called, nor where it lies."""
    bare = replace(source, name="", pattern="", offset=None, lent=False, changes=())
    return bare, [_told(change) for change in source.changes]


def _told(change: Change) -> dict[str, Any]:
    """A change of one adapter, which two loads have opened, by its values."""
    told: dict[str, Any] = {"": type(change)}
    for field in fields(change):  # type: ignore[arg-type]  # each is a dataclass
        value = getattr(change, field.name)
        if isinstance(value, Numbers):
            told[field.name] = (value.name, value.turned)
        elif not isinstance(value, Checkpoint):
            told[field.name] = value
    return told
