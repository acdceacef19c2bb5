"""Who may see what in device memory, where blocks of one launch wait for each other: the emulator's race check.

Two accesses of a word, of which one writes, must be ordered: in one block by a barrier, between blocks by a release
and an acquire of the same address (Lamport 1978; vector clocks, a component for each block: how many of its barriers
had been passed when it released). What was released is seen by the thread that acquires, and by its block after the
next barrier. Words are four bytes; smaller stores of one block are not told apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .memory import Fault, ordered, several

if TYPE_CHECKING:
    from .grid import Thread
    from .memory import Memory, Moment

__all__ = ["Races"]

Clock = list[int]
WORD = 4


class Races:
    """The clocks of a launch, and who touched each word last."""

    def __init__(self, memory: Memory, blocks: int) -> None:
        """Nobody has released anything."""
        self._memory, self._none = memory, [0] * blocks
        self._seen: list[Clock] = [list(self._none) for _ in range(blocks)]
        self._acquired: list[list[tuple[Moment, Clock]]] = [[] for _ in range(blocks)]
        self._released: dict[int, Clock] = {}
        self._writers: dict[int, tuple[int, Moment]] = {}
        self._readers: dict[int, dict[int, Moment]] = {}
        self._adders: dict[int, dict[int, Moment]] = {}
        self._constant: set[int] = set()

    def release(self, me: Thread, address: int) -> None:
        """What this thread saw, and its block before its last barrier, goes with what is at the address."""
        clock = list(self._view(me))
        clock[me.at] = me.block.passed
        self._released[address] = _joined(clock, self._released.get(address, self._none))

    def acquire(self, me: Thread, address: int) -> None:
        """What went with the address is seen: now by this thread, later by its block."""
        if address in self._released:
            self._acquired[me.at].append((me.moment, self._released[address]))

    def _view(self, me: Thread) -> Clock:
        """What this thread sees of each block."""
        waiting = self._acquired[me.at]
        if not waiting:
            return self._seen[me.at]
        for _, clock in (a for a in waiting if a[0][1] < me.block.passed):
            self._seen[me.at] = _joined(self._seen[me.at], clock)
        self._acquired[me.at] = waiting = [a for a in waiting if a[0][1] >= me.block.passed]
        view = self._seen[me.at]
        for moment, clock in waiting:
            view = _joined(view, clock) if moment[0] == me.number else view
        return view

    def constant(self, address: int, nbytes: int) -> None:
        """Somebody reads this as what no kernel writes: its whole allocation is."""
        self._constant.add(self._memory.region(address, nbytes).start)

    def read(self, me: Thread, address: int, nbytes: int) -> None:
        """Fault: a race."""
        view, moment = self._view(me), me.moment
        for word in range(address // WORD, (address + nbytes - 1) // WORD + 1):
            writer = self._writers.get(word)
            if writer is not None:
                self._apart(word, writer, me, view, small=nbytes < WORD, what="reads what another wrote")
            for adder in self._adders.get(word, {}).items():
                self._apart(word, adder, me, view, small=False, what="reads what another adds to")
            readers = self._readers.setdefault(word, {})
            old = readers.get(me.at)
            readers[me.at] = moment if old is None else several(old, moment)

    def write(self, me: Thread, address: int, nbytes: int) -> None:
        """Fault: a race, or what is read as a constant."""
        if self._constant and self._memory.region(address, nbytes).start in self._constant:
            msg = f"block {me.at}, thread {me.number} writes at {address:#x}, which is read as a constant"
            raise Fault(msg)
        view, small = self._view(me), nbytes < WORD
        for word in range(address // WORD, (address + nbytes - 1) // WORD + 1):
            if word in self._writers:
                self._apart(word, self._writers[word], me, view, small=small, what="writes what another wrote")
            for reader in self._readers.pop(word, {}).items():
                self._apart(word, reader, me, view, small=small, what="writes what another reads")
            for adder in self._adders.pop(word, {}).items():
                self._apart(word, adder, me, view, small=False, what="writes what another adds to")
            self._writers[word] = (me.at, me.moment)

    def add(self, me: Thread, address: int) -> None:
        """Add to eight bytes, as others may at once. Fault: a race with who reads or writes them."""
        view, moment = self._view(me), me.moment
        for word in (address // WORD, address // WORD + 1):
            if word in self._writers:
                self._apart(word, self._writers[word], me, view, small=False, what="adds to what another wrote")
            for reader in self._readers.get(word, {}).items():
                self._apart(word, reader, me, view, small=False, what="adds to what another reads")
            adders = self._adders.setdefault(word, {})
            old = adders.get(me.at)
            adders[me.at] = moment if old is None else several(old, moment)

    @staticmethod
    def _apart(word: int, other: tuple[int, Moment], me: Thread, view: Clock, *, small: bool, what: str) -> None:
        at, moment = other
        inside = small or moment[0] == me.number or ordered(moment, me.moment)
        if not inside if at == me.at else moment[1] >= view[at]:
            who = f"block {me.at}, thread {me.number}"
            msg = f"race: {who} {what} at {word * WORD:#x} (block {at}, thread {moment[0]}) with nothing between"
            raise Fault(msg)


def _joined(a: Clock, b: Clock) -> Clock:
    return list(map(max, a, b))
