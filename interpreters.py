"""Which Python interpreters can run a model; asked before NumPy is imported, as that may fail in ways of its own."""

from __future__ import annotations

import sys
from importlib import import_module

from .errors import BackendError

__all__ = ["check_interpreter"]


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
