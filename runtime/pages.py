"""Pages of the KV cache: who holds which, shared between texts that begin alike, counted.

A page holds the keys and values of `size` slots, in every layer of a group; layers whose window is the same are one
group (`Program.groups`). Which page holds slots `size * i`, `size * i + 1`, ... of a sequence stands at index i of its
table, a row of int32 for each group, which kernels read. A page that several sequences hold is never written: whoever
must write into it copies it first, or owns it once the others release it.

Ids, counts and addresses only; nothing here knows a kernel or a text.
"""

from __future__ import annotations

import functools
import weakref
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

import numpy as np

from .living import Living
from .table import Caller, Table

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from .overflow import Sinks

__all__ = ["Caller", "FullError", "Pages", "Table"]

P = ParamSpec("P")
R = TypeVar("R")


class FullError(Exception):
    """A pool has no room now. `ever`: it may have later; `held`: who waits for which table that has pages of it."""

    def __init__(self, pages: Pages, *, ever: bool | None = None, n: int | None = None) -> None:
        """Caught by the session. `pages`: the pool, of which whoever raises this holds nothing any more.

        `ever`: whether an empty pool has room (None: if others have pages of it now); `n`: tokens of the text.
        """
        super().__init__()
        self.pages, self.n = pages, n
        holding = pages.holding()
        self.ever = bool(holding) if ever is None else ever
        there = [(t, [who for who in t.waiting if who.here()]) for t in holding]
        self.held = [(table, [weakref.ref(who) for who in waiting]) for table, waiting in there if waiting]


def _whole(change: Callable[Concatenate[Pages, P], R]) -> Callable[Concatenate[Pages, P], R]:
    """A change of pages that an exception (Ctrl-C) or a fork may stop anywhere: the next one counts again first."""

    @functools.wraps(change)
    def whole(self: Pages, /, *args: P.args, **kwargs: P.kwargs) -> R:
        if self.torn:
            self.recount()
        self.torn = True
        result = change(self, *args, **kwargs)
        self.torn = False
        return result

    return whole


