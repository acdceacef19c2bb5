"""Records through a function and into files: in order, a chunk at a time, and to be taken up again after a kill.

A chunk's results are written, as they come, before the next chunk is read; about once a second what was written is
flushed to the disk and the journal told. `predict` must give a record the same result in any company: ours do
(docs/decisions.md), so that a run that goes on elsewhere than an unbroken one would has the same output.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ...errors import InputError
from ...loader.files import quote, reason
from .journal import Commit, Journal, read_journal
from .outcomes import error_line, outcomes
from .outputs import Output, named

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from .inputs import Inputs
    from .outcomes import Outcome, Predict
    from .records import Place, Record, Records

__all__ = ["Run", "journal_of"]

#: A chunk: this many records, or bytes; and bytes of results that are written at a time.
CHUNK, CHUNK_BYTES = 256, 2**20
ERRORS = "--errors"
#: Seconds between two commits.
EVERY = 1.0


class Run:
    """A run that is begun, or taken up again; close it, or use it as a context manager.

    `output` None: standard output. What is not a regular file has no journal, and is never taken up again.
    """

    def __init__(
        self,
        output: Path | None,
        errors: Path | None,
        about: Mapping[str, Any],
        *,
        restart: bool = False,
        waits: bool = False,
    ) -> None:
        """`about`: what the results depend on. `InputError`: an output of another run, or one without a journal.

        `waits`: as `Output` has it.
        """
        self._closing = ExitStack()
        self._waits = waits
        with self._closing:
            self._output = self._opened(output, "--output")
            self._errors = None if errors is None else self._opened(errors, ERRORS)
            self._journal: Journal | None = None
            named_errors = None if output is None or errors is None else os.path.relpath(errors, output.parent)
            self._about = {**about, ERRORS: named_errors}
            self.begun = self.now = self._found(self._about, restart=restart)
            self._clock = time.monotonic()
            self._closing = self._closing.pop_all()

    def _opened(self, path: Path | None, option: str) -> Output:
        output = Output(path, option, waits=self._waits)
        self._closing.callback(output.close)
        return output

    def _found(self, about: Mapping[str, Any], *, restart: bool) -> Commit:
        """Where an earlier run ended; the beginning where there was none."""
        outputs = [self._output, *([self._errors] if self._errors else [])]
        if not self._output.regular or restart:
            return Commit()
        journal = read_journal(self._journal_file)
        begun, mine = (journal[1], journal[0].get(ERRORS) is not None) if journal else (Commit(), False)
        for output in outputs if journal is None else outputs[1:] if not mine else []:
            if output.size:
                where = f"{self._journal_file.name} {'is missing' if journal is None else 'knows nothing of it'}"
                msg = (
                    f"{output.option}: it is there, and no run that can go on wrote it ({where}); name another file, "
                    "or write over it with --restart"
                )
                raise InputError(msg)
        if journal is not None and begun.place.offset:  # one that did nothing yet may be begun with anything
            _check_same(journal[0], about, self._journal_file)
            self._check_lengths(begun)
        return begun

    @property
    def journaled(self) -> bool:
        """Whether it can be taken up again."""
        return self._output.regular

    @property
    def _journal_file(self) -> Path:
        path = self._output.path
        assert path is not None  # noqa: S101 - a regular output has one
        return journal_of(path)

    def _check_lengths(self, begun: Commit) -> None:
        """What was on the disk once must still be there."""
        for output, size in ((self._output, begun.output), (self._errors, begun.errors)):
            if output is not None and output.regular and output.size < size:
                msg = (
                    f"{output.option}: has {output.size:,} bytes, and the run had written {size:,}; something else "
                    "changed it. Begin again with --restart"
                )
                raise InputError(msg)

    def begin(self, records: Records) -> None:
        """Pass over what was read before, and cut what no commit knows. Nothing on the disk changes before this."""
        if self.begun.place.offset:
            records.go_to(self.begun.place)
        self._cut()
        if self._output.regular:
            self._journal = Journal(self._journal_file, self._about, self.begun)
            self._closing.callback(self._journal.close)

    def _cut(self) -> None:
        self._output.cut(self.now.output)
        if self._errors is not None:
            self._errors.cut(self.now.errors)

    def work(
        self,
        records: Records,
        inputs: Inputs,
        predict: Predict,
        *,
        careful: bool = False,
        spoilt: Mapping[int, str] | None = None,
    ) -> Iterator[Commit]:
        """Do it; where it is after each chunk. Errors: `InputError` for a bad record, unless errors are kept apart.

        `careful`: a record at a time, each on the disk before the next is begun. `spoilt`: what is wrong with records
        that are not to be tried, by line.
        """
        self._clock = last = time.monotonic()
        for chunk in _chunks(records, 1 if careful else CHUNK):
            ready: list[Outcome] = []
            for outcome in outcomes([_spoilt(record, spoilt) for record in chunk], inputs, predict):
                if outcome.wrong is not None and self._errors is None:
                    self._write(ready)
                    where = f"{records.name}, line {outcome.record.line}"
                    msg = f"{where}: {outcome.wrong}; --errors FILE keeps such lines apart"
                    raise InputError(msg)
                ready.append(outcome)
                if sum(len(o.line) for o in ready) >= CHUNK_BYTES:
                    self._write(ready)
                    ready = []
            self._write(ready)
            if careful or time.monotonic() - last >= EVERY:
                self.commit()
                last = time.monotonic()
            yield self.now
        self.commit()

    def _write(self, outcomes: Sequence[Outcome]) -> None:
        """As many as there is room for; `now` tells of those alone that are whole."""
        if not outcomes:
            return
        good = [o for o in outcomes if o.wrong is None]
        bad = [o for o in outcomes if o.wrong is not None]
        self._output.write(b"".join(o.line for o in good))
        if self._errors is not None:
            self._errors.write(b"".join(map(error_line, bad)))
        self.now = Commit(
            outcomes[-1].record.after,
            self.now.good + len(good),
            self.now.bad + len(bad),
            self._output.size,
            0 if self._errors is None or not self._errors.regular else self._errors.size,
            self.begun.seconds + time.monotonic() - self._clock,
        )

    def add(self, part: Commit, output: Path, errors: Path | None, place: Place) -> None:
        """Add what another run made of the records up to `place`, and have the disk hold it. `InputError`."""
        for mine, other, size in ((self._output, output, part.output), (self._errors, errors, part.errors)):
            if mine is not None and other is not None and size:
                for piece in _pieces(other, size):
                    mine.write(piece)
        self.now = Commit(
            place,
            self.now.good + part.good,
            self.now.bad + part.bad,
            self._output.size,
            0 if self._errors is None or not self._errors.regular else self._errors.size,
            self.begun.seconds + time.monotonic() - self._clock,
        )
        self.commit()

    def commit(self) -> None:
        """Have the disk hold what is done, and then the journal say so."""
        self._output.flush()
        if self._errors is not None:
            self._errors.flush()
        if self._journal is not None:
            with named(f"--output {self._output.path}: its journal {self._journal.file.name}"):
                self._journal.commit(self.now)

    def close(self) -> None:
        """Close the files."""
        self._closing.close()

    def __enter__(self) -> Self:
        """Use as a context manager."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close; after an error, or Ctrl-C, keep what is done."""
        if error is not None and self._journal is not None:
            with suppress(InputError):  # the disk is full: an earlier commit stands
                self._cut()
                self.commit()
        self.close()


