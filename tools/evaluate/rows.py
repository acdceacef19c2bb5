"""Files of rows: JSON lines, a JSON list, CSV, TSV and Parquet. A row is a table of columns with its place in the file.

Errors name the file and the line (of Parquet the row, both counted from 1).
"""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any

from ...dataclass import dataclass
from ...errors import BackendError, InputError
from ...loader.files import MAX_TEXT, first_bytes, parse_json, printable, quote

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["Row", "contents", "csv_rows", "json_rows", "lines_of", "parquet_rows"]

#: Most characters of a cell of a CSV file; Python's own bound is 131 072, less than a long article.
MAX_CELL = 2**24
#: Rows of a Parquet file that are read at a time.
FETCHED = 1024


@dataclass(frozen=True)
class Row:
    """Columns and their values, and where they were read."""

    place: str
    values: dict[str, Any]


def contents(path: Path) -> bytes:
    """A file's bytes. Errors: `InputError` where there are more than 1 GiB."""
    data = first_bytes(path, MAX_TEXT + 1, InputError)
    if len(data) > MAX_TEXT:
        msg = f"{path}: has more than {MAX_TEXT} bytes; evaluate a part of it"
        raise InputError(msg)
    return data


def lines_of(data: bytes, path: Path) -> Iterator[tuple[int, str]]:
    """Number, from 1, and text of each line. Errors: `InputError` where one is not UTF-8."""
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        try:
            yield number, line.removesuffix(b"\r").decode("utf-8")
        except UnicodeDecodeError as e:
            msg = f"{path}, line {number}: byte {e.start} of the line is not UTF-8; convert the file to UTF-8"
            raise InputError(msg) from e


def json_rows(data: bytes, path: Path) -> Iterator[Row]:
    """Rows of JSON lines, or of one JSON list of objects. Empty lines are passed over."""
    if data.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"[":
        listed = parse_json(data.removeprefix(b"\xef\xbb\xbf"), str(path), InputError)
        for i, value in enumerate(listed):
            yield Row(f"{path}, [{i}]", _object(value, f"{path}, [{i}]"))
        return
    for number, line in lines_of(data, path):
        if line.strip():
            place = f"{path}, line {number}"
            yield Row(place, _object(parse_json(line.encode(), place, InputError), place))


def _object(value: object, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        msg = f"{place}: expected a JSON object, found {quote(value)}"
        raise InputError(msg)
    return value


def csv_rows(data: bytes, path: Path, delimiter: str) -> Iterator[Row]:
    """Rows of a CSV or TSV file, whose first line names the columns; every value is a text."""
    text = "\n".join(line for _, line in lines_of(data, path))
    usual = csv.field_size_limit(MAX_CELL)
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        header = next(reader, [])
        if not header or len(set(header)) < len(header):
            msg = f"{path}, line 1: expected the names of the columns, each once; found {quote(header)}"
            raise InputError(msg)
        begins = reader.line_num + 1
        for cells in reader:
            place, begins = f"{path}, line {begins}", reader.line_num + 1
            if cells and len(cells) != len(header):
                msg = (
                    f"{place}: found {len(cells)} cells, expected {len(header)}, one for each column that the first "
                    "line names; quote a cell that holds the delimiter"
                )
                raise InputError(msg)
            if cells:
                yield Row(place, dict(zip(header, cells, strict=True)))
    except csv.Error as e:
        why = f"cannot be read as CSV ({printable(e)}); expected cells between {delimiter!r}"
        msg = f"{path}, line {reader.line_num}: {why}"
        raise InputError(msg) from e
    finally:
        csv.field_size_limit(usual)


def parquet_rows(path: Path) -> Iterator[Row]:
    """Rows of a Parquet file, by duckdb. Errors: `BackendError` where the extra `parquet` is not installed."""
    try:
        import duckdb  # noqa: PLC0415 - an extra
    except ImportError as e:
        msg = f"{path}: reading Parquet needs duckdb: pip install 'miaotui[parquet]'; or write the rows as JSON lines"
        raise BackendError(msg) from e
    with path.open("rb"):  # a missing file is the system's error, not the database's
        pass
    try:
        with duckdb.connect(config={"enable_external_access": True}) as database:
            result = database.execute("SELECT * FROM read_parquet(?)", [str(path)])
            names = [column[0] for column in result.description]
            n = 0
            while rows := result.fetchmany(FETCHED):
                for values in rows:
                    n += 1
                    yield Row(f"{path}, row {n}", dict(zip(names, values, strict=True)))
    except duckdb.Error as e:
        msg = f"{path}: cannot be read as Parquet ({printable(e)})"
        raise InputError(msg) from e
