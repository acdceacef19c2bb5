"""The directory of compiled code: one file a function, and nothing damaged, moved or stale in it is ever run.

Its name is a hash of all that the code depends on (`target.code_key`). A file is the SHA-256 of key, name and object
code, and then the object code. It appears whole, under its name, or not at all; what does not match is as good as
absent: it is compiled again. Several processes may start at once: at worst one compiles what another has just compiled.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from ...digest import sha256
from .target import code_key

__all__ = ["CACHE", "cache_directory", "no_directory", "read", "unwritable", "writable", "write"]

#: The variable that names another directory.
CACHE = "MIAOTUI_CACHE_DIR"

SEAL = 32  # bytes of the hash


def cache_directory(key: str | None = None) -> Path | None:
    """MIAOTUI_CACHE_DIR, else the user's cache; None where there is no home. It need neither exist nor be writable.

    `key` names what the code depends on, here and below: the CPU's unless another is given.
    """
    home = os.environ.get(CACHE) or os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    with contextlib.suppress(RuntimeError):
        return Path(home).expanduser() / "miaotui" / (key or code_key())
    return None


def no_directory() -> str:
    """Why nothing is kept where there is no directory."""
    return f"there is no home directory; set {CACHE} to a directory that can be written"


def unwritable(directory: Path) -> str:
    """Why nothing is kept in a directory that cannot be written, and what to do."""
    return f"{directory} cannot be written; set {CACHE} to a directory that can"


def writable(directory: Path) -> bool:
    """Whether a file can be made there; the directory is, where it is missing."""
    kept = write(directory, ".probe", b"")
    if kept:
        with contextlib.suppress(OSError):
            _file(directory, ".probe").unlink(missing_ok=True)
    return kept


def read(directory: Path, name: str, key: str | None = None) -> bytes | None:
    """Object code as it was written, or None."""
    try:
        data = _file(directory, name).read_bytes()
    except OSError:
        return None
    return data[SEAL:] if data[:SEAL] == _seal(name, data[SEAL:], key) else None


def write(directory: Path, name: str, code: bytes, key: str | None = None) -> bool:
    """Keep object code; False where the directory cannot be written."""
    import tempfile  # noqa: PLC0415 - a start that compiles nothing need not wait for it

    try:
        directory.mkdir(parents=True, exist_ok=True)
        handle, draft = tempfile.mkstemp(dir=directory, prefix=".draft-")
    except OSError:
        return False
    try:
        with os.fdopen(handle, "wb") as f:
            f.write(_seal(name, code, key) + code)
        Path(draft).replace(_file(directory, name))
    except OSError:  # a full disk, or the directory went away
        with contextlib.suppress(OSError):
            Path(draft).unlink(missing_ok=True)
        return False
    return True


def _file(directory: Path, name: str) -> Path:
    return directory / f"{name}.code"


def _seal(name: str, code: bytes, key: str | None) -> bytes:
    return sha256(f"{key or code_key()} {name}\n".encode() + code).digest()
