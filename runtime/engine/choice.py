"""What the next pass reads, of all that is waited for: whose turn it is, and whose pages are another's from now on.

A text begins when the cache has room for all that it has so far; where a running one finds no page, the text of the
lowest priority, and of these the one that came last, gives its own up, and is computed again later with the same bits
(vLLM's policy: Kwon et al. 2023, arXiv:2309.06180, section 4.5). A text of a lower priority gives way to one that
begins, too; so that it is not kept waiting for ever, the one that waits longest is favoured after `OVERTAKEN` others
of a higher priority have begun before it: it goes first, and gives way to none, until its call ends.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

from .ahead import look_ahead
from .prefixes import LEAST, begins_like, best
from .speculative import with_drafts

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from ..pages import Table
    from ..pools import Part
    from ..session import Session
    from .costs import Costs
    from .wants import Want

__all__ = ["OVERTAKEN", "Choice"]

#: Texts of a higher priority that begin before one that waits longer, until it is favoured.
OVERTAKEN = 16


class Choice:
    """Of one session; its lock is held by whoever asks."""

    def __init__(self, session: Session) -> None:
        """Nothing was chosen yet."""
        self._session: Session = weakref.proxy(session)
        self.short_of = session.pages  # the pool that has no room
        self._n_overtaken = 0  # texts that began before one that waits longer, since one was favoured

    def of(self, wants: list[Want], early: Costs) -> list[tuple[Want, Part]]:
        """What the next pass reads, and for whom. `early`: as `look_ahead` has it."""
        session = self._session
        self.short_of = session.pages
        for want in wants:
            want.table.ids = want.ids
            session.ready(want.table, len(want.ids), want.rows)
        self._favour(wants)
        self._displace(wants)
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
        if any(want.ahead is not None for want, _ in chosen):
            look_ahead(session, early, chosen, left, rows)
        return with_drafts(session.pages, chosen, left, rows)

    @staticmethod
    def _is_computed(want: Want, wants: list[Want]) -> bool:
        """Whether passes for another text compute the beginning of this one now, so that it had better wait."""
        table, most = want.table, len(want.ids) - want.rows
        return any(
            other.n_missing > other.rows
            and other.table.n_pages
            and other.table.priority >= table.priority
            and not other.table.gap
            and other.table.kind == table.kind
            and begins_like(other.ids, want.ids, most) >= other.table.cached + LEAST
            for other in wants
        )

    def _favour(self, wants: list[Want]) -> None:
        """Let the text that waits longest go first, where texts of a higher priority overtook such too often."""
        if self._n_overtaken < OVERTAKEN or any(want.table.favoured for want in wants):
            return
        reading = [want.table for want in wants if want.reads]
        highest = max((table.priority for table in reading), default=0)
        behind = [table for table in reading if table.priority < highest]
        if behind:
            min(behind, key=lambda t: t.arrived).favoured = True
            self._n_overtaken = 0

    def _displace(self, wants: list[Want]) -> None:
        """Take pages of texts of a lower priority, where these alone keep the next one from its beginning."""
        pages = self._session.pages
        want = min((want for want in wants if not want.table.n_pages), key=lambda w: w.table.place, default=None)
        if want is None:
            return
        table, waiting = want.table, {id(each.table) for each in wants}
        lower = [t for t in pages.holding() if t.arrived and t.priority < table.priority and not t.favoured]
        lower = [t for t in lower if id(t) in waiting or t.awaited]  # those that are idle give way in any case
        if not lower:
            return
        donor = self._donor(want)
        if self._fits(want, wants, donor) or not self._fits(want, wants, donor, {id(t) for t in lower}):
            return
        for last in sorted(lower, key=lambda t: t.place, reverse=True):
            pages.release(last)
            if self._fits(want, wants, donor):
                return

    def _donor(self, want: Want) -> tuple[Table | None, int]:
        """Who has most of a text's beginning, and how many ids of it."""
        return best(want.table, want.ids, self._session.pages.holding(), len(want.ids) - want.rows)

    def _fits(
        self, want: Want, wants: list[Want], donor: tuple[Table | None, int], yielding: Collection[int] = ()
    ) -> bool:
        """Whether the cache has room for all of a text that has none of it, once those `yielding` gave theirs up.

        While texts run that go before it there must be room for a token more.
        """
        pages, table, (other, n) = self._session.pages, want.table, donor
        before = [w.table for w in wants if w.table.n_pages and w.table.place < table.place]
        shared = n if other in before else 0  # one that is idle may give up what is not shared
        n_slots = table.slots(len(want.ids) + (1 if before else 0))
        return pages.fit(n_slots, {id(each) for each in before}, shared, yielding)

    def _begin(self, want: Want, wants: list[Want]) -> bool:
        """Let a text share what another has of its beginning. False while the cache has no room for all of it."""
        pages, table = self._session.pages, want.table
        donor, n = self._donor(want)
        if not self._fits(want, wants, (donor, n)):
            return False
        if donor is not None:
            pages.adopt(table, donor, n)
            donor.used = max(t.used for t in pages.holding())  # it was of use: others are longer idle
            want.n_reused = table.cached
        behind = (w.table for w in wants if w.reads and w.table.priority < table.priority)
        self._n_overtaken += any(each.arrived < table.arrived for each in behind)
        return True

    def give_up(self, wants: Iterable[Want]) -> bool:
        """Take the pages of all of these, and of the encoder's texts that they read: whether any has some."""
        held = []
        for want in wants:
            held += [(self._session.pages, want.table)]
            held += [] if want.table.source is None else [(want.table.source.pages, want.table.source.table)]
        held = [(pages, table) for pages, table in held if table.n_pages]
        for pages, table in held:
            pages.release(table)
        return bool(held)

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
        self.short_of = source.pages
        return False

    def _makes_room(self, table: Table, end: int, chosen: list[tuple[Want, Part]], wants: list[Want]) -> bool:
        """Pages of idle texts, and then of those that go after it."""
        pages, busy = self._session.pages, {id(table), *(id(each.table) for each, _ in chosen)}
        kept = {id(each.table) for each in wants}
        while not pages.make_room(table, end, kept):
            tables = [t for t in pages.holding() if t.arrived and id(t) not in busy]  # and not those of beams
            last = max(tables, key=lambda t: t.place, default=table)
            if last.place <= table.place:
                return False
            pages.release(last)
        return True


def _rank(want: Want) -> tuple[int, ...]:
    """Answers that go on before prompts; of these who waits longest, whatever its priority; prompts by their place.

    Who lacks the rows alone that are wanted goes on too: several find no place as long as others go before them.
    """
    return (True, *want.table.place) if want.reads else (False, want.table.used)


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
