"""From a kernel's name to its compiled address.

Kernels compile, or load from our cache (`cache.py`), when a program first names them. Import this module before any
other of `cpu` that holds compiled functions.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from typing import TYPE_CHECKING, Any

import numba

from ...errors import BackendError
from .cache import cache_directory, cached, seal, sweep

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

__all__ = ["addresses", "cache_directory", "cached"]


@contextlib.contextmanager
def _cache_at(path: Path) -> Iterator[None]:
    """Numba reads its cache directory when a function is decorated; ours must not become the user's."""
    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = str(path)
    try:
        yield
    finally:
        numba.config.CACHE_DIR = before


DIRECTORY = cache_directory()
sweep(DIRECTORY)

_SIGNATURE = "void(int64, int64, int64, int64, int64)"
_LINKED: dict[str, Any] = {}


def _say(text: str) -> None:
    if sys.stderr is not None and not os.environ.get("MIAOTUI_QUIET"):
        sys.stderr.write(f"miaotui: {text}\n")
        sys.stderr.flush()


with _cache_at(DIRECTORY):
    COLD = not cached(DIRECTORY, "run")
    if COLD:
        _say("compiling for this CPU, once; later starts take the result from the cache ...")
    from . import team
    from .kernels import KERNELS
if COLD:
    seal(DIRECTORY)


def addresses(names: Iterable[str]) -> dict[str, int]:
    """Addresses of kernels by name; compiles what is missing and says so."""
    missing = [n for n in dict.fromkeys(names) if n not in _LINKED]
    for n in missing:
        if n not in KERNELS:
            msg = f"the CPU backend has no kernel {n!r}; it has {', '.join(sorted(KERNELS))}"
            raise BackendError(msg)
    cold = [n for n in missing if not cached(DIRECTORY, n)]
    began = time.perf_counter()
    for n in missing:
        with _cache_at(DIRECTORY):
            _LINKED[n] = numba.cfunc(_SIGNATURE, error_model="numpy", cache=True)(KERNELS[n])
    if cold:
        seal(DIRECTORY)
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
