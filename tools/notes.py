"""What a user is told besides results: warnings as of his own line, and notes on standard error."""

from __future__ import annotations

import os
import sys
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..errors import MiaotuiWarning

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["note", "quiet", "warn", "warnings_as_notes"]

#: Modules that may lie between a caller's line and the place that warns.
_OURS = {__name__.partition(".")[0], "contextlib", "tqdm"}


def warn(message: str) -> None:
    """Warn as of the nearest line outside of this package: it is the caller's, and so is what it is about."""
    depth, frame = 2, sys._getframe(1)  # noqa: SLF001 - skip_file_prefixes comes with Python 3.12
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).partition(".")[0] in _OURS:
        depth, frame = depth + 1, frame.f_back
    warnings.warn(message, MiaotuiWarning, stacklevel=depth)


def quiet() -> bool:
    """Whether the environment asks for no notes."""
    return bool(os.environ.get("MIAOTUI_QUIET"))


def note(message: str) -> None:
    """Say it on standard error, unless `MIAOTUI_QUIET` is set."""
    if not quiet():
        print(message, file=sys.stderr, flush=True)


@contextmanager
def warnings_as_notes(worded: Callable[[str], str]) -> Iterator[None]:
    """Of a command: our warnings are notes on standard error, each once, without a file and line of ours.

    `worded`: a message in the command's words.
    """

    def told(message: Warning | str, category: type[Warning], *where: Any, **how: Any) -> None:  # noqa: ANN401 - as warnings has it
        if issubclass(category, MiaotuiWarning):
            print(f"note: {worded(str(message))}", file=sys.stderr)
        else:
            usual(message, category, *where, **how)

    with warnings.catch_warnings():
        warnings.simplefilter("default", MiaotuiWarning)
        usual, warnings.showwarning = warnings.showwarning, told
        yield
