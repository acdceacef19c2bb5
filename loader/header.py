"""The safetensors header: parsed, checked, and nothing after it read.

A file is: 8 bytes, the header's length n (unsigned, little-endian); n bytes of JSON; the data section. The JSON maps a
tensor's name to `{"dtype", "shape", "data_offsets": [begin, end]}`, offsets counted from the start of the data section,
and `__metadata__` to strings. The ranges must tile the data section: no overlap, no gap, nothing after the last.

Format: https://huggingface.co/docs/safetensors. Errors: `CheckpointError`, always. Nothing is allocated from a length
that the file claims before that length was compared with the file's size.
"""

from __future__ import annotations

import json
import math
import os
import re
import sys
from dataclasses import dataclass
from json.decoder import scanstring  # type: ignore[attr-defined]  # the stubs lack it
from typing import TYPE_CHECKING, ClassVar

from ..errors import CheckpointError
from .files import looks_like, parse_json, quote, reason, regular_size

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

__all__ = ["DTYPES", "MAX_HEADER", "Header", "TensorInfo", "read_header"]

#: safetensors dtype name -> bytes per element. The 4- and 6-bit types have no whole bytes and are refused by name.
DTYPES: dict[str, int] = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "C64": 8,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
}  # fmt: skip

MAX_HEADER = 100_000_000  # the format's own limit
MAX_RANK = 32  # NumPy 1's limit; no checkpoint comes near
MAX_COUNT = 2**63 - 1  # sizes must fit a signed 64-bit address

_PREFIX = 8
_ENTRY_KEYS = {"dtype", "shape", "data_offsets"}
#: Characters of a tensor's entry, at most, where the header is as it should be: 32 sizes take a quarter.
_ENTRY = 4096
_METADATA = "__metadata__"
_SPACE = re.compile(r"[ \t\n\r]*")


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor's place: bytes `start` to `stop` of `file`, counted from the start of the file.

    `coded`: a matrix that others quantised, of several tensors (`foreign/coded.py`).
    """

    coded: ClassVar[bool] = False

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int
    file: Path

    @property
    def nbytes(self) -> int:
        """Size in bytes: elements times bytes per element."""
        return self.stop - self.start

    @property
    def pieces(self) -> tuple[TensorInfo, ...]:
        """The tensors of the file that it stands for: itself."""
        return (self,)

    @property
    def stored_as(self) -> str:
        """What its numbers are in the file, in words."""
        return self.dtype


@dataclass(frozen=True)
class Header:
    """One safetensors file: tensors in the order of their data, and the file's size when it was read."""

    file: Path
    tensors: dict[str, TensorInfo]
    metadata: dict[str, str]
    data_start: int
    file_bytes: int


def read_header(path: Path) -> Header:
    """Read and check one file's header. Only the 8 bytes and the header itself are read."""
    size = regular_size(path)
    try:
        with path.open("rb", buffering=0) as f:
            if hasattr(os, "posix_fadvise"):  # the system would read on into tensors that nobody may want
                os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
            start = f.read(512)
            length = _header_length(path, size, start)
            f.seek(_PREFIX)
            raw = f.read(length)
    except OSError as e:
        msg = f"{path}: cannot be read ({reason(e)})"
        raise CheckpointError(msg) from e
    if len(raw) != length:
        msg = f"{path}: the file became shorter while it was read"
        raise CheckpointError(msg)
    if not raw.startswith(b"{"):
        msg = f"{path}: the header must begin with '{{', found {quote(raw[:16])}; {_AGAIN}"
        raise CheckpointError(msg)
    data_start = _PREFIX + length
    try:
        tensors, metadata = _made(path, _entries(raw.decode("utf-8")), data_start, size)
        by_name = {t.name: t for t in tensors}
        plain = len(by_name) == len(tensors)
    except (ValueError, IndexError, RecursionError):
        plain = False
    if not plain:  # then as any JSON: that says what is wrong
        table = parse_json(raw, f"{path}: header", CheckpointError)
        tensors, metadata = _made(path, table.items(), data_start, size)
    del raw
    tensors.sort(key=lambda t: (t.start, t.stop))
    _check_tiling(path, tensors, data_start, size)
    return Header(path, {t.name: t for t in tensors}, _metadata(path, metadata), data_start, size)


