"""Paths that users name, and the folders there: a file that is not there is told from one that may not be seen."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import CheckpointError, InputError
from .files import quote, reason

if TYPE_CHECKING:
    from ..errors import MiaotuiError

__all__ = ["as_path", "is_there", "listed"]

#: A file is not there, rather than hidden or broken.
_ABSENT = (errno.ENOENT, errno.ENOTDIR)


def as_path(value: object, what: str, error: type[MiaotuiError] = InputError) -> Path:
    """A str, or a PathLike of one, as a `Path`. `error` for anything else, an empty one, and one with a NUL."""
    text: object = value
    if isinstance(value, os.PathLike):
        text = os.fspath(value)
    if not isinstance(text, str) or not text or "\0" in text:
        shown = "an empty path" if isinstance(text, str) and not text else quote(value, 300)
        msg = f"{what}: found {shown}; expected a path, as a str or a Path"
        raise error(msg)
    return Path(text)


def is_there(path: Path, error: type[MiaotuiError] = CheckpointError) -> bool:
    """Whether a file or directory is there. `error` for a link to nothing, and for what may not be looked at."""
    try:
        path.stat()
    except (OSError, ValueError) as e:  # ValueError: a NUL byte in the name
        number = getattr(e, "errno", None)
        if number in _ABSENT and not _is_link(path):
            return False
        if number in _ABSENT:
            msg = (
                f"{path}: is a link to {quote(str(path.readlink()), 300)}, which is not there; "
                "download the file again, or remove the link"
            )
            raise error(msg) from e
        what = "permission to read and enter its directory is needed" if number == errno.EACCES else "check the path"
        msg = f"{quote(str(path), 300)}: cannot be looked at ({reason(e)}); {what}"
        raise error(msg) from e
    return True


def listed(directory: Path, error: type[MiaotuiError] = CheckpointError) -> list[str]:
    """Names in a directory, sorted. `error` where it may not be listed."""
    try:
        return sorted(file.name for file in directory.iterdir())
    except OSError as e:
        msg = f"{directory}: its files cannot be listed ({reason(e)}); permission to read the directory is needed"
        raise error(msg) from e


def _is_link(path: Path) -> bool:
    try:
        return path.is_symlink()
    except OSError:
        return False
