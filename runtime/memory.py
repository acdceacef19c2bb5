"""Memory of our own: zeroed private pages, huge ones where there is much of it and the system gives them."""

from __future__ import annotations

import mmap
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import numpy as np

from ..errors import LIMITS, MemoryLimitError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = ["LIMITS", "float_rows", "memory_named", "refused", "zeroed"]


#: Bytes from which memory lies in huge pages: the first touch of such a page takes 2 MiB, and what is smaller needs few
#: small ones.
HUGE_FROM = 2**22


def refused(nbytes: int, what: str) -> MemoryLimitError:
    """The error for memory that the system did not give."""
    return MemoryLimitError(f"{what}: the system refused {nbytes:,} bytes of memory; see {LIMITS}, or ask for less")


@contextmanager
def memory_named(what: str) -> Iterator[None]:
    """A `MemoryError` from inside becomes a `MemoryLimitError` that names `what` could not go on."""
    try:
        yield
    except MemoryError as e:
        size = f" ({e})" if str(e) else ""  # NumPy says how much
        msg = f"{what}: the system refused memory{size}; see {LIMITS}, or ask for less"
        raise MemoryLimitError(msg) from e


def zeroed(nbytes: int, what: str = "memory") -> NDArray[np.uint8]:
    """Uint8 [nbytes], at least one, on a page's boundary; touched pages alone take memory.

    Errors: `MemoryLimitError`, naming `what` it is for, where the system refuses.
    """
    try:
        if not hasattr(mmap, "MAP_PRIVATE"):
            return np.zeros(nbytes, np.uint8)
        m = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, MemoryError, OverflowError, ValueError) as e:  # the last two: beyond what an address can be
        raise refused(nbytes, what) from e
    if hasattr(mmap, "MADV_HUGEPAGE") and nbytes >= HUGE_FROM:
        with suppress(OSError):  # a kernel without huge pages
            m.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(m, np.uint8)


def float_rows(n: int, width: int, what: str) -> NDArray[np.float32]:
    """Float32 [n, width], not filled. Errors: `MemoryLimitError`, naming `what` it is for."""
    try:
        return np.empty((n, width), np.float32)
    except (MemoryError, ValueError) as e:
        raise refused(4 * n * width, what) from e
