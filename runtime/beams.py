"""Beam search: the answers whose ids are the likeliest together, of those that a few running beginnings lead to.

Every step, each of the running beams is followed by every id; of these continuations, the likeliest that do not end go
on, and those among the first `num_beams` that end are finished, by the sum of their logarithms over
length^`length_penalty`. Scores, stops and their order are transformers' (`_beam_search`), in float32. `BeamState` knows
rows of logarithms alone; `search` runs one for each prompt over a session, whose cache a prompt's beams share as far as
they are alike. The beams of all prompts are fed together; what one prompt gets does not depend on the others.
"""

from __future__ import annotations

import math
import time
from dataclasses import field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ..dataclass import dataclass
from ..errors import BackendError, InputError
from .floats import usual_floats
from .guidance import log_probs
from .kvcache import PAGE, pages_of
from .pages import Caller, FullError
from .penalties import Changes, Penalties
from .sampling import all_forbidden, exp, not_numbers, repaired

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from .beam_params import Beams
    from .marking import Watermark
    from .pages import Table
    from .rules import Rules
    from .session import Session

    Floats = NDArray[np.float32]

__all__ = ["BeamState", "Found", "Searched", "Wanted", "log_softmax", "search"]

#: 2 to this power, or to less than minus it, is no normal float32.
MOST_BITS = 126
#: A score that nothing real has.
NONE = np.float32(-1e9)


@dataclass(frozen=True)
class Found:
    """One answer: its ids, without what was there before, and its score."""

    ids: list[int]
    score: float


class BeamState:
    """The search for one prompt, of `limit` ids at most; `ends`: ids that end an answer."""

    def __init__(self, how: Beams, n_vocab: int, limit: int, ends: Sequence[int]) -> None:
        """Nothing was added yet: all beams are the prompt, and only the first counts. Errors: `InputError`."""
        if abs(how.length_penalty) * math.log2(max(limit, 1)) >= MOST_BITS:
            msg = (
                f"length_penalty={how.length_penalty}: the length to this power is no float32 for an answer of up to "
                f"{limit} tokens; expected a number nearer to 0"
            )
            raise InputError(msg)
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
    """float32 [n_vocab]. NaN where a logit is: the caller says so."""
    if np.isnan(row).any():
        return np.full_like(row, np.nan)
    shifted = row.astype(np.float64) - float(row.max())
    y: Floats = (shifted - math.log(float(exp(shifted).sum()))).astype(np.float32)
    return y


@dataclass(frozen=True)
class Wanted:
    """One prompt of a search: its sequence's table, the whole text before the answer, the most ids of that."""

    table: Table
    prompt: list[int]
    rules: Rules
    limit: int
    penalties: Penalties = field(default_factory=Penalties)
    source: tuple[int, ...] | None = None  # what an encoder reads, where a penalty asks for it
    watermark: Watermark | None = None
    repairs: bool = False  # what is no number is replaced (`sampling.repaired`)


@dataclass(frozen=True)
class Searched:
    """A prompt's answers, the best first; seconds of the prompt, and from there to the answers."""

    answers: list[Found]
    prefill_s: float = 0.0
    decode_s: float = 0.0


def search(  # noqa: PLR0913 - keywords
    session: Session,
    prompts: Sequence[Wanted],
    how: Beams,
    ends: Sequence[int],
    penalty: float = 1.0,
    *,
    check: Callable[[], None] = lambda: None,
) -> list[Searched]:
    """Answers to each prompt, in order; as many prompts are searched together as the cache has room for.

    `penalty`: of ids that are there already. `check`: called before each step, and while it waits for room; what it
    raises ends all. Errors: `InputError` where the cache has no room for one prompt's beams; `BackendError` of a
    backend without pages.
    """
    if not session.backend.paged:
        msg = f"num_beams={how.n}: {session.backend.name} holds one text at a time; use device='cpu'"
        raise BackendError(msg)
    runs = [_Run(session, each, how, ends, penalty) for each in prompts]
    at = 0
    while at < len(runs):
        size = _fitting(session, runs[at:])
        _Together(session, runs[at : at + size]).finish(check)
        at += size
    return [run.searched() for run in runs]


def _fitting(session: Session, runs: Sequence[_Run]) -> int:
    """How many of the first have room at once; the first has."""
    beams = np.cumsum([run.n_pages for run in runs]) <= session.pages.n_pages
    if session.sources is None:
        return int(beams.sum())
    texts = np.cumsum([run.n_source_pages for run in runs]) <= session.sources.pages.n_pages
    return max(1, int((beams & texts).sum()))


