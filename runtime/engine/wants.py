"""What somebody waits for: logits of a text's last ids and what is made of them, or several ids one after the other."""

from __future__ import annotations

import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

from ...handlers import raised_in_handler
from ..drawing import D_POSITION
from ..processors import ends_one_text

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable
    from collections.abc import Sequence as Ids

    import numpy as np
    from numpy.typing import NDArray

    from ...errors import InputError
    from ..pages import Table
    from .ahead import Ahead
    from .tasks import Tasks

__all__ = ["Guided", "Run", "Want"]


class Want:
    """A text that is to be computed to its end, and `take`, which is called with the first of its rows of logits.

    `take` runs in the thread that took the pass, under the lock; twice perhaps, if that thread was interrupted. What it
    returns is the `result`; what it raises is raised to whoever waits for this one, and ends no other text.
    """

    __slots__ = (
        "__weakref__",
        "_error",
        "_result",
        "ahead",
        "at",
        "bell",
        "check",
        "done",
        "drafted",
        "draws",
        "ids",
        "key",
        "n_checked",
        "n_reused",
        "other",
        "rows",
        "table",
        "take",
        "tasks",
        "thread",
    )

    def __init__(  # noqa: PLR0913 - keywords, but for the first
        self,
        table: Table,
        ids: Ids[int],
        take: Callable[[int], Any],
        rows: int = 1,
        *,
        draws: Ids[NDArray[np.int64]] = (),
        drafted: Ids[int] = (),
        check: Callable[[int, Ids[int]], Any] | None = None,
        ahead: Ahead | None = None,
    ) -> None:
        """`ids`: the whole text, checked; it does not change until this is done. `rows`: logits of so many last ids.

        `draws`: how the pass draws an id from each of them (`drawing.row_words`), before `take`. `drafted`: ids that
        may follow the text, of which a pass reads as many as it has room for, with a row of logits each; `check` takes
        the place of `take` then, and is told of the first row and these ids. `ahead`: that the first layers draft them.
        """
        self.table, self.ids, self.take, self.rows, self.draws = table, ids, take, rows, draws
        self.drafted, self.check, self.ahead = drafted, check, ahead
        self.n_checked = 0  # drafted ids that the pass reads
        self.other: Want | None = None  # what is waited for with it, and forgotten with it
        self.thread = threading.get_ident()
        self.done = False
        self.bell: threading.Event | None = None  # rung when it is done
        self.tasks: Tasks | None = None  # told when it is done: those of the event loop that waits for it
        self.key: int | None = None  # among what is waited for
        self.n_reused = 0  # ids that lay in the cache for another text
        self.at = 0.0  # when its logits were there, of `time.perf_counter`
        self._result: Any = None
        self._error: BaseException | None = None

    @property
    def n_missing(self) -> int:
        """Ids that a pass must still read."""
        return len(self.ids) - self.table.cached

    @property
    def reads(self) -> bool:
        """Whether a prompt is missing, and not the rows alone that are wanted."""
        return not self.table.n_pages or self.n_missing > max(self.rows, 1)

    def goes_on(self) -> bool:
        """Whether a pass is still to do something for it. Any thread may ask at any time: nothing is drawn."""
        return not self.done

    def settle(self) -> None:
        """End what was struck between its last row and its end; under the lock."""

    def row_draws(self) -> Iterable[NDArray[np.int64]]:
        """Words of the draws from the rows that the next pass makes for it."""
        return self.draws[: 1 + self.n_checked]

    def fulfil(self, row: int) -> None:
        """Take what is wanted of the rows from this one on. Errors: Ctrl-C, and what a handler raises, pass through."""
        self.at = time.perf_counter()
        try:
            self._result = self.take(row) if self.check is None else self.check(row, self.drafted[: self.n_checked])
        except BaseException as e:
            if not self._ends_with(e):
                raise
        else:
            self._ends()

    def _ends_with(self, e: BaseException) -> bool:
        """End with what is his who waits for it; False: it is his who takes the pass. Errors: `raised_in_handler`."""
        try:
            if not ends_one_text(e):
                return False
            raised_in_handler(e)
            self._error = e
            self._ends()
            return True
        finally:
            del e  # or what is raised here would hold its calls, and these it

    def refuse(self, error: InputError) -> None:
        """Nothing will come of it."""
        self._error = error
        self._ends()

    def _ends(self) -> None:
        self.done = True
        if self.bell is not None:
            self.bell.set()
        tasks = self.tasks
        if tasks is not None:
            tasks.tell(self)

    def result(self) -> Any:  # noqa: ANN401 - what its maker's `take` returns
        """What `take` returned. Errors: what it raised, once."""
        self._raise_error()
        return self._result

    def _raise_error(self) -> None:
        error, self._error = self._error, None
        try:
            if error is not None:
                raise error
        finally:
            del error  # an exception whose calls hold it keeps their texts, and these their pages


