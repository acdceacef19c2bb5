"""Passes of whole texts through the encoder's part of a program: end to end, each of which sees itself alone."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from .kvcache import KEYS, PAGE, padded
from .memory import float_rows
from .step import Batch

if TYPE_CHECKING:
    from collections.abc import Sequence as Ids

    from numpy.typing import NDArray

    from .backend import Backend
    from .encoding import Whole
    from .program import Program
    from .session import Watch

__all__ = ["WholePasses"]


class WholePasses:
    """The encoder of a program on a backend. The keys and values of a pass lie in pages of its own, which it reuses."""

    def __init__(self, program: Program, backend: Backend) -> None:
        """`program` has an encoder."""
        part = program.encoding
        assert part is not None  # noqa: S101 - the caller has seen it
        self._part, self._program, self._backend = part, program, backend
        self.chunk, self.n_vocab, self.n_kept = part.chunk, part.n_vocab, part.n_kept
        self._batch = Batch(part.chunk, program.n_logits, program.padding)
        pages = np.arange(part.n_pages, dtype=np.int32)
        self._table = np.tile(pages, (max(1, part.n_groups), 1))  # a group's layers reach the same pages of their pools
        if program.n_once:
            batch = Batch(program.once_rows, 1)
            batch.add_whole(range(program.once_rows), None, 0, int(self._table.ctypes.data))
            backend.run(batch, range(program.n_once))

    def fitting(self, lengths: Ids[int]) -> int:
        """How many of the first texts of these lengths are one pass."""
        n = np.array(lengths, np.int64)
        slots = -(-n // KEYS) * KEYS
        fits = (np.cumsum(n) <= self.chunk) & (np.cumsum(slots) <= self._part.n_pages * PAGE)
        return int(fits.sum())

    def _fill(self, texts: Ids[Whole], tables: Ids[int] = ()) -> None:
        self._batch.clear()
        slot, address = 0, int(self._table.ctypes.data)
        for i, text in enumerate(texts):
            own, causal = tables[i] if tables else 0, self._part.causal
            self._batch.add_whole(text.ids, text.types, slot, address, own, causal=causal, adapter=text.adapter)
            slot += padded(len(text.ids))

    def hidden(self, texts: Ids[Whole]) -> NDArray[np.float32]:
        """float32 [tokens of all, d_model], end to end: a view, which the next pass overwrites."""
        self._fill(texts)
        self._backend.run(self._batch, range(self._program.n_once, self._part.end))
        return self._backend.read(self._part.hidden, self._batch.n_tokens)

    def watched(self, texts: Ids[Whole], watch: Watch) -> NDArray[np.float32]:
        """As `hidden`, an instruction at a time: `watch` is called before each one (`Session.watched_step`)."""
        self._fill(texts)
        view = partial(self._backend.read, rows=self._batch.n_tokens)
        for i in range(self._part.end):
            watch(self._program.code[i], view)
            self._backend.run(self._batch, i)
        return view(self._part.hidden)

    def remember(self, texts: Ids[Whole], tables: Ids[int]) -> None:
        """Write what a decoder reads of each text into the pages of the table at its address."""
        self._fill(texts, tables)
        self._backend.run(self._batch, range(self._program.n_once, self._program.begins))

    def scores(self, texts: Ids[Whole], rows: Ids[int]) -> NDArray[np.float32]:
        """float32 [rows, n_out]: what the head gives for these tokens of the pass, a copy."""
        self._fill(texts)
        output, most = self._program.output, self._program.n_logits
        out = float_rows(len(rows), output.width, "logits")
        for at in range(0, len(rows), most):
            part = rows[at : at + most]
            self._batch.ask(part)
            first = self._program.begins if at else self._program.n_once
            self._backend.run(self._batch, range(first, len(self._program.code)))
            out[at : at + len(part)] = self._backend.read(output, len(part))
        return out
