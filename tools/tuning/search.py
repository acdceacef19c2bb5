"""Which settings are the fastest within the limits, without measuring all of them.

1. Loss: every lossy level by itself. One that loses more than is allowed is cut, with all points that have it.
2. Time: every level by itself, in pairs: the point and the reference, one after the other; seconds are compared within
   a pair, so that what slows the machine down for a while slows both. Pairs are taken until two agree, three at most.
3. Prediction: ratios multiply over axes, losses add. The best `FINALISTS` by prediction are measured. Cut before: what
   does not fit the memory (predicted to the byte), loses too much, or cannot win: its least possible time
   (`Meter.floor`) is above a measured one.
4. Successive halving (Jamieson and Talwalkar 2016): a pair for each finalist, the better half stays and gets twice as
   many pairs, and so on until two are left. Their loss is measured before their time, never predicted: what is chosen
   is within the limits. Medians are compared.
5. The winner's neighbours on one axis that are predicted to be near it are halved with it, twice at most.
6. Those within `NOISE` of the best count as equal, and the first of them in the order of loss, memory and the space is
   chosen. Who may be equal by what all pairs say (`effects`), and would be chosen then, is compared too, `FURTHER` at
   most. Those of whom it is doubtful are measured again first (`ties`), with `EXTRA` pairs at most. A `previous` choice
   stays while it is within `KEEP` of the best.

A space of at most `SMALL` points is halved whole, without 1 to 3. Which of equal points is chosen is decided once, in
the end: decided in every round, a choice could lose `NOISE` in each.
"""

from __future__ import annotations

import math
import statistics
import time
from itertools import pairwise
from typing import TYPE_CHECKING, TypeVar

from ...errors import MiaotuiError
from .effects import Effects
from .records import Result, Row
from .ties import LEAST, NOISE, doubtful, equal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from .records import Limits, Meter
    from .space import Point, Space

__all__ = ["KEEP", "search"]

T = TypeVar("T")

KEEP = 0.05
#: Points that are compared because they would be preferred, at most; and how far their predicted time may be off.
FURTHER, UNSURE = 8, 0.01
#: Points whose memory is predicted for that at a time, at most: a prediction takes milliseconds.
PREDICTED = 64
FINALISTS = 8
SMALL = 12
#: Losses add only about: a sum up to this many times the limit is measured.
SLACK = 1.25
#: Predicted to be within this of the winner: worth a measurement.
NEAR = 0.1
#: Of the time, for levels by themselves at most; the first levels of all axes come first.
ALONE = 0.6
#: Pairs of each in the first round; of a previous choice; and of all together that may be chosen in the end.
PAIRS, ENOUGH, EXTRA = 1, 6, 32
#: A level whose time differs by less than this does not count in predictions: the usual one is preferred.
NEUTRAL = 0.02
#: A measurement is begun if this many times the usual one's seconds are left.
MARGIN = 1.2


class _OutOfTime(Exception):  # noqa: N818 - ends the search, and is no error
    """The next measurement would end after the limit."""


def search(  # noqa: PLR0913 - keywords
    space: Space,
    meter: Meter,
    limits: Limits,
    *,
    previous: Point | None = None,
    clock: Callable[[], float] = time.perf_counter,
    told: Callable[[int, int], None] = lambda *_: None,
) -> Result:
    """Look for the fastest point within the limits. `told(done, of)`: measurements, after each.

    Ctrl-C ends it like the limit of time: `ended` says so, and the result is what was best so far.
    """
    run = _Search(space, meter, limits, previous, clock, told)
    ended = ""
    try:
        run.run()
    except _OutOfTime:
        ended = "time"
    except KeyboardInterrupt:
        ended = "interrupted"
    return Result(run.chosen(), list(run.rows.values()), ended)


