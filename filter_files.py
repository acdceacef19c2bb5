"""Filters from a file, and their audit in one: what `runtime/filters` takes as rules and functions."""

from __future__ import annotations

import json
import os
import tomllib
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self

from .errors import InputError
from .loader.files import parse_json, printable, quote, read_bytes, read_text, reason
from .loader.paths import as_path
from .runtime.filters import filters
from .runtime.parameters import check_names

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from io import FileIO
    from pathlib import Path

    from .runtime.filters.filters import Filtered

__all__ = ["AuditFile", "Filters", "audit_records", "rules_of"]

#: Most bytes of a file of rules; and of a line of an audit.
MAX_FILE = 2**26
#: What a file of rules may say.
KEYS = ("rules",)


class AuditFile:
    """A file of JSON lines, to whose end each answer's record is added, with its time in UTC."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """The file is made, if it is not there. Errors: `InputError`: it cannot be written."""
        self.path = as_path(path, "audit")
        self._write(b"")

    def __call__(self, record: dict[str, Any]) -> None:
        """Add a record: one write to the end, so that lines of several threads and processes do not mix.

        Errors: `InputError`: it cannot be written; what a full disk took of a line is taken back.
        """
        told = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **record}
        self._write(json.dumps(told).encode() + b"\n")

    def _write(self, data: bytes) -> None:
        try:
            with self.path.open("ab", buffering=0) as f:
                n = f.write(data)
                if n != len(data):  # a full disk takes what fits, and says no more until the next write
                    _whole_or_nothing(f, data, n)
        except OSError as e:
            msg = f"{quote(str(self.path), 300)}: the audit cannot be written ({reason(e)})"
            raise InputError(msg) from e


def _whole_or_nothing(f: FileIO, data: bytes, n: int) -> None:
    """Write the rest of a line of which `n` bytes stand at the end of the file, or take these back. Errors: OSError."""
    start = f.tell() - n
    try:
        while n < len(data):
            n += f.write(data[n:])
    except OSError:
        if os.fstat(f.fileno()).st_size == start + n:  # nobody wrote after them
            f.truncate(start)
        raise


class Filters(filters.Filters):
    """As said there; `audit` may be a path too: of a file of JSON lines, which grows by one for each answer."""

    def __init__(
        self,
        rules: object,
        *,
        hold: Callable[[Filtered], str | Awaitable[str]] | None = None,
        audit: Callable[[dict[str, Any]], object] | str | os.PathLike[str] | None = None,
        audit_text: bool = False,
    ) -> None:
        """Check and compile."""
        told = AuditFile(audit) if isinstance(audit, str | os.PathLike) else audit
        super().__init__(rules, hold=hold, audit=told, audit_text=audit_text)

    @classmethod
    def from_file(
        cls,
        path: str | os.PathLike[str],
        *,
        hold: Callable[[Filtered], str | Awaitable[str]] | None = None,
        audit: Callable[[dict[str, Any]], object] | str | os.PathLike[str] | None = None,
        audit_text: bool = False,
    ) -> Self:
        """Rules of a JSON or TOML file. Errors: `InputError` with the file, the rule's number and its name."""
        file = as_path(path, "filters")
        rules = rules_of(file)
        try:
            checked = cls(rules)
        except InputError as e:
            msg = f"{file}: {e}"
            raise InputError(msg) from None
        return cls(checked.rules, hold=hold, audit=audit, audit_text=audit_text)


def rules_of(file: Path) -> list[Any]:
    """The rules of a file; `words_file` is read: words, one a line. Errors: `InputError`."""
    data = read_bytes(file, MAX_FILE, InputError)
    parsed = _toml(data, file) if file.suffix == ".toml" else parse_json(data, str(file), InputError)
    if not isinstance(parsed, dict) or not isinstance(parsed.get("rules"), list):
        example = '{"rules": [{"words": ["foo"], "action": "mask"}]}'
        msg = f"{file}: expected an object with a list of rules, such as {example}"
        raise InputError(msg)
    try:
        check_names(parsed, KEYS, "key")
    except InputError as e:
        msg = f"{file}: {e}"
        raise InputError(msg) from None
    return [_with_words(rule, file, i) for i, rule in enumerate(parsed["rules"])]


def _toml(data: bytes, file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as e:  # UnicodeDecodeError is one
        msg = f"{file}: cannot be read as TOML ({printable(e, 200)})"
        raise InputError(msg) from e


def _with_words(rule: Any, file: Path, i: int) -> Any:  # noqa: ANN401 - checked later
    if not isinstance(rule, dict) or "words_file" not in rule:
        return rule
    if not isinstance(name := rule["words_file"], str) or not name or "\0" in name:
        msg = f"{file}: rules[{i}]: words_file={quote(name)}: expected the name of a file"
        raise InputError(msg)
    listed = file.parent / name
    try:
        text = read_text(listed, InputError)
    except InputError as e:
        msg = f"{file}: rules[{i}]: words_file: {e}"
        raise InputError(msg) from e
    words = [line for each in text.splitlines() if (line := each.strip())]
    given = rule.get("words", [])
    if not words or not isinstance(given, list):
        what = f"{listed}: has no words" if not words else f"{file}: rules[{i}]: words: expected a list of texts"
        msg = f"{what}; expected one a line"
        raise InputError(msg)
    return {key: value for key, value in rule.items() if key != "words_file"} | {"words": [*given, *words]}


def audit_records(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The records of an audit, each with its line's number. Errors: `InputError` with file and line."""
    try:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                where = f"{file}: line {number}"
                record = parse_json(line, where, InputError)
                if not isinstance(record, dict):
                    msg = f"{where}: expected the record of an answer, found {quote(record)}"
                    raise InputError(msg)
                yield number, record
    except OSError as e:
        msg = f"{quote(str(file), 300)}: cannot be read ({reason(e)})"
        raise InputError(msg) from e
