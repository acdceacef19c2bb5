"""Who is in the next pass. Nobody owns a scheduler thread: whoever waits takes a pass for all who wait.

A pass holds at most `chunk` tokens. Texts that need one more token come first, so that a long prompt keeps a running
answer waiting for one chunk at most; what room is left goes to prompts, of the highest priority and then the oldest
first. A text begins when the cache has room for all that it has so far; where a running one finds no page, the text of
the lowest priority, and of these the one that came last, gives its own up, and is computed again later with the same
bits (vLLM's policy: Kwon et al. 2023, arXiv:2309.06180, section 4.5). A text of a lower priority gives way to one that
begins, too; so that it is not kept waiting for ever, the one that waits longest is favoured after `OVERTAKEN` others
of a higher priority have begun before it: it goes first, and gives way to none, until its call ends.
"""

from __future__ import annotations

import itertools
import threading
import time
import weakref
from functools import partial
from typing import TYPE_CHECKING

from ...errors import InputError
from ..floats import usual_floats
from ..pages import FullError
from .ahead import look_ahead
from .costs import Costs
from .prefixes import LEAST, begins_like, best
from .speculative import with_drafts
from .wants import Run

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Collection, Sequence

    from ..pages import Table
    from ..pools import Part
    from ..session import Session
    from .tasks import Tasks
    from .wants import Want

__all__ = ["CLOSED", "OVERTAKEN", "Engine"]

CLOSED = "this sequence was closed; make another with model.sequence()"
#: Texts of a higher priority that begin before one that waits longer, until it is favoured.
OVERTAKEN = 16
#: What a pass waits for threads that had a token of the one before, as a share of its time; and between two looks.
GATHER, LOOK = 0.1, 2e-5
#: Seconds until a thread takes a pass although the one that took the last waits too, and should.
FOLLOW = 0.02
#: The same as a multiple of the last pass, where that is more.
LATE = 4


