"""Tables of sequences that nobody uses any more, which the next pass takes back.

A sequence may be dropped at any moment: by the garbage collector in the middle of a step, or as Ctrl-C unwinds a call.
So what happens then is one call of a function of C, `deque.append`. A `weakref.finalize` runs lines of Python, and a
signal's handler that raises at the first of them (as the handler of Ctrl-C does) ends it for good: Python drops what is
raised in a finaliser, and with it the pages would be lost.
"""

from __future__ import annotations

import weakref
from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .pages import Table

__all__ = ["Left"]


class Owner(weakref.ref[Any]):
    """Whoever a table belongs to."""

    __slots__ = ("table",)
    table: Table


class Left:
    """Tables in the order in which they were left."""

    def __init__(self) -> None:
        """None yet."""
        self._owners: dict[int, Owner] = {}  # those that are there; strongly, or nobody would hear when one goes
        self._gone: deque[Owner | Table] = deque()

    def __len__(self) -> int:
        """How many nobody has taken back."""
        # One that was closed and then dropped is there twice. A copy: other threads, or a collection, append meanwhile.
        return len({id(each) for each in self._gone.copy()})

    def append(self, table: Table) -> None:
        """Leave a table that has no owner."""
        self._gone.append(table)

    def extend(self, tables: Iterable[Table]) -> None:
        """Leave some."""
        self._gone.extend(tables)

    def when_dropped(self, owner: object, table: Table) -> Callable[[], None]:
        """Leave a table once its owner is dropped, or once what this returns is called."""
        watched = Owner(owner, self._gone.append)
        watched.table = table
        self._owners[id(watched)] = watched
        gone = self._gone

        def leave() -> None:
            gone.append(watched)

        return leave

    def take_back(self, release: Callable[[Table], None]) -> None:
        """Release each, once; where an exception stops it, the next call goes on, and begins with the same one."""
        for _ in range(len(self._gone)):  # not those that come meanwhile: they could come for ever
            each = self._gone[0]
            if not isinstance(each, Owner):
                release(each)
            elif id(each) in self._owners:
                release(each.table)
                self._owners.pop(id(each), None)
            self._gone.popleft()
