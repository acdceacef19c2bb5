"""Beam search: the answers whose ids are the likeliest together, of those that a few running beginnings lead to.

Every step, each of the running beams is followed by every id; of these continuations, the likeliest that do not end go
on, and those among the first `num_beams` that end are finished, by the sum of their logarithms over
length^`length_penalty`. Scores, stops and their order are transformers' (`_beam_search`), in float32. `BeamState` knows
rows of logarithms alone; `search` runs it over a session, whose cache the beams share as far as they are alike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..errors import BackendError, InputError, shown
from .floats import usual_floats
from .kvcache import PAGE, pages_of
from .pages import FullError, Waiting
from .sampling import exp, not_numbers

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from .pages import Table
    from .rules import Rules
    from .session import Session

    Floats = NDArray[np.float32]

__all__ = ["BEAMS", "BeamState", "Beams", "Found", "beams_from", "log_softmax", "search"]

#: `GenerationConfig`'s name -> the field of `Beams`.
BEAMS = {
    "num_beams": "n",
    "length_penalty": "length_penalty",
    "early_stopping": "early_stopping",
    "num_return_sequences": "n_return",
}
#: A score that nothing real has.
NONE = np.float32(-1e9)


@dataclass(frozen=True)
class Beams:
    """How many go on, how length counts, when to stop, and how many answers are returned."""

    n: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    n_return: int = 1


def beams_from(given: Mapping[str, Any]) -> Beams:
    """From checked names. Errors: `InputError`."""
    for name in ("num_beams", "num_return_sequences"):
        value = given.get(name, 1)
        if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
            msg = f"{name}={shown(value)}: expected an integer >= 1"
            raise InputError(msg)
    penalty, early = given.get("length_penalty", 1.0), given.get("early_stopping", False)
    if not isinstance(penalty, Real) or isinstance(penalty, bool) or not math.isfinite(penalty):
        msg = f"length_penalty={shown(penalty)}: expected a number"
        raise InputError(msg)
    if not isinstance(early, bool | np.bool_) and early != "never":
        msg = f"early_stopping={shown(early)}: expected True, False or 'never'"
        raise InputError(msg)
    n, n_return = int(given.get("num_beams", 1)), int(given.get("num_return_sequences", 1))
    if n_return > n:
        msg = f"num_return_sequences={n_return}: more than num_beams={n}"
        raise InputError(msg)
    return Beams(n, float(penalty), early if early == "never" else bool(early), n_return)


@dataclass(frozen=True)
class Found:
    """One answer: its ids, without what was there before, and its score."""

    ids: list[int]
    score: float


class BeamState:
    """The search for one prompt, of `limit` ids at most; `ends`: ids that end an answer."""

    def __init__(self, how: Beams, n_vocab: int, limit: int, ends: Sequence[int]) -> None:
        """Nothing was added yet: all beams are the prompt, and only the first counts."""
        self.how, self.limit, self.ends, self.n_vocab = how, limit, list(dict.fromkeys(ends)), n_vocab
        self.running: list[list[int]] = [[] for _ in range(how.n)]
        self.scores = np.full(how.n, NONE, np.float32)
        self.scores[0] = 0
        self.finished: list[tuple[np.float32, list[int], bool]] = [
            (NONE, [], False)
        ] * how.n  # score, ids, whether it is
        self.improvable, self.done, self.length = True, False, 0

    def advance(self, log_probs: Floats) -> list[int]:
        """[n, n_vocab] of what follows each running beam -> which of them each of the new ones goes on from."""
        n, keep = self.how.n, min(max(2, 1 + len(self.ends)) * self.how.n, self.how.n * self.n_vocab)
        together = (log_probs + self.scores[:, None]).astype(np.float32).reshape(-1)
        top = _largest(together, keep)
        parents, tokens = (top // self.n_vocab).tolist(), (top % self.n_vocab).tolist()
        texts = [[*self.running[p], t] for p, t in zip(parents, tokens, strict=True)]
        over = np.array([t in self.ends or self.length + 1 >= self.limit for t in tokens])
        scores = together[top]
        going = _largest((scores + over * NONE).astype(np.float32), n)
        self._finish(texts, scores, over)
        self.running = [texts[i] for i in going]
        self.scores = (scores + over * NONE).astype(np.float32)[going]
        self.length += 1
        self._judge(all_over=bool(over.all()))
        return [parents[i] for i in going]

    def _finish(self, texts: list[list[int]], scores: Floats, over: NDArray[np.bool_]) -> None:
        """Keep the best of those that were finished and those that are."""
        ended = over & (np.arange(len(texts)) < self.how.n)
        full = all(there for _, _, there in self.finished) and self.how.early_stopping is True
        final = (scores / np.float32((self.length + 1) ** self.how.length_penalty)).astype(np.float32)
        final += np.float32(full) * NONE + np.float32(not self.improvable) * NONE
        final = (final + ~ended * NONE).astype(np.float32)
        every = [*self.finished, *zip(final, texts, ended.tolist(), strict=True)]
        self.finished = [every[i] for i in _largest(np.array([score for score, _, _ in every]), self.how.n)]

    def _judge(self, *, all_over: bool) -> None:
        """Whether a running beam could still be better than the worst that is finished."""
        how = self.how
        longest = self.limit if how.early_stopping == "never" and how.length_penalty > 0 else self.length
        best = self.scores[0] / np.float32(longest**how.length_penalty)
        worst = min(score for score, _, _ in self.finished)
        self.improvable &= any(best > (worst if there else NONE) for _, _, there in self.finished)
        full = all(there for _, _, there in self.finished) and how.early_stopping is True
        self.done = not self.improvable or full or all_over

    def found(self) -> list[Found]:
        """The answers, the best first."""
        return [Found(ids, float(score)) for score, ids, _ in self.finished[: self.how.n_return]]


def _largest(x: Floats, n: int) -> NDArray[np.int64]:
    """Indices of the n largest, in order; of equals the last first, as in what transformers does with few."""
    least = np.partition(x, len(x) - n)[len(x) - n]
    at = np.flatnonzero(x >= least)[::-1]  # all that reach the n-th largest
    order: NDArray[np.int64] = at[np.argsort(-x[at], kind="stable")][:n]
    return order


def log_softmax(row: Floats) -> Floats:
    """float32 [n_vocab]. Errors: `InputError` through the caller where a logit is NaN: the result is NaN too."""
    shifted = row.astype(np.float64) - float(row.max())
    y: Floats = (shifted - math.log(float(exp(shifted).sum()))).astype(np.float32)
    return y


def search(  # noqa: PLR0913, PLR0917 - what an answer depends on
    session: Session,
    table: Table,
    prompt: Sequence[int],
    how: Beams,
    rules: Rules,
    limit: int,
    ends: Sequence[int],
    penalty: float = 1.0,
) -> list[Found]:
    """Answers to a prompt, the best first; `table` is its sequence's. `penalty`: of ids that are there already.

    Errors: `InputError` where the cache has no room for as many beams; `BackendError` of a backend without pages.
    """
    if not session.backend.paged:
        msg = f"num_beams={how.n}: {session.backend.name} holds one text at a time; use device='cpu'"
        raise BackendError(msg)
    shared = len(prompt) // PAGE
    needed = shared + how.n * (pages_of(len(prompt) + limit) - shared)
    if needed > session.pages.n_pages:
        msg = (
            f"num_beams={how.n}: that many texts of up to {len(prompt) + limit} tokens need cache_tokens="
            f"{needed * PAGE}, and this model has {session.pages.n_pages * PAGE}; load it with more, or ask for less"
        )
        raise InputError(msg)
    state = BeamState(how, session.n_vocab, limit, ends)
    run = _Run(session, list(prompt), state, rules, penalty)
    try:
        session.turn(partial(run.begin, table))
        while not state.done:
            session.turn(run.step)
    except BaseException:
        session.pages.torn = True  # a table that was just made is perhaps nobody's: the next change counts again
        raise
    finally:
        run.over()
    return state.found()


class _Run:
    """The beams' parts of the cache; a step may be begun again from its beginning (`Session.turn`).

    Somebody waits for all of them, so that others take none. Where one has lost its pages nevertheless (the search must
    wait for room, and gives all up meanwhile), all are computed again, what they have in common once.
    """

    def __init__(self, session: Session, prompt: list[int], state: BeamState, rules: Rules, penalty: float) -> None:
        self._session, self._prompt, self._state = session, prompt, state
        self._rules, self._penalty = rules, penalty
        self.tables: list[Table] = []
        self._who: Waiting | None = Waiting()

    def over(self) -> None:
        """Nobody waits any more, though somebody may keep the exception that ended it; the pages are given back."""
        self._who = None
        self._session.left.extend(self.tables)

    @usual_floats()
    def begin(self, table: Table) -> None:
        """The prompt's own row, for all beams; its pages are theirs from now on."""
        self._session.compute(table, self._prompt)
        row = self._row(self._session.logits[-1], [])
        self._go_on([table] * self._state.how.n, np.tile(row, (self._state.how.n, 1)))
        self._session.pages.release(table)  # the beams hold it now; who goes on with one computes it again

    @usual_floats()
    def step(self) -> None:
        """One id more for every beam."""
        texts = [self._prompt + ids for ids in self._state.running]
        try:
            if any(table.cached < len(text) - 1 for table, text in zip(self.tables, texts, strict=True)):
                self._again(texts)
            rows = self._rows(texts)
        except FullError:
            for table in self.tables:
                self._session.pages.release(table)
            raise
        self._go_on(self.tables, rows)

    def _again(self, texts: list[list[int]]) -> None:
        """Compute all but the last id of each text; pages that hold what is alike are shared, as they were."""
        pages, first = self._session.pages, self.tables[0]
        for table in self.tables:
            pages.release(table)
        alike = next((i for i, ids in enumerate(zip(*texts, strict=True)) if len(set(ids)) > 1), len(texts[0]))
        if common := min(alike, len(texts[0]) - 1):
            self._session.compute(first, texts[0][:common], 0)
        self.tables = [self._shared(first) for _ in texts]
        pages.release(first)
        for table, text in zip(self.tables, texts, strict=True):
            if common < len(text) - 1:
                self._session.compute(table, text[:-1], 0)

    def _rows(self, texts: list[list[int]]) -> Floats:
        """[beams, n_vocab]: logarithms of what follows each text, whose last id is not in the cache."""
        session, state = self._session, self._state
        rows, most = np.empty((state.how.n, session.n_vocab), np.float32), min(session.n_logits, session.chunk)
        for at in range(0, state.how.n, most):
            part = range(at, min(at + most, state.how.n))
            session.run_pass([(self.tables[i], texts[i][-1:], len(texts[i]) - 1, 1) for i in part])
            for i, logits in zip(part, session.logits, strict=True):
                rows[i] = self._row(logits, state.running[i])
        return rows

    def _shared(self, table: Table) -> Table:
        twin = self._session.pages.share(table)
        if self._who is not None:
            twin.waiting.add(self._who)
        return twin

    def _go_on(self, tables: list[Table], rows: Floats) -> None:
        session, old = self._session, self.tables
        parents = self._state.advance(rows)
        session.last = None
        self.tables = [self._shared(tables[p]) for p in parents]
        for table in old:
            session.pages.release(table)

    def _row(self, logits: Floats, ids: list[int]) -> Floats:
        row = log_softmax(logits)
        text = self._prompt + ids
        if np.isnan(row).any():
            raise not_numbers(len(text) - 1)
        if self._penalty != 1:
            seen = list(dict.fromkeys(text))
            row[seen] = np.where(row[seen] < 0, row[seen] * np.float32(self._penalty), row[seen] / self._penalty)
        self._rules.apply(row, text, len(ids), last=len(ids) == self._state.limit - 1)
        return row
