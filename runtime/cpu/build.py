"""Compiling what the cache lacks: on every core at once where that pays, else in this process.

Workers live in a fresh interpreter, compile into the directory and say each name that they finished. They can fail in
any way: what is missing in the end is compiled here, where an error is raised as usual.
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
from typing import TYPE_CHECKING, Self

from ...errors import BackendError
from ...handlers import raised_in_handler
from ..cores import available_threads
from ..memory import LIMITS
from .cache import no_directory, unwritable, writable, write
from .layout import REQUEST, ROOTS
from .object_files import kept, load
from .shipped import needs_compiler
from .target import code_key

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["build", "check_compiler"]

SLOWEST = ("linear", "attention", "draw")
SMALLEST_SHARE = 3  # functions a worker: fewer do not pay for its start
_WORKER = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1])\n"
    "from importlib import import_module; import_module(sys.argv[2]).main(sys.argv[3:])"
)


def build(names: Sequence[str], directory: Path | None) -> dict[str, int]:
    """Compile kernels and roots, keep their code where that can be, and say how it goes; their addresses."""
    check_compiler()
    addresses: dict[str, int] = {}
    lost = unwritable(directory) if directory else no_directory()
    with (
        _shelf(directory) as shelf,
        Progress(len(names), lost=None if shelf and shelf == directory else lost) as progress,
    ):
        for name in () if shelf is None else _by_workers(names, shelf):
            progress.tick(name)
        for name in names:
            address = None if shelf is None else kept(shelf, name)
            if address is None:
                address = _compile_here(name, shelf, progress)
                progress.tick(name)
            addresses[name] = address
    return addresses


def check_compiler() -> None:
    """BackendError: Numba cannot be imported, or is told not to compile."""
    try:
        from numba import config  # noqa: PLC0415 - 0.3 s, and needed only where something is compiled
    except ModuleNotFoundError as e:
        raise BackendError(needs_compiler()) from e
    except Exception as e:
        raised_in_handler(e)
        msg = (
            f"compiling needs Numba, which cannot be imported ({type(e).__name__}: {e}): where memory is limited, see "
            f"{LIMITS}; otherwise install miaotui again"
        )
        raise BackendError(msg) from e
    if config.DISABLE_JIT:
        msg = (
            "NUMBA_DISABLE_JIT is set, and these kernels are not compiled yet; unset it (once: later starts take them "
            "from the cache), or run `miaotui warm` without it"
        )
        raise BackendError(msg)


class Progress:
    """A line on standard error before and after; on a terminal it counts in between. `lost`: why nothing is kept."""

    def __init__(self, total: int, *, lost: str | None) -> None:
        self._total, self._lost, self._done, self._began = total, lost, 0, time.perf_counter()
        error = sys.stderr
        self._out = None if error is None or os.environ.get("MIAOTUI_QUIET") else error
        self._live = self._out is not None and self._out.isatty()

    def __enter__(self) -> Self:
        once = (
            f" (nothing is kept: {self._lost})" if self._lost else ", once; later starts take the result from the cache"
        )
        self.say(f"compiling for this CPU{once} ...")
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
            what = "1 kernel" if self._total == 1 else f"{self._total} kernels"
            self.say(f"compiled {what} in {time.perf_counter() - self._began:.1f} s")

    def say(self, text: str) -> None:
        """A line of its own."""
        self._write(f"miaotui: {text}\n")

    def _write(self, text: str) -> None:
        if self._out is not None:
            with contextlib.suppress(OSError, ValueError):  # a full disk, closed, or no such characters: it is a note
                self._out.write(text)
                self._out.flush()


@contextlib.contextmanager
def _shelf(directory: Path | None) -> Iterator[Path | None]:
    """Where code is put: the cache, or for this start alone a directory of our own; None: there is room for none."""
    if directory is not None and writable(directory):
        yield directory
        return
    try:
        fresh = tempfile.TemporaryDirectory(prefix="miaotui-", ignore_cleanup_errors=True)
    except OSError:  # everything is read-only: in memory, by this process alone
        yield None
        return
    with fresh as name:
        yield Path(name)


def _compile_here(name: str, shelf: Path | None, progress: Progress) -> int:
    from . import emit  # noqa: PLC0415 - imports Numba

    try:
        code = emit.object_code(name)
        address = load(code, name)
        why = "it calls what this process lacks"
    except Exception as e:  # noqa: BLE001 - an unknown Numba may fail anyhow; an error of the kernel's comes again below
        raised_in_handler(e)
        address, why = None, f"{type(e).__name__}: {e}"
    if address is None:
        progress.say(f"the code of {name} cannot be kept, each start will compile it ({why})")
        try:
            return emit.in_memory(name)
        except Exception as e:
            raised_in_handler(e)
            msg = f"the kernel {name} cannot be compiled ({type(e).__name__}: {' '.join(str(e).split())[:300]})"
            raise BackendError(msg) from e
    if shelf is not None:
        write(shelf, name, code)
    return address


def _by_workers(names: Sequence[str], shelf: Path) -> Iterator[str]:
    """Names as workers finish them; none where workers do not pay or cannot be started."""
    count = min(available_threads(), len(names) // SMALLEST_SHARE)
    if count < 2 or not _python():
        return
    try:
        requests, feed = os.pipe()
        results, say = os.pipe()
    except OSError:  # no file can be opened any more
        return
    with os.fdopen(results, encoding="utf-8") as lines:
        os.write(feed, "".join(f"{name:<{REQUEST}}" for name in sorted(names, key=_turn)).encode())
        os.close(feed)
        arguments = [json.dumps([str(p) for p in sys.path]), f"{__package__}.emit", str(shelf), code_key(), str(count)]
        try:
            worker = subprocess.Popen(  # noqa: S603 - our own text, in our own interpreter
                [sys.executable, "-c", _WORKER, *arguments], stdin=requests, stdout=say, stderr=subprocess.DEVNULL,
                env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},  # no thread before they split
            )  # fmt: skip
        except OSError:
            return
        finally:
            os.close(requests)
            os.close(say)
        try:
            yield from (line.strip() for line in lines)
        finally:
            worker.kill()
            worker.wait()


def _turn(name: str) -> int:
    """A short one while there is one worker, then those that take longest, so that none is left over at the end."""
    return 0 if name in ROOTS else 1 if name.startswith(SLOWEST) else 2


def _python() -> bool:
    """Whether our executable is a Python that runs a script: in an application of its own it is that application."""
    return not getattr(sys, "frozen", False) and "python" in Path(sys.executable or "").name.lower()