class Run(Want):
    """Ids that nobody looks at before the last: they are drawn pass after pass, and who waits is woken once.

    They end at `most` of them, or at one of `ends`. The text is the engine's own copy, and grows by an id with each
    pass; that is the only thing that changes from pass to pass, so that a thread that is interrupted loses or repeats
    none.
    """

    __slots__ = ("_draw", "_ends_at", "_most", "_n_before", "_text", "_words")

    def __init__(  # noqa: PLR0913 - keywords, but for the first
        self,
        table: Table,
        ids: Ids[int],
        draw: Callable[[int, int], int],
        *,
        most: int,
        ends: Collection[int] = (),
        words: NDArray[np.int64] | None = None,
    ) -> None:
        """`draw(row, n)`: the id that follows n ids, from a row of logits; called as `take` is.

        `words`: how a pass draws it, but for its position (`drawing.row_words`); they hold for all of the ids.
        """
        self._text = list(ids)
        super().__init__(table, self._text, int)
        self._draw, self._most, self._ends_at = draw, most, ends
        self._n_before, self._words = len(self._text), None if words is None else words.copy()

    @property
    def drawn(self) -> list[int]:
        """The ids so far."""
        return self._text[self._n_before :]

    def goes_on(self) -> bool:
        """As of any; here one that was struck between its last id and its end is told so."""
        if not self.done and self._is_over():
            self._ends()
        return not self.done

    def _is_over(self) -> bool:
        n = len(self._text) - self._n_before
        return n >= self._most or (n > 0 and self._text[-1] in self._ends_at)

    def row_draws(self) -> Iterable[NDArray[np.int64]]:
        """Words of the next draw."""
        if self._words is None:
            return ()
        self._words[D_POSITION] = len(self._text)
        return (self._words,)

    def fulfil(self, row: int) -> None:
        """Add the id that is drawn from this row. Errors: as of any."""
        self.at = time.perf_counter()
        try:
            self._text.append(self._draw(row, len(self._text)))
        except BaseException as e:
            if not self._ends_with(e):
                raise
        else:
            self.goes_on()

    def result(self) -> list[int]:
        """The ids. Errors: as of any."""
        self._raise_error()
        return self.drawn


class _Other(Want):
    """The second text of a `Guided`, which is told when its row is there."""

    __slots__ = ("_whose",)

    def __init__(self, table: Table, ids: Ids[int], take: Callable[[int], Any], whose: Guided) -> None:
        super().__init__(table, ids, take)
        self._whose = weakref.ref(whose)  # no circle: who is struck as he waits leaves nothing behind

    def _ends(self) -> None:
        super()._ends()
        whose = self._whose()
        if whose is not None:
            whose.complete()


class Guided(Want):
    """An id that is drawn from rows of two texts: of one pass, where it has room for both."""

    __slots__ = ("_draw", "_row")

    def __init__(
        self,
        table: Table,
        ids: Ids[int],
        copied: Callable[[int], Any],
        draw: Callable[[Any, Any], Any],
        second: tuple[Table, Ids[int]],
    ) -> None:
        """`copied(row)`: a row that stays; `draw(first, second)`: what is made of both; `second`: the other text."""
        super().__init__(table, ids, copied)
        self._draw, self._row = draw, None
        self.other = _Other(*second, copied, self)

    def goes_on(self) -> bool:
        """As of any; here nothing more is to be read for it where its row is there."""
        return not self.done and self._row is None

    def settle(self) -> None:
        """As of any; here one that was struck between its last row and its draw is drawn."""
        self.complete()

    def fulfil(self, row: int) -> None:
        """Keep the row until the other text's is there too. Errors: as of any."""
        self.at = time.perf_counter()
        try:
            self._row = self.take(row)
        except BaseException as e:
            if not self._ends_with(e):
                raise
        else:
            self.complete()

    def complete(self) -> None:
        """Draw, once both rows are there, or end where nothing comes of the other text. Under the lock: draws count."""
        if self.done or self.other is None or not self.other.done:
            return
        try:
            second = self.other.result()
            if self._row is None:
                return
            self._result = self._draw(self._row, second)
        except BaseException as e:
            if not self._ends_with(e):
                raise
        else:
            self._ends()
