"""Where a run writes: a file that is cut to what is known and added to, or a pipe that takes what comes."""

from __future__ import annotations

import os
import stat
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from ...errors import InputError
from ...loader.files import quote, reason
from .journal import write_all

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["Output", "named"]


class Output:
    """One of them; `regular`: it can be cut and taken up again. Errors are `InputError`, with the option's name."""

    def __init__(self, path: Path | None, option: str, *, waits: bool = False) -> None:
        """Open it, and make it where it is not there. `path` None: standard output.

        `waits`: for the end of another run that writes it, and which is about to end.
        """
        self.option, self.path = f"{option} {'-' if path is None else path}", path
        with named(self.option):
            self._handle = os.dup(sys.stdout.fileno()) if path is None else _opened(path)
            info = os.fstat(self._handle)
        self.regular = stat.S_ISREG(info.st_mode) and path is not None
        self.size = info.st_size if self.regular else 0
        self.place = (info.st_dev, info.st_ino) if self.regular else None
        if self.regular:
            self._lock(0 if waits or fcntl is None else fcntl.LOCK_NB)

    def _lock(self, how: int) -> None:
        """Until this process ends, however it ends."""
        if fcntl is None:
            return
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | how)
        except BlockingIOError:
            os.close(self._handle)
            msg = f"{self.option}: another run is writing it; wait for its end, or name another file"
            raise InputError(msg) from None
        except OSError:  # a file system without locks
            return

    def cut(self, size: int) -> None:
        """Keep this many bytes."""
        if self.regular:
            with named(self.option):
                os.ftruncate(self._handle, size)
                os.lseek(self._handle, 0, os.SEEK_END)
            self.size = size

    def write(self, data: bytes) -> None:
        """Add to it. BrokenPipeError: whoever read it went away."""
        with named(self.option):
            write_all(self._handle, data)
        self.size += len(data)

    def flush(self) -> None:
        """Have the disk hold it."""
        if self.regular:
            with named(self.option):
                os.fsync(self._handle)

    def close(self) -> None:
        """Close it, and let go of the lock."""
        with suppress(OSError):
            os.close(self._handle)


def _opened(path: Path) -> int:
    flags = os.O_RDWR if not path.exists() or path.is_file() else os.O_WRONLY
    return os.open(path, flags | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)


@contextmanager
def named(option: str) -> Iterator[None]:
    """What the system refuses is an `InputError` that begins with the option."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as e:
        msg = f"{quote(option, 400)[1:-1]}: cannot be written ({reason(e)})"
        raise InputError(msg) from e
