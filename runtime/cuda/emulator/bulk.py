"""Bulk copies and their barriers as the emulator has them: a copy arrives when the schedule lets it, not before.

What it brings is poison until then. It is a `Fault` when a copy goes where something may still be read or written (who
begins it must know, by mbarriers, that it is over), when what it brings is touched by who has not waited for its phase,
when the barrier expects fewer bytes than come, when a barrier was not made known to copies (`fence_async`), and when an
address is not what the hardware takes. A wait that nobody ends is the emulator's deadlock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..primitives import WARP
from ..tensor_map import COLUMNS, PATTERN
from .memory import COPIES, NEVER, Fault, joined

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..tensor_map import TensorMap
    from .grid import Grid, Thread
    from .memory import Known, Memory, Shared

__all__ = ["BoxCopy", "bulk"]

#: Of an mbarrier: arrivals, and bytes that are expected.
MOST_COUNT = MOST_BYTES = (1 << 20) - 1
#: What lies where one was made.
MADE = -7
PIECE = 16


class Barrier:
    """An mbarrier. `coming`: what those who came in this phase knew; `over`: the same of all phases that have ended."""

    def __init__(self, place: int, count: int, shared: Shared) -> None:
        """In phase 0."""
        self.place, self.count, self.shared = place, count, shared
        self.phase, self.pending = 0, count
        self.expected = self.begun = self.brought = 0  # bytes of this phase
        self.coming: Known = {}
        self.over: Known = {}
        self.waiting: list[Thread] = []

    def arrive(self, me: Thread, nbytes: int = 0) -> None:
        """One arrival, and what it announces."""
        if not self.pending:
            msg = f"mbarrier at {self.place}: an arrival more than its {self.count}, in phase {self.phase}"
            raise Fault(msg)
        self.pending -= 1
        self.expected += nbytes
        if self.expected > MOST_BYTES:
            msg = f"mbarrier at {self.place}: {self.expected} bytes expected, of at most {MOST_BYTES}"
            raise Fault(msg)
        mine = {me.number: me.arrived, -1 - me.number // WARP: me.warp.passed}
        self.coming = joined(self.coming, joined(self.shared.known.get(me.number, {}), mine))
        me.arrived += 1
        self.settle()

    def settle(self) -> None:
        """End the phase if nothing is missing."""
        if self.pending or self.brought < self.expected:
            return
        self.over = joined(joined(self.over, self.coming), {COPIES + self.place: self.phase})
        self.phase, self.pending, self.coming = self.phase + 1, self.count, {}
        self.expected = self.begun = self.brought = 0
        for t in self.waiting:
            t.waits, t.stuck = False, ""
        self.waiting = []


class BoxCopy:
    """One that is under way."""

    def __init__(self, memory: Memory, of: TensorMap, row: int, column: int, to: int, barrier: Barrier) -> None:
        """`to`: its place in shared memory."""
        self._memory, self._of, self._row, self._column, self._to, self._barrier = memory, of, row, column, to, barrier

    def land(self) -> None:
        """Its bytes are there, as device memory has them now."""
        barrier, nbytes = self._barrier, self._of.box_bytes
        barrier.shared.memory.bytes[self._to : self._to + nbytes] = self._swizzled().reshape(-1)
        barrier.brought += nbytes
        barrier.settle()

    def _swizzled(self) -> NDArray[np.uint8]:
        of, column = self._of, self._column
        box = np.zeros((of.box_rows, 2 * COLUMNS), np.uint8)
        first, last = max(column, 0), min(column + COLUMNS, of.columns)
        for r in range(of.box_rows):
            row = self._row + r
            if 0 <= row < of.rows and first < last:
                source = self._memory.view(of.address + row * of.stride + 2 * first, 2 * (last - first))
                box[r, 2 * (first - column) : 2 * (last - column)] = source
        pieces = box.reshape(of.box_rows, -1, PIECE)
        rows = np.arange(of.box_rows)[:, None]
        swizzled: NDArray[np.uint8] = pieces[rows, np.arange(pieces.shape[1]) ^ rows % 8]
        return swizzled


def bulk(grid: Grid) -> dict[str, Any]:
    """The primitives by name, for one launch."""
    made: dict[tuple[int, int], Barrier] = {}
    acquired: set[tuple[Thread, int]] = set()

    def find(place: int, *, beside: bool = False) -> Barrier:
        me = grid.now
        barrier = made.get((id(me.shared), place))
        if barrier is None or me.shared.memory.views["i64"][place // 8] != MADE:
            msg = f"thread {me.number}: there is no mbarrier at {place}"
            raise Fault(msg)
        me.shared.written(place, me.moment, beside=beside)
        return barrier

    def init(place: int, count: int) -> None:
        me = grid.now
        if not 0 < count <= MOST_COUNT:
            msg = f"an mbarrier of {count} arrivals"
            raise Fault(msg)
        me.shared.store8(place, MADE, me.moment)
        made[id(me.shared), place] = Barrier(place, count, me.shared)

    def wait(place: int, parity: int) -> None:
        me, barrier = grid.now, find(place)
        while barrier.phase & 1 == parity & 1:
            barrier.waiting.append(me)
            me.waits, me.stuck = True, f"the mbarrier at {place}"
            me.hub.switch()
        me.shared.learn(me.number, barrier.over)

    def found(place: int) -> TensorMap:
        if place not in grid.maps:
            msg = f"there is no map at {place:#x}"
            raise Fault(msg)
        return grid.maps[place]

    def acquire(place: int) -> None:
        found(place)
        acquired.add((grid.now, place))

    def copy_box(to: int, place: int, column: int, row: int, at: int) -> None:
        me, of, barrier = grid.now, found(place), find(at, beside=True)
        if (me, place) not in acquired:
            msg = f"thread {me.number} copies by a map that it came to no map_acquire of"
            raise Fault(msg)
        if grid.races is not None:
            msg = f"{grid.kernel.name}: bulk copies are not checked where blocks wait for each other"
            raise Fault(msg)
        if to % PATTERN:
            msg = f"a box at {to} of shared memory; its pattern begins at multiples of {PATTERN}"
            raise Fault(msg)
        barrier.begun += of.box_bytes
        if barrier.begun > barrier.expected:
            msg = f"{barrier.begun} bytes come to the mbarrier at {at}, which expects {barrier.expected}"
            raise Fault(msg)
        me.shared.copies_to(to, of.box_bytes, (COPIES + at, NEVER, 0, barrier.phase), me.moment)
        grid.bulk.append(BoxCopy(grid.memory, of, row, column, to, barrier))

    return {
        "mbarrier_init": init, "mbarrier_wait": wait, "mbarrier_arrive": lambda place: find(place).arrive(grid.now),
        "mbarrier_expect": lambda place, nbytes: find(place).arrive(grid.now, nbytes),
        "map_acquire": acquire, "copy_box": copy_box,
    }  # fmt: skip
