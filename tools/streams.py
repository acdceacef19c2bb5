"""The command's standard streams: closed, full, or of an encoding that lacks what is printed.

Where the locale cannot read an argument, Python keeps its bytes as lone surrogates; they are printed as those bytes.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import re
import sys
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Handler = Callable[[UnicodeError], tuple[str | bytes, int]]

__all__ = ["as_text", "open_streams", "settle", "with_bytes"]

#: Bytes of an argument, as Python keeps them; and the same as `repr` shows them.
_KEPT = re.compile("[\udc80-\udcff]+")


def open_streams() -> None:
    """Standard streams that were closed (`>&-`) go nowhere; what a stream's encoding lacks is no reason to stop."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:  # or the next file that is opened would get the number, and what is printed
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "r" if name == "stdin" else "w", encoding="utf-8", closefd=False))  # noqa: SIM115 - for the life of the process
    for stream, fallback in ((sys.stdout, "replace"), (sys.stderr, "backslashreplace")):
        codecs.register_error(f"miaotui-{fallback}", partial(_as_bytes, codecs.lookup_error(fallback)))
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=f"miaotui-{fallback}")


def _as_bytes(fallback: Handler, e: UnicodeError) -> tuple[str | bytes, int]:
    """A codec's error handler: bytes that were kept as surrogates; anything else as `fallback` has it."""
    if isinstance(e, UnicodeEncodeError) and (kept := _KEPT.match(e.object, e.start)):
        return kept[0].encode("ascii", "surrogateescape"), kept.end()
    return fallback(e)


def as_text(name: str) -> str:
    """A file's name for JSON: bytes that the locale cannot read are UTF-8 where they can be."""
    with contextlib.suppress(UnicodeError):
        return name.encode("utf-8", "surrogateescape").decode("utf-8")
    return name


def settle() -> None:
    """Python flushes its streams once more at exit: where that fails, let them go nowhere, or the exit code is 120."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def with_bytes(text: str, arguments: Sequence[str]) -> str:
    """A message in which what is quoted of an argument is as it was typed, where it is UTF-8 that can be shown."""
    for kept in {run for argument in arguments for run in _KEPT.findall(argument)}:
        data = kept.encode("ascii", "surrogateescape")
        with contextlib.suppress(UnicodeDecodeError):
            if data.decode("utf-8").isprintable():
                text = text.replace(repr(kept)[1:-1], kept)
    return text
