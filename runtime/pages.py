"""Pages of the KV cache: who holds which, shared between texts that begin alike, counted.

A page holds the keys and values of `size` slots, in every layer of a group; layers whose window is the same are one
group (`Program.groups`). Which page holds slots `size * i`, `size * i + 1`, ... of a sequence stands at index i of its
table, a row of int32 for each group, which kernels read. A page that several sequences hold is never written: whoever
must write into it copies it first, or owns it once the others release it.

Ids, counts and addresses only; nothing here knows a kernel or a text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

__all__ = ["Pages", "Table"]


class Table:
    """What one sequence holds of the cache.

    `cached`: this many slots, from the first on, hold what its ids make them. Below `low[g]` pages of group g were
    given back, as no later query of its window sees them.
    """

    __slots__ = ("address", "cached", "high", "low", "numbers")

    def __init__(self, n_groups: int, n_pages: int) -> None:
        """For at most `n_pages` pages a group; it holds none."""
        self.numbers: NDArray[np.int32] = np.zeros((n_groups, n_pages), np.int32)
        self.address = int(self.numbers.ctypes.data)
        self.low, self.high = [0] * n_groups, [0] * n_groups  # it holds pages low to high - 1
        self.cached = 0

    @property
    def n_pages(self) -> int:
        """Pages that it holds."""
        return sum(self.high) - sum(self.low)


class Pages:
    """The pool: `n_pages` pages of `size` slots in each group, of windows `windows` (None: all keys are seen)."""

    def __init__(
        self, n_pages: int, size: int, windows: Sequence[int | None], copy: Callable[[int, int, int], None]
    ) -> None:
        """`copy(group, source, target)` copies a page's keys and values."""
        self.n_pages, self.size, self.windows, self._copy = n_pages, size, tuple(windows), copy
        self._holders = [[0] * n_pages for _ in self.windows]  # how many tables name each page
        self._free = [bytearray(b"\1" * n_pages) for _ in self.windows]  # 1: nobody holds it
        self.n_free = [n_pages] * len(self.windows)

    def table(self, n_slots: int) -> Table:
        """An empty table for a sequence of at most this many slots."""
        return Table(len(self.windows), -(-n_slots // self.size))

    def reserve(self, table: Table, end: int) -> bool:
        """Give a table pages for slots up to `end`, and the only right to write from `cached` on. False: none is free.

        What it was given stays its own; after others have released theirs, ask again.
        """
        return all(self._reserve(table, g, end) for g in range(len(self.windows)))

    def _reserve(self, table: Table, group: int, end: int) -> bool:
        first, holders = table.cached // self.size, self._holders[group]
        for i in range(first, table.high[group]):  # pages that will be written
            old = int(table.numbers[group, i])
            if holders[old] > 1:
                new = self._take(group, old + 1)
                if new is None:
                    return False
                if i * self.size < table.cached:  # partly filled
                    self._copy(group, old, new)
                holders[old] -= 1
                table.numbers[group, i] = new
        while table.high[group] * self.size < end:
            i = table.high[group]
            new = self._take(group, int(table.numbers[group, i - 1]) + 1 if i > table.low[group] else 0)
            if new is None:
                return False
            table.numbers[group, i] = new
            table.high[group] = i + 1
        return True

    def _take(self, group: int, wanted: int) -> int | None:
        """A free page: the wanted one, so that a sequence's pages are neighbours in memory, or the lowest."""
        if not self.n_free[group]:
            return None
        free = self._free[group]
        page = wanted if wanted < self.n_pages and free[wanted] else free.index(1)
        free[page], self._holders[group][page] = 0, 1
        self.n_free[group] -= 1
        return page

    def _drop(self, group: int, page: int) -> None:
        holders = self._holders[group]
        holders[page] -= 1
        if not holders[page]:
            self._free[group][page] = 1
            self.n_free[group] += 1

    def forget_unseen(self, table: Table) -> None:
        """Give back pages that no query from `cached` on sees: those below each group's window."""
        for g, window in enumerate(self.windows):
            if window is not None:
                first = max(0, table.cached - window + 1) // self.size
                while table.low[g] < min(first, table.high[g]):
                    self._drop(g, int(table.numbers[g, table.low[g]]))
                    table.low[g] += 1

    def truncate(self, table: Table, n: int) -> None:
        """Keep the first `n` slots alone; nothing, where a window's pages that their next query sees are gone."""
        if n >= table.cached:
            return
        for g, window in enumerate(self.windows):
            seen = 0 if window is None else max(0, n - window + 1) // self.size
            if table.low[g] > seen:
                n = 0
        for g in range(len(self.windows)):
            keep = max(table.low[g], -(-n // self.size)) if n else table.low[g]
            while table.high[g] > keep:
                table.high[g] -= 1
                self._drop(g, int(table.numbers[g, table.high[g]]))
            if not n:
                table.low[g] = table.high[g] = 0
        table.cached = n

    def release(self, table: Table) -> None:
        """Give everything back; the sequence's keys must be computed again before it goes on."""
        table.cached = max(table.cached, 1)  # so that pages without a filled slot go too
        self.truncate(table, 0)

    def share(self, table: Table) -> Table:
        """Another table of the same pages, for a sequence that begins alike."""
        twin = Table(len(self.windows), table.numbers.shape[1])
        twin.numbers[:] = table.numbers
        twin.low, twin.high, twin.cached = list(table.low), list(table.high), table.cached
        for g, holders in enumerate(self._holders):
            for i in range(table.low[g], table.high[g]):
                holders[int(table.numbers[g, i])] += 1
        return twin
