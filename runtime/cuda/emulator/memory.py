"""The emulator's memories: every access is checked for bounds and alignment, and shared memory for races."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Any

import numpy as np

from ..primitives import WARP
from ..tensor_map import PATTERN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["Fault", "Known", "Memory", "Moment", "Region", "Shared", "joined", "ordered", "several"]

#: Of an access: thread, barriers of its block, barriers of its warp, mbarriers that it had arrived at.
Moment = tuple[int, int, int, int]
#: What a thread has heard of by mbarriers: thread -> its last arrival, -1 - warp -> barriers of that warp at it,
#: `COPIES` + mbarrier -> the last phase whose copies are there.
Known = dict[int, int]

#: What memory holds before it is written: NaN as a float, and no number that a kernel would want.
POISON = 0xFF
#: Between two allocations lies what belongs to nobody.
FIRST, ALIGN, GAP = 1 << 40, 256, 1 << 20
#: In the place of a thread's number: threads of several warps.
MANY = -(1 << 20)
#: The same of a bulk copy: this and its mbarrier's place. No barrier of the block orders it; its phase does.
COPIES, NEVER = 1 << 32, 1 << 62
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


class AsyncRead:
    """Words that are read outside the threads, for some warps, each of which learns by itself when that has ended."""

    def __init__(self, words: NDArray[np.int64], threads: Sequence[int]) -> None:
        """It is under way."""
        self._words, self._warps = words, sorted({t // WARP for t in threads})
        self._ended: dict[int, list[Moment]] = {}

    def ended(self, me: Moment) -> None:
        """A thread has waited for it."""
        self._ended.setdefault(me[0] // WARP, []).append(me)

    def touches(self, first: int, last: int) -> bool:
        """Whether it has one of the words from `first` to before `last`."""
        return bool(np.any((self._words >= first) & (self._words < last)))

    def by_warp(self) -> list[list[Moment]]:
        """Who has waited for it, by warp."""
        return [self._ended.get(w, []) for w in self._warps]


class Shared:
    """A block's shared memory. Two threads must not meet at a word between two barriers, unless both only read.

    Who touched a word last is kept next to it: the thread, and how many barriers its block and its warp had passed.
    mbarriers order too: what a thread, or a copy, did before it came to one is known to who waited for the phase.
    """

    def __init__(self, nbytes: int) -> None:
        """Poisoned."""
        self.memory = Region(0, nbytes)
        self.known: dict[int, Known] = {}  # by thread
        self._writers: dict[int, Moment] = {}
        self._readers: dict[int, Moment] = {}
        self._adders: dict[int, Moment] = {}
        self._when: dict[int, int] = {}  # a word -> stores there had been when it was written
        self._fences: dict[int, int] = {}  # a thread -> the same, at its last fence
        self._stores = 0
        self._reads: list[AsyncRead] = []  # outside the threads, of what no copy has overwritten

    def load(self, address: int, kind: str, me: Moment) -> Any:
        """Four bytes; `me`: who, and when."""
        at = self._word(address)
        old, writer = self._readers.get(at), self._writers.get(at)
        if old is not None and old[0] == MANY and old[1] == me[1] and (writer is None or writer[0] < COPIES):
            return self.memory.views[kind][at]  # many have, since the barrier: it is there for all
        if writer is not None and writer[1] >= me[1]:
            self._apart(at, writer, me, "reads what another wrote")
        if self._adders:
            self._apart(at, self._adders.get(at), me, "reads what another wrote")
        if old is None or old[1] < me[1] or old[0] == me[0]:
            self._readers[at] = me
        elif self.known or old[0] != -1 - me[0] // WARP or old[2:] != me[2:]:  # else its warp reads, as it has
            self._readers[at] = me if self.covers(old, me) else several(old, me)
        return self.memory.views[kind][at]

    def load4(self, address: int, me: Moment) -> tuple[Any, ...]:
        """Four float32 at once."""
        if address % 16:
            msg = f"16 bytes of shared memory at {address}"
            raise Fault(msg)
        return tuple(self.load(address + 4 * i, "f32", me) for i in range(4))

    def store(self, address: int, kind: str, value: Any, me: Moment) -> None:
        """Four bytes."""
        at = self._word(address)
        self._apart(at, self._writers.get(at), me, "writes what another wrote")
        self._apart(at, self._readers.get(at), me, "writes what another reads")
        self._apart(at, self._adders.pop(at, None), me, "writes what another adds to")
        self._writers[at] = me
        self._when[at] = self._stores
        self._stores += 1
        self.memory.views[kind][at] = value

    def load8(self, address: int, me: Moment) -> int:
        """An int64."""
        if address % 8:
            msg = f"8 bytes of shared memory at {address}"
            raise Fault(msg)
        low, high = (int(self.load(address + i, "u32", me)) for i in (0, 4))
        return (high << 32 | low) - (high >> 31 << 64)

    def store8(self, address: int, value: int, me: Moment) -> None:
        """An int64."""
        if address % 8:
            msg = f"8 bytes of shared memory at {address}"
            raise Fault(msg)
        for i in (0, 4):
            self.store(address + i, "u32", value >> 8 * i & 0xFFFFFFFF, me)

    def add8(self, address: int, value: int, me: Moment) -> None:
        """Add to an int64; others may at once."""
        if address % 8:
            msg = f"8 bytes of shared memory at {address}"
            raise Fault(msg)
        for at in (self._word(address), self._word(address + 4)):
            for other in (self._writers.get(at), self._readers.get(at)):
                self._apart(at, other, me, "adds to what another uses")
            old = self._adders.get(at)
            self._adders[at] = me if old is None or self.covers(old, me) else several(old, me)
        self.memory.views["i64"][address // 8] += value

    def copy(self, address: int, data: NDArray[np.uint8], me: Moment) -> None:
        """Sixteen bytes or four, as `store`."""
        if address % len(data):
            msg = f"{len(data)} bytes of shared memory at {address}"
            raise Fault(msg)
        for i, word in enumerate(data.view(np.uint32)):
            self.store(address + 4 * i, "u32", word, me)

    def fence(self, thread: int) -> None:
        """What this thread wrote is there for whatever reads shared memory outside the threads (`load_async`)."""
        self._fences[thread] = self._stores

    def load_async(self, words: NDArray[np.int64], threads: Sequence[Moment]) -> AsyncRead:
        """Words are read outside the threads, for these. Fault: a race, or a writer has not come to a fence.

        What a copy brought must be known to each of the threads, and needs no fence.
        """
        me, plain, copies = threads[-1], [], set()
        for at in words.tolist():
            writer = self._writers.get(self._word(4 * at))
            if writer is None or writer[0] < COPIES:
                plain.append((at, writer))
            else:
                copies.add((writer, at // (PATTERN // 4)))
        for writer, pattern in copies:
            for t in threads:
                self._apart(pattern * PATTERN // 4, writer, t, "reads what another wrote")
        for at, writer in plain:
            self._apart(at, writer, me, "reads what another wrote")
            self._fenced(at, writer, "read")
            self._readers[at] = (MANY, *me[1:])
        read = AsyncRead(words, [t[0] for t in threads])
        self._reads.append(read)
        return read

    def copies_to(self, address: int, nbytes: int, copy: Moment, me: Moment) -> None:
        """These bytes will be written outside the threads, by what `me` begins. Fault: a race, or as `load_async`."""
        first, last = self._word(address), self._word(address + nbytes - 4) + 1
        for read in [r for r in self._reads if r.touches(first, last)]:
            for ended in read.by_warp():
                if not any(m[0] == me[0] or self.covers(m, me) for m in ended):
                    msg = f"thread {me[0]} copies over shared words from {first} on, which a product reads: "
                    raise Fault(msg + ("it knows of no mbarrier after it" if ended else "it is under way"))
            self._reads.remove(read)
        for at in range(first, last):
            writer = self._writers.get(at)
            if writer is not None:
                self._apart(at, writer, me, "copies over what another wrote")
                self._fenced(at, writer, "written")
            self._apart(at, self._readers.pop(at, None), me, "copies over what another reads")
        self._writers.update(dict.fromkeys(range(first, last), copy))
        self.memory.bytes[address : address + nbytes] = POISON

    def written(self, address: int, me: Moment, *, beside: bool) -> None:
        """Fault: what lies there was written behind this thread's back; `beside`: or with no fence of the writer's."""
        at = self._word(address)
        writer = self._writers.get(at)
        self._apart(at, writer, me, "reads what another wrote")
        if beside:
            self._fenced(at, writer, "read")

    def _fenced(self, at: int, writer: Moment | None, what: str) -> None:
        if writer is not None and writer[0] < COPIES and self._fences.get(writer[0], -1) <= self._when[at]:
            msg = f"shared word {at} is {what} outside the threads; thread {writer[0]} wrote it without a fence_async"
            raise Fault(msg)

    def learn(self, thread: int, news: Known) -> None:
        """A thread hears of what others did."""
        self.known[thread] = joined(self.known.get(thread, {}), news)

    def share(self, threads: Sequence[int]) -> None:
        """These threads meet at a barrier: each knows what any of them knew."""
        every: Known = {}
        for known in {id(k): k for k in map(self.known.get, threads) if k}.values():
            every = joined(every, known)
        if every:
            self.known |= dict.fromkeys(threads, every)

    def covers(self, before: Moment, me: Moment) -> bool:
        """Whether a barrier or an mbarrier lies between."""
        who, known = before[0], self.known.get(me[0], {})
        if ordered(before, me) or known.get(who, -1) >= (before[2] + 1 if who < 0 else before[3]):
            return True
        return 0 <= who < COPIES and known.get(-1 - who // WARP, -1) > before[2]

    def _word(self, address: int) -> int:
        if not 0 <= address <= self.memory.end - 4 or address % 4:
            msg = f"4 bytes of shared memory at {address}, of {self.memory.end}"
            raise Fault(msg)
        return address // 4

    def _apart(self, at: int, other: Moment | None, me: Moment, what: str) -> None:
        if other is None or other[1] < me[1] or other[0] == me[0] or self.covers(other, me):
            return
        if other[0] >= COPIES:
            msg = f"race: thread {me[0]} {what} at shared word {at}: a copy, for whose phase it did not wait"
        else:
            msg = f"race: thread {me[0]} {what} at shared word {at} (thread {other[0]}) with no barrier between"
        raise Fault(msg)


def joined(a: Known, b: Known) -> Known:
    """What who knows both knows."""
    return a | {k: max(v, a.get(k, v)) for k, v in b.items()}


def several(old: Moment, me: Moment) -> Moment:
    """Who reads a word that `old` read: `me` alone where something lies between, or several, of one warp or of many."""
    if old[0] == me[0] or ordered(old, me):
        return me
    return (-1 - me[0] // WARP if _warp(old) == me[0] // WARP else MANY, *me[1:])


def ordered(before: Moment, after: Moment) -> bool:
    """Whether a barrier of the block, or of the warp that both belong to, lies between."""
    if after[1] > before[1]:
        return True
    return _warp(before) == _warp(after) and after[2] > before[2]


def _warp(who: Moment) -> int:
    """The warp of a thread, of several of one warp (-1 - warp), or -1."""
    return who[0] // WARP if who[0] >= 0 else -1 if who[0] == MANY else -1 - who[0]
