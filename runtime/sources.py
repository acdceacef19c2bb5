"""Texts that an encoder has read and decoders go on from: what their layers see of one lies in pages of its own.

A text is encoded when a pass first needs it, and again if its pages were taken meanwhile, with the same bits. Sequences
that answer the same text (beams, forks) share it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .encoding import Whole
from .kvcache import PAGE
from .left import Left
from .pages import FullError, Pages

if TYPE_CHECKING:
    from collections.abc import Collection
    from collections.abc import Sequence as Ids

    from .pages import Table
    from .whole import WholePasses

__all__ = ["Source", "Sources"]


class Source:
    """One text, by its ids; `table` holds its pages, of which `table.cached` slots are filled."""

    def __init__(self, ids: Ids[int], table: Table, pages: Pages, adapter: int = 0) -> None:
        """Made by `Sources.admit`. `pages`: the pool that its table is of; `adapter`: the number of its own."""
        self.ids, self.table, self.pages, self.adapter = list(ids), table, pages, adapter


class Sources:
    """The pool of pages for encoders' texts. Its owner holds the session's lock for all that is done here."""

    def __init__(self, passes: WholePasses) -> None:
        """Of the pools that the encoder's part of a program fills."""
        self.pages = Pages(passes.n_kept, PAGE, (None,), _never_copied)
        self._passes, self._n = passes, 0
        self._left = Left()

    def admit(self, ids: Ids[int], adapter: int = 0) -> Source:
        """A text whose ids and length were checked; nothing is computed yet."""
        source = Source(ids, self.pages.table(len(ids)), self.pages, adapter)
        self._left.when_dropped(source, source.table)
        return source

    def collect(self) -> None:
        """Take back what dropped texts held."""
        self._left.take_back(self.pages.release)

    def ensure(self, wanted: list[Source], kept: Collection[int] = ()) -> None:
        """Encode those that are not there. Errors: `FullError` where the pool has no room for all of them now.

        `kept`: ids of tables of other texts, which stay.
        """
        self.collect()
        self._n += 1
        busy = {id(source.table) for source in wanted} | set(kept)
        for source in wanted:
            source.table.used = self._n
            if source.table.cached < len(source.ids) and not self._encode(source, busy):
                for mine in wanted:  # so that others, who wait for one of them, can end
                    self.pages.release(mine.table)
                raise FullError(self.pages, n=len(source.ids))

    def _encode(self, source: Source, busy: set[int]) -> bool:
        """Whether there was room."""
        table, n = source.table, len(source.ids)
        self.pages.truncate(table, 0)
        if not self.pages.make_room(table, n, busy):
            return False
        self._passes.remember([Whole(source.ids, adapter=source.adapter)], [table.address])
        table.cached = n
        return True

    def after_fork(self) -> None:
        """In the child: a change of pages may be half done, and nobody waits."""
        self.pages.torn = True
        for table in self.pages.tables:
            table.waiting.clear()


def _never_copied(_group: int, _source: int, _target: int) -> None:
    """A text's pages are written once, whole: none is ever shared before it is filled."""
