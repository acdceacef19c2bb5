"""Which Python interpreters can run a model; asked before NumPy is imported, as that may fail in ways of its own."""

from __future__ import annotations

import gc
import mmap
import os
import sys
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import HALF_IMPORTED, LIMITS, BackendError, MemoryLimitError, MiaotuiError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["check_interpreter", "check_room", "not_imported", "uncollected", "whole_imports"]

#: Address space that importing NumPy takes with one thread, and with each more: OpenBLAS's buffers. Below that OpenBLAS
#: ends the process.
NUMPY, THREAD = 80 * 2**20, 32 * 2**20
MOST_THREADS = 64


def check_interpreter() -> None:
    """BackendError in a sub-interpreter, and in a free-threaded build of Python."""
    if "t" in getattr(sys, "abiflags", ""):
        msg = (
            f"this Python ({sys.executable}) is a free-threaded build, which miaotui does not work in: its threads "
            "rely on the interpreter's lock between two steps; use the usual build of the same version"
        )
        raise BackendError(msg)
    if _is_sub_interpreter():
        msg = (
            "this is a sub-interpreter, which miaotui does not work in: NumPy and compiled kernels belong to the "
            "process; import it in the main interpreter, or start a process (under mod_wsgi: WSGIApplicationGroup "
            "%{GLOBAL})"
        )
        raise BackendError(msg)


def _is_sub_interpreter() -> bool:
    """Whether another interpreter is the process's main one; False where Python does not say."""
    for name in ("_interpreters", "_xxsubinterpreters"):  # since Python 3.13, and before
        try:
            interpreters = import_module(name)
        except ImportError:
            continue
        return bool(interpreters.get_current() != interpreters.get_main())
    return False


def check_room() -> None:
    """MemoryLimitError where NumPy's import would end the process, as OpenBLAS finds no address space for its threads.

    Only under `ulimit -v`: everywhere else nothing is looked at.
    """
    if "numpy" in sys.modules or not _is_limited():
        return
    numpy = find_spec("numpy")
    if numpy is None or numpy.origin is None or not any(Path(numpy.origin).parent.parent.glob("numpy.libs/*openblas*")):
        return
    told = os.environ.get("OPENBLAS_NUM_THREADS") or os.environ.get("OMP_NUM_THREADS") or ""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = min(int(told) if told.isdecimal() and int(told) else cores, MOST_THREADS)
    needed = NUMPY + (threads - 1) * THREAD
    try:
        mmap.mmap(-1, needed, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except (OSError, MemoryError) as e:
        msg = f"importing NumPy takes about {needed:,} bytes of address space, which the system refused: see {LIMITS}"
        msg += ", or set OPENBLAS_NUM_THREADS=1" if threads > 1 else ""
        raise MemoryLimitError(msg) from e


def _is_limited() -> bool:
    try:
        import resource  # noqa: PLC0415 - POSIX alone has it
    except ImportError:
        return False
    return resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY


def not_imported(e: ImportError | AttributeError | MemoryError) -> MiaotuiError:
    """The error for a library that is installed and cannot be imported; NumPy's own is pages of advice."""
    if HALF_IMPORTED in str(e):
        msg = (
            "miaotui is called while the same thread is still importing it, or a library that it needs (from a signal "
            "handler or a __del__, as a rule): load the model before the handler is set, or let the handler only note "
            "that it was called"
        )
        return BackendError(msg)
    if isinstance(e, MemoryError):
        return MemoryLimitError(f"importing what it needs: the system refused memory; see {LIMITS}")
    lines = [line.strip() for line in str(e).splitlines() if line.strip()]
    said = next((line for line in lines if line.startswith("Original error was")), lines[0] if lines else "")
    at = e.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    name = e.name or (at.tb_frame.f_globals.get("__name__", "") if at is not None else "")
    msg = f"{name.partition('.')[0] or 'a library'} cannot be imported ({said[:200]}): where memory is limited, see "
    return BackendError(f"{msg}{LIMITS}; otherwise install miaotui again")


@contextmanager
def uncollected() -> Iterator[None]:
    """Without collection of garbage inside: what modules make stays, and looking through it is a tenth of an import."""
    there = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if there:
            gc.enable()


@contextmanager
def whole_imports() -> Iterator[None]:
    """BackendError where what is imported inside is still being imported by the same thread, further out."""
    try:
        yield
    except (ImportError, AttributeError) as e:
        if HALF_IMPORTED not in str(e):
            raise
        raise not_imported(e) from e
