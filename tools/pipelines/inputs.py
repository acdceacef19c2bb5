"""What a pipeline is given: one thing, a list, an iterator, or a file; and a bar while a long list is worked through.

A file is a `pathlib.Path` (a str is always a text), read a line at a time: `.txt` (a text a line), `.jsonl` (a text or
an object a line), `.csv` (a first line of names; an object a line, or texts where the one name is "text").
"""

from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING, Any, TypeVar

from ...errors import InputError, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path
    from typing import TextIO

__all__ = ["barred", "file_items"]

T = TypeVar("T")
#: A bar appears after this many seconds.
PATIENCE = 2.0


def file_items(path: Path) -> Iterator[Any]:
    """What a file holds, in order, as it is read. Errors: `InputError`, before the first and by the line's number."""
    read = _READERS.get(path.suffix.lower())
    if read is None:
        msg = (
            f"{path}: expected a file whose name ends in {', '.join(_READERS)}; read another yourself, and give a list"
        )
        raise InputError(msg)
    try:
        file = path.open(encoding="utf-8-sig", newline="")
    except OSError as e:
        msg = f"{path}: cannot read: {e.strerror or e}; expected a file of inputs"
        raise InputError(msg) from e
    return _read(path, file, read)


def _read(path: Path, file: TextIO, read: Callable[[Path, TextIO], Iterator[Any]]) -> Iterator[Any]:
    with file:
        try:
            yield from read(path, file)
        except (UnicodeDecodeError, csv.Error) as e:
            msg = f"{path}: cannot read: {e}; expected UTF-8"
            raise InputError(msg) from e


def _lines(_: Path, file: TextIO) -> Iterator[Any]:
    for line in file:
        yield line.rstrip("\r\n")


def _json_lines(path: Path, file: TextIO) -> Iterator[Any]:
    for n, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as e:
            msg = f"{path}: line {n} is not valid JSON ({e}): {shown(line, 80)}"
            raise InputError(msg) from e
        yield value


def _rows(path: Path, file: TextIO) -> Iterator[Any]:
    reader = csv.DictReader(file)
    for row in reader:
        if None in row or None in row.values():
            names = reader.fieldnames or ()
            msg = (
                f"{path}: line {reader.line_num} lacks some of the fields of the first line, or has more: {list(names)}"
            )
            raise InputError(msg)
        yield row["text"] if list(row) == ["text"] else dict(row)


_READERS: dict[str, Callable[[Path, TextIO], Iterator[Any]]] = {".txt": _lines, ".jsonl": _json_lines, ".csv": _rows}


def barred(results: Iterable[T], total: int, what: str) -> Iterator[T]:
    """The same, with tqdm's bar on stderr: where tqdm is installed (the extra `progress`), and on a terminal alone."""
    try:
        from tqdm import tqdm  # noqa: PLC0415 - an extra
    except ImportError:
        return iter(results)
    return iter(tqdm(results, total=total, desc=what, disable=None, delay=PATIENCE, leave=False))
