"""How likely continuations of a text are: ids go in, a log-probability for each comes out.

The text is computed once. Its continuations are copies that share its pages, and share passes: as many at a time as a
pass has rows of logits.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import field
from functools import partial
from typing import TYPE_CHECKING

from ..dataclass import dataclass
from .engine.wants import Want
from .floats import usual_floats
from .logprobs import LogProbs

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from .engine.scheduler import Engine
    from .sequence import Sequence as Text
    from .session import Session

    #: log p of an id, and whether it is the likeliest.
    Likely = tuple[float, bool]

__all__ = ["Score", "scores"]

_SO = "no continuation has a score"


@dataclass(frozen=True)
class Score:
    """A continuation: its `ids`, the natural logarithm of each one's probability, and whether each is the likeliest.

    `sum` is log p of the whole continuation, `mean` that of an id on average. `n_reused`: ids of the text before it
    that were not computed for it, as another had them in the cache.
    """

    ids: list[int]
    logprobs: list[float]
    greedy: bool
    n_reused: int = field(default=0, compare=False)

    @property
    def sum(self) -> float:
        """Of the log-probabilities, rounded once."""
        return math.fsum(self.logprobs)

    @property
    def mean(self) -> float:
        """Of the log-probabilities."""
        return self.sum / len(self.logprobs)


def scores(session: Session, text: Text, continuations: Sequence[list[int]], priority: int = 0) -> list[Score]:
    """The score of each, of ids that were checked, after a text that has one id at least. `priority`: of the call.

    The text must be nobody else's meanwhile; it may have other ids afterwards. Errors: `InputError` where logits are no
    numbers.
    """
    if not continuations:
        return []
    text.table.begin(priority)
    n_reused = 0
    if session.engine is None:
        likely = [_alone(session, text, ids) for ids in continuations]
    else:
        likely, n_reused = _together(session.engine, session, text, continuations)
    return [
        Score(ids, [log for log, _ in each], all(best for _, best in each), n_reused)
        for ids, each in zip(continuations, likely, strict=True)
    ]


def _likely(row: NDArray[np.float32], at: int, ids: Sequence[int]) -> list[Likely]:
    """Of each of several ids, after the id at `at`."""
    by_row, best = LogProbs(row, at, _SO), int(row.argmax())
    return [(by_row.of(token), token == best) for token in ids]


def _rows_taken(session: Session, first: int, ids: Sequence[int], row: int) -> list[Likely]:
    """Of ids that stand one after the other from `first` + 1 on, by the rows from this one on."""
    logits = session.logits[row : row + len(ids)]
    return [_likely(each, first + i, [token])[0] for i, (each, token) in enumerate(zip(logits, ids, strict=True))]


def _together(
    engine: Engine, session: Session, text: Text, continuations: Sequence[list[int]]
) -> tuple[list[list[Likely]], int]:
    """Each continuation's, in passes that they share with whatever else waits, and how many ids were in the cache."""
    ids = text.ids
    firsts = [each[0] for each in continuations]
    want = Want(text.table, ids, lambda row: _likely(session.logits[row], len(ids) - 1, firsts))
    engine.serve([want])
    each = [_Continued(session, text, n, after) for n, after in zip(want.result(), continuations, strict=True)]
    later, going = deque(c for c in each if c.left), list[_Continued]()
    try:
        while later or going:
            while later and (not going or sum(c.rows for c in going) + later[0].rows <= text.n_rows):
                going.append(later.popleft())
                going[-1].begin()
            engine.serve([c.want for c in going if c.want is not None])
            for c in going:
                c.go_on()
            going = [c for c in going if c.left]
    finally:
        for c in going:
            c.end()
    return [c.likely for c in each], want.n_reused


@usual_floats()
def _alone(session: Session, text: Text, ids: list[int]) -> list[Likely]:
    """One continuation's, on a backend that has one text at a time."""
    n, rows = len(text), text.n_rows
    likely: list[Likely] = []

    def computed(part: list[int]) -> list[Likely]:
        text.advance(len(part))
        return _rows_taken(session, len(text) - len(part), part, 0)

    try:
        for at in range(0, len(ids), rows):
            part = ids[at : at + rows]
            text.append(ids[max(at - 1, 0) : at + len(part) - 1])
            likely += text.turn(partial(computed, part))
    finally:
        if len(text) > n:
            text.truncate(n)
    return likely


class _Continued:
    """A continuation on its way, of which the first id's is known: what it waits for, and what it has."""

    def __init__(self, session: Session, text: Text, first: Likely, ids: list[int]) -> None:
        self._session, self._text, self._ids = session, text, ids
        self._own: Text | None = None
        self.likely = [first]
        self.want: Want | None = None

    @property
    def left(self) -> int:
        """Ids that it knows nothing of yet."""
        return len(self._ids) - len(self.likely)

    @property
    def rows(self) -> int:
        """Of logits that it asks for at a time."""
        return min(self.left, self._text.n_rows)

    def begin(self) -> None:
        """Share the text's pages."""
        self._own = self._text.fork()
        self._own.table.used = self._text.table.used  # who waits longer goes first
        self._own.table.begin(self._text.table.priority)
        self._ask(self._own)

    def go_on(self) -> None:
        """With what was waited for, where it is there."""
        if self.want is None or not self.want.done:
            return
        self.likely += self.want.result()
        if self.left and self._own is not None:
            self._ask(self._own)
        else:
            self.end()

    def end(self) -> None:
        """Free its pages at once: nothing will begin like it."""
        own, self._own, self.want = self._own, None, None
        if own is not None:
            own.truncate(0)
            own.close()

    def _ask(self, own: Text) -> None:
        done, rows = len(self.likely), self.rows
        own.append(self._ids[len(own) - len(self._text) : done + rows - 1])
        take = partial(_rows_taken, self._session, len(own) - rows, self._ids[done : done + rows])
        self.want = Want(own.table, own.ids, take, rows)