class _Together:
    """Searches that are fed together. A step may be begun again from its beginning (`Session.turn`)."""

    def __init__(self, session: Session, runs: Sequence[_Run]) -> None:
        self._session, self._runs = session, runs

    def finish(self, check: Callable[[], None]) -> None:
        """Go on until all are done."""
        session, caller = self._session, Caller()

        def waiting() -> bool:
            """For room, which only the others can make."""
            check()
            return False

        own = [table for run in self._runs for table in run.own]
        try:
            with caller.going():
                for run in self._runs:
                    run.who = caller
                for table in own:
                    table.waiting.add(caller)
                for run in self._runs:
                    check()
                    session.turn(partial(self._or_nothing, run.begin), waiting)
                while not all(run.state.done for run in self._runs):
                    check()
                    session.turn(partial(self._or_nothing, self._step), waiting)
        except BaseException:
            session.pages.torn = True  # a table that was just made is perhaps nobody's: the next change counts again
            raise
        finally:
            for run in self._runs:
                run.who = None
                session.left.extend(run.tables)
            for table in own:
                table.waiting.discard(caller)
            del caller  # whoever keeps an exception keeps no pages

    @usual_floats()
    def _or_nothing(self, work: Callable[[], None]) -> None:
        """Work; where there is no room for it, everything is given back, so that others can end: `FullError`."""
        try:
            work()
        except FullError as full:
            for run in self._runs:
                run.release()
            raise FullError(full.pages) from None

    def _step(self) -> None:
        """One id more for every beam of those that are not done."""
        session, going = self._session, [run for run in self._runs if not run.state.done]
        for run in going:
            run.restore()
        beams = [(run, i) for run in going for i in range(run.state.how.n)]
        rows = {run: np.empty((run.state.how.n, session.n_vocab), np.float32) for run in going}
        most = min(session.n_logits, session.chunk)
        for at in range(0, len(beams), most):
            part = beams[at : at + most]
            session.run_pass([run.part(i) for run, i in part])
            for (run, i), logits in zip(part, session.logits, strict=True):
                rows[run][i] = run.row(logits, run.state.running[i])
        for run in going:
            run.go_on(run.tables, rows[run])


