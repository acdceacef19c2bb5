"""Who is in the next pass. Nobody owns a scheduler thread: whoever waits takes a pass for all who wait.

A pass holds at most `chunk` tokens. Texts that need one more token come first, so that a long prompt keeps a running
answer waiting for one chunk at most; what room is left goes to prompts, the oldest first. A text begins when the cache
has room for all that it has so far; where a running one finds no page, the text that came last gives its own up, and is
computed again later with the same bits (vLLM's policy: Kwon et al. 2023, arXiv:2309.06180, section 4.5).
"""

from __future__ import annotations

import itertools
import threading
import weakref
from functools import partial
from typing import TYPE_CHECKING

from ...errors import InputError
from ..floats import usual_floats
from ..pages import FullError
from .prefixes import LEAST, begins_like, best

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from ..pages import Table
    from ..pools import Part
    from ..session import Session
    from .tasks import Tasks
    from .wants import Want

__all__ = ["CLOSED", "Engine"]

CLOSED = "this sequence was closed; make another with model.sequence()"


class Engine:
    """What is waited for on a session. Any thread may come; all that is decided here is decided under its lock."""

    def __init__(self, session: Session) -> None:
        """Nothing is waited for. The session holds this one, and is there whenever it is asked."""
        self._session: Session = weakref.proxy(session)  # no circle: a dropped model is gone at once
        self._wants: dict[int, weakref.ref[Want]] = {}  # weak: who is struck as he leaves leaves nothing behind
        self._keys = itertools.count()
        self._short_of = session.pages  # the pool that has no room
        self._arrivals = itertools.count(1)
        self._loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Tasks] = weakref.WeakKeyDictionary()

    @property
    def most(self) -> int:
        """Texts of a pass, at most, that get logits."""
        return self._session.n_logits

    def arrive(self, table: Table) -> None:
        """Give a text its place among all others; where room is short, the later gives way."""
        if not table.arrived:
            table.arrived = next(self._arrivals)

    def serve(self, wants: Sequence[Want]) -> None:
        """Take passes until one of these is done at least, or all by others. Errors: as `Session.turn`."""
        try:
            for want in wants:
                self.add(want)
            self.take_passes(wants)
        finally:
            for want in wants:
                self.forget(want)

    def add(self, want: Want) -> None:
        """Put it among what is waited for, until it is forgotten."""
        self.arrive(want.table)
        key = next(self._keys)
        self._wants[key] = weakref.ref(want)
        want.key = key

    def forget(self, want: Want) -> None:
        """Nobody waits for it any more."""
        key, want.key = want.key, None
        if key is not None:
            self._wants.pop(key, None)

    def take_passes(self, wants: Sequence[Want]) -> None:
        """Take passes until one of these is done, or forgotten. Errors: as `Session.turn`."""
        while not _served(wants):
            self._session.turn(lambda: self._pass(wants), partial(_served, wants))

    def tasks(self) -> Tasks:
        """What tasks of the running event loop wait for."""
        from .tasks import Tasks, running_loop  # noqa: PLC0415 - asyncio: 40 ms that only those who use it should pay

        return self._loops.setdefault(running_loop(), Tasks(self))

    def after_fork(self) -> None:
        """In the child: what other threads waited for is nobody's."""
        here = threading.get_ident()
        for want in self._waiting():
            if want.thread != here:
                self.forget(want)

    @usual_floats()
    def _pass(self, mine: Sequence[Want]) -> None:
        """One pass for all that wait, unless what is waited for came meanwhile; part of a turn."""
        if _served(mine):
            return
        chosen = self._chosen() or self._afresh(mine)
        self._session.run_pass([part for _, part in chosen], reserved=True)
        row = 0
        for want, (_, _, _, n_rows) in chosen:
            if n_rows:
                want.fulfil(row)
            row += n_rows

    def _waiting(self) -> list[Want]:
        """What is waited for. Sequences that were closed meanwhile get their error."""
        wants = []
        for key, ref in self._wants.copy().items():
            want = ref()
            if want is None:
                self._wants.pop(key, None)
            elif want.table.dropped and not want.done:
                want.refuse(InputError(CLOSED))
            elif not want.done:
                wants.append(want)
        return wants

    def _chosen(self) -> list[tuple[Want, Part]]:
        """What the next pass reads, and for whom."""
        session = self._session
        self._short_of = session.pages
        session.collect()
        wants = self._waiting()
        for want in wants:
            want.table.ids = want.ids
            session.ready(want.table, len(want.ids), want.rows)
        if len(wants) > 1:
            wants.sort(key=_rank)
        chosen: list[tuple[Want, Part]] = []
        left, rows, crowded = session.chunk, session.n_logits, False
        for want in wants:
            if not want.table.n_pages:
                if not left or crowded or self._is_computed(want, wants):
                    continue
                crowded = not self._begin(want, wants)  # nobody overtakes it
                if crowded:
                    continue
            part = self._with_pages(want, _part(want, left, rows), chosen, wants)
            if part is not None and self._has_source(want, chosen):
                chosen.append((want, part))
                left, rows = left - len(part[1]), rows - part[3]
        return chosen

    @staticmethod
    def _is_computed(want: Want, wants: list[Want]) -> bool:
        """Whether passes for another text compute the beginning of this one now, so that it had better wait."""
        table, most = want.table, len(want.ids) - want.rows
        return any(
            other.n_missing > other.rows
            and other.table.n_pages
            and not other.table.gap
            and (other.table.source, other.table.shift) == (table.source, table.shift)
            and begins_like(other.ids, want.ids, most) >= other.table.cached + LEAST
            for other in wants
        )

    def _begin(self, want: Want, wants: list[Want]) -> bool:
        """Let a text share what another has of its beginning. False while the cache has no room for all of it.

        While earlier texts run there must be room for a token more.
        """
        pages, table = self._session.pages, want.table
        donor, n = best(table, want.ids, pages.tables, len(want.ids) - want.rows)
        earlier = [w.table for w in wants if w.table.n_pages and w.table.arrived < table.arrived]
        shared = n if donor in earlier else 0  # a donor that is idle may give up what is not shared
        if not pages.fit(table.slots(len(want.ids) + (1 if earlier else 0)), {id(each) for each in earlier}, shared):
            return False
        if donor is not None:
            pages.adopt(table, donor, n)
            donor.used = max(t.used for t in pages.tables)  # it was of use: others are longer idle
            want.n_reused = table.cached
        return True

    def _afresh(self, mine: Sequence[Want]) -> list[tuple[Want, Part]]:
        """Where no text finds a page all that wait give theirs up, so that one of them, or somebody else, can go on.

        `FullError`: there is no room for any now; and perhaps never for one of `mine`.
        """
        held = [want.table for want in self._waiting() if want.table.n_pages]
        for table in held:
            self._session.pages.release(table)
        chosen = self._chosen() if len(held) > 1 else []
        if not chosen:
            pool = self._short_of
            sizes = [
                w.table.slots(len(w.ids))
                if pool is self._session.pages or w.table.source is None
                else len(w.table.source.ids)
                for w in mine
            ]
            raise FullError(pool, ever=all(pool.needed(n) <= pool.n_pages for n in sizes))
        return chosen

    def _with_pages(
        self, want: Want, part: Part | None, chosen: list[tuple[Want, Part]], wants: list[Want]
    ) -> Part | None:
        """As much of a part as the cache has pages for; idle texts, and then later ones, give theirs up for it."""
        if part is None:
            return None
        table, ids, at, _ = part
        pages = self._session.pages
        if pages.reserve(table, at + len(ids)) or self._makes_room(table, at + len(ids), chosen, wants):
            return part
        there = min(table.high) * pages.size + table.gap - at
        if there > 0 and pages.reserve(table, at + there):
            return _part(want, there, 0)
        if not at:  # it has not begun: others may have what it took
            pages.release(table)
        return None

    def _has_source(self, want: Want, chosen: list[tuple[Want, Part]]) -> bool:
        """Whether the encoder's text that it reads is there too, next to those of the others."""
        source = want.table.source
        if source is None:
            return True
        others = [each.table.source for each, _ in chosen if each.table.source is not None]
        if self._session.has_source(source, others):
            return True
        self._short_of = source.pages
        return False

    def _makes_room(self, table: Table, end: int, chosen: list[tuple[Want, Part]], wants: list[Want]) -> bool:
        """Pages of idle texts, and then of later ones."""
        pages, busy = self._session.pages, {id(table), *(id(each.table) for each, _ in chosen)}
        kept = {id(each.table) for each in wants}
        while not pages.make_room(table, end, kept):
            tables = [t for t in pages.tables if t.n_pages and id(t) not in busy]
            last = max(tables, key=lambda t: t.arrived, default=table)
            if last.arrived <= table.arrived:
                return False
            pages.release(last)
        return True


def _served(wants: Sequence[Want]) -> bool:
    return any(want.done or want.key is None for want in wants)


def _rank(want: Want) -> tuple[bool, int]:
    """Answers that go on before prompts; of these who waits longest, of prompts who came first.

    Who lacks the rows alone that are wanted goes on too: several find no place as long as others go before them.
    """
    reads = want.n_missing > max(want.rows, 1)
    return reads, want.table.arrived if reads else want.table.used


def _part(want: Want, left: int, rows: int) -> Part | None:
    """What of a text a pass of `left` tokens and `rows` rows of logits takes; None: nothing."""
    at, end = want.table.cached, len(want.ids)
    size = min(left, end - at, want.table.until(at) - at)
    last = end - max(want.rows, 1)  # the rows that are wanted lie in one pass
    if at + size < end or want.rows > rows:
        size = min(size, last - at) if at + size > last else size
    if size < 1:
        return None
    return want.table, want.ids[at : at + size], at, want.rows if at + size == end else 0
