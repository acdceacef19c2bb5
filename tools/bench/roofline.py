"""What this machine can read: the memory bandwidth that a decode step is measured against, and the machine's facts.

A decode step reads every weight once, so its speed is bounded by the read bandwidth. On a shared machine that
bandwidth moves by half within minutes: a figure means something only next to a reading taken in the same second.
`ReadSum` gives such a reading whenever it is asked, and its threads sleep in between.
"""

from __future__ import annotations

import functools
import importlib
import mmap
import threading
import time
from typing import TYPE_CHECKING

import numpy as np

from ...errors import InputError
from ...machine import machine, versions

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    from numpy.typing import NDArray

__all__ = ["ReadSum", "machine", "versions"]

REGION = 512 << 20  # far over any last-level cache
BLOCK = 4096  # shares are whole pages


@functools.cache
def _kernel() -> Callable[[NDArray[np.uint64]], int]:
    """Compile the sum of 64-bit words: two long streams, which read a little faster than one.

    Integer addition may be reordered, so LLVM keeps several wide accumulators for each.
    """
    numba = importlib.import_module("numba")

    def total(words: NDArray[np.uint64]) -> np.uint64:
        a, b, half = np.uint64(0), np.uint64(0), words.size // 2
        for i in range(half):
            a += words[i]
            b += words[i + half]
        return a + b

    compiled: Callable[[NDArray[np.uint64]], int] = numba.njit("uint64(uint64[::1])", nogil=True)(total)
    return compiled


class ReadSum:
    """Reads a region of memory once with N threads and says how fast that went.

    The region is anonymous and private, in huge pages where the system gives them, and every page of it is written
    first: pages that were never written are all one page of zeros, which is read from the cache. N - 1 threads wait
    on a lock between rounds; the caller's thread does the first share.
    """

    def __init__(self, threads: int = 1, nbytes: int | None = None) -> None:
        """Take the region and start the threads. InputError: fewer than one thread, or less than a page a thread."""
        nbytes = REGION if nbytes is None else nbytes
        self.nbytes = nbytes // (BLOCK * max(1, threads)) * BLOCK * max(1, threads)
        if threads < 1 or self.nbytes == 0:
            msg = f"read-sum of {nbytes} bytes, {threads} threads: expected at least 1 thread, {BLOCK} bytes for each"
            raise InputError(msg)
        self._sum = _kernel()
        self._map = _region(self.nbytes)
        words = np.frombuffer(self._map, np.uint64)
        words[:] = 1
        self._shares = np.split(words, threads)
        self._go = [threading.Semaphore(0) for _ in range(threads - 1)]
        self._done = threading.Semaphore(0)
        self._sums = [0] * threads
        self._open = True
        self._team = [threading.Thread(target=self._work, args=(t,), daemon=True) for t in range(1, threads)]
        for thread in self._team:
            thread.start()

    def round(self) -> float:
        """Read the region once; bytes a second."""
        if not self._open:
            msg = "this read-sum was closed: make a new one"
            raise InputError(msg)
        start = time.perf_counter()
        for go in self._go:
            go.release()
        self._sums[0] = self._sum(self._shares[0])
        for _ in self._go:
            self._done.acquire()
        seconds = time.perf_counter() - start
        if sum(self._sums) * 8 != self.nbytes:  # the result is used, so the loop cannot be left out
            msg = f"read-sum gave {sum(self._sums)}, expected {self.nbytes // 8}: the memory is not what was written"
            raise RuntimeError(msg)
        return self.nbytes / seconds

    def close(self) -> None:
        """End the threads and give the region back; a second call does nothing."""
        if self._open:
            self._open = False
            for go in self._go:
                go.release()
            for thread in self._team:
                thread.join()
            self._shares.clear()
            self._map.close()

    def _work(self, share: int) -> None:
        while True:
            self._go[share - 1].acquire()
            if not self._open:
                return
            self._sums[share] = self._sum(self._shares[share])
            self._done.release()

    def __enter__(self) -> Self:
        """Give itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Close."""
        self.close()


def _region(nbytes: int) -> mmap.mmap:
    """Map anonymous memory; private where there is such a flag, because shared memory gets no huge pages."""
    if not hasattr(mmap, "MAP_PRIVATE"):
        return mmap.mmap(-1, nbytes)
    region = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        region.madvise(mmap.MADV_HUGEPAGE)
    return region