def journal_of(output: Path) -> Path:
    """Where the journal of an output lies."""
    return output.with_name(f"{output.name}.journal")


def _pieces(file: Path, size: int) -> Iterator[bytes]:
    """The first `size` bytes of a file. `InputError`: it is shorter, or cannot be read."""
    try:
        with file.open("rb") as f:
            while size and (piece := f.read(min(size, CHUNK_BYTES))):
                size -= len(piece)
                yield piece
    except OSError as e:
        msg = f"{quote(str(file), 300)}: cannot be read ({reason(e)})"
        raise InputError(msg) from e
    if size:
        msg = f"{quote(str(file), 300)}: {size:,} bytes are gone; something else changed it. Give the command again"
        raise InputError(msg)


def _check_same(then: Mapping[str, Any], now: Mapping[str, Any], journal: Path) -> None:
    """That what the results depend on is what it was. `InputError` names what is not."""
    for name in {**then, **now}:
        if then.get(name) != now.get(name) and not (name == ERRORS and then.get(name) is None):
            msg = (
                f"{name}: {_told(now.get(name))}, and the output was begun with {_told(then.get(name))} "
                f"({journal.name}); give the same, name another --output, or begin again with --restart"
            )
            raise InputError(msg)


def _told(value: object) -> str:
    return "nothing" if value is None else value if isinstance(value, str) else json.dumps(value)


def _spoilt(record: Record, spoilt: Mapping[int, str] | None) -> Record:
    return replace(record, wrong=spoilt[record.line]) if spoilt and record.line in spoilt else record


def _chunks(records: Iterator[Record], most: int) -> Iterator[list[Record]]:
    chunk: list[Record] = []
    size = 0
    for record in records:
        chunk.append(record)
        size += len(record.raw)
        if len(chunk) >= most or size >= CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
