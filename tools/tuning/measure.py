"""A point of the space as a loaded model: what it takes, what it loses, and its time next to the reference's."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from ...errors import MemoryLimitError
from ...limits import Request
from ...loader.pack import planned
from ...machine import free_memory
from ...model import load
from ...prepare import prepare
from ...sizes import format_bytes
from ..bench.roofline import ReadSum
from ..bench.shared import bytes_per_step

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from ...loader.open import Opened
    from ...model import Model
    from ...prepare import Prepared
    from .knobs import Knobs
    from .space import Point
    from .subject import Subject

__all__ = ["ModelMeter"]

#: Seconds of a pair, about, and turns of each side in them at most.
SPELL, TURNS = 0.25, 32
#: Weights that no cache holds: only then does the memory's bandwidth bound a step.
LARGE = 2**26
#: Of the bandwidth: a reading on a busy machine is less than what a step may find.
SURE = 2.0


class ModelMeter:
    """A `Meter` of a checkpoint. The reference stays loaded, and so does the point that was measured last."""

    def __init__(self, path: Path, opened: Opened, knobs: Knobs, subject: Subject) -> None:
        """Load the reference, and keep what it answers. Errors: those of `load`."""
        self.path, self.opened, self.knobs, self.subject = path, opened, knobs, subject
        self.turn = 0
        self.known: dict[Point, Prepared] = {}
        self.bandwidth: float | None = None
        self.at: Point = knobs.space.reference
        self.model: Model | None = None
        self.reference = load(path, **knobs.options(knobs.space.reference))
        try:
            subject.warm(self.reference, knobs.parameters(knobs.space.reference))
            subject.whole(self.reference)
        except BaseException:
            self.reference.close()
            raise

    def memory(self, point: Point) -> int:
        """Weights, arena, cache and constants; mapped weights too: they are in the memory once they were read."""
        memory = self.prepared(point).memory
        return memory["allocated"] + memory["weights_mapped"]

    def prepared(self, point: Point) -> Prepared:
        """Everything that is known before a load."""
        if point not in self.known:
            options = self.knobs.options(point)
            options.pop("draft", None)  # "ngram" takes no memory of the model's
            self.known[point] = prepare(self.opened, Request(**options))
        return self.known[point]

    def floor(self, point: Point) -> float:
        """The time in which the memory gives the weights of every token's step, where no cache holds them."""
        new = self.knobs.steps(point)
        if not new:
            return 0.0
        prepared = self.prepared(point)
        weights, _ = bytes_per_step(prepared.config, planned(prepared.plan), 0)
        return 0.0 if weights < LARGE else new * weights / self._bandwidth() / SURE

    def loss(self, point: Point) -> float:
        """As `Meter` has it."""
        return self.subject.loss(self._loaded(point), self.knobs.parameters(point))

    def pair(self, point: Point) -> tuple[float, float]:
        """As `Meter` has it: the least of each side, as what else runs on the machine only adds.

        The sides take turns as often as `SPELL` has room for, so that both find the machine alike, and who is first
        changes every time.
        """
        model, space = self._loaded(point), self.knobs.space
        sides = [(model, point), (self.reference, space.reference)]
        for each, _ in sides:
            each.session.rest()
        began, least = time.perf_counter(), [math.inf, math.inf]
        for _ in range(TURNS):
            self.turn += 1
            for side in (0, 1) if self.turn % 2 else (1, 0):
                least[side] = min(least[side], self._seconds(*sides[side]))
            if time.perf_counter() - began > SPELL:
                break
        return least[0], least[1]

    def _seconds(self, model: Model, point: Point) -> float:
        """A turn: its threads are started before it, and ended after it: they would look for work in the other's."""
        self.subject.wake(model)
        took = self.subject.seconds(model, self.turn, self.knobs.batch(point), self.knobs.parameters(point))
        model.session.rest()
        return took

    def close(self) -> None:
        """Close both models. Harmless when done twice."""
        self._drop()
        self.reference.close()

    def _loaded(self, point: Point) -> Model:
        if point == self.knobs.space.reference:
            return self.reference
        if self.model is None or self.at != point:
            self._drop()
            self._check_room(point)
            self.at, self.model = point, load(self.path, **self.knobs.options(point))
            self.subject.warm(self.model, self.knobs.parameters(point))
        return self.model

    def _check_room(self, point: Point) -> None:
        """MemoryLimitError: the machine has not enough for it next to the reference."""
        needed, free = self.prepared(point).memory["allocated"], free_memory()
        if free is not None and needed > free:
            msg = f"takes {format_bytes(needed)} next to the reference, and {format_bytes(free)} are free"
            raise MemoryLimitError(msg)

    def _drop(self) -> None:
        if self.model is not None:
            self.model.close()
            self.model = None

    def _bandwidth(self) -> float:
        """Bytes a second, read once."""
        if self.bandwidth is None:
            self.reference.session.rest()
            with ReadSum(self.reference.threads) as memory:
                self.bandwidth = max(memory.round() for _ in range(3))
        return self.bandwidth

    def __enter__(self) -> Self:
        """Give itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Close."""
        self.close()
