"""What a user is told besides results: warnings as of his own line, and notes on standard error."""

from __future__ import annotations

import os
import sys
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..errors import MiaotuiWarning
from ..notices import warn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["note", "quiet", "warn", "warnings_as_notes"]


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
