"""A run over one or more files in parts, which are done in any order and added to each file's output in theirs.

The journal of an output is that of a run without parts: either goes on where the other was stopped. What is not added
yet lies next to it, in `OUTPUT.parts`, with journals of its own; a run that is taken up again uses what fits.
"""

from __future__ import annotations

import hashlib
import shutil
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ...dataclass import dataclass
from ...errors import InputError, MiaotuiError
from .journal import Commit
from .outputs import named
from .parts import Part, progress_of, unreadable
from .records import Place, Records
from .work import Run, journal_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from .records import Format

__all__ = ["Divided", "Source", "parts_of"]

#: A part has this share of its file, within these bounds in bytes.
SHARE, SMALLEST, LARGEST = 32, 2**14, 2**20
#: Parts that may be handed out before the first of them is done.
AHEAD = 256


@dataclass(frozen=True)
class Source:
    """A file to read, what it holds, and where its results and bad lines go. `name`: how errors call it."""

    path: Path
    form: Format
    output: Path
    errors: Path | None
    name: str


def parts_of(output: Path) -> Path:
    """The directory of what is done and not added yet."""
    return output.with_name(f"{output.name}.parts")


@dataclass
class _File:
    """One that is being done. `out`: parts that are handed out and not added."""

    source: Source
    run: Run
    closing: ExitStack
    out: int = 0
    whole: bool = False


class Divided:
    """`parts` to do, and `take` for what became of each. Close it, or use it as a context manager."""

    def __init__(
        self, sources: list[Source], about: Callable[[Source], Mapping[str, Any]], *, restart: bool = False
    ) -> None:
        """`about`: what the results of a file depend on."""
        self._sources, self._about, self._restart = sources, about, restart
        self._out: dict[int, tuple[_File, Part]] = {}  # handed out and not added, by number
        self._ended: dict[int, tuple[Part, Commit | MiaotuiError]] = {}
        self._given = self.added = 0
        self._failed = False
        self._opened: list[_File] = []
        #: Parts that are added; where files were, and are: sums over those that were begun.
        self.begun = self.now = Commit()

    def parts(self) -> Iterator[Part | None]:
        """In order; None while too many are not done yet. Errors: `InputError` of files and their journals."""
        for source in self._sources:
            file, records = self._begin(source)
            share = source.path.stat().st_size // SHARE
            size = min(max(1 << share.bit_length(), SMALLEST), LARGEST)
            for piece in records.pieces(size):
                while self._given - self.added >= AHEAD:
                    yield None
                if self._failed:
                    return
                folder, start = parts_of(source.output), piece.start.offset
                errors = None if source.errors is None else folder / f"{start}.bad.jsonl"
                part = Part(
                    self._given, source.path, source.name, source.form, tuple(records.columns), piece,
                    folder / f"{start}.jsonl", errors, self._about(source),
                )  # fmt: skip
                with named(f"--output {source.output}: its parts {folder.name}"):
                    folder.mkdir(exist_ok=True)
                self._out[part.number] = file, part
                self._given, file.out = self._given + 1, file.out + 1
                yield part
            file.whole = True
            self._end(file)

    def _begin(self, source: Source) -> tuple[_File, Records]:
        with ExitStack() as closing:
            try:
                stream = closing.enter_context(source.path.open("rb"))
            except OSError as e:
                raise unreadable(source.path, e) from e
            records = Records(stream, source.form, source.name)
            run = closing.enter_context(Run(source.output, source.errors, self._about(source), restart=self._restart))
            if not run.journaled:
                msg = f"--output {source.output}: it is no regular file, which workers need; leave --workers out"
                raise InputError(msg)
            if self._restart:
                shutil.rmtree(parts_of(source.output), ignore_errors=True)
            run.begin(records)
            self.begun, self.now = _sum(self.begun, run.begun), _sum(self.now, run.now)
            file = _File(source, run, closing.pop_all())
            self._opened.append(file)
            return file, records

    def take(self, part: Part, result: Commit | MiaotuiError) -> None:
        """Add what is next in order. Errors: that of the first part in order that failed, after those before it."""
        self._ended[part.number] = part, result
        self._failed = self._failed or isinstance(result, MiaotuiError)
        while self.added in self._ended:
            part, result = self._ended.pop(self.added)
            file, _ = self._out.pop(part.number)
            if isinstance(result, MiaotuiError):
                self._add_begun(file, part)
                raise result
            self._add(file, part, result, part.piece.end)
            self.added, file.out = self.added + 1, file.out - 1
            self._end(file)

    def kept(self) -> Commit:
        """All that is done, what is not added too."""
        total = self.now
        for _, part in self._out.values():
            total = _sum(total, progress_of(part) or Commit())
        return total

    def _add(self, file: _File, part: Part, came_to: Commit, place: Place) -> None:
        before = file.run.now
        file.run.add(came_to, part.output, part.errors, place)
        self.now = _sum(self.now, file.run.now, before)
        for path in (part.output, journal_of(part.output), part.errors):
            if path is not None:
                with suppress(OSError):
                    path.unlink(missing_ok=True)

    def _add_begun(self, file: _File, part: Part) -> None:
        """What was done of a part before it failed."""
        came_to = progress_of(part)
        if came_to is None or not came_to.place.offset:
            return
        offset = part.piece.start.offset + came_to.place.offset
        self._add(file, part, came_to, Place(offset, came_to.place.lines, _hashed(part.source, offset)))

    def _end(self, file: _File) -> None:
        """Close a file of which nothing is left."""
        if file.whole and not file.out:
            shutil.rmtree(parts_of(file.source.output), ignore_errors=True)
            self._opened.remove(file)
            file.closing.close()

    def close(self) -> None:
        """Close the files that are open; what is not added is kept."""
        while self._opened:
            self._opened.pop().closing.close()

    def __enter__(self) -> Self:
        """Use as a context manager."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close; after an error, keep what is done."""
        while self._opened:
            self._opened.pop().closing.__exit__(kind, error, traceback)


def _sum(one: Commit, other: Commit, less: Commit | None = None) -> Commit:
    """Records, bytes and seconds of two, less those of a third that is in both."""
    less = Commit() if less is None else less
    place = Place(
        one.place.offset + other.place.offset - less.place.offset,
        one.place.lines + other.place.lines - less.place.lines,
    )
    return replace(one, place=place, good=one.good + other.good - less.good, bad=one.bad + other.bad - less.bad)


def _hashed(file: Path, size: int) -> str:
    """The SHA-256 of a file's first bytes. `InputError`."""
    total = hashlib.sha256()
    try:
        with file.open("rb") as f:
            while size and (piece := f.read(min(size, LARGEST))):
                total.update(piece)
                size -= len(piece)
    except OSError as e:
        raise unreadable(file, e) from e
    return total.hexdigest()