class Pages:
    """The pool: `n_pages` pages of `size` slots in each group, of windows `windows` (None: all keys are seen)."""

    def __init__(
        self,
        n_pages: int,
        size: int,
        windows: Sequence[int | None],
        copy: Callable[[int, int, int], None],
        sinks: Sinks | None = None,
    ) -> None:
        """`copy(group, source, target)` copies a page's keys and values; `sinks`: where texts may outgrow theirs."""
        self.n_pages, self.size, self.windows, self._copy = n_pages, size, tuple(windows), copy
        self._sinks = sinks
        self._holders = [[0] * n_pages for _ in self.windows]  # how many tables name each page
        self._free = [bytearray(b"\1" * n_pages) for _ in self.windows]  # 1: nobody holds it
        self.n_free = [n_pages] * len(self.windows)
        self.tables: Living[Table] = Living()
        self._holding: dict[int, weakref.ref[Table]] = {}  # by their ids those that have pages, and perhaps more
        self.torn = False  # a change was begun, and did not come to its end

    def table(self, n_slots: int) -> Table:
        """An empty table for a sequence of at most this many slots."""
        table = Table(len(self.windows), -(-n_slots // self.size), self.size)
        self.tables.add(table)
        return table

    def holding(self) -> list[Table]:
        """Tables that hold pages, for whoever has the session's lock; there may be many more, of texts that wait."""
        there = []
        for key, ref in self._holding.copy().items():
            table = ref()
            if table is not None and table.n_pages:
                there.append(table)
            else:
                self._holding.pop(key, None)
        return there

    def recount(self) -> None:
        """Who holds which page, from the tables that there are."""
        tables = list(self.tables)
        for table in tables:
            if table.cached == 0 and (any(table.low) or table.gap):  # it was giving something back
                table.empty(len(self.windows))
            table.cached = min(table.cached, table.gap + self.size * min(table.high, default=0))
        for g in range(len(self.windows)):
            held = [table.numbers[g, table.low[g] : table.high[g]] for table in tables]
            pages = np.concatenate([np.zeros(0, np.int32), *held])
            self._holders[g] = np.bincount(pages, minlength=self.n_pages).tolist()
            self._free[g] = bytearray(n == 0 for n in self._holders[g])
            self.n_free[g] = sum(self._free[g])
        self.torn = False

    def fit(self, end: int, kept: Collection[int] = (), shared: int = 0, yielding: Collection[int] = ()) -> bool:
        """Whether an empty table can have pages for slots up to `end`, once all that are idle gave theirs up.

        `kept`: ids of tables that do not; `shared`: slots that it shares with one of these; `yielding`: ids of tables
        that give theirs up too, though somebody waits for them.
        """
        needed = self.needed(end)
        return self.taken(kept, yielding) + needed - min(shared // self.size, needed) <= self.n_pages

    def needed(self, end: int) -> int:
        """Pages of a text of `end` slots, in the group where these are the most: those that its last slot sees."""
        return max(
            -(-(end if window is None else min(end, window + self.size)) // self.size) for window in self.windows
        )

    def taken(self, kept: Collection[int] = (), yielding: Collection[int] = ()) -> int:
        """Pages that those hold who are waited for, in the group where these are the most: nobody may take them.

        `kept`: ids of tables that count as such; `yielding`: of those that do not.
        """
        there = [t for t in self.holding() if id(t) not in yielding]
        held = [t for t in there if id(t) in kept or t.awaited]
        parts = ([t.numbers[g, t.low[g] : t.high[g]] for t in held] for g in range(len(self.windows)))
        return max((len(np.unique(np.concatenate(some))) for some in parts if some), default=0)

    @_whole
    def reserve(self, table: Table, end: int) -> bool:
        """Give a table pages for tokens up to `end`, and the only right to write from `cached` on. False: none is free.

        What it was given stays its own; after others have released theirs, ask again. All of them fit one pass
        (`Table.until`).
        """
        self._holding[id(table)] = weakref.ref(table)
        if table.gap_at(table.cached) != table.gap and not self._leave_out(table):
            return False
        return all(self._reserve(table, g, end) for g in range(len(self.windows)))

    def make_room(self, table: Table, end: int, busy: Collection[int]) -> bool:
        """As `reserve`; idle tables give theirs up, the longest idle first, but for those whose ids are `busy`."""
        while not self.reserve(table, end):
            others = (t for t in self.holding() if t is not table and id(t) not in busy)
            idle = min((t for t in others if not t.awaited), key=lambda t: t.used, default=None)
            if idle is not None:
                self.release(idle)
                continue
            had = list(self.n_free)
            self.recount()  # a table may have gone without a word
            if self.n_free == had:
                return False
        return True

    def readmit(self, table: Table, n: int, low: Sequence[int]) -> bool:
        """Give an empty table pages for `n` slots that its caller fills at once, but for those below `low[g]`.

        Idle tables give theirs up. False: there is no room, and it is empty.
        """
        table.low = list(low)  # first: a table whose `low` alone is set holds nothing
        table.high = list(low)
        table.cached = n
        if self.make_room(table, n, ()):
            table.cached = n  # it may have been counted again
            return True
        self.release(table)
        return False

    def _leave_out(self, table: Table) -> bool:
        """One page more, of each group: the sinks come to lie at the first slots of the next. False: none is free."""
        n, low, high = table.cached, table.low, table.high
        table.cached, table.gap = 0, table.gap + self.size  # who interrupts this loses what the table holds
        for g, window in enumerate(self.windows):
            row = table.numbers[g]
            if window is None:
                page = self._with_sinks(table, g)
                if page is None:
                    table.cached, table.gap = n, table.gap - self.size
                    return False
                row[1] = page
            elif low[g] == 0 < high[g]:
                self._drop(g, int(row[0]))
            row[:-1] = row[1:].copy()
        table.low, table.high = [max(0, i - 1) for i in low], [max(0, i - 1) for i in high]
        table.cached = n
        return True

    def _with_sinks(self, table: Table, group: int) -> int | None:
        """The page that becomes a table's first, its own, with the sinks in it; the first one is released."""
        assert self._sinks is not None  # noqa: S101 - or no table has a capacity
        (first, page), holders = (int(i) for i in table.numbers[group, :2]), self._holders[group]
        if table.sinks is None:
            table.sinks = self._sinks.kept(first)
        target = page
        if holders[page] > 1:
            free = first if holders[first] == 1 else self._take(group, first + 1)
            if free is None:
                return None
            target = free
            self._copy(group, page, target)
        self._sinks.put(table.sinks, target, table.gap)
        for old in {first, page} - {target}:
            self._drop(group, old)
        return target

    def _reserve(self, table: Table, group: int, end: int) -> bool:
        filled, end, holders = table.cached - table.gap, end - table.gap, self._holders[group]
        first = filled // self.size
        for i in range(first, table.high[group]):  # pages that will be written
            old = int(table.numbers[group, i])
            if holders[old] > 1:
                new = self._take(group, old + 1)
                if new is None:
                    return False
                if i * self.size < filled:  # partly filled
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

    @_whole
    def forget_unseen(self, table: Table) -> None:
        """Give back pages that no query from `cached` on, or from the first unsure slot on, sees: below its window."""
        for g, window in enumerate(self.windows):
            if window is not None:
                first = max(0, table.cached - table.unsure - table.gap - window + 1) // self.size
                while table.low[g] < min(first, table.high[g]):
                    self._drop(g, int(table.numbers[g, table.low[g]]))
                    table.low[g] += 1

    @_whole
    def truncate(self, table: Table, n: int) -> None:
        """Keep the first `n` tokens alone; nothing, where what the next one sees of the text before it is gone."""
        if n >= table.cached:
            return
        slots = n - table.gap
        for g, window in enumerate(self.windows):
            seen = 0 if window is None else max(0, slots - window + 1) // self.size
            if table.low[g] > seen:
                n = 0
        if table.gap_at(n) != table.gap:
            n = 0
        table.cached = n
        for g in range(len(self.windows)):
            keep = max(table.low[g], -(-slots // self.size)) if n else table.low[g]
            while table.high[g] > keep:
                table.high[g] -= 1
                self._drop(g, int(table.numbers[g, table.high[g]]))
        if not n:
            table.empty(len(self.windows))

    def release(self, table: Table) -> None:
        """Give everything back; the sequence's keys must be computed again before it goes on."""
        table.cached = max(table.cached, 1)  # so that pages without a filled slot go too
        self.truncate(table, 0)

    @_whole
    def share(self, table: Table) -> Table:
        """Another table of the same pages, for a sequence that begins alike."""
        twin = Table(len(self.windows), table.numbers.shape[1], self.size)
        self.tables.add(twin)
        twin.source, twin.shift, twin.capacity = table.source, table.shift, table.capacity
        twin.adapter, twin.salt = table.adapter, table.salt
        self._copied(table, twin)
        return twin

    def adopt(self, table: Table, other: Table, n: int) -> None:
        """Let an empty table share the first `n` slots of another, or none where a window's pages of these are gone."""
        self._adopt(table, other)
        self.truncate(table, n)

    @_whole
    def _adopt(self, table: Table, other: Table) -> None:
        self._copied(other, table)

    def _copied(self, table: Table, twin: Table) -> None:
        self._holding[id(twin)] = weakref.ref(twin)
        twin.numbers[:] = table.numbers
        twin.padding = list(table.padding)
        twin.gap, twin.sinks = table.gap, table.sinks
        twin.low, twin.high, twin.cached = list(table.low), list(table.high), table.cached
        for g, holders in enumerate(self._holders):
            for i in range(table.low[g], table.high[g]):
                holders[int(table.numbers[g, i])] += 1
