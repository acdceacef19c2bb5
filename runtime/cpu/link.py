"""From a kernel's name to its compiled address.

Code comes with the package (`shipped.py`). In a clone it comes from our cache (`cache.py`), loaded by llvmlite alone
(`object_files.py`); what is not there is compiled (`build.py`) when a program first names it. Only then, or for
MIAOTUI_EXECUTOR=prange, is Numba imported.
"""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

from ...errors import BackendError
from ..drawing import DRAW
from ..kvcache import KV_BYTES
from ..locks import Lock
from ..ops import FAST, OPS
from ..quantized import QUANTIZED
from . import shipped
from .cache import cache_directory
from .environment import debugging
from .layout import CALL, ROOTS
from .object_files import kept
from .team import Team, callable_at

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .prange import Prange

__all__ = ["FOLLOWED", "KERNELS", "addresses", "alone", "cache_directory", "executor"]

#: A kernel's name -> those that follow it, with the same operands, where a step is split.
FOLLOWED = {f"attention_{dtype}": (f"attention_values_{dtype}", "attention_folds") for dtype in KV_BYTES}
FOLLOWED[f"attention_{FAST}"] = f"attention_values_{FAST}", f"attention_folds_{FAST}"
#: Every kernel there is: the op table's and those that follow them, the loader's, and the one that draws.
KERNELS = tuple(dict.fromkeys((
    *(k for op in OPS.values() for k in op.kernels_of("cpu")), *(k for more in FOLLOWED.values() for k in more),
    *(f"pack_{dtype}" for dtype in QUANTIZED), DRAW,
)))  # fmt: skip

_LINKED: dict[str, int] = {}
_LOCK = Lock()


def _before_fork() -> None:
    """Wait until nobody is inside: Numba and LLVM have locks of their own, which nobody would leave in the child."""
    _LOCK.lock.acquire()


def _after_fork() -> None:
    """In both processes: the thread that forked has it here too."""
    _LOCK.lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)


def addresses(names: Iterable[str]) -> dict[str, int]:
    """Addresses of kernels by name; compiles what is missing and says so. Errors: `BackendError`."""
    wanted = list(dict.fromkeys(names))
    for n in wanted:
        if n not in KERNELS:
            msg = f"the CPU backend has no kernel {n!r}; it has {', '.join(sorted(KERNELS))}"
            raise BackendError(msg)
    return _linked([*ROOTS, *wanted])


def alone() -> Callable[..., None]:
    """`interpreter.call` (kernel, p, base, step, 0): one kernel in the caller's thread. Errors: `BackendError`."""
    return callable_at(_linked([*ROOTS])[CALL])


def _linked(names: list[str]) -> dict[str, int]:
    return _LOCK.held(partial(_link, names))


def _link(names: list[str]) -> dict[str, int]:
    missing = [n for n in names if n not in _LINKED]
    if missing and shipped.chosen() is not None:
        _LINKED.update(shipped.addresses(missing))
    elif missing:
        if debugging():
            from .bounds import install  # noqa: PLC0415 - it compiles

            install()
        directory = cache_directory()
        loaded = {n: kept(directory, n) for n in missing} if directory is not None else {}
        _LINKED.update({n: a for n, a in loaded.items() if a is not None})
        lacking = [n for n in missing if n not in _LINKED]
        if lacking:
            from .build import build  # noqa: PLC0415 - starts processes, imports Numba: not for a warm start

            _LINKED.update(build(lacking, directory))
    return {n: _LINKED[n] for n in names}


def executor(threads: int, holds: object = None) -> Team | Prange:
    """The thread team, or `prange` where MIAOTUI_EXECUTOR asks for it; `holds`: as of `Team`."""
    kind = os.environ.get("MIAOTUI_EXECUTOR", "team")
    if kind == "prange":
        return _LOCK.held(partial(_prange, threads))
    if kind != "team":
        msg = f"MIAOTUI_EXECUTOR={kind!r}: expected 'team' or 'prange'"
        raise BackendError(msg)
    return Team(threads, _linked([*ROOTS]), holds)


def _prange(threads: int) -> Prange:
    from .build import check_compiler  # noqa: PLC0415 - imports Numba

    check_compiler()
    from .prange import Prange  # noqa: PLC0415 - compiles

    return Prange(threads)
