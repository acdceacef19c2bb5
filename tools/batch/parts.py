"""A part of a file, done by itself: its records through a task into files of its own, to be taken up after a kill."""

from __future__ import annotations

import io
from contextlib import ExitStack, suppress
from typing import IO, TYPE_CHECKING, Any

from ...dataclass import dataclass
from ...errors import InputError
from ...loader.files import quote, reason
from .journal import read_journal
from .records import Before, Piece, Records
from .work import Run, journal_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from .inputs import Inputs
    from .journal import Commit
    from .outcomes import Predict
    from .records import Format

__all__ = ["Part", "do_part", "progress_of", "unreadable"]


@dataclass(frozen=True)
class Part:
    """`piece` of `source`, the `number`th of a run; `output` and `errors`: where its own results go for now.

    `about`: what these depend on, as the whole run's.
    """

    number: int
    source: Path
    name: str
    form: Format
    columns: tuple[str, ...]
    piece: Piece
    output: Path
    errors: Path | None
    about: Mapping[str, Any]

    @property
    def size(self) -> int:
        """Bytes of it."""
        return self.piece.end.offset - self.piece.start.offset

    def records(self) -> tuple[IO[bytes], Records]:
        """It alone, opened. `InputError`."""
        try:
            stream: IO[bytes] = io.BufferedReader(_Window(self.source, self.piece.start.offset, self.size))
        except OSError as e:
            raise unreadable(self.source, e) from e
        before = Before(self.piece.start.lines, self.columns)
        return stream, Records(stream, self.form, self.name, skips=self.errors is not None, before=before)


class _Window(io.RawIOBase):
    """Some bytes of a file, as a file."""

    def __init__(self, file: Path, start: int, size: int) -> None:
        """OSError."""
        super().__init__()
        self._file, self._left = file.open("rb", buffering=0), size
        self._file.seek(start)

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - a buffer
        """As many of the next bytes as there are."""
        data = self._file.read(min(len(buffer), self._left))
        buffer[: len(data)] = data
        self._left -= len(data)
        return len(data)

    def close(self) -> None:
        """Close the file."""
        if not self.closed:
            self._file.close()
        super().close()


def do_part(  # noqa: PLR0913 - what a worker knows, and what it is told
    part: Part,
    inputs: Inputs,
    predict: Predict,
    *,
    step: Callable[[Commit], None],
    careful: bool = False,
    spoilt: Mapping[int, str] | None = None,
) -> Commit:
    """Do it, from where an earlier try ended; `step` hears how far it is. What it came to.

    `careful`, `spoilt`: as `Run.work` has them. Errors: `InputError` for a bad record, where errors are not kept apart;
    what `predict` raises.
    """
    with ExitStack() as opened:
        run, records = _begun(part, opened)
        for now in run.work(records, inputs, predict, careful=careful, spoilt=spoilt):
            step(now)
        if (records.place.offset, records.place.sha256) != (part.size, part.piece.sha256):
            lines = f"{part.piece.start.lines + 1:,} to {part.piece.end.lines:,}"
            msg = f"{part.name}, lines {lines}: changed while they were read; give the command again with --restart"
            raise InputError(msg)
        return run.now


def _begun(part: Part, opened: ExitStack) -> tuple[Run, Records]:
    """Taken up where an earlier try ended, if that was of the same bytes and options; else from its start."""
    for restart in (False, True):
        with ExitStack() as closing:
            stream, records = part.records()
            closing.enter_context(stream)
            try:
                run = closing.enter_context(Run(part.output, part.errors, part.about, restart=restart, waits=True))
                run.begin(records)
            except InputError:
                if restart:
                    raise
            else:
                opened.push(closing.pop_all())
                return run, records
    raise AssertionError  # the second try returns or raises


def progress_of(part: Part) -> Commit | None:
    """How far an earlier try came, as its journal says; None where there is none."""
    with suppress(InputError):
        found = read_journal(journal_of(part.output))
        return None if found is None else found[1]
    return None


def unreadable(file: Path, e: OSError) -> InputError:
    """The error for an input that cannot be opened."""
    return InputError(f"--input {quote(str(file), 300)[1:-1]}: cannot be read ({reason(e)})")
