"""The directory of compiled code: where it is, and that nothing damaged in it is ever run.

Its name is a hash of all that the code depends on (`target.code_key`). Beside each of Numba's files lies the SHA-256 of
its bytes, written once the file is whole. A start takes away every file that does not match: it is compiled again.
Several processes may start at once: at worst one compiles what another has just compiled.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from pathlib import Path

from .target import code_key

__all__ = ["cache_directory", "cached", "seal", "sweep"]


def _writable(path: Path) -> bool:
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return True
    except OSError:
        return False


def cache_directory() -> Path:
    """MIAOTUI_CACHE_DIR, else the user's cache, else a fresh temporary directory: an unwritable cache is no error."""
    home = os.environ.get("MIAOTUI_CACHE_DIR") or os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    with contextlib.suppress(RuntimeError):  # no home
        wanted = Path(home).expanduser() / "miaotui" / code_key()
        if _writable(wanted):
            return wanted
    return Path(tempfile.mkdtemp(prefix="miaotui-"))  # nobody else's: code from there is run


def cached(directory: Path, name: str) -> bool:
    """Whether a kernel's machine code is there."""
    return any(directory.rglob(f"*.{name}-*.nbi")) or any(directory.rglob(f"*.{name}_-*.nbi"))


def sweep(directory: Path) -> int:
    """Remove every compiled file that is not what was sealed; how many."""
    bad = {file for file in directory.rglob("*.nb[ci]") if not _sealed(file)}
    bad |= {_index_of(file) for file in bad if file.suffix == ".nbc"}  # else the kernel would still count as cached
    for file in bad:
        file.unlink(missing_ok=True)
    return len(bad)


def seal(directory: Path) -> None:
    """Write down the hash of each file that has none, or another. A directory that went away is no error."""
    with contextlib.suppress(OSError):
        for file in directory.rglob("*.nb[ci]"):
            if not _sealed(file):
                _write_atomically(_seal_of(file), _digest(file))


def _index_of(data: Path) -> Path:
    """Numba's index of a file of code: name.py311.1.nbc -> name.py311.nbi."""
    return data.with_name(data.name.rsplit(".", 2)[0] + ".nbi")


def _seal_of(file: Path) -> Path:
    return file.with_name(file.name + ".sha256")


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _sealed(file: Path) -> bool:
    try:
        return _seal_of(file).read_text(encoding="ascii") == _digest(file)
    except (OSError, UnicodeDecodeError):
        return False


def _write_atomically(path: Path, text: str) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".seal-")
    with os.fdopen(handle, "w", encoding="ascii") as f:
        f.write(text)
    Path(name).replace(path)
