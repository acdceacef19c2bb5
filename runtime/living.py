"""What there is of a kind, counted for as long as it lives: objects that any thread adds, and nobody need take away."""

from __future__ import annotations

import itertools
import weakref
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Living"]

T = TypeVar("T")


class Living(Generic[T]):
    """Objects, held weakly. Unlike a WeakSet, it may be listed while other threads, or a collection, change it."""

    def __init__(self) -> None:
        """None yet."""
        self._count = itertools.count()
        self._members: dict[int, weakref.ref[T]] = {}
        self._me = weakref.ref(self)

    def add(self, member: T) -> int:
        """Count it until it is discarded, or collected. Its key, by which it may be forgotten."""
        key, me = next(self._count), self._me

        def gone(_: weakref.ref[T]) -> None:
            if (living := me()) is not None:
                living._members.pop(key, None)  # noqa: SLF001 - its own

        self._members[key] = weakref.ref(member, gone)
        return key

    def forget(self, key: int) -> None:
        """Count the member of this key no more."""
        self._members.pop(key, None)

    def discard(self, member: T) -> None:
        """Count it no more."""
        for key, there in self._members.copy().items():
            if there() is member:
                self._members.pop(key, None)

    def clear(self) -> None:
        """Count none of them."""
        self._members.clear()

    def __iter__(self) -> Iterator[T]:
        """Those that are there now."""
        for key, there in self._members.copy().items():
            member = there()
            if member is None:
                self._members.pop(key, None)
            else:
                yield member

    def __contains__(self, member: object) -> bool:
        """Whether it is counted."""
        return any(there() is member for there in self._members.copy().values())

    def __bool__(self) -> bool:
        """Whether any is there."""
        return next(iter(self), None) is not None
