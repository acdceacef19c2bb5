"""Records of a file or a pipe, one after the other: lines of text, JSON values a line, rows of CSV.

A record that cannot be read is a record too, with its number and what is wrong, so that its reader can keep it apart.
What was read is hashed as it goes: where a run is taken up again, the same bytes must stand before that place.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections import deque
from dataclasses import field, replace
from typing import IO, TYPE_CHECKING, Any, Literal

from ...dataclass import dataclass
from ...errors import InputError
from ...loader.files import quote, reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

__all__ = ["ENDINGS", "FORMATS", "MOST", "Before", "Format", "Piece", "Place", "Record", "Records", "format_of"]

Format = Literal["txt", "jsonl", "csv", "tsv"]
FORMATS: tuple[Format, ...] = ("txt", "jsonl", "csv", "tsv")
#: Most bytes of a record; what is longer is passed over, a piece at a time, and counts as bad.
MOST = 2**22
PIECE = 2**20
UNENDED = "unexpected end of data"  # what the parser says inside quotation marks
MARK = b"\xef\xbb\xbf"  # that some editors put before UTF-8
ENDINGS: dict[str, Format] = {
    ".txt": "txt", ".text": "txt", ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "tsv",
}  # fmt: skip


@dataclass(frozen=True)
class Place:
    """How far a source was read: its bytes and lines before the next record, and the SHA-256 of those bytes."""

    offset: int = 0
    lines: int = 0
    sha256: str = hashlib.sha256().hexdigest()


@dataclass(frozen=True)
class Piece:
    """Whole records that follow each other: from where to where, and the SHA-256 of these bytes alone."""

    start: Place
    end: Place
    sha256: str


@dataclass(frozen=True)
class Before:
    """What stands before a piece that is read by itself: lines, and the columns' names of CSV."""

    lines: int
    columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class Record:
    """`line`: the number of its first line, from 1; `value`: a text, or fields by name; `wrong`: why there is none.

    `after`: the place after it.
    """

    line: int
    raw: bytes
    value: Any = None
    wrong: str | None = None
    after: Place = field(default_factory=Place)


def format_of(path: Path, asked: str | None) -> Format:
    """What a file holds: what was asked for, or what its name's ending says. `InputError` where neither tells."""
    told = asked or ENDINGS.get(path.suffix.lower())
    if told not in FORMATS:
        msg = (
            f"--input {path}: {quote(path.suffix) if path.suffix else 'no ending'} does not tell its format; expected "
            f"{', '.join(f'.{name}' for name in FORMATS)}, or name one with --format"
        )
        raise InputError(msg)
    return told