class _Search:
    """One search: the rows so far, and what an operation usually takes."""

    def __init__(  # noqa: PLR0913, PLR0917 - as `search` has them
        self,
        space: Space,
        meter: Meter,
        limits: Limits,
        previous: Point | None,
        clock: Callable[[], float],
        told: Callable[[int, int], None],
    ) -> None:
        self.space, self.meter, self.limits, self.previous = space, meter, limits, previous
        self.clock, self.told = clock, told
        self.rows: dict[Point, Row] = {}
        self.losses: dict[Point, float | str] = {}  # by lossy levels; a text: why there is none
        self.usual: dict[str, list[float]] = {"loss": [], "pair": []}
        self.compared: set[Point] = set()
        self.settled: list[Row] = []  # of whom one is chosen, once they were measured again
        self.end, self.late = clock() + limits.seconds, clock() + ALONE * limits.seconds
        self.done, self.planned = 0, 0

    def run(self) -> None:
        """The five steps."""
        space = self.space
        singles = list(space.singles())
        self.planned = min(3 * space.size, 2 * len(singles) + 4 * FINALISTS)
        if space.size <= SMALL:
            self.halve(space.points())
            self.settle()
            return
        self.loss(space.reference)  # none, and known without a measurement
        self.time(space.reference, alone=True)
        for _, point in sorted(singles, key=lambda single: (single[1][single[0]], single[0])):
            if self.clock() > self.late:  # what is known by then is combined
                break
            if self.may_lose(point):  # a model is loaded once for both
                self.alone(point)
        winner = self.halve(self.finalists())
        for _ in range(2):
            near = [] if winner is None else [p for _, p in space.singles(winner) if self.near(p, winner)]
            if winner is None or not near or (again := self.halve([winner, *near])) == winner:
                break
            winner = again
        self.settle()

    def chosen(self) -> Row | None:
        """The winner, or the best so far; the previous choice, where it is as good."""
        best = self.best(self.settled or self.rows.values())
        kept = None if self.previous is None else self.rows.get(self.previous)
        good = best is not None and kept is not None and self.eligible(kept) and kept.ratio <= best.ratio * (1 + KEEP)
        return kept if good else best

    def alone(self, point: Point) -> None:
        """A level by itself: pairs until two agree, three at most."""
        row = self.row(point)
        for n in range(3):
            self.time(point, alone=True)
            ratios = sorted(a / b for a, b in row.pairs)
            if row.why or (n and min(b / a for a, b in pairwise(ratios)) <= 1 + NOISE):
                return

    def finalists(self) -> list[Point]:
        """The best by prediction that fit; their losses are measured."""
        out = [] if self.previous is None else [self.previous]
        tries = 0
        for _, _, point in sorted(self.predicted()):
            if len(out) == FINALISTS or tries == 2 * FINALISTS:  # a loss is no prediction's to promise
                break
            tries += self.space.lossy(point) not in self.losses
            if point not in out and self.fits(self.row(point)) and self.may_lose(point):
                out.append(point)
        return out

    def predicted(self) -> Iterator[tuple[float, float, Point]]:
        """Ratio, loss and point of all that may be within the limit of loss."""
        for point in self.space.points():
            ratio, loss = self.predict(point)
            if loss <= SLACK * self.limits.loss and ratio < math.inf:
                yield ratio, loss, point

    def predict(self, point: Point) -> tuple[float, float]:
        """Its time over the reference's, and its loss, by those of its levels."""
        ratio, loss = 1.0, 0.0
        for i, level in enumerate(point):
            if level:
                alone = (*self.space.reference[:i], level, *self.space.reference[i + 1 :])
                effect = self.row(alone).ratio
                ratio *= 1.0 if abs(effect - 1) <= NEUTRAL else effect
                known = self.losses.get(self.space.lossy(alone), 0.0)
                loss += math.inf if isinstance(known, str) else known
        return ratio, loss

    def may_lose(self, point: Point) -> bool:
        """Whether a level's loss, where it is lossy, is within the limit."""
        loss = self.loss(point)
        return loss is not None and loss <= self.limits.loss

    def near(self, point: Point, winner: Point) -> bool:
        """Whether a neighbour of the winner is worth a measurement."""
        (ratio, loss), (best, _) = self.predict(point), self.predict(winner)
        return point not in self.compared and ratio <= best * (1 + NEAR) and loss <= SLACK * self.limits.loss

    def halve(self, points: Iterable[Point]) -> Point | None:
        """Successive halving: who is left."""
        alive = [p for p in points if self.fits(self.row(p)) and self.may_lose(p)]
        self.compared.update(alive)
        pairs = PAIRS
        while alive:
            for point in alive:
                for _ in range(pairs):
                    self.time(point)
            rows = self.ordered(self.rows[p] for p in alive)
            alive = [row.point for row in rows[: max(1, len(rows) // 2)]]
            if len(rows) <= 3:  # noqa: PLR2004 - the last two are near, and `settle` compares them
                return alive[0] if alive else None
            pairs *= 2
        return None

    def widen(self) -> None:
        """Measure who may be as fast as the fastest and would be chosen then, the first of them first."""
        tried: set[Point] = set()
        for _ in range(FURTHER):
            rows = self.ordered(self.rows[p] for p in self.compared)
            point = self.further(rows, tried) if rows else None
            if point is None:
                return
            tried.add(point)
            self.compared.add(point)
            row = self.row(point)
            if self.may_lose(point):
                while len(row.pairs) < LEAST and self.fits(row):
                    self.time(point)

    def further(self, rows: list[Row], tried: set[Point]) -> Point | None:
        """Of points of which there are few pairs or none, the one to compare next."""
        chosen, effects = equal(rows)[0], Effects(self.rows.values(), rows[0].point)
        limit = effects.of_point(rows[0].point) + math.log(1 + NOISE) + UNSURE
        key, wanted = (chosen.loss, chosen.memory, chosen.point), []
        for point in self.space.points():
            seen = self.rows.get(point)
            few = seen is None or (len(seen.pairs) < LEAST and self.fits(seen))
            if few and point not in tried and effects.of_point(point) <= limit:
                loss = self.losses.get(self.space.lossy(point), self.predict(point)[1])
                if isinstance(loss, float) and loss <= min(chosen.loss or 0.0, self.limits.loss):
                    wanted.append((loss, point))
        for loss, point in sorted(wanted)[:PREDICTED]:
            row = self.row(point)
            if self.fits(row) and (loss, row.memory or 0, point) < key:
                return point
        return None

    def settle(self) -> None:
        """Measure those again of whom it is doubtful whether they are chosen: a second run should not choose others."""
        self.widen()
        for _ in range(EXTRA // 2):
            row = doubtful(self.ordered(self.rows[p] for p in self.compared))
            if row is None:
                break
            for _ in range(2):  # for one load
                self.time(row.point)
        kept = None if self.previous is None else self.rows.get(self.previous)
        while kept is not None and self.fits(kept) and 0 < len(kept.pairs) < ENOUGH:
            self.time(kept.point)
        rows = self.ordered(self.rows[p] for p in self.compared)
        self.settled = [row for row in rows if len(row.pairs) >= LEAST] or rows

    def fits(self, row: Row) -> bool:
        """Whether it can be had within the limit of memory."""
        return not row.why and row.memory is not None and row.memory <= self.limits.memory

    def eligible(self, row: Row) -> bool:
        """Whether it was measured, and is within all limits."""
        return bool(row.pairs) and self.fits(row) and row.loss is not None and row.loss <= self.limits.loss

    def ordered(self, rows: Iterable[Row]) -> list[Row]:
        """Those that may be chosen, the fastest first."""
        return sorted((row for row in rows if self.eligible(row)), key=lambda row: (row.ratio, row.point))

    def best(self, rows: Iterable[Row]) -> Row | None:
        """The one to choose."""
        return next(iter(equal(self.ordered(rows))), None)

    def row(self, point: Point) -> Row:
        """What is known of it; its memory is predicted at once."""
        if point not in self.rows:
            row = self.rows[point] = Row(point)
            try:
                row.memory = self.meter.memory(point)
            except MiaotuiError as e:
                row.why = str(e)
        return self.rows[point]

    def loss(self, point: Point) -> float | None:
        """Measured, or known from a point with the same lossy levels; None: it cannot be had."""
        key = self.space.lossy(point)
        if key == self.space.reference:
            self.losses.setdefault(key, 0.0)
        if key not in self.losses:
            self.losses[key] = self.measured("loss", lambda: self.meter.loss(key))
        loss, row = self.losses[key], self.row(point)
        if isinstance(loss, str):
            row.why = row.why or loss
            return None
        row.loss = loss
        return loss

    def time(self, point: Point, *, alone: bool = False) -> None:
        """A pair more. `alone`: for a prediction, whatever memory it takes."""
        row = self.row(point)
        if row.why or (not alone and not self.fits(row)):
            return
        best = None if alone else self.best(self.rows.values())  # a level alone is slow, and may yet be of the best
        if best is not None and self.meter.floor(point) > best.seconds:
            row.why = "cannot be as fast: the bandwidth of the memory bounds it"
            return
        pair = self.measured("pair", lambda: self.meter.pair(point))
        if isinstance(pair, str):
            row.why = pair
        else:
            row.pairs.append(pair)

    def measured(self, kind: str, measure: Callable[[], T]) -> T | str:
        """What it gives, or why it gives nothing. _OutOfTime: there is no time for it."""
        usual, began = self.usual[kind], self.clock()
        if began + (MARGIN * statistics.median(usual) if usual else 0.0) > self.end:
            raise _OutOfTime
        try:
            return measure()
        except MiaotuiError as e:
            return str(e)
        finally:
            usual.append(self.clock() - began)
            self.done += 1
            self.planned = max(self.planned, self.done)
            self.told(self.done, self.planned)
