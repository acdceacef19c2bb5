"""A program on a backend, and the sequences that take turns on it."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InputError
from .adapters import Adapters
from .engine.scheduler import Engine
from .engine.speculative import Drafting
from .kvcache import PAGE
from .living import Living
from .memory import float_rows
from .overflow import Sinks
from .pages import FullError, Pages
from .pools import Pools
from .sharing import Ask, shared
from .sources import Sources
from .step import Batch
from .whole import WholePasses

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from collections.abc import Sequence as Ids

    from numpy.typing import NDArray

    from .arena import Tensor
    from .backend import Backend
    from .pages import Table
    from .pools import Part
    from .program import Instruction, Program
    from .sampling import Sampler
    from .sequence import Sequence
    from .sources import Source
    from .spec import Weights

    #: Called with an instruction and what gives its input tensors as arrays.
    Watch = Callable[[Instruction, Callable[[Tensor], NDArray[np.float32]]], None]

__all__ = ["Session"]


class Session(Pools):
    """Runs batches of tokens. Everything is allocated here, before the first step.

    Sequences hold pages of the KV cache; where none is free, the sequence that was idle longest gives its pages up,
    and is computed again from its ids when it goes on, with the same bits. One that somebody waits for keeps them: who
    finds no idle one waits until a running one ends. `lock` is held for a pass, and by whoever reads what it left
    (`turn`). An exception at any moment (Ctrl-C) leaves a session that goes on with the same bits; so does a fork, in
    both processes.
    """

    def __init__(self, program: Program, weights: Weights, backend: Backend) -> None:
        """Bind a program and its weights to a backend, which closes with the session. Errors: `BackendError`."""
        program = program.bound(weights)
        self.program, self.weights = program, weights
        self.chunk, self.n_logits = program.chunk, program.n_logits
        self.n_vocab, self.threads = program.n_vocab, backend.threads
        backend.bind(program, weights)
        self.adapters = Adapters(program, weights)
        pool = (program.n_pages, PAGE, program.groups) if backend.paged else (1, program.n_context, (None,))
        self._whole = None if program.encoding is None else WholePasses(program, backend)
        sources = Sources(self._whole) if self._whole is not None and program.seq2seq else None
        sinks = None if program.bounded or not backend.paged else Sinks(backend, program)
        super().__init__(Pages(*pool, backend.copy_page, sinks), sources, backend, program.n_context)
        self._process = os.getpid()
        self._batch = Batch(self.chunk, self.n_logits, program.padding)
        self._own = self.admit(None)  # of `step`
        self._own_ids = np.zeros(self.n_context, np.int64)
        self._kept = 0  # rows of logits of the last pass
        self.engine = Engine(self) if backend.paged else None
        self._relieve = None if self.engine is None else self.engine.relieve
        self.drafting = Drafting(self.engine.costs if self.engine else None, self.n_logits, backend.name)
        _SESSIONS.add(self)

    def check_open(self) -> None:
        """Errors: `InputError`, after `close`."""
        if self._closed:
            raise InputError(self._closed)

    def compute(
        self,
        table: Table,
        text: Ids[int] | NDArray[np.int64],
        n_logits: int = 1,
        first: int = 0,
        *,
        hidden: bool = False,
    ) -> None:
        """Feed what of a text is not in its cache, in passes; keep logits of the last `n_logits` ids.

        `text`: the ids at the slots from `first` on. Bits do not depend on how it is cut. `hidden`: as in `run_pass`.
        Errors: `InputError`.
        """
        end = first + len(text)
        last = end - max(n_logits, 1)  # the rows of logits that are wanted lie in one pass

        def passes() -> None:
            if first == 0:
                self.turned(table, end)
            self.pages.truncate(table, max(first, end - n_logits))  # which forgets all where a window's pages are gone
            at = max(first, table.cached)
            self._check(text[at - first :], at, n_logits)
            while at < end:
                size = min(self.chunk, end - at)
                if at < last < at + size and at + size < end:
                    size = last - at
                part = text[at - first : at - first + size]
                self.run_pass([(table, part, at, n_logits if at + size == end else 0)], hidden=hidden)
                at += size

        self._within(passes)

    def ready(self, table: Table, n: int, n_logits: int) -> None:
        """Before the passes that compute a text of `n` ids to its end: a pass makes its last `n_logits` rows."""
        self.turned(table, n)
        self.pages.truncate(table, n - n_logits)  # which forgets all where a window's pages are gone

    def has_source(self, source: Source, others: Iterable[Source]) -> bool:
        """Encode a text, unless it is there. False: the pool has no room for it now, next to these."""
        if self.sources is None:
            return True
        try:
            self.sources.ensure([source], [id(other.table) for other in others])
        except FullError:
            return False
        return True

    def greedy(self, row: int) -> int:
        """Id of the largest of a row of logits of the last pass, the first of equals; -1 where one is NaN."""
        return int(self._batch.results[row])

    def drawn(self, row: int) -> int:
        """Id that the last pass drew from a row of logits; -1: it drew none, or none can be drawn."""
        return int(self._batch.drawn[row])

    def turned(self, table: Table, n: int) -> None:
        """Rotate a text of `n` tokens by the factors of its length: where these change, its keys are forgotten."""
        turning = self.program.turning
        shift = turning if max(n, table.expected) > turning else 0
        if table.shift != shift:
            self.last = self.ahead_of = None
            self.pages.release(table)
            table.shift = shift

    def truncate(self, table: Table, n: int) -> None:
        """Forget the slots from `n` on."""

        def shortened() -> None:
            self.last = self.ahead_of = None  # the logits that lie there are another text's now
            self.pages.truncate(table, n)

        self.held(shortened)

    @property
    def n_text_vocab(self) -> int:
        """Entries of the vocabulary that whole texts are of: the encoder's, where there is one."""
        return self.n_vocab if self._whole is None else self._whole.n_vocab

    def last_logits(self, sequences: Ids[Ids[int] | NDArray[np.int64]], adapter: int = 0) -> NDArray[np.float32]:
        """float32 [sequences, n_vocab]: logits after the last id of each, as if each were alone, the same bits.

        As many as fit a pass go together (`chunk` tokens, `n_logits` sequences, the pages of the cache). `adapter`: the
        number of the one that all are read with. Errors:
        `InputError`, before any is fed.
        """
        return self._last(sequences, self.n_vocab, hidden=False, adapter=adapter)

    def last_hidden(self, sequences: Ids[Ids[int] | NDArray[np.int64]], adapter: int = 0) -> NDArray[np.float32]:
        """As `last_logits`: float32 [sequences, d_model], what the last token of each is after the final norm."""
        return self._last(sequences, self.program.hidden.width, hidden=True, adapter=adapter)

    def _last(
        self, sequences: Ids[Ids[int] | NDArray[np.int64]], width: int, *, hidden: bool, adapter: int
    ) -> NDArray[np.float32]:
        for s in sequences:
            self._check(s, 0, min(1, len(s)))
        out, at = float_rows(len(sequences), width, "hidden" if hidden else "logits"), 0
        while at < len(sequences):
            size = max(1, self._fitting([len(s) for s in sequences[at : at + self.n_logits]]))
            run = partial(self._together, hidden=hidden, adapter=adapter)
            ask = Ask(("last", hidden, adapter), list(sequences[at : at + size]), self._fit, run)
            out[at : at + size] = shared(self, ask)
            at += size
        return out

    def fits(self, lengths: Ids[int]) -> bool:
        """Whether texts of these lengths are one pass of `last_logits`."""
        return self._fitting(lengths) == len(lengths)

    def _fit(self, texts: Ids[Ids[int] | NDArray[np.int64]]) -> bool:
        return self.fits([len(ids) for ids in texts])

    def _fitting(self, lengths: Ids[int]) -> int:
        """How many of the first texts of these lengths are one pass."""
        n = np.array(lengths[: self.n_logits])
        within = np.cumsum(n) <= self.chunk
        if self.backend.paged:
            within &= np.cumsum(-(-n // self.pages.size)) <= self.pages.n_pages
        return int(within.sum())

    def _together(
        self, sequences: Ids[Ids[int] | NDArray[np.int64]], *, hidden: bool, adapter: int
    ) -> NDArray[np.float32]:
        """[sequences, n_vocab], or their hidden states, a copy."""
        if len(sequences) == 1:
            self._own.adapter = adapter
            try:
                self.step(sequences[0], 0, hidden=hidden)
                return (self.hidden if hidden else self.logits).copy()
            finally:
                self._own.adapter = 0
                if adapter:
                    self.pages.truncate(self._own, 0)  # what is there is no part of a text without it
        tables = [self.admit(None) for _ in sequences]
        for table in tables:
            table.adapter = adapter
        try:
            for table, ids in zip(tables, sequences, strict=True):
                self.turned(table, len(ids))
            parts = [(table, ids, 0, 1) for table, ids in zip(tables, sequences, strict=True)]
            self.run_pass(parts, hidden=hidden)
        finally:
            self.left.extend(tables)
        return (self.hidden if hidden else self.logits).copy()

    def hidden_rows(self, ids: Ids[int], adapter: int = 0) -> NDArray[np.float32]:
        """float32 [ids, d_model]: every token of one text after the final norm. Errors: `InputError`."""
        out, table = float_rows(len(ids), self.program.hidden.width, "hidden"), self.admit(None)
        table.expected, table.adapter = len(ids), adapter  # whose rotation may depend on its length

        def rows(part: Ids[int], n: int) -> NDArray[np.float32]:
            self.compute(table, part, n, hidden=True)
            return self.hidden.copy()

        try:
            for at in range(0, len(ids), self.n_logits):
                end = min(len(ids), at + self.n_logits)
                out[at:end] = self.turn(partial(rows, ids[:end], end - at))
        finally:
            self.left.append(table)
        return out

    def ahead(  # noqa: PLR0913, PLR0917 - what the backend is asked
        self, sequence: Sequence, token: int, start: int, n: int, ends: Ids[int], sampler: Sampler | None
    ) -> Iterator[int] | None:
        """As `Backend.ahead`, for a sequence whose cache holds the slots below `start`. Errors: `InputError`."""
        self._check([token], start, 1)
        if not self.backend.works_ahead or start + n > self.n_context:
            return None
        self._count([(sequence.table, [token], start, 1)])
        self._reserve([(sequence.table, [token], start, 1)], start + n)
        ids = self.backend.ahead(token, start, n, ends, sampler)
        if ids is not None:
            self.last = self.ahead_of = sequence.table
            self._kept = 1
        return ids

    # ------------------------------------------------------------------------------------------------ passes

    def run_pass(
        self,
        parts: list[Part],
        *,
        hidden: bool = False,
        reserved: bool = False,
        draws: Iterable[tuple[int, NDArray[np.int64]]] = (),
    ) -> None:
        """One pass. What a table has in the cache is known to be there only after it ended well.

        `reserved`: the parts have their pages, and their encoders' texts. `hidden`: for the hidden states of the rows
        that are asked for alone; their logits are not computed. `draws`: rows of logits that an id is drawn from, and
        how (`drawing.row_words`), of a backend with pages.
        """
        self._fill(parts, reserved=reserved)
        for row, words in draws:
            self._batch.draw(row, words)
        for table, _, start, _ in parts:
            table.cached = start
        self.backend.run(self._batch, self.program.to_hidden if hidden and self.backend.paged else None)
        for table, ids, start, _ in parts:
            table.cached = start + len(ids)
            self.pages.forget_unseen(table)
        self._kept, self.last = self._batch.n_logits, None if hidden else parts[-1][0]

    def run_early(self, parts: list[Part], draws: Iterable[tuple[int, NDArray[np.int64]]] = ()) -> None:
        """A pass of `Program.early`, whose parts have their pages, and their encoders' texts. Draws as in `run_pass`.

        What a table has in the cache is what it had: the keys that its first layers get are those that a pass of all
        layers writes there, which comes next.
        """
        self._fill(parts, reserved=True)
        for row, words in draws:
            self._batch.draw(row, words)
        self.backend.run_early(self._batch)
        self._kept = self._batch.n_logits

    @property
    def whole(self) -> WholePasses:
        """Passes of whole texts, of a model with an encoder; for who holds a turn. Errors: `InputError`."""
        if self._closed:
            raise InputError(self._closed)
        if self._whole is None:
            msg = "this model has no encoder"
            raise InputError(msg)
        return self._whole

    def _fill(self, parts: list[Part], *, reserved: bool = False) -> None:
        """Pages for a pass, unless it has them, and its batch."""
        if self._closed:
            raise InputError(self._closed)
        if self.sources is not None and any(table.source is None for table, *_ in parts):
            msg = "this model's decoder reads an encoder: its texts need a source (model.sequence(source))"
            raise InputError(msg)
        self.last = self.ahead_of = None
        self._count(parts)
        if not reserved:
            self._reserve(parts, 0)
        if self.sources is not None and not reserved:
            try:
                self.sources.ensure(list({id(t.source): t.source for t, *_ in parts if t.source is not None}.values()))
            except FullError:
                self._give_up(parts)
                raise
        self._batch.clear()
        for table, ids, start, n_logits in parts:
            encoder, encoded = (0, 0) if table.source is None else (table.source.table.address, len(table.source.ids))
            shift, slot = table.shift - self._padding(table, ids, start), start - table.gap
            if table.gap:
                shift = self._beyond(start, len(ids)) - slot
            self._batch.add(ids, slot, table.address, n_logits, encoder, encoded, shift, table.adapter)

    def _beyond(self, start: int, n: int) -> int:
        """The row of tables of positions where those of the next `n` tokens of the batch stand, beyond the context."""
        row = self.n_context + self._batch.n_tokens
        for table in self.program.ropes:
            table.fill(row, start, start + n)
        return row

    def check_outgrows(self) -> None:
        """Pass where a text may outgrow the context. Errors: `InputError`, which says why none may."""
        if self.program.bounded:
            msg = f"overflow='window': {self.program.bounded}"
            raise InputError(msg)

    def _padding(self, table: Table, ids: Ids[int] | NDArray[np.int64], start: int) -> int:
        """Padding tokens before `start`, in a model where these have no position; those of a part are remembered."""
        if self.program.padding is None:
            return 0
        before = [slot for slot in table.padding if slot < start]
        table.padding = before + [start + i for i, token in enumerate(ids) if token == self.program.padding]
        return len(before)

    def _check(self, ids: Ids[int] | NDArray[np.int64], start: int, n_logits: int) -> None:
        n = len(ids)
        if n < 1 or start < 0 or start + n > self.n_context:
            msg = f"{n} tokens at position {start} do not fit a context of {self.n_context}"
            raise InputError(msg)
        self.check_room(start + n)
        if not 0 <= n_logits <= min(n, self.n_logits):
            msg = f"logits of {n_logits} tokens asked for; a step returns 0 to {min(n, self.n_logits)}"
            raise InputError(msg)
        if min(ids) < 0 or max(ids) >= self.n_vocab:
            msg = f"token id {min(ids) if min(ids) < 0 else max(ids)} is outside the vocabulary 0 .. {self.n_vocab - 1}"
            raise InputError(msg)

    # ------------------------------------------------------------------------------------------------ of one text

    def step(self, ids: Ids[int] | NDArray[np.int64], start: int, n_logits: int = 1, *, hidden: bool = False) -> None:
        """Feed `ids` at positions start, start + 1, ... of the session's own text; keep logits of the last `n_logits`.

        What lies there at `start` and after it is overwritten. Bits do not depend on how a text is cut in steps. For
        measurements and tools; nothing else of the session's own text is kept, so use no sequence between its steps.
        `hidden`: as in `run_pass`.
        """

        def fed() -> None:
            self._check(ids, start, n_logits)
            there = min(self._own.cached, start)
            self._own.expected = start + len(ids)
            self.turned(self._own, start + len(ids))
            self.pages.truncate(self._own, start)
            if self._own.cached < there:  # a window's pages are gone: what the step sees is computed again
                self.compute(self._own, self._own_ids[:start], 0)
            self._own_ids[start : start + len(ids)] = ids
            self.compute(self._own, ids, n_logits, start, hidden=hidden)

        self._within(fed)

    def timed_step(self, ids: Ids[int] | NDArray[np.int64], start: int) -> NDArray[np.float64]:
        """One pass of at most `chunk` ids, an instruction at a time: seconds of each."""

        def timed() -> NDArray[np.float64]:
            self.step(ids, start)  # checks them, and leaves the batch as this pass has it
            return self.backend.seconds(self._batch)

        return self._within(timed)

    def watched_step(
        self,
        ids: Ids[int] | NDArray[np.int64],
        start: int,
        watch: Watch,
        length: int = 0,
        *,
        source: Ids[int] | None = None,
    ) -> None:
        """`step` without logits, an instruction at a time: `watch(instruction, view)` is called before each one.

        An instruction's inputs are all there before it runs, and perhaps not after it: results may lie over them.
        `view(tensor)` gives such an input, float32 [tokens of the pass, width], for as long as the call lasts.
        `length`: of the whole text, where more of it follows. `source`: what the encoder reads of which `ids` are the
        decoder's.
        """

        def watched() -> None:
            self._check(ids, start, 0)
            self._own.source = None if source is None else self.encoded(source)
            if start == 0:
                self._own.expected = length
                self.turned(self._own, len(ids))
            if self._own.shift < self.program.turning < start + len(ids):
                msg = f"watched_step: a text of more than {self.program.turning} tokens begins with its length"
                raise InputError(msg)
            self._reserve([(self._own, ids, start, 0)], 0)  # all: what waits for room begins again, and watches nothing
            for at in range(0, len(ids), self.chunk):
                part = ids[at : at + self.chunk]
                self._fill([(self._own, part, start + at, 0)])
                view = partial(self.backend.read, rows=len(part))
                for i in self.program.own:
                    watch(self.program.code[i], view)
                    self.backend.run(self._batch, i)
                self._own.cached = start + at + len(part)
            self._own.source, self._kept = None, 0

        self._within(watched)

    # ------------------------------------------------------------------------------------------------ results

    @property
    def logits(self) -> NDArray[np.float32]:
        """[n_logits, n_vocab] of the last pass: perhaps a view, which the next overwrites."""
        return self.backend.read(self.program.output, self._kept)

    @property
    def hidden(self) -> NDArray[np.float32]:
        """[n_logits, d_model] after the final norm: perhaps a view, which the next pass overwrites."""
        return self.backend.read(self.program.hidden, self._kept)

    @property
    def argmax(self) -> int:
        """Greedy id of the last row, the first of equals; -1 where one of its logits is NaN."""
        return self.backend.argmax(self._batch)

    def rest(self) -> None:
        """Have no thread look for work until the next pass: what another model is timed next to must be idle."""
        self.held(self.backend.rest)

    def close(self, then: Callable[[], None] = lambda: None) -> None:
        """Wait for the pass that runs, then stop; what would go on gets an `InputError`. Harmless when done twice.

        `then` is called with the lock held.
        """

        def stopped() -> None:
            self._closed = self._closed or "this model was closed; load it again"
            if self.backend.survives_fork or os.getpid() == self._process:
                self.backend.close()
            then()

        self.held(stopped)

    def after_fork(self) -> None:
        """In the child: a change of pages may be half done, and nobody waits."""
        if self.engine is not None:
            self.engine.after_fork()
        self.last = self.ahead_of = None
        self.pages.torn = True
        for table in self.pages.tables:
            table.waiting.clear()
        if self.sources is not None:
            self.sources.after_fork()
        if not self.backend.survives_fork:
            self._closed = f"this process was forked, and {self.backend.name} does not work in a child; load it here"


_SESSIONS: Living[Session] = Living()


def _after_fork() -> None:
    for session in _SESSIONS:
        session.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
