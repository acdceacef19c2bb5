"""Hopper's products as the emulator has them: begun by a warpgroup, read and summed when they are waited for.

Operands are read from emulated shared memory through their descriptors, as late as may be. It is a `Fault` when they
were written with no fence of the writer's (`fence_async`) or no barrier between, when a copy brought them that one of
the threads did not wait for, when they are no longer what they were when the product began, when the warpgroup did not
come to `wgmma_fence` first, when its threads bring different descriptors, and when sums are touched under way: they are
NaN until `wgmma_finish`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .grid import Group
from .memory import Fault
from .tensor import widened

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from .grid import Grid, Thread
    from .memory import Moment, Shared

__all__ = ["WINDOW", "descriptor_addresses", "wgmma"]

F = np.float32
WARPGROUP = 128
#: Where dynamic shared memory begins in the shared window: the system has the first KiB.
WINDOW = 1024
#: Swizzle mode -> bytes of a row of its pattern.
SWIZZLED = {1: 128, 2: 64, 3: 32}
# Row and column of a thread's numbers 4 j + i, but for 8 j.
_T = np.arange(WARPGROUP)[:, None]
_ROW = _T // 32 * 16 + _T % 32 // 4 + np.array([0, 0, 8, 8])
_COLUMN = _T % 4 * 2 + np.array([0, 1, 0, 1])


def descriptor_addresses(descriptor: int, rows: int) -> NDArray[np.int64]:
    """[rows, 16] addresses in the window of an operand's bfloat16: K-major, by its matrix descriptor.

    Mode 0: core matrices of eight rows of 16 bytes; the next along K is `leading` bytes on, the next rows `stride`.
    Modes 1 to 3: eight rows of 128, 64, 32 bytes, the next eight `stride` on; bits 4 and up of the address are xor-ed
    with those from bit 7. Fault: what the hardware has no meaning for, or we no use.
    """
    start, leading, stride = ((descriptor >> at & 0x3FFF) << 4 for at in (0, 16, 32))
    mode = descriptor >> 62 & 3
    if descriptor >> 49 & 7:
        msg = f"descriptor {descriptor:#x}: a base offset; patterns begin at multiples of eight rows here"
        raise Fault(msg)
    r, byte = np.arange(rows)[:, None], 2 * np.arange(16)
    if mode == 0:
        return start + r // 8 * stride + r % 8 * 16 + byte // 16 * leading + byte % 16
    width = SWIZZLED[mode]
    if start % width + 32 > width:
        msg = f"descriptor {descriptor:#x}: sixteen columns do not end in a pattern of {width} bytes"
        raise Fault(msg)
    linear = start + r // 8 * stride + r % 8 * width + byte
    return linear ^ (linear >> 7 & width // 16 - 1) << 4


class Product:
    """One that is under way, for a whole warpgroup."""

    def __init__(
        self, sums: list[list[Any]], count: int, a: int, b: int, shared: Shared, threads: Sequence[Moment]
    ) -> None:
        """`sums`: each thread's; what the descriptors name is looked at for the first time."""
        self.sums, self.count, self.done, self.shared = sums, count, False, shared
        self.places = tuple(descriptor_addresses(d, n) - WINDOW for d, n in ((a, 64), (b, 2 * count)))
        self.read = shared.load_async(np.unique(np.concatenate([p.reshape(-1) for p in self.places]) // 4), threads)
        self.first = self._operands()

    def _operands(self) -> tuple[NDArray[np.uint16], ...]:
        return tuple(self.shared.memory.views["u16"][p // 2] for p in self.places)

    def finish(self) -> None:
        """Sums in float64, rounded once."""
        now = self._operands()
        if not all(map(np.array_equal, now, self.first)):
            msg = "an operand of a product that is under way was written"
            raise Fault(msg)
        a, b = (widened(x.view(np.uint32), "bf16") for x in now)
        held = np.array(self.sums, np.float32).reshape(WARPGROUP, -1, 4)
        c = np.empty((64, 2 * self.count))
        column = 8 * np.arange(self.count // 4)[:, None] + _COLUMN[:, None]
        c[_ROW[:, None], column] = held
        d = (a @ b.T + c).astype(np.float32)[_ROW[:, None], column].reshape(WARPGROUP, -1)
        for mine, got in zip(self.sums, d, strict=True):
            mine[:] = got
        self.done = True


class Registers:
    """A thread's sums, away while products are under way."""

    def __init__(self, acc: list[Any]) -> None:
        """They are NaN meanwhile."""
        self.acc, self.values = acc, list(acc)
        acc[:] = [F(np.nan)] * len(acc)

    def give_back(self) -> None:
        """Fault: they were written."""
        if not all(map(np.isnan, self.acc)):
            msg = "sums of a product that is under way were written"
            raise Fault(msg)
        self.acc[:] = self.values


def wgmma(grid: Grid) -> dict[str, Any]:
    """The primitives by name, for one launch."""
    groups: dict[tuple[int, int], Group] = {}
    ordered: dict[Thread, bool] = {}
    begun: dict[Thread, list[list[Product]]] = {}
    away: dict[Thread, dict[int, Registers]] = {}

    def meet(what: str, value: Any, combine: Callable[[list[Any]], Sequence[Any]]) -> Any:
        me = grid.now
        which = me.number // WARPGROUP
        if grid.kernel.threads < (which + 1) * WARPGROUP:
            msg = f"{what}: {grid.kernel.threads} threads are no whole warpgroups where thread {me.number} is"
            raise Fault(msg)
        group = groups.setdefault((id(me.block), which), Group(f"{me.block.name}, warpgroup {which}", WARPGROUP))
        return group.meet(me, what, value, combine)

    def fence() -> None:
        ordered[grid.now] = True
        meet("wgmma_fence", None, lambda all_: all_)

    def begin(acc: list[Any], count: int, a: int, b: int) -> None:
        me = grid.now
        if not ordered.get(me):
            msg = f"thread {me.number}: a product with no wgmma_fence before it"
            raise Fault(msg)
        mine = away.setdefault(me, {})
        if id(acc) not in mine:
            mine[id(acc)] = Registers(acc)

        def together(all_: list[Any]) -> Sequence[Any]:
            if len({v[2:] for v in all_}) > 1:
                msg = "threads of a warpgroup bring different descriptors to a product"
                raise Fault(msg)
            sums, moments = ([v[i] for v in all_] for i in range(2))
            return [Product(sums, count, a, b, me.shared, moments)] * len(all_)

        product = meet("wgmma_bf16", (mine[id(acc)].values, me.moment, a, b), together)
        begun.setdefault(me, [[]])[-1].append(product)

    def wait(left: int) -> None:
        me = grid.now
        meet("wgmma_wait", None, lambda all_: all_)
        while len(begun.setdefault(me, [[]])) - 1 > left:
            for product in begun[me].pop(0):
                product.read.ended(me.moment)
                if not product.done:
                    product.finish()

    def finish(acc: list[Any], count: int) -> None:
        me = grid.now
        wait(0)
        meet("wgmma_finish", None, lambda all_: all_)
        if begun[me][-1]:
            msg = "wgmma_finish before wgmma_close: a product that no group has"
            raise Fault(msg)
        for held in away.pop(me, {}).values():
            held.give_back()
        ordered[me] = False

    return {
        "window": lambda shared: WINDOW + shared,
        "fence_async": lambda: grid.now.shared.fence(grid.now.number),
        "wgmma_fence": fence, "wgmma_bf16": begin, "wgmma_wait": wait, "wgmma_finish": finish,
        "wgmma_close": lambda: begun.setdefault(grid.now, [[]]).append([]),
    }  # fmt: skip
