"""How far a run has come, next to its output, so that a killed one goes on where it was: no line lost, none doubled.

The first line says what the run is; every other says how far it was once: how much of the input was read, and how long
the outputs were then. A run that goes on believes the last whole line, and cuts what was written after it.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import asdict, field, fields
from typing import TYPE_CHECKING, Any

from ...dataclass import dataclass
from ...errors import InputError
from ...loader.files import quote, reason
from ...loader.write import write_whole
from .records import Place

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["Commit", "Journal", "read_journal"]

KIND = "miaotui run"


@dataclass(frozen=True)
class Commit:
    """All before `place` is done: `good` and `bad` records, in these bytes of output and errors; `seconds` so far."""

    place: Place = field(default_factory=Place)
    good: int = 0
    bad: int = 0
    output: int = 0
    errors: int = 0
    seconds: float = 0.0


class Journal:
    """The file, open to be added to."""

    def __init__(self, file: Path, about: Mapping[str, Any], last: Commit) -> None:
        """Begin it anew, with where it is. `InputError` where it cannot be written."""
        self.file = file
        write_whole(file, _line({"journal": KIND, **about}) + _line(asdict(last)))
        self._handle = _appended(file)

    def commit(self, commit: Commit) -> None:
        """What `commit` says is on the disk: say so. OSError."""
        write_all(self._handle, _line(asdict(commit)).encode())
        os.fsync(self._handle)

    def close(self) -> None:
        """Close the file."""
        os.close(self._handle)


def read_journal(file: Path) -> tuple[dict[str, Any], Commit] | None:
    """What the run is and how far it came; None where there is no journal. `InputError` for what is no journal."""
    try:
        lines = file.read_bytes().split(b"\n")[:-1]  # what follows the last end of a line was torn
    except FileNotFoundError:
        return None
    except OSError as e:
        msg = f"{quote(str(file), 300)}: cannot be read ({reason(e)})"
        raise InputError(msg) from e
    about = _parsed(lines[0]) if lines else None
    if not isinstance(about, dict) or about.pop("journal", None) != KIND:
        msg = f"{file}: not the journal of a run; remove it, or name another --output"
        raise InputError(msg)
    for line in reversed(lines[1:]):
        commit = _commit(_parsed(line))
        if commit is not None:
            return about, commit
    msg = f"{file}: says nowhere how far the run came; begin it again with --restart"
    raise InputError(msg)


def write_all(handle: int, data: bytes) -> None:
    """All of the bytes, where the system takes a part at a time. OSError."""
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]


def _appended(file: Path) -> int:
    try:
        return os.open(file, os.O_WRONLY | os.O_APPEND)
    except OSError as e:
        msg = f"{quote(str(file), 300)}: cannot be written ({reason(e)})"
        raise InputError(msg) from e


def _line(value: Mapping[str, Any]) -> str:
    return json.dumps(value) + "\n"


def _parsed(line: bytes) -> Any:  # noqa: ANN401 - JSON
    with suppress(ValueError, RecursionError):
        return json.loads(line)
    return None


def _commit(value: object) -> Commit | None:
    """What a line says; None where it is none of ours."""
    place = value.pop("place", None) if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(place, dict):
        return None
    if set(place) != _names(Place) or set(value) != _names(Commit) - {"place"}:
        return None
    counts = {**place, **value, "sha256": 0, "seconds": 0}.values()
    if not isinstance(place["sha256"], str) or not all(type(n) is int and 0 <= n < 2**63 for n in counts):
        return None
    return Commit(Place(**place), **value) if type(value["seconds"]) in {int, float} and value["seconds"] >= 0 else None


def _names(kind: type[Place | Commit]) -> set[str]:
    return {each.name for each in fields(kind)}
