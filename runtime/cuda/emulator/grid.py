"""A launch in the emulator: threads, what they meet as (warp, block), and the grid that runs them.

Every thread is a greenlet that gives way only where it must wait. What a warp or a block does together (barriers, sums)
is a meeting: everyone comes for the same thing, or it is a `Fault`. So is a deadlock, and a thread that has left while
its warp waits.
"""

from __future__ import annotations

from contextvars import copy_context
from typing import TYPE_CHECKING, Any

from greenlet import getcurrent, greenlet

from ..primitives import WARP
from .memory import Fault, Memory, Shared
from .races import Races

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from ..kernels.base import Kernel
    from ..tensor_map import TensorMap
    from .bulk import BoxCopy
    from .memory import Moment

__all__ = ["Grid", "Group", "Thread"]


class Group:
    """Threads that meet: a warp or a block."""

    def __init__(self, name: str, size: int) -> None:
        """Nobody has come yet."""
        self.name, self.size, self.left = name, size, 0
        self.passed = 0  # meetings that order memory
        self.what = ""
        self.came: dict[int, tuple[Thread, Any]] = {}

    def meet(self, me: Thread, what: str, value: Any, combine: Callable[[list[Any]], Sequence[Any]]) -> Any:
        """Wait for everyone; `combine` makes of all values, in the threads' order, what each one gets."""
        if self.came and what != self.what:
            msg = f"{self.name}: thread {me.number} comes to {what}, others to {self.what}"
            raise Fault(msg)
        self.what = what
        self.came[me.number] = (me, value)
        if len(self.came) < self.size:
            if self.left:
                msg = f"{self.name}: {self.left} threads have left and can come to no {what}"
                raise Fault(msg)
            me.waits = True
            me.hub.switch()
            return me.got
        everyone = [self.came[i] for i in sorted(self.came)]
        self.came = {}
        if what in ("barrier", "warp_barrier"):
            self.passed += 1
            if me.shared.known:
                me.shared.share([t.number for t, _ in everyone])
        for (other, _), got in zip(everyone, combine([v for _, v in everyone]), strict=True):
            other.got, other.waits = got, False
        return me.got


class Thread:
    """One thread of a block; `number` in the block."""

    def __init__(self, number: int, grid: Grid, at: int, warp: Group, block: Group, shared: Shared) -> None:
        """In block `at` of the grid."""
        self.number, self.grid, self.at = number, grid, at
        self.warp, self.block, self.shared = warp, block, shared
        self.hub, self.waits, self.got = getcurrent(), False, None
        self.run: Any = None
        self.polled: tuple[int, int] | None = None  # address and value that it acquired last
        self.spun = -1  # releases there had been when it saw only what it had seen
        self.copies: list[list[tuple[int, NDArray[np.uint8]]]] = [[]]  # groups under way, the last is open
        self.arrived, self.stuck = 0, ""  # mbarriers that it has come to; what it waits for, if for no meeting

    @property
    def moment(self) -> Moment:
        """Who and when, for shared memory."""
        return self.number, self.block.passed, self.warp.passed, self.arrived


class Grid:
    """One launch."""

    def __init__(
        self, memory: Memory, kernel: Kernel, blocks: int, shared: int, patience: int, maps: Mapping[int, TensorMap]
    ) -> None:
        """Nothing runs yet."""
        self.patience, self.maps = patience, maps
        self.bulk: list[BoxCopy] = []  # under way
        self.memory, self.kernel, self.blocks, self.shared = memory, kernel, blocks, shared
        self.races = Races(memory, blocks) if kernel.together else None
        self.news = 0  # releases
        self.now: Thread = None  # type: ignore[assignment] # a thread, as long as any runs

    def run(
        self, blocks: Sequence[int], function: Callable[..., None], arguments: Sequence[Any], pick: Callable[..., Any]
    ) -> None:
        """Run blocks to their end, all at once."""
        crew = [t for at in blocks for t in self._crew(at)]
        for t in crew:
            t.run = greenlet(function)
            t.run.gr_context = copy_context()  # NumPy's: what is infinite warns of nothing
        idle = 0  # rounds in which every thread that could run saw what it had seen
        while crew:
            if self.bulk:
                self._land(crew, pick)
            ready = [t for t in crew if not t.waits]
            idle = idle + 1 if all(t.spun == self.news for t in ready) else 0
            if not ready or idle > self.patience:
                waiting = {g.what for t in crew for g in (t.block, t.warp) if g.came}
                waiting |= {"an acquire"} if ready else {t.stuck for t in crew if t.stuck}
                msg = f"{self.kernel.name}: {len(crew)} threads wait for ever, at {', '.join(sorted(waiting))}"
                raise Fault(msg)
            for t in pick(ready):
                self.now, t.spun = t, -1
                t.run.switch(*arguments) if not t.run else t.run.switch()
                if t.run.dead:
                    self._leave(t)
            crew = [t for t in crew if not t.run.dead]
        if self.bulk:
            msg = f"{self.kernel.name}: all threads have left while {len(self.bulk)} copies are under way"
            raise Fault(msg)

    def _land(self, crew: Sequence[Thread], pick: Callable[..., Any]) -> None:
        """Bulk copies come: forward as late as may be, backward at once and the last first, or drawn."""
        for copy in list(pick(self.bulk)):
            if pick((False, True))[0] or all(t.waits for t in crew):
                self.bulk.remove(copy)
                copy.land()

    def _crew(self, at: int) -> list[Thread]:
        """Threads of a block."""
        n, name = self.kernel.threads, f"{self.kernel.name}, block {at}"
        whole, shared = Group(name, n), Shared(self.shared)
        warps = [Group(f"{name}, warp {w}", WARP) for w in range(n // WARP)]
        return [Thread(i, self, at, warps[i // WARP], whole, shared) for i in range(n)]

    @staticmethod
    def _leave(t: Thread) -> None:
        for group in (t.warp, t.block):
            group.left += 1
            if group.came:
                msg = f"{group.name}: thread {t.number} leaves while others wait at {group.what}"
                raise Fault(msg)
