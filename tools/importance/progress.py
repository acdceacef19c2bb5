"""How far a long run is: tqdm's bar (the extra `progress`) where it is installed, else a line for every tenth."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["progress"]


@contextmanager
def progress(total: int, done: int, what: str, *, quiet: bool = False) -> Iterator[Callable[[int], None]]:
    """A call that says that n more are done; on standard error, and nowhere if `quiet`.

    The bar ends its line with the context, so that an error begins one.
    """
    if quiet:
        yield lambda _: None
        return
    try:
        from tqdm import tqdm  # noqa: PLC0415 - an extra
    except ImportError:
        yield _lines(total, done, what)
        return
    with tqdm(total=total, initial=done, desc=what, file=sys.stderr) as bar:
        yield bar.update


def _lines(total: int, done: int, what: str) -> Callable[[int], None]:
    at = done

    def step(n: int) -> None:
        nonlocal at
        before, at = at, at + n
        if before * 10 // total != at * 10 // total:
            print(f"{what}: {at} of {total}", file=sys.stderr)

    return step
