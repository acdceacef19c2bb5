"""How far a long run is: tqdm's bar (the extra `progress`) where it is installed, else a line for every tenth."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["progress"]


def progress(total: int, done: int, what: str, *, quiet: bool = False) -> Callable[[int], None]:
    """A call that says that so many more are done; on standard error, and nowhere where `quiet`."""
    if quiet:
        return lambda _: None
    try:
        from tqdm import tqdm  # noqa: PLC0415 - an extra
    except ImportError:
        return _lines(total, done, what)
    bar = tqdm(total=total, initial=done, desc=what, file=sys.stderr)

    def step(n: int) -> None:
        bar.update(n)
        if bar.n >= total:
            bar.close()

    return step


def _lines(total: int, done: int, what: str) -> Callable[[int], None]:
    at = done

    def step(n: int) -> None:
        nonlocal at
        before, at = at, at + n
        if before * 10 // total != at * 10 // total:
            print(f"{what}: {at} of {total}", file=sys.stderr)

    return step
