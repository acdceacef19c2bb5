"""Files that are not in memory yet: read in the order in which a model uses them, while its first layers compute."""

from __future__ import annotations

import contextlib
import os
from threading import Thread
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    #: A file, and bytes of it from one place up to another.
    Span = tuple[Path, int, int]

__all__ = ["in_memory", "read_ahead"]

#: Bytes that the system is asked for at a time: of more in one call it drops the rest.
PIECE = 128 * 1024
#: Places that are looked at to see whether the files are in memory.
SAMPLES = 16


def read_ahead(spans: Iterable[Span], ended: Callable[[], bool]) -> Thread | None:
    """Start a thread that has the system fetch these bytes, one span after the other, until `ended`.

    None, and nothing is done, where they are in memory already, would fill more than half of it, or where the system
    takes no such advice. It waits for the disk, without the interpreter's lock: whoever touches a page that was not
    fetched yet reads it as ever.
    """
    wanted = [span for span in spans if span[1] < span[2]]
    if not (wanted and hasattr(os, "RWF_NOWAIT") and hasattr(os, "posix_fadvise")):
        return None
    most = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    every = wanted[:: -(-len(wanted) // SAMPLES)]
    if sum(stop - start for _, start, stop in wanted) > most or all(in_memory(f, (a + b) // 2) for f, a, b in every):
        return None
    thread = Thread(target=_fetch, args=(wanted, ended), name="miaotui read-ahead", daemon=True)
    with contextlib.suppress(RuntimeError):  # no more threads: it is no more than advice
        thread.start()
        return thread
    return None


def in_memory(file: Path, at: int) -> bool:
    """Whether the byte at this place can be read without waiting; True as well where the system does not say."""
    try:
        handle = os.open(file, os.O_RDONLY)
    except OSError:
        return True
    try:
        os.preadv(handle, [bytearray(1)], at, os.RWF_NOWAIT)
    except BlockingIOError:
        return False
    except OSError:  # a file system that knows no such question
        return True
    finally:
        os.close(handle)
    return True


def _fetch(spans: Sequence[Span], ended: Callable[[], bool]) -> None:
    for file, start, stop in spans:
        with contextlib.suppress(OSError):  # whoever maps it says what is wrong with it
            handle = os.open(file, os.O_RDONLY)
            try:
                for at in range(start, stop, PIECE):
                    if ended():
                        return
                    os.posix_fadvise(handle, at, min(PIECE, stop - at), os.POSIX_FADV_WILLNEED)
            finally:
                os.close(handle)