class _Run:
    """One prompt's beams, and their parts of the cache."""

    def __init__(self, session: Session, wanted: Wanted, how: Beams, ends: Sequence[int], penalty: float) -> None:
        self._session, self._prompt, self._table = session, wanted.prompt, wanted.table
        self._rules, self._penalty, self._limit, self._n_beams = wanted.rules, penalty, wanted.limit, how.n
        self._penalties, self._source, self._wanted = wanted.penalties, wanted.source, wanted
        self._check_room()  # before there are as many of anything
        self.state = BeamState(how, session.n_vocab, wanted.limit, ends)
        self.tables: list[Table] = []
        self.who: Caller | None = None  # who waits for them
        self._began = self._begins = self._ended = 0.0

    @property
    def own(self) -> list[Table]:
        """The sequence's table, and that of the encoder's text."""
        return [self._table, *([] if self._table.source is None else [self._table.source.table])]

    @property
    def n_pages(self) -> int:
        """Pages that the beams need at most: the prompt's whole ones are of all."""
        shared = len(self._prompt) // PAGE
        return shared + self._n_beams * (pages_of(len(self._prompt) + self._limit) - shared)

    @property
    def n_source_pages(self) -> int:
        """Pages of the encoder's text."""
        return 0 if self._table.source is None else pages_of(len(self._table.source.ids))

    def _check_room(self) -> None:
        """Pass what fits the cache. Errors: `InputError`."""
        room, n = self._session.pages.n_pages, self._n_beams
        if self.n_pages > room:
            msg = (
                f"num_beams={n}: that many texts of up to {len(self._prompt) + self._limit} tokens need a larger "
                f"cache_tokens: {self.n_pages * PAGE}, now {room * PAGE}; or a smaller max_new_tokens, or fewer beams"
            )
            raise InputError(msg)

    def begin(self) -> None:
        """The prompt's own row, for all beams; its pages are theirs from now on."""
        self._began = self._began or time.perf_counter()
        self._session.compute(self._table, self._prompt)
        row, n = self.row(self._session.logits[-1], []), self.state.how.n
        self._begins = time.perf_counter()
        self.go_on([self._table] * n, np.tile(row, (n, 1)))
        self._session.pages.release(self._table)  # the beams hold it now; who goes on with one computes it again

    def restore(self) -> None:
        """Compute what the beams' pages were given up for: the prompt once, then what each has of its own."""
        session, pages = self._session, self._session.pages
        for i, table in enumerate((*self.tables, self._table)):  # the last: as long as any
            table.expected = len(self._text(min(i, len(self.tables) - 1)))
            session.turned(table, table.expected)
        if all(table.cached >= len(self._text(i)) - 1 for i, table in enumerate(self.tables)):
            return
        self.release()
        if pages.taken() + self.n_pages > pages.n_pages:  # before anything is computed in vain
            raise FullError(pages)
        if len(self._prompt) > 1:
            session.compute(self._table, self._prompt[:-1], 0)
        twins = self._shared(self._table for _ in self.tables)
        pages.release(self._table)
        for table in self.tables:
            pages.release(table)
        self.tables = twins
        for i, table in enumerate(twins):
            table.expected = len(self._text(i))
            if table.cached < len(self._text(i)) - 1:
                session.compute(table, self._text(i)[:-1], 0)

    def release(self) -> None:
        """Give everything back; `restore` computes it again."""
        for table in (self._table, *self.tables):
            self._session.pages.release(table)
        if self._session.sources is not None and self._table.source is not None:
            self._session.sources.pages.release(self._table.source.table)

    def part(self, i: int) -> tuple[Table, list[int], int, int]:
        """The last id of beam `i`, as a part of a pass."""
        text = self._text(i)
        return self.tables[i], text[-1:], len(text) - 1, 1

    def go_on(self, tables: list[Table], rows: Floats) -> None:
        """[n, n_vocab] of what follows each beam, whose tables these are: the next beams take their places."""
        session, old = self._session, self.tables
        parents = self.state.advance(rows)
        session.last = None
        self.tables = self._shared(tables[p] for p in parents)
        for table in old:
            session.pages.release(table)
        self._ended = time.perf_counter()

    def _shared(self, tables: Iterator[Table]) -> list[Table]:
        twins = [self._session.pages.share(table) for table in tables]
        for twin in twins:
            if self.who is not None:
                twin.waiting.add(self.who)
        return twins

    def _text(self, i: int) -> list[int]:
        return self._prompt + self.state.running[i]

    def row(self, logits: Floats, ids: list[int]) -> Floats:
        """Logarithms of what follows `ids`, by the rules. Errors: `InputError`: some are NaN."""
        row = log_softmax(logits)
        text = self._prompt + ids
        if np.isnan(row).any() and not self._wanted.repairs:
            raise not_numbers(len(text) - 1)
        changes = self._changes(ids)
        if changes is not None:
            changes.apply(row, lists := changes.lists(), 0)
        if self._penalty != 1:
            seen = list(dict.fromkeys(text))
            row[seen] = np.where(row[seen] < 0, row[seen] * np.float32(self._penalty), row[seen] / self._penalty)
        if changes is not None:
            changes.apply(row, lists, 1)
        self._rules.apply(row, text, len(ids), last=len(ids) == self.state.limit - 1)
        if self._wanted.repairs:
            repaired(row)
        if changes is not None:
            changes.apply(row, lists, 2)
        if self._wanted.watermark is not None:
            marking = self._wanted.watermark.begin()
            marking.observe(self._prompt, answer=False)
            marking.observe(ids, answer=True)
            marking.mark(row)
        return log_probs(row).astype(np.float32) if self.state.how.renormalized else row

    def _changes(self, ids: list[int]) -> Changes | None:
        """Penalties that have seen a beam's text."""
        if self._penalties.off:
            return None
        changes = Changes(self._session.n_vocab, self._penalties, self._rules.ends, self._source)
        changes.observe(self._prompt, answer=False)
        changes.observe(ids, answer=True)
        return changes

    def searched(self) -> Searched:
        """What it came to. Errors: `InputError`: it found nothing."""
        state = self.state
        if not any(there for _, _, there in state.finished):
            if np.isneginf(state.scores[0]):
                raise all_forbidden(len(self._prompt) + state.length - 2)
            msg = (
                f"num_beams={state.how.n}: no text has a score of more than {NONE:g}, as rules with "
                "remove_invalid_values, penalties or biases make them; leave one out, or use smaller numbers"
            )
            raise InputError(msg)
        return Searched(self.state.found(), self._begins - self._began, self._ended - self._begins)
