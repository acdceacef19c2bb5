"""The pages of a session's sequences: who gets some, and who gives some up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import InputError
from .engine.prefixes import LEAST
from .left import Left
from .pages import FullError
from .turns import Turns

if TYPE_CHECKING:
    from collections.abc import Iterable
    from collections.abc import Sequence as Ids

    import numpy as np
    from numpy.typing import NDArray

    from .backend import Backend
    from .pages import Pages, Table
    from .sources import Source, Sources

    #: Of one sequence in a pass: its table, the ids to feed, the slot of the first, and how many get logits.
    Part = tuple[Table, Ids[int] | NDArray[np.int64], int, int]

__all__ = ["Pools"]

#: Dropped sequences that are left to the next pass.
_LEFT = 8


class Pools(Turns):
    """The KV cache between sequences: one that is idle gives its pages up, one that somebody waits for keeps them."""

    def __init__(self, pages: Pages, sources: Sources | None, backend: Backend, n_context: int) -> None:
        """`sources`: of an encoder-decoder: the texts that its encoder has read."""
        super().__init__(pages)
        self.sources, self.backend, self.n_context = sources, backend, n_context
        self._n_passes = 0
        self.left = Left()
        #: Those whose texts another may begin like, until their pages are needed, the longest idle first.
        self.kept: list[Table] = []
        self.last: Table | None = None  # whose logits lie there
        self.ahead_of: Table | None = None  # for whom the backend works ahead

    def admit(self, table: Table | None) -> Table:
        """A table for a sequence: a new one, or one that holds pages already, and may be asked for them."""
        if table is None:
            # What is made and dropped without a pass must not pile up. Not in the middle of a step, whose pages are
            # perhaps being changed: a signal's handler or a finaliser is asking.
            if len(self.left) > _LEFT and not self._queue and not self.is_mine():
                self.held(self.collect)
            return self.pages.table(self.n_context)
        return table

    def encoded(self, ids: Ids[int], adapter: int = 0) -> Source:
        """A text that the encoder of an encoder-decoder reads, once a pass needs it; its ids were checked."""
        if self.sources is None:
            msg = "this model is not an encoder-decoder"
            raise InputError(msg)
        return self.sources.admit(ids, adapter)

    def _reserve(self, parts: list[Part], end: int) -> None:
        """Pages for every part, up to `end` at least; those that are idle give theirs up, the longest idle first."""
        self.collect()
        if not self.backend.paged and len(parts) > 1:
            for table in self.pages.tables:
                self.pages.release(table)
            return
        busy = {id(table) for table, *_ in parts}
        for table, ids, start, _ in parts:
            self.pages.truncate(table, start)
            if not self.pages.make_room(table, max(end, start + len(ids)), busy):
                self._give_up(parts)
                raise FullError(self.pages, n=max(end, start + len(ids)))

    def _count(self, parts: list[Part]) -> None:
        """These are in a pass: they are idle from now on."""
        self._n_passes += 1
        for table, *_ in parts:
            table.used = self._n_passes

    def take_in(self, table: Table, n: int, low: Ids[int]) -> bool:
        """Pages for `n` slots of an empty table that were computed elsewhere, as `Pages.readmit`; part of a turn."""
        self.collect()
        self._n_passes += 1
        table.used = self._n_passes
        return self.pages.readmit(table, n, low)

    def _give_up(self, parts: list[Part]) -> None:
        """Who must wait holds nothing of the cache meanwhile, so that those who run can end."""
        for table, *_ in parts:
            self.pages.release(table)

    def collect(self) -> None:
        """Take back what dropped sequences held, or keep it for texts that begin alike, as long as there is room."""
        self.left.take_back(self._take_back)
        if self.sources is not None:
            self.sources.collect()

    def _take_back(self, table: Table) -> None:
        table.dropped = True
        if table is self.last or table is self.ahead_of:  # or it would keep its encoder's text
            self.last = self.ahead_of = None
        if table.cached < LEAST or not table.ids or table.source is not None or table.gap:
            self.pages.release(table)
            return
        self.kept = [other for other in self.kept if other.n_pages and other is not table]
        if len(self.kept) >= self.pages.n_pages:  # each has one page of its own at most
            self.pages.release(self.kept[0])  # it leaves the list with the next one: an interrupt here loses no page
        self.kept.append(table)

    def forget_adapters(self, numbers: Iterable[int]) -> None:
        """Give up what is kept of dropped sequences that were read with these; the caller holds the lock."""
        self.collect()
        gone = {int(number) for number in numbers}
        for table in (self.last, self.ahead_of):
            if table is not None and table.adapter in gone:
                self.last = self.ahead_of = None
        for table in self.kept:
            if table.adapter in gone:
                self.pages.release(table)
        self.kept = [table for table in self.kept if table.adapter not in gone]

    def check_room(self, n: int) -> None:
        """InputError where a text of this many ids can never fit the cache."""
        room = self.pages.n_pages * self.pages.size
        if n > room and None in self.pages.windows:
            msg = f"a text of {n} tokens does not fit the cache of {room}; load with a larger cache_tokens"
            raise InputError(msg)
