"""From a kernel's name to its compiled address.

Kernels compile, or load from our cache, when a program first names them. The cache directory's name is a hash of all
kernel sources, versions and the CPU, so stale code is never found. Import this module before any other of `cpu`.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numba

from ...errors import BackendError
from .target import code_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["addresses", "cache_directory", "cached"]


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
    try:
        wanted = Path(home).expanduser() / "miaotui" / code_key()
    except RuntimeError:  # no home
        wanted = Path(tempfile.gettempdir()) / "miaotui" / code_key()
    return wanted if _writable(wanted) else Path(tempfile.mkdtemp(prefix="miaotui-"))


DIRECTORY = cache_directory()


@contextlib.contextmanager
def _cache_at(path: Path) -> Iterator[None]:
    """Numba reads its cache directory when a function is decorated; ours must not become the user's."""
    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = str(path)
    try:
        yield
    finally:
        numba.config.CACHE_DIR = before


_SIGNATURE = "void(int64, int64, int64, int64, int64)"
_LINKED: dict[str, Any] = {}


def _say(text: str) -> None:
    if sys.stderr is not None and not os.environ.get("MIAOTUI_QUIET"):
        sys.stderr.write(f"miaotui: {text}\n")
        sys.stderr.flush()


def cached(name: str) -> bool:
    """Whether a kernel's machine code is in the cache directory."""
    return any(DIRECTORY.rglob(f"*.{name}-*.nbi")) or any(DIRECTORY.rglob(f"*.{name}_-*.nbi"))


with _cache_at(DIRECTORY):
    COLD = not cached("run")
    if COLD:
        _say("compiling for this CPU, once; later starts take the result from the cache ...")
    from . import team
    from .kernels import KERNELS


def addresses(names: Iterable[str]) -> dict[str, int]:
    """Addresses of kernels by name; compiles what is missing and says so."""
    missing = [n for n in dict.fromkeys(names) if n not in _LINKED]
    for n in missing:
        if n not in KERNELS:
            msg = f"the CPU backend has no kernel {n!r}; it has {', '.join(sorted(KERNELS))}"
            raise BackendError(msg)
    cold = [n for n in missing if not cached(n)]
    began = time.perf_counter()
    for n in missing:
        with _cache_at(DIRECTORY):
            _LINKED[n] = numba.cfunc(_SIGNATURE, error_model="numpy", cache=True)(KERNELS[n])
    if cold:
        _say(f"compiled {len(cold)} kernels in {time.perf_counter() - began:.1f} s")
    return {n: int(f.address) for n, f in _LINKED.items()}


def executor(threads: int) -> team.Team | team.Prange:
    """The thread team, or `prange` where MIAOTUI_EXECUTOR asks for it."""
    kind = os.environ.get("MIAOTUI_EXECUTOR", "team")
    if kind not in ("team", "prange"):
        msg = f"MIAOTUI_EXECUTOR={kind!r}: expected 'team' or 'prange'"
        raise BackendError(msg)
    with _cache_at(DIRECTORY):
        return team.Team(threads) if kind == "team" else team.Prange(threads)
