"""Who is in the next pass. Nobody owns a scheduler thread: whoever waits takes a pass for all who wait.

A pass holds at most `chunk` tokens. Texts that need one more token come first, so that a long prompt keeps a running
answer waiting for one chunk at most; what room is left goes to prompts, of the highest priority and then the oldest
first (`choice`).
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
from .choice import Choice
from .costs import Costs
from .wants import Run

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Collection, Sequence

    from ..pages import Table
    from ..pools import Part
    from ..session import Session
    from .tasks import Tasks
    from .wants import Want

__all__ = ["CLOSED", "Engine"]

CLOSED = "this sequence was closed; make another with model.sequence()"
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
        self._choice = Choice(session)
        self._arrivals = itertools.count(1)
        self._n_added = self._n_seen = 0  # wants so far, and when the last pass was chosen
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
        """What is waited for. Any thread may ask, in the middle of another's pass."""
        wants = []
        for key, ref in self._wants.copy().items():
            want = ref()
            if want is None:
                self._wants.pop(key, None)
            elif (tasks := want.tasks) is not None and tasks.is_closed:
                self.forget(want)
            elif want.goes_on():
                wants.append(want)
        return wants

    def _able(self) -> list[Want]:
        """The same, for who takes a pass: those that were closed meanwhile, or never fit, get their error."""
        for ref in self._wants.copy().values():
            if (want := ref()) is not None:
                want.settle()
        wants = []
        for want in self._waiting():
            error = InputError(CLOSED) if want.table.dropped else self._never_fits(want)
            if error is None:
                wants.append(want)
            else:
                want.refuse(error)
        return [want for want in wants if want.goes_on()]  # or what it is read with was refused

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
        self._session.collect()
        self._n_seen = self._n_added
        return self._choice.of(self._able(), self.early)

    def _afresh(self) -> list[tuple[Want, Part]]:
        """Where no text finds room all that wait give theirs up, so that one of them, or somebody else, can go on.

        The encoder's texts too: one may have that of another, which has the pages that the first needs. And texts of a
        `Guided` whose rows are there already, while it waits for the other text's. `FullError`: there is no room for
        any now, and will be.
        """
        wants = [want for ref in self._wants.copy().values() if (want := ref()) is not None and not want.done]
        chosen = self._chosen() if self._choice.give_up(wants) else []
        if not chosen:
            raise FullError(self._choice.short_of, ever=True)
        return chosen


def _served(wants: Collection[Want]) -> bool:
    """Whether one of them is done or forgotten, or none is left; another thread may change them meanwhile."""
    there = tuple(wants)
    return not there or any(want.done or want.key is None for want in there)
