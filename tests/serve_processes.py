"""`miaotui serve` as a process."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["serving"]


@contextlib.contextmanager
def serving(*options: str, within: Sequence[str] = ()) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A server, by default of the included models, and its port. The process's `stderr` is a file with its log.

    `within`: words of a command that runs it.
    """
    command = [*within, sys.executable, "-m", "miaotui", "serve", "--port", "0", *options]
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as process,
    ):
        process.stderr = log
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert ": http://127.0.0.1:" in line, line
            yield process, int(line.rpartition(":")[2].removesuffix("/v1\n"))
        finally:
            process.kill()