def _made(
    path: Path, items: Iterable[tuple[str, object]], data_start: int, size: int
) -> tuple[list[TensorInfo], object]:
    """Every tensor of the table, and its `__metadata__`."""
    tensors, metadata = [], None
    for name, entry in items:
        if name == _METADATA:
            metadata = entry
        else:
            tensors.append(_entry(path, name, entry, data_start, size))
    return tensors, metadata


def _entries(text: str) -> Iterator[tuple[str, object]]:
    """Names of a header's table and what they map to, an entry at a time: all at once would take twenty times the file.

    Errors: `ValueError` or `IndexError` for what is no such table, or is one that only JSON's whole grammar tells.
    """
    place, known = _Place(text), False
    for name in place.names():
        if name == _METADATA and known:
            raise ValueError
        known |= name == _METADATA
        yield name, place.texts() if name == _METADATA else place.entry()
    if place.next():
        raise ValueError


class _Place:
    """A place in a JSON text, and what is read there."""

    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0

    def next(self) -> str:
        """The next character that is no space, "" at the end."""
        self.at = _SPACE.match(self.text, self.at).end()  # type: ignore[union-attr]  # it matches nothing, too
        return self.text[self.at : self.at + 1]

    def pass_over(self, char: str) -> None:
        """Go past this character, which comes next: `ValueError` where it does not."""
        if self.next() != char:
            raise ValueError
        self.at += 1

    def string(self) -> str:
        self.pass_over('"')
        text: str
        text, self.at = scanstring(self.text, self.at, True)  # noqa: FBT003 - takes no keywords
        return text

    def names(self) -> Iterator[str]:
        """Each of an object; whoever asks reads its value before the next."""
        self.pass_over("{")
        while self.next() != "}":
            name = self.string()
            self.pass_over(":")
            self.next()
            yield name
            if self.next() != "}":
                self.pass_over(",")
                if self.next() != '"':
                    raise ValueError
        self.at += 1

    def entry(self) -> object:
        """An object that holds none."""
        stop = self.text.index("}", self.at) + 1
        if stop - self.at > _ENTRY:
            raise ValueError
        entry: object = _DECODER.decode(self.text[self.at : stop])
        self.at = stop
        return entry

    def texts(self) -> dict[str, str]:
        """An object of texts."""
        table: dict[str, str] = {}
        for name in self.names():
            if name in table:
                raise ValueError
            table[name] = self.string()
        return table


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """An object's dict; ValueError for a key that is given twice."""
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError
    return table


_DECODER = json.JSONDecoder(object_pairs_hook=_once)

_AGAIN = "the file is damaged or is not a safetensors file: download it again"


def _header_length(path: Path, size: int, start: bytes) -> int:
    """The header's length, compared with the format's limit and with the file."""
    if size < _PREFIX or len(start) < _PREFIX:
        what = looks_like(start) or f"a safetensors file has at least {_PREFIX} bytes, this one has {size}; {_AGAIN}"
        msg = f"{path}: {what}"
        raise CheckpointError(msg)
    length = int.from_bytes(start[:_PREFIX], "little")
    # None of the first bytes in `files.LOOKS` makes a length within the limit, so a good file is never taken for one.
    if length > MAX_HEADER:
        what = looks_like(start) or f"the header claims {length} bytes, the limit is {MAX_HEADER}; {_AGAIN}"
    elif length > size - _PREFIX:
        what = f"the header claims {length} bytes, only {size - _PREFIX} follow: it is cut short; download it again"
    elif length == 0:
        what = f"the header is empty; {_AGAIN}"
    else:
        return length
    msg = f"{path}: {what}"
    raise CheckpointError(msg)


