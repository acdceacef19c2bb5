"""The emulator's memories: every access is checked for bounds and alignment, and shared memory for races."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Any

import numpy as np

from .primitives import WARP

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Fault", "Memory", "Region", "Shared", "ordered", "several"]

#: What memory holds before it is written: NaN as a float, and no number that a kernel would want.
POISON = 0xFF
#: Between two allocations lies what belongs to nobody.
FIRST, ALIGN, GAP = 1 << 40, 256, 1 << 20
#: In the place of a thread's number: threads of several warps.
MANY = -(1 << 20)
KINDS = {"u8": np.uint8, "i8": np.int8, "u16": np.uint16, "f16": np.float16, "u32": np.uint32, "i32": np.int32,
         "i64": np.int64, "f32": np.float32}  # fmt: skip


class Fault(Exception):  # noqa: N818 - the device's word
    """A kernel did what a device would not survive, or what has no defined result."""


class Region:
    """One allocation, seen as numbers of each kind."""

    def __init__(self, start: int, nbytes: int) -> None:
        """Poisoned."""
        self.start, self.end = start, start + nbytes
        padded = np.full(-(-nbytes // 16) * 16 + 16, POISON, np.uint8)
        first = -padded.ctypes.data % 16
        padded = padded[first : first + -(-nbytes // 16) * 16]
        self.bytes: NDArray[np.uint8] = padded[:nbytes]
        self.views: dict[str, NDArray[Any]] = {name: padded.view(kind) for name, kind in KINDS.items()}


class Memory:
    """Device memory: regions far from each other, addresses that are not the host's."""

    def __init__(self) -> None:
        """Empty."""
        self._starts: list[int] = []
        self._regions: list[Region] = []
        self._last = Region(0, 0)

    def allocate(self, nbytes: int) -> int:
        """Address of poisoned bytes, a multiple of 256."""
        start = FIRST if not self._regions else -(-(self._regions[-1].end + GAP) // ALIGN) * ALIGN
        self._starts.append(start)
        self._regions.append(Region(start, nbytes))
        return start

    def region(self, address: int, nbytes: int) -> Region:
        """The allocation that these bytes lie in. Fault: there is none."""
        r = self._last
        if not r.start <= address <= r.end - nbytes:
            i = bisect_right(self._starts, address) - 1
            r = self._regions[i] if i >= 0 else self._last
            if not r.start <= address <= r.end - nbytes:
                msg = f"{nbytes} bytes at {address:#x} are in no allocation"
                raise Fault(msg)
            self._last = r
        return r

    def view(self, address: int, nbytes: int) -> NDArray[np.uint8]:
        """The bytes themselves."""
        r = self.region(address, nbytes)
        return r.bytes[address - r.start : address - r.start + nbytes]

    def load(self, address: int, kind: str, size: int, count: int = 1) -> Any:
        """A number, or `count` of them that are read at once. Fault: out of bounds, or not aligned."""
        r = self.region(address, size * count)
        at = address - r.start
        if at % (size * count):
            msg = f"a load of {size * count} bytes at {address:#x}"
            raise Fault(msg)
        at //= size
        return r.views[kind][at] if count == 1 else tuple(r.views[kind][at : at + count])

    def store(self, address: int, kind: str, size: int, value: Any) -> None:
        """Fault: out of bounds, or not aligned."""
        r = self.region(address, size)
        at = address - r.start
        if at % size:
            msg = f"a store of {size} bytes at {address:#x}"
            raise Fault(msg)
        r.views[kind][at // size] = value


class Shared:
    """A block's shared memory. Two threads must not meet at a word between two barriers, unless both only read.

    Who touched a word last is kept beside it: the thread, and how many barriers its block and its warp had passed.
    """

    def __init__(self, nbytes: int) -> None:
        """Poisoned."""
        self.memory = Region(0, nbytes)
        self._writers: dict[int, tuple[int, int, int]] = {}
        self._readers: dict[int, tuple[int, int, int]] = {}
        self._adders: dict[int, tuple[int, int, int]] = {}
        self._when: dict[int, int] = {}  # a word -> stores there had been when it was written
        self._fences: dict[int, int] = {}  # a thread -> the same, at its last fence
        self._stores = 0

    def load(self, address: int, kind: str, me: tuple[int, int, int]) -> Any:
        """Four bytes; `me`: thread, barriers of its block, barriers of its warp."""
        at = self._word(address)
        old = self._readers.get(at)
        if old is not None and old[0] == MANY and old[1] == me[1]:  # many have, since the barrier: it is there for all
            return self.memory.views[kind][at]
        for other in (self._writers.get(at), self._adders.get(at)):
            self._apart(at, other, me, "reads what another wrote")
        self._readers[at] = me if old is None else several(old, me)
        return self.memory.views[kind][at]

    def load4(self, address: int, me: tuple[int, int, int]) -> tuple[Any, ...]:
        """Four float32 at once."""
        if address % 16:
            msg = f"16 bytes of shared memory at {address}"
            raise Fault(msg)
        return tuple(self.load(address + 4 * i, "f32", me) for i in range(4))

    def store(self, address: int, kind: str, value: Any, me: tuple[int, int, int]) -> None:
        """Four bytes."""
        at = self._word(address)
        self._apart(at, self._writers.get(at), me, "writes what another wrote")
        self._apart(at, self._readers.get(at), me, "writes what another reads")
        self._apart(at, self._adders.pop(at, None), me, "writes what another adds to")
        self._writers[at] = me
        self._when[at] = self._stores
        self._stores += 1
        self.memory.views[kind][at] = value

    def load8(self, address: int, me: tuple[int, int, int]) -> int:
        """An int64."""
        if address % 8:
            msg = f"8 bytes of shared memory at {address}"
            raise Fault(msg)
        low, high = (int(self.load(address + i, "u32", me)) for i in (0, 4))
        return (high << 32 | low) - (high >> 31 << 64)

    def store8(self, address: int, value: int, me: tuple[int, int, int]) -> None:
        """An int64."""
        if address % 8:
            msg = f"8 bytes of shared memory at {address}"
            raise Fault(msg)
        for i in (0, 4):
            self.store(address + i, "u32", value >> 8 * i & 0xFFFFFFFF, me)

    def add8(self, address: int, value: int, me: tuple[int, int, int]) -> None:
        """Add to an int64; others may at once."""
        if address % 8:
            msg = f"8 bytes of shared memory at {address}"
            raise Fault(msg)
        for at in (self._word(address), self._word(address + 4)):
            for other in (self._writers.get(at), self._readers.get(at)):
                self._apart(at, other, me, "adds to what another uses")
            old = self._adders.get(at)
            self._adders[at] = me if old is None else several(old, me)
        self.memory.views["i64"][address // 8] += value

    def copy(self, address: int, data: NDArray[np.uint8], me: tuple[int, int, int]) -> None:
        """Sixteen bytes or four, as `store`."""
        if address % len(data):
            msg = f"{len(data)} bytes of shared memory at {address}"
            raise Fault(msg)
        for i, word in enumerate(data.view(np.uint32)):
            self.store(address + 4 * i, "u32", word, me)

    def fence(self, thread: int) -> None:
        """What this thread wrote is there for whatever reads shared memory beside the threads (`load_async`)."""
        self._fences[thread] = self._stores

    def load_async(self, address: int, me: tuple[int, int, int]) -> None:
        """A word will be read beside the threads. Fault: a race, or its writer has not come to a fence."""
        at = self._word(address)
        writer = self._writers.get(at)
        self._apart(at, writer, me, "reads what another wrote")
        if writer is not None and self._fences.get(writer[0], -1) <= self._when[at]:
            msg = f"shared word {at} is read beside the threads; thread {writer[0]} wrote it and came to no fence_async"
            raise Fault(msg)
        self._readers[at] = (MANY, me[1], me[2])

    def _word(self, address: int) -> int:
        if not 0 <= address <= self.memory.end - 4 or address % 4:
            msg = f"4 bytes of shared memory at {address}, of {self.memory.end}"
            raise Fault(msg)
        return address // 4

    @staticmethod
    def _apart(at: int, other: tuple[int, int, int] | None, me: tuple[int, int, int], what: str) -> None:
        if other is not None and other[0] != me[0] and not ordered(other, me):
            msg = f"race: thread {me[0]} {what} at shared word {at} (thread {other[0]}) with no barrier between"
            raise Fault(msg)


def several(old: tuple[int, int, int], me: tuple[int, int, int]) -> tuple[int, int, int]:
    """Who reads a word that `old` read: `me` alone where something lies between, or several, of one warp or of many."""
    if old[0] == me[0] or ordered(old, me):
        return me
    return (-1 - me[0] // WARP if _warp(old) == me[0] // WARP else MANY, me[1], me[2])


def ordered(before: tuple[int, int, int], after: tuple[int, int, int]) -> bool:
    """Whether a barrier of the block, or of the warp that both belong to, lies between."""
    if after[1] > before[1]:
        return True
    return _warp(before) == _warp(after) and after[2] > before[2]


def _warp(who: tuple[int, int, int]) -> int:
    """The warp of a thread, of several of one warp (-1 - warp), or -1."""
    return who[0] // WARP if who[0] >= 0 else -1 if who[0] == MANY else -1 - who[0]