class Engine:
    """What is waited for on a session. Any thread may come; all that is decided here is decided under its lock."""

    def __init__(self, session: Session) -> None:
        """Nothing is waited for. The session holds this one, and is there whenever it is asked."""
        self._session: Session = weakref.proxy(session)  # no circle: a dropped model is gone at once
        self._wants: dict[int, weakref.ref[Want]] = {}  # weak: who is struck as he leaves leaves nothing behind
        self._keys = itertools.count()
        self._short_of = session.pages  # the pool that has no room
        self._arrivals = itertools.count(1)
        self._n_added = self._n_seen = 0  # wants so far, and when the last pass was chosen
        self._n_overtaken = 0  # texts that began before one that waits longer, since one was favoured
        self._away: set[int] = set()  # texts of other threads that had a token of the last pass, and may ask again
        self._pass_s, self._taker, self._n_taken = 0.0, 0, 0  # what it took, the thread that took it, and their number
        self.costs, self.early = Costs(), Costs()  # of passes, and of those of a draft's first layers
        self.n_answers = 1  # texts of the last pass that got logits
        # Held by who waits: what the engine held would keep a loop that was dropped, and all that waits for it.
        self._loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, weakref.ref[Tasks]] = (
            weakref.WeakKeyDictionary()
        )

    @property
    def most(self) -> int:
        """Texts of a pass, at most, that get logits."""
        return self._session.n_logits

    def arrive(self, table: Table) -> None:
        """Give a text its place among all others; of equal priority, the later gives way where room is short."""
        if not table.arrived:
            table.arrived = next(self._arrivals)

    def serve(self, wants: Sequence[Want]) -> None:
        """Take passes until one of these is done at least, or leave them to others. Errors: as `Session.turn`."""
        try:
            for want in wants:
                self.add(want)
            while not _served(wants):
                self._follow(wants)
                self._gather()
                self._take_pass(wants)
        finally:
            for want in wants:
                self.forget(want)
            self._hand_over(wants)

    def add(self, want: Want) -> None:
        """Put it among what is waited for, until it is forgotten."""
        self.arrive(want.table)
        key = next(self._keys)
        self._wants[key] = weakref.ref(want)
        want.key = key
        self._n_added += 1
        self._away.discard(id(want.table))
        if want.other is not None:
            self.add(want.other)

    def forget(self, want: Want) -> None:
        """Nobody waits for it any more."""
        key, want.key = want.key, None
        if key is not None:
            self._wants.pop(key, None)
        if want.other is not None:
            self.forget(want.other)

    def _gather(self) -> None:
        """Let threads whose tokens came with the last pass ask again: a pass costs little more for all than for one."""
        end = time.perf_counter() + GATHER * self._pass_s
        while self._away and time.perf_counter() < end:
            time.sleep(LOOK)

    def _follow(self, wants: Sequence[Want]) -> None:
        """Leave passes to the thread that took the last one while it goes on: its core has what a pass needs."""
        me, bell = threading.get_ident(), None
        while not _served(wants):
            n, taker = self._n_taken, self._taker
            if taker == me or not any(want.thread == taker for want in self._waiting()):
                return
            if bell is None:
                bell = threading.Event()
                for want in wants:
                    want.bell = bell
            elif bell.is_set():
                bell.clear()
            if not _served(wants):
                bell.wait(max(FOLLOW, LATE * self._pass_s))
            if n == self._n_taken and taker == self._taker:
                return

    def _hand_over(self, served: Sequence[Want]) -> None:
        """Wake one of those who left the passes to this thread, as it leaves: one that needs many, if there is one."""
        if self._taker != threading.get_ident():
            return
        bells = [(isinstance(want, Run), bell) for want in self._waiting() if (bell := want.bell) is not None]
        if bells:
            self._away |= {id(want.table) for want in served if want.done}  # it may ask again
            max(bells, key=lambda each: each[0])[1].set()

    def take_passes(self, wants: Collection[Want]) -> None:
        """Take passes until one of these is done, or forgotten; there may be others of them meanwhile.

        Errors: as `Session.turn`.
        """
        while not _served(wants):
            self._take_pass(wants)

    def relieve(self) -> None:
        """While a thread waits for pages: passes for tasks whose turn waits for a thread, until one of them is served.

        They may have the pages, and this may be the thread. Errors: those of a pass; `FullError`.
        """
        wants = [want for want in self._waiting() if (tasks := want.tasks) is not None and not tasks.is_taking]
        while wants and not _served(wants):
            self._session.taken(partial(self._pass, wants))

    def _take_pass(self, wants: Collection[Want]) -> None:
        """One, unless one of these is done."""
        if not _served(wants):
            self._session.turn(lambda: self._pass(wants), partial(self._looks_again, wants))

    def _looks_again(self, wants: Collection[Want]) -> bool:
        """Whether who waits for room should look again: who has the room perhaps waits for a pass of his."""
        return self._n_added != self._n_seen or _served(wants)

    def tasks(self) -> Tasks:
        """What tasks of the running event loop wait for."""
        from .tasks import Tasks, running_loop  # noqa: PLC0415 - asyncio: 40 ms that only those who use it should pay

        loop = running_loop()
        there = self._loops.get(loop)
        tasks = None if there is None else there()
        if tasks is None:
            tasks = Tasks(self)
            self._loops[loop] = weakref.ref(tasks)
        return tasks

    def after_fork(self) -> None:
        """In the child: what other threads waited for is nobody's."""
        here = threading.get_ident()
        self._away = set()
        for want in self._waiting():
            if want.thread != here:
                self.forget(want)

    @usual_floats()
    def _pass(self, mine: Collection[Want]) -> None:
        """One pass for all that wait, unless what is waited for came meanwhile; part of a turn."""
        if _served(mine):
            return
        chosen = self._chosen()
        if not chosen:
            if _served(mine):  # refused
                return
            chosen = self._afresh()
        ends = itertools.accumulate((part[3] for _, part in chosen), initial=0)
        asked = [(row, want) for row, (want, part) in zip(ends, chosen, strict=False) if part[3]]
        draws = [each for row, want in asked for each in enumerate(want.row_draws(), row)]
        began, me = time.perf_counter(), threading.get_ident()
        self._session.run_pass([part for _, part in chosen], reserved=True, draws=draws)
        self._pass_s = time.perf_counter() - began
        self._taker, self.n_answers = me, max(1, len(asked))
        n_tokens = sum(len(part[1]) for _, part in chosen)
        if n_tokens == sum(part[3] for _, part in chosen):
            self.costs.add(n_tokens, self._pass_s)
        self._n_taken += 1
        away = {id(want.table) for _, want in asked if want.thread != me}
        for row, want in asked:
            want.fulfil(row)
            if not want.done:
                away.discard(id(want.table))
        self._away = away

    def _waiting(self) -> list[Want]:
        """What is waited for. Sequences that were closed meanwhile, and those that never fit, get their error."""
        wants = []
        for key, ref in self._wants.copy().items():
            want = ref()
            if want is None:
                self._wants.pop(key, None)
            elif (tasks := want.tasks) is not None and tasks.is_closed:
                self.forget(want)
            elif not want.goes_on():
                continue
            elif want.table.dropped:
                want.refuse(InputError(CLOSED))
            elif (error := self._never_fits(want)) is not None:
                want.refuse(error)
            else:
                wants.append(want)
        return wants

    def _never_fits(self, want: Want) -> InputError | None:
        """Why nothing can come of it: an empty cache, or the encoder's, has no room for the text."""
        session, source = self._session, want.table.source
        if session.pages.needed(want.table.slots(len(want.ids))) > session.pages.n_pages:
            return session.too_long(session.pages, len(want.ids))
        if source is not None and source.pages.needed(len(source.ids)) > source.pages.n_pages:
            return session.too_long(source.pages, len(source.ids))
        return None

    def _chosen(self) -> list[tuple[Want, Part]]:
        """What the next pass reads, and for whom."""
        session = self._session
        self._short_of = session.pages
        session.collect()
        self._n_seen = self._n_added
        wants = self._waiting()
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
            look_ahead(session, self.early, chosen, left, rows)
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

    def _afresh(self) -> list[tuple[Want, Part]]:
        """Where no text finds room all that wait give theirs up, so that one of them, or somebody else, can go on.

        The encoder's texts too: one may have that of another, which has the pages that the first needs. And texts of a
        `Guided` whose rows are there already, while it waits for the other text's. `FullError`: there is no room for
        any now, and will be.
        """
        held = []
        for want in [want for ref in self._wants.copy().values() if (want := ref()) is not None and not want.done]:
            held += [(self._session.pages, want.table)]
            held += [] if want.table.source is None else [(want.table.source.pages, want.table.source.table)]
        held = [(pages, table) for pages, table in held if table.n_pages]
        for pages, table in held:
            pages.release(table)
        chosen = self._chosen() if held else []
        if not chosen:
            raise FullError(self._short_of, ever=True)
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


def _served(wants: Collection[Want]) -> bool:
    """Whether one of them is done or forgotten, or none is left; another thread may change them meanwhile."""
    there = tuple(wants)
    return not there or any(want.done or want.key is None for want in there)


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
