"""Memory of our own: zeroed private pages, huge ones where the system gives them."""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["zeroed"]


def zeroed(nbytes: int) -> NDArray[np.uint8]:
    """Uint8 [nbytes], at least one, on a page's boundary; touched pages alone take memory."""
    if not hasattr(mmap, "MAP_PRIVATE"):
        return np.zeros(nbytes, np.uint8)
    m = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        try:
            m.madvise(mmap.MADV_HUGEPAGE)
        except OSError:  # a kernel without huge pages
            return np.frombuffer(m, np.uint8)
    return np.frombuffer(m, np.uint8)