class Records:
    """An iterator of `Record` over a binary stream."""

    def __init__(
        self, stream: IO[bytes], form: Format, name: str, *, skips: bool = True, before: Before | None = None
    ) -> None:
        """`name`: what errors call it. Reads the header of CSV.

        `skips`: read on after a line that is too long; False: whoever meets a bad record stops there. `before`: the
        stream is a piece of a file; its places count lines from the file's start and bytes from its own.

        Errors: `InputError`: no header, or one that makes no sense.
        """
        self._stream, self._form, self.name = stream, form, name
        self._skips = skips
        self._pending: deque[bytes] = deque()
        self._hash, self._offset, self._lines, self._ends = hashlib.sha256(), 0, 0, True
        self._alone = hashlib.sha256()
        self.columns: list[str] = []
        if before is not None:
            self._lines, self.columns = before.lines, list(before.columns)
            return
        first = self._line()
        if first.startswith(MARK):
            self._took(MARK, 0)
            first = first[len(MARK) :]
        if first:
            self._pending.appendleft(first)
        if form in ("csv", "tsv"):
            self.columns = self._header()

    @property
    def place(self) -> Place:
        """How far it is."""
        return Place(self._offset, self._lines, self._hash.hexdigest())

    def go_to(self, place: Place) -> None:
        """Pass over what was read before. `InputError`: other bytes stand there now, or fewer."""
        changed = f"--input {self.name}: not what it was when the output was begun"
        end = "give the same input, or begin again with --restart"
        while self._offset < place.offset:
            piece = self._bytes(place.offset - self._offset)
            if not piece:
                msg = f"{changed}: {place.offset:,} bytes were read, and it has {self._offset:,} now; {end}"
                raise InputError(msg)
            self._took(piece, 0)
        self._lines = place.lines
        if self._offset != place.offset or self._hash.hexdigest() != place.sha256:
            msg = f"{changed}: other text stands in its first {place.lines:,} lines; {end}"
            raise InputError(msg)
        if not self._ends and (more := self._line()):
            self._pending.appendleft(more)
            msg = f"{changed}: its line {place.lines:,}, the last one then, is longer now; {end}"
            raise InputError(msg)

    def pieces(self, size: int) -> Iterator[Piece]:
        """What is left, unparsed: pieces of this many bytes, or a little more where a record would be torn."""
        while True:
            start, self._alone = self.place, hashlib.sha256()
            while self._offset - start.offset < size and (line := self._line()):
                if self.columns:
                    self._row(line)
                elif len(line) > MOST:
                    self._pass_over(line)
                else:
                    self._took(line, 1)
            if self._offset == start.offset:
                return
            yield Piece(start, self.place, self._alone.hexdigest())

    def __iter__(self) -> Iterator[Record]:
        """Itself: it is read once."""
        return self

    def __next__(self) -> Record:
        """The next record; empty lines of JSON and CSV are passed over."""
        while line := self._line():
            record = self._row(line) if self.columns else self._one(line)
            if record is not None:
                return replace(record, after=self.place)
        raise StopIteration

    def _one(self, line: bytes) -> Record | None:
        """A line of text or JSON."""
        number = self._lines + 1
        if len(line) > MOST:
            return self._too_long(number, line)
        self._took(line, 1)
        bare = line.removesuffix(b"\n").removesuffix(b"\r")
        if self._form == "jsonl" and not bare.strip():
            return None
        return _read(number, bare, _json if self._form == "jsonl" else str)

    def _row(self, line: bytes) -> Record | None:
        """A row of CSV, over lines inside quotation marks too; a mark that none ends spoils its line alone."""
        number, taken = self._lines + 1, [line]

        def lines() -> Iterator[str]:
            """As the parser asks for them."""
            yield line.decode("utf-8")
            while sum(map(len, taken)) <= MOST and (more := self._line()):
                taken.append(more)
                yield more.decode("utf-8")

        if len(line) > MOST:
            return self._too_long(number, line)
        record = _read(number, line, lambda _: self._fields(lines()))
        if record.wrong == UNENDED:
            self._pending.extendleft(reversed(taken[1:]))
            del taken[1:]
            record = Record(number, line, wrong='a quotation mark (") that none ends')
        raw = b"".join(taken)
        self._took(raw, len(taken))
        return Record(number, raw.rstrip(b"\r\n"), record.value, record.wrong) if raw.strip(b"\r\n") else None

    def _fields(self, lines: Iterator[str]) -> dict[str, str]:
        fields = _cells(lines, self._form)
        if len(fields) != len(self.columns):
            n = len(fields)
            msg = f"{n} field{'' if n == 1 else 's'}, where the header has {len(self.columns)}"
            raise ValueError(msg)
        return dict(zip(self.columns, fields, strict=True))

    def _header(self) -> list[str]:
        self.columns = [""]
        record = None
        while record is None and (line := self._line()):
            number, raw = self._lines + 1, line
            self._took(raw, 1)
            record = (
                _read(number, raw.rstrip(b"\r\n"), lambda text: _cells([text], self._form)) if raw.strip() else None
            )
        if record is None:
            msg = f"{self.name}: it is empty; expected a first line with the columns' names"
            raise InputError(msg)
        names = record.value or []
        if record.wrong or len(set(names)) < len(names) or not all(names):
            what = record.wrong or f"expected a name for each column, each once, found {quote(names, 200)}"
            msg = f"{self.name}, line {record.line}, the columns' names: {what}"
            raise InputError(msg)
        return names

    def _too_long(self, number: int, line: bytes) -> Record:
        if self._skips:
            self._pass_over(line)
        return Record(number, line[:MOST], wrong=f"the line has more than {MOST:,} bytes")

    def _pass_over(self, start: bytes) -> None:
        """Read to the end of a line that is too long to keep."""
        while True:
            self._took(start, 0)
            if start.endswith(b"\n") or not (start := self._line()):
                self._lines += 1
                return

    def _line(self) -> bytes:
        """The next line with its end, or a piece of a longer one; b"" at the end. It is not counted yet."""
        return self._pending.popleft() if self._pending else self._asked(self._stream.readline, MOST + 1)

    def _bytes(self, n: int) -> bytes:
        if not self._pending:
            return self._asked(self._stream.read, min(n, PIECE))
        piece = self._pending.popleft()
        if len(piece) > n:
            self._pending.appendleft(piece[n:])
        return piece[:n]

    def _asked(self, read: Callable[[int], bytes], n: int) -> bytes:
        try:
            return read(n)
        except OSError as e:
            msg = f"{self.name}: cannot be read after byte {self._offset:,} ({reason(e)})"
            raise InputError(msg) from e

    def _took(self, data: bytes, lines: int) -> None:
        self._hash.update(data)
        self._alone.update(data)
        self._offset += len(data)
        self._lines += lines
        self._ends = data.endswith(b"\n") if data else self._ends


def _read(number: int, raw: bytes, parse: Callable[[str], Any]) -> Record:
    try:
        return Record(number, raw, parse(raw.decode("utf-8")))
    except UnicodeDecodeError as e:
        return Record(number, raw, wrong=f"byte {e.start} (0x{raw[e.start]:02x}) is not UTF-8")
    except RecursionError:
        return Record(number, raw, wrong="JSON is nested too deep")
    except (ValueError, csv.Error) as e:
        return Record(number, raw, wrong=str(e))


def _json(text: str) -> Any:  # noqa: ANN401 - JSON
    """Strictly: no key twice, no NaN."""
    try:
        return json.loads(text, parse_constant=_constant, object_pairs_hook=_object)
    except json.JSONDecodeError as e:
        msg = f"not valid JSON ({e.msg} at character {e.pos})"
        raise ValueError(msg) from None


def _object(items: list[tuple[str, Any]]) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for name, value in items:
        if name in table:
            msg = f"the key {quote(name)} is given twice"
            raise ValueError(msg)
        table[name] = value
    return table


def _constant(name: str) -> float:
    msg = f"{name} is no JSON number"
    raise ValueError(msg)


def _cells(lines: Iterable[str], form: str) -> list[str]:
    csv.field_size_limit(max(csv.field_size_limit(), MOST))  # 128 KiB otherwise
    return next(csv.reader(lines, delimiter="\t" if form == "tsv" else ",", strict=True))
