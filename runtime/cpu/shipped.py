"""Kernels that were compiled when the package was built: a library for each CPU level, opened by ctypes.

Neither Numba nor llvmlite is needed, nothing is compiled or written, and no memory is made executable by us. A clone,
and an editable installation, have no such libraries: there Numba compiles. So it does where something is asked of the
code that only compiling can give (MIAOTUI_DEBUG, NUMBA_CPU_NAME), and for a CPU below every level.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import sys
import zlib
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ...errors import BackendError
from .cpuid import PROBE, features
from .environment import debugging, named_cpu, sources
from .levels import LEVELS, TWINS, Twin, forced

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["CPU", "JIT", "MANIFEST", "SHIPPED", "Chosen", "addresses", "chosen", "manifest", "needs_compiler", "symbol"]

#: The variable that names a level (`levels.forced`), or says that Numba is to compile for this CPU.
CPU, JIT = "MIAOTUI_CPU", "jit"
#: Where the libraries lie, next to this file, and what tells about them.
SHIPPED, MANIFEST = "compiled", "manifest.json"
COMPILER = "pip install 'miaotui[jit]'"


class Chosen(NamedTuple):
    """The library that is used, and which twins of it. `has`: features, in LLVM's words, that its code may use."""

    name: str
    library: str
    twins: tuple[Twin, ...]
    has: frozenset[str]


def symbol(name: str, twin: str = "") -> str:
    """A function's name in a library or an object."""
    return f"miaotui_{name}.{twin}" if twin else f"miaotui_{name}"


@cache
def manifest() -> dict[str, Any] | None:
    """What the build says of its libraries; None where there are none, or they are of other sources than ours.

    `sources`: `environment.sources` in hexadecimal; `versions`: of Numba and LLVM; `libraries`: file -> its SHA-256,
    to compare builds by; `checks`: file -> its CRC-32, by which a start compares what it opens; `bytes`: of each file.
    """
    data = _read(MANIFEST)
    if data is None:
        return None
    told: dict[str, Any] = json.loads(data)
    edited = (Path(__file__).parents[2] / "pyproject.toml").is_file()  # a clone: somebody may have
    return None if edited and told["sources"] != sources().hex() else told


@cache
def chosen() -> Chosen | None:
    """What runs here; None: Numba compiles. Errors: `BackendError`: of MIAOTUI_CPU."""
    if _why_not():
        return _named(None)
    told = manifest()
    libraries = {} if told is None else told["libraries"]
    here = [level for level in LEVELS if level.machine == _machine() and f"{level.name}.so" in libraries]
    can = _can() if here else frozenset()
    named = _named(frozenset(level.name for level in here))
    if named is not None:
        return named
    for level in here:
        if level.needs <= can:
            twins = tuple(twin for twin in TWINS if twin.level == level.name and twin.needs <= can)
            return Chosen(level.name, f"{level.name}.so", twins, level.has.union(*(twin.has for twin in twins)))
    return None


def _named(here: frozenset[str] | None) -> Chosen | None:
    """What MIAOTUI_CPU asks for; None: it does not. `here`: levels that there are; None: no code of a build is used."""
    name = os.environ.get(CPU)
    if not name or name == JIT:
        return None
    every = forced()
    if name not in every:
        msg = f"{CPU}={name!r}: no such level; expected one of {', '.join(every)}, {JIT}"
        raise BackendError(msg)
    level, twins = every[name]
    if here is None or level.name not in here:
        why = _why_not() or ("this package has code for " + ", ".join(sorted(here or ())) if here else _why_none())
        msg = f"{CPU}={name}: there is no such code to choose: {why}; unset it"
        raise BackendError(msg)
    lacks = level.needs.union(*(twin.needs for twin in twins)) - _can()
    if lacks:
        msg = f"{CPU}={name}: this CPU lacks {', '.join(sorted(lacks))}; unset it, or name a lower level"
        raise BackendError(msg)
    return Chosen(name, f"{level.name}.so", twins, level.has.union(*(twin.has for twin in twins)))


