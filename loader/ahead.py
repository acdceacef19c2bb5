"""Files that are not in memory yet: read in the order in which a model uses them, while its first layers compute.

`sendfile` to /dev/null has the system read a stretch at the disk's speed and copies nothing; the interpreter's lock is
free meanwhile. Advice (`posix_fadvise`) takes eight times the processor's time, and a call for each 128 KiB, after
which the thread waits for the lock as long as another runs Python: 5 ms.
"""

from __future__ import annotations

import contextlib
import os
import re
from itertools import groupby
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from .header import TensorInfo
    from .open import Opened

    #: A file, and bytes of it from one place up to another.
    Span = tuple[Path, int, int]

__all__ = ["fetch_whole", "in_memory", "read_ahead"]

#: Bytes between two looks at whether they are still wanted.
PIECE = 2**24
#: Places that are looked at to see whether the files are in memory.
SAMPLES = 16


def read_ahead(spans: Iterable[Span], ended: Callable[[], bool], first: Iterable[Span] = ()) -> Thread | None:
    """Start a thread that has the system fetch these bytes, one span after the other, until `ended`.

    None, and nothing is done, where they are in memory already, would fill more than half of it, or where the system
    does not say. `first`: small spans all over the files, which are needed before anything else. The thread waits for
    the disk without the interpreter's lock: whoever touches a page that was not fetched yet reads it as ever.
    """
    wanted = [span for span in spans if span[1] < span[2]]
    if not (wanted and hasattr(os, "RWF_NOWAIT") and hasattr(os, "sendfile")):
        return None
    most = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    every = wanted[:: -(-len(wanted) // SAMPLES)]
    if sum(stop - start for _, start, stop in wanted) > most or all(in_memory(f, (a + b) // 2) for f, a, b in every):
        return None
    _advise(first)
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
    # without a descriptor nothing is fetched: it is no more than advice
    with contextlib.suppress(OSError), Path(os.devnull).open("wb", buffering=0) as nowhere:
        for file, start, stop in _joined(spans):
            # whoever maps it says what is wrong with it; of a file system without splices nothing is fetched
            with contextlib.suppress(OSError), file.open("rb", buffering=0) as f:
                at, got = start, 1
                while got and at < stop:
                    if ended():
                        return
                    at += (got := os.sendfile(nowhere.fileno(), f.fileno(), at, min(PIECE, stop - at)))


def _advise(spans: Iterable[Span]) -> None:
    """Ask for a few pages here and there: the system fetches them at once, and nobody waits."""
    for file, every in groupby(sorted(spans), key=lambda span: span[0]):
        with contextlib.suppress(OSError), file.open("rb", buffering=0) as f:
            for _, start, stop in every:
                os.posix_fadvise(f.fileno(), start, stop - start, os.POSIX_FADV_WILLNEED)


def _joined(spans: Iterable[Span]) -> list[Span]:
    """Neighbours in the file, where they follow each other, as one."""
    joined: list[Span] = []
    for file, start, stop in spans:
        if joined and joined[-1][0] == file and joined[-1][2] == start:
            joined[-1] = (file, joined[-1][1], stop)
        else:
            joined.append((file, start, stop))
    return joined


def fetch_whole(opened: Opened) -> None:
    """Start fetching a model of which everything is read, before it is known what becomes of it.

    Vectors, which loading copies: it would wait for the last layer's. Then a decoder's layers in the order of their
    numbers, each as it lies in the file; what is in none; tables of tokens last: they are read row by row, but for the
    head. Other models, and files that are not quite what config.json says, wait for their plan (`pack`).
    """
    config, checkpoint = opened.config, opened.checkpoint
    parts = () if config.decoder is None or config.encoder is not None else config.decoder.layers
    if (
        checkpoint.fetched
        or opened.corrections
        or not parts
        or any(getattr(part, "experts", None) is not None for layer in parts for part in layer)
    ):
        return

    def order(info: TensorInfo) -> tuple[bool, bool, list[int], str, int]:
        numbers = [int(n) for n in re.findall(r"(?<=\.)[0-9]{1,9}(?=\.)", info.name)]  # no layer has a longer one
        table = bool(info.shape) and info.shape[0] == config.n_vocab
        return table, not numbers, numbers, str(info.file), info.start

    infos = sorted((piece for info in checkpoint.tensors.values() for piece in info.pieces), key=order)
    spans = [(info.file, info.start, info.stop) for info in infos]
    vectors = [span for span, info in zip(spans, infos, strict=True) if len(info.shape) == 1]
    checkpoint.fetched = True
    read_ahead(spans, lambda: checkpoint.closed, vectors)
