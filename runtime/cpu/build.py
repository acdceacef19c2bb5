"""Compiling what the cache lacks: on every core at once where that pays, else in this process.

A worker is a fresh interpreter that compiles into the directory and says each name that it finished. It can fail in any
way: what is missing in the end is compiled here, where an error is raised as usual.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ..cores import available_threads
from .cache import write
from .layout import ROOT
from .objects import kept, load
from .target import code_key

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["build"]

#: Kernels that take longest begin first, so that no worker is left with one of them at the end.
SLOWEST = ("linear", "attention", ROOT)
SMALLEST_SHARE = 3  # functions a worker: fewer do not pay for its import of Numba
_WORKER = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1])\n"
    "from importlib import import_module; import_module(sys.argv[2]).main(sys.argv[3:])"
)


def build(names: Sequence[str], directory: Path | None) -> dict[str, int]:
    """Compile kernels and the root, keep their code where that can be, and say how it goes; their addresses."""
    found: dict[str, int] = {}
    with _shelf(directory) as shelf, Progress(len(names), kept=shelf == directory) as progress:
        for name in _by_workers(names, shelf):
            progress.tick(name)
        for name in names:
            address = kept(shelf, name)
            if address is None:
                address = _compile_here(name, shelf)
                progress.tick(name)
            found[name] = address
    return found


class Progress:
    """A line on standard error before and after; on a terminal it counts in between."""

    def __init__(self, total: int, *, kept: bool) -> None:
        self._total, self._kept, self._done, self._began = total, kept, 0, time.perf_counter()
        error = sys.stderr
        self._out = None if error is None or os.environ.get("MIAOTUI_QUIET") else error
        self._live = self._out is not None and self._out.isatty()

    def __enter__(self) -> Progress:
        once = ", once; later starts take the result from the cache" if self._kept else ": the cache cannot be written"
        self._say(f"compiling for this CPU{once} ...")
        return self

    def tick(self, name: str) -> None:
        """One more is ready."""
        self._done += 1
        if self._live:
            self._write(f"\r\033[Kmiaotui: {self._done} of {self._total}: {name}")

    def __exit__(self, kind: object, *_: object) -> None:
        if self._live:
            self._write("\r\033[K")
        if kind is None:
            self._say(f"compiled {self._total} kernels in {time.perf_counter() - self._began:.1f} s")

    def _say(self, text: str) -> None:
        self._write(f"miaotui: {text}\n")

    def _write(self, text: str) -> None:
        if self._out is not None:
            self._out.write(text)
            self._out.flush()


@contextlib.contextmanager
def _shelf(directory: Path | None) -> Iterator[Path]:
    """Where code is put: the cache, or for this start alone a directory of our own."""
    if directory is not None and write(directory, ".probe", b""):
        (directory / ".probe.code").unlink(missing_ok=True)
        yield directory
    else:
        with tempfile.TemporaryDirectory(prefix="miaotui-") as fresh:
            yield Path(fresh)


def _compile_here(name: str, shelf: Path) -> int:
    from . import emit  # noqa: PLC0415 - imports Numba

    try:
        code = emit.object_code(name)
    except Exception:  # noqa: BLE001 - an unknown Numba may fail anyhow; an error of the kernel's comes again below
        return emit.in_memory(name)
    write(shelf, name, code)
    address = load(code, name)
    return emit.in_memory(name) if address is None else address


def _by_workers(names: Sequence[str], shelf: Path) -> Iterator[str]:
    """Names as workers finish them; none where workers do not pay or cannot be started."""
    count = min(available_threads(), len(names) // SMALLEST_SHARE)
    if count < 2 or not _python():
        return
    ordered = sorted(names, key=lambda n: not n.startswith(SLOWEST))
    requests, feed = os.pipe()
    results, say = os.pipe()
    with os.fdopen(results, encoding="utf-8") as lines:
        os.write(feed, "".join(f"{name:<64}" for name in ordered).encode())
        os.close(feed)
        script = [sys.executable, "-c", _WORKER, json.dumps(sys.path), f"{__package__}.emit", str(shelf), code_key()]
        workers: list[subprocess.Popen[bytes]] = []
        try:
            for _ in range(count):
                workers.append(subprocess.Popen(script, stdin=requests, stdout=say, stderr=subprocess.DEVNULL))
        except OSError:  # no more processes: those that there are do it
            pass
        finally:
            os.close(requests)
            os.close(say)
        try:
            yield from (line.strip() for line in lines)
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()


def _python() -> bool:
    """Whether our executable is a Python that runs a script: in an application of its own it is that application."""
    return not getattr(sys, "frozen", False) and "python" in Path(sys.executable or "").name.lower()
