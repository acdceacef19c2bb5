"""Files that appear whole or not at all: written next to their place, flushed to the disk, and renamed.

What was there before stays until then, also where the disk is full or the process is killed. On Linux the new file gets
a name only when it is whole, so that a killed process leaves none.
"""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

from ..errors import InputError
from .files import quote, reason
from .paths import as_path

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..errors import MiaotuiError

__all__ = ["flushed", "new_file", "write_whole"]


def write_whole(path: str | os.PathLike[str], text: str, error: type[MiaotuiError] = InputError) -> None:
    """Write a text in UTF-8. `error` where it cannot be; the old file is then as it was."""
    with new_file(path, error) as f:
        f.write(text.encode())


@contextmanager
def new_file(path: str | os.PathLike[str], error: type[MiaotuiError] = InputError) -> Iterator[IO[bytes]]:
    """A file to fill, which takes the place of `path` at the end; a pipe or a device is written as it is.

    `error` where the system refuses; the old file is then as it was.
    """
    file = as_path(path, "file to write", error)
    try:
        old = file.stat() if file.exists() else None
        if old is not None and not stat.S_ISREG(old.st_mode) and not stat.S_ISDIR(old.st_mode):
            with file.open("wb") as f:
                yield f
            return
        target = file.resolve()  # a link keeps pointing where it does
        draft = target.with_name(f".{target.name[:32]}-{os.urandom(4).hex()}.part")
        try:
            with _unnamed(target.parent) or draft.open("xb") as f:
                yield f
                f.flush()
                os.fsync(f.fileno())
                if not draft.exists():  # CPython follows the link where a descriptor is named, though none is needed
                    os.link(f"/proc/self/fd/{f.fileno()}", draft, src_dir_fd=f.fileno(), follow_symlinks=True)
            if old is not None:
                draft.chmod(stat.S_IMODE(old.st_mode))
            draft.replace(target)
        except BaseException:
            with suppress(OSError):
                draft.unlink()
            raise
        flushed(target.parent)
    except (OSError, RuntimeError) as e:  # RuntimeError: links in a circle
        msg = (
            f"{quote(str(file), 300)}: cannot be written ({reason(e)}); check the disk and the directory's permissions"
        )
        raise error(msg) from e


def _unnamed(directory: Path) -> IO[bytes] | None:
    """A file that has no name yet: a process that is killed leaves nothing. None: this system cannot."""
    if not hasattr(os, "O_TMPFILE") or not Path("/proc/self/fd").is_dir():
        return None
    try:
        return open(os.open(directory, os.O_TMPFILE | os.O_WRONLY, 0o666), "wb")  # noqa: PTH123 - a descriptor's
    except OSError:  # not every file system has such files; what else is wrong, opening by name says
        return None


def flushed(path: Path) -> None:
    """Have the disk hold a file or a directory's names; not every file system can. OSError: the disk is full."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as e:
        if e.errno not in _NO_FSYNC:
            raise
    finally:
        os.close(handle)


#: What file systems say that have no fsync of directories: EINVAL, EBADF, ENOTSUP, EACCES.
_NO_FSYNC = (22, 9, 95, 13)
