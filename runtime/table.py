"""What one sequence holds of the KV cache, and who waits for it; `pages.py` gives, shares and takes back."""

from __future__ import annotations

import os
import sys
import threading
import weakref
from typing import TYPE_CHECKING

import numpy as np

from .kvcache import PAGE
from .living import Living
from .locks import Waiting

if TYPE_CHECKING:
    from collections.abc import Sequence
    from threading import Lock as LockType

    from numpy.typing import NDArray

    from .overflow import Kept
    from .sources import Source

__all__ = ["Caller", "Table", "gap_of"]


class Caller(Waiting):
    """Who waits for the ids of sequences. He is there for as long as the block of his call that is his `going`.

    Being counted is not enough: an exception that is kept keeps the calls that it came through, and what they had.
    """

    def __init__(self) -> None:
        """In this thread; not there yet."""
        super().__init__()
        self._process = os.getpid()
        self._going: weakref.ref[LockType] | None = None

    def going(self) -> LockType:
        """What his block is entered with: a lock that only the block holds, so it dies with it, however that ends.

        It is opened and left by C, where no signal's handler comes between. To look into the calls of another thread
        is no way: what they have may be freed meanwhile (CPython 3.11 ends by a segmentation fault).
        """
        lock = threading.Lock()
        self._going = weakref.ref(lock)
        return lock

    def waits_for(self, table: Table) -> None:
        """For a sequence, and for the encoder's text that it reads."""
        for each in _of(table):
            each.waiting.add(self)

    def leaves(self, table: Table) -> None:
        """Wait for it no more."""
        for each in _of(table):
            each.waiting.discard(self)

    def here(self) -> bool:
        """Whether that block goes on. In a forked child, whose main thread is the one that forked, no other's does."""
        lock = None if self._going is None else self._going()
        if lock is None or not lock.locked():
            return False
        return self._process == os.getpid() or self.thread == threading.main_thread().ident


def _of(table: Table) -> list[Table]:
    return [table] if table.source is None else [table, table.source.table]


def gap_of(n: int, capacity: int, size: int = PAGE) -> int:
    """Tokens that are left out where token `n` of a text is computed. `capacity`: its slots; 0: as many as it takes."""
    over = n - capacity
    return over // size * size + size if capacity and over >= 0 else 0


class Table:
    """What one sequence holds of the cache.

    `cached`: this many slots, from the first on, hold what its ids make them; `ids`: these and perhaps more, or none
    where they are not known. Below `low[g]` pages of group g were
    given back, as no later query of its window sees them. `source`: the encoder's text that its sequence reads;
    `adapter`: the number of the one that it is read with (`lora.py`), on which keys depend as on ids.
    `salt`: texts of another share no pages with it, though they begin alike.
    `padding`: slots of padding tokens, where these have no position; of slots from `cached` on it may be wrong.
    `waiting`: who waits for the next id of its sequence. `used`: which pass it was in last; `arrived`: the number of
    its sequence, counted as they are first waited for; `dropped`: that sequence is closed, or gone. `shift` is added
    to the positions of its text, which has `expected` tokens at least (`Session.turned`). `unsure`: of the `cached`
    slots this many, the last, are of drafted ids that were not checked. `priority`: of the call that
    goes on with it; `favoured`: others of a higher priority overtook it too often (`Engine`).

    A text that may outgrow its context has a `capacity`, its slots. From the token on that finds none, one page of the
    oldest after the first `SINKS` is left out for every `size` tokens: `gap` tokens are, so token n lies at slot
    n - `gap`, and the sinks at the first slots, rotated for their place there; `sinks` has them as they were.
    `cached` and all that callers say are numbers of tokens.
    """

    __slots__ = ("__weakref__", "adapter", "address", "arrived", "cached", "capacity", "dropped", "expected",
                 "favoured", "gap", "high", "ids", "low", "numbers", "padding", "priority", "salt", "shift", "sinks",
                 "size", "source", "unsure", "used", "waiting")  # fmt: skip

    def __init__(self, n_groups: int, n_pages: int, size: int = PAGE) -> None:
        """For at most `n_pages` pages a group, of `size` slots; it holds none."""
        self.numbers: NDArray[np.int32] = np.zeros((n_groups, n_pages), np.int32)
        self.address = int(self.numbers.ctypes.data)
        self.low, self.high = [0] * n_groups, [0] * n_groups  # it holds pages low to high - 1
        self.cached = self.used = self.shift = self.expected = self.arrived = self.priority = 0
        self.size, self.capacity, self.gap, self.adapter, self.unsure = size, 0, 0, 0, 0
        self.sinks: Kept | None = None
        self.dropped = self.favoured = False
        self.salt = ""
        self.ids: Sequence[int] = ()
        self.waiting: Living[Caller] = Living()
        self.source: Source | None = None
        self.padding: list[int] = []

    def begin(self, priority: int) -> None:
        """A call of this priority goes on with its sequence."""
        self.priority, self.favoured = priority, False

    @property
    def kind(self) -> tuple[Source | None, int, int, str]:
        """What its keys depend on next to its ids, and its salt: texts whose kinds are equal may share them."""
        return self.source, self.shift, self.adapter, self.salt

    @property
    def place(self) -> tuple[bool, int, int]:
        """Its place among those that are waited for: the least goes first, and gives its pages up last."""
        return not self.favoured, -self.priority, self.arrived

    @property
    def awaited(self) -> bool:
        """Whether somebody waits for the next id of its sequence."""
        return any(who.here() for who in self.waiting)

    @property
    def n_pages(self) -> int:
        """Pages that it holds."""
        return sum(self.high) - sum(self.low)

    def gap_at(self, n: int) -> int:
        """Tokens that are left out where token `n` is computed: this depends on nothing else."""
        return gap_of(n, self.capacity, self.size)

    def until(self, n: int) -> int:
        """The first token after `n` that does not fit a pass with it, as more are left out for it."""
        return self.capacity + self.gap_at(n) if self.capacity else sys.maxsize

    def slots(self, n: int) -> int:
        """Slots that a text of `n` tokens takes, at most."""
        return min(n, self.capacity) if self.capacity else n

    def empty(self, groups: int) -> None:
        """Forget the pages that it held."""
        self.low, self.high = [0] * groups, [0] * groups
        self.gap, self.sinks = 0, None
