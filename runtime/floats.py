"""The thread's floating-point mode, for what Python and NumPy compute: IEEE 754's default, whatever the caller's is.

A library that rounds another way, or flushes denormal numbers to zero, leaves the mode to whoever it returns to.
Compiled code sets it by itself (`cpu/emitters.py`); tables that are made and draws that are taken in Python do it here.
"""

from __future__ import annotations

import ctypes
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["usual_floats"]

#: C's fenv_t takes 8 to 32 bytes.
_BYTES = 64


def _functions() -> tuple[Callable[[Any], int], Callable[[Any], int], Any] | None:
    """C's fegetenv, fesetenv and FE_DFL_ENV, where they are known: glibc and musl."""
    if not sys.platform.startswith("linux"):
        return None
    for name in ("libm.so.6", None):
        try:
            library = ctypes.PyDLL(name)  # which keeps the GIL: taking it back next to a busy thread takes 5 ms
            return library.fegetenv, library.fesetenv, ctypes.c_void_p(-1)
        except (OSError, AttributeError):
            continue
    return None


_FENV = _functions()


@contextmanager
def usual_floats() -> Iterator[None]:
    """Round to nearest and keep denormals, in this thread, until it is left."""
    if _FENV is None:
        yield
        return
    get, put, default = _FENV
    mode = ctypes.create_string_buffer(_BYTES)
    get(mode)
    try:
        put(default)
        yield
    finally:
        put(mode)
