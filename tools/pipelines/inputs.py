"""What a pipeline is given: one thing, a list, an iterator, or a file; and a bar while a long list is worked through.

A file is a `pathlib.Path` (a str is always a text), read as `miaotui run` reads it, a record at a time: `.txt` (a text
a line), `.jsonl` (a text or an object a line), `.csv` and `.tsv` (a first line of names; an object a row, or texts
where the one name is "text").
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from ...errors import InputError
from ...loader.files import quote, reason
from ..batch.records import ENDINGS, Records

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path
    from typing import IO

    from ..batch.records import Format

__all__ = ["barred", "file_items"]

T = TypeVar("T")
#: A bar appears after this many seconds.
PATIENCE = 2.0


def file_items(path: Path) -> Iterator[Any]:
    """What a file holds, in order, as it is read. Errors: `InputError`, before the first and by the line's number."""
    form = ENDINGS.get(path.suffix.lower())
    if form is None:
        msg = f"{path}: expected a file whose name ends in {', '.join(ENDINGS)}; read another yourself, and give a list"
        raise InputError(msg)
    try:
        stream = path.open("rb")
    except (OSError, ValueError) as e:  # ValueError: a NUL byte in the name
        msg = f"{quote(str(path), 300)[1:-1]}: cannot be read ({reason(e)}); expected a file of inputs"
        raise InputError(msg) from e
    return _items(stream, form, str(path))


def _items(stream: IO[bytes], form: Format, name: str) -> Iterator[Any]:
    with stream:
        for record in (records := Records(stream, form, name, skips=False)):
            if record.wrong is not None:
                msg = f"{name}, line {record.line}: {record.wrong}"
                raise InputError(msg)
            yield record.value["text"] if records.columns == ["text"] else record.value


def barred(results: Iterable[T], total: int, what: str) -> Iterator[T]:
    """The same, with tqdm's bar on stderr: where tqdm is installed (the extra `progress`), and on a terminal alone."""
    try:
        from tqdm import tqdm  # noqa: PLC0415 - an extra
    except ImportError:
        return iter(results)
    return iter(tqdm(results, total=total, desc=what, disable=None, delay=PATIENCE, leave=False))