def needs_compiler() -> str:
    """Why something must be compiled here, and what that needs."""
    told, why = manifest(), _why_not()
    if not why and told is None:
        why = _why_none()
    elif not why:
        least = next((level for level in reversed(LEVELS) if level.machine == _machine()), None)
        lacks = "" if least is None else ", ".join(sorted(least.needs - _can()))
        why = f"this CPU lacks {lacks}" if lacks else "they are compiled for every run (MIAOTUI_EXECUTOR=prange)"
    return f"kernels must be compiled by Numba ({why}), which is not installed; {COMPILER}"


def _why_not() -> str:
    """Why code of a build is not used, though there may be some."""
    if os.environ.get(CPU) == JIT:
        return f"{CPU}={JIT}"
    if debugging():
        return "MIAOTUI_DEBUG is set"
    return "" if named_cpu() == (None, None) else "NUMBA_CPU_NAME or NUMBA_CPU_FEATURES is set"


def _why_none() -> str:
    return f"this is a clone or an editable installation, or a package for another machine than {_machine()}"


def _machine() -> str:
    name = platform.machine()
    return {"AMD64": "x86_64", "arm64": "aarch64"}.get(name, name)


@cache
def _can() -> frozenset[str]:
    """What the CPU and the system offer, in Linux' words."""
    return features(_opened(PROBE)) if _machine() == "x86_64" else frozenset()


def addresses(names: Iterable[str]) -> dict[str, int]:
    """Addresses of kernels and roots in the library that was chosen. Errors: `BackendError`: it is damaged."""
    using = chosen()
    if using is None:
        msg = "no code of a build is used here"
        raise BackendError(msg)
    library, found = _opened(using.library), dict[str, int]()
    for name in names:
        twin = next((twin.name for twin in using.twins if name in twin.kernels), "")
        try:
            function = library[symbol(name, twin)]
        except AttributeError as e:
            msg = f"{using.library}: has no {name}; install miaotui again"
            raise BackendError(msg) from e
        found[name] = ctypes.cast(function, ctypes.c_void_p).value or 0
    return found


@cache
def _opened(file: str) -> ctypes.CDLL:
    """A library of the build, whole as its manifest says. Errors: `BackendError`.

    By its check sum: SHA-256 would bring OpenSSL into every process, and what is damaged was not made to be so.
    """
    told, data = manifest(), _read(file)
    whole = None if told is None else told["checks"].get(file)
    if data is None or zlib.crc32(data) != whole:
        msg = f"{file}: {'is not there' if data is None else 'is damaged'}; install miaotui again"
        raise BackendError(msg)
    path = Path(__file__).parent / SHIPPED / file
    try:
        return ctypes.CDLL(os.fspath(path if path.is_file() else _in_memory(file, data)))
    except OSError as e:
        try:  # where files of that place may not be executed
            return ctypes.CDLL(_in_memory(file, data))
        except OSError:
            msg = f"{file}: cannot be opened ({e}); install miaotui where libraries may be loaded from"
            raise BackendError(msg) from e


#: Files in memory, by the library that lies in each: open as long as the process, as the library is.
_FILES: dict[str, int] = {}


def _in_memory(file: str, data: bytes) -> str:
    """The path of a file in memory with a library that lies in an archive. OSError: the system has no such files."""
    if not hasattr(os, "memfd_create"):
        msg = f"{file} lies in an archive"
        raise OSError(msg)
    handle = _FILES[file] = os.memfd_create(f"miaotui-{file}")
    with os.fdopen(os.dup(handle), "wb") as f:
        f.write(data)
    return f"/proc/self/fd/{handle}"


def _read(file: str) -> bytes | None:
    """A file next to this module, perhaps in an archive; None: it is not there."""
    path = Path(__file__).parent / SHIPPED / file
    loader = getattr(sys.modules[__name__], "__loader__", None)
    for read in (path.read_bytes, partial(getattr(loader, "get_data", path.read_bytes), os.fspath(path))):
        try:
            return bytes(read())
        except OSError:
            continue
    return None