def _metadata(path: Path, raw: object) -> dict[str, str]:
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        msg = f"{path}: __metadata__ must map names to strings, found {quote(raw)}"
        raise CheckpointError(msg)
    for name, value in raw.items():
        if not isinstance(value, str):
            msg = f"{path}: __metadata__[{quote(name)}] must be a string, found {quote(value)}"
            raise CheckpointError(msg)
        _check_text(path, name)
        _check_text(path, value)
    return raw


def _check_text(path: Path, text: str) -> None:
    """A lone surrogate, written as an escape in JSON, is no text and could not be printed."""
    try:
        text.encode()
    except UnicodeEncodeError as e:
        msg = f"{path}: header: {quote(text)} is not Unicode text (a lone surrogate); {_AGAIN}"
        raise CheckpointError(msg) from e


def _is_size(value: object) -> bool:
    return type(value) is int and 0 <= value <= MAX_COUNT  # `type`: True and False are no sizes


def _entry(path: Path, name: str, entry: object, data_start: int, size: int) -> TensorInfo:
    """One row of the header's table, checked by itself: dtype, shape, range, and that the range has the right size."""
    where = f"{path}: tensor {quote(name)}"
    _check_text(path, name)
    if not isinstance(entry, dict) or entry.keys() != _ENTRY_KEYS:
        msg = f"{where}: expected an object with dtype, shape and data_offsets, found {quote(entry)}; {_AGAIN}"
        raise CheckpointError(msg)
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        msg = f"{where}: unknown dtype {quote(dtype)}; known are {', '.join(DTYPES)}"
        raise CheckpointError(msg)
    if not isinstance(shape, list) or len(shape) > MAX_RANK or not all(map(_is_size, shape)):
        msg = f"{where}: shape must be a list of at most {MAX_RANK} non-negative integers, found {quote(shape)}"
        raise CheckpointError(msg)
    if math.prod(n for n in shape if n) * DTYPES[dtype] > MAX_COUNT:
        msg = f"{where}: shape {quote(shape)} has more elements than memory has addresses; {_AGAIN}"
        raise CheckpointError(msg)
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_size, offsets)):  # noqa: PLR2004
        msg = f"{where}: data_offsets must be two non-negative integers, found {quote(offsets)}; {_AGAIN}"
        raise CheckpointError(msg)
    begin, end = offsets
    want = math.prod(shape) * DTYPES[dtype]
    if begin > end or end - begin != want:
        msg = f"{where}: {dtype} of shape {shape} takes {want} bytes, data_offsets [{begin}, {end}] hold {end - begin}"
        msg = f"{msg}; {_AGAIN}"
        raise CheckpointError(msg)
    if end > size - data_start:
        msg = f"{where}: ends at byte {end} of the data, the file holds {size - data_start}: it is cut short"
        msg = f"{msg}; download it again"
        raise CheckpointError(msg)
    return TensorInfo(name, sys.intern(dtype), tuple(shape), data_start + begin, data_start + end, path)


def _check_tiling(path: Path, tensors: list[TensorInfo], data_start: int, size: int) -> None:
    """Sorted by place, every tensor starts where the one before ends, and the last ends with the file."""
    at, before = data_start, "the header"
    for t in tensors:
        if t.start != at:
            kind, n = ("overlaps", at - t.start) if t.start < at else ("leaves a gap after", t.start - at)
            msg = f"{path}: tensor {quote(t.name)} {kind} {before} by {n} bytes; {_AGAIN}"
            raise CheckpointError(msg)
        at, before = t.stop, quote(t.name)
    if at != size:
        msg = f"{path}: {size - at} bytes follow the last tensor, expected none; {_AGAIN}"
        raise CheckpointError(msg)
